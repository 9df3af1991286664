"""The floor under any front in Python: uvicorn as the gateway runs it, and an application that only moves bytes.

``python -m loadtest.bench.bare PORT``. It reads the whole body and answers with as many bytes as the gateway does.
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn

#: As long as the gateway's answer to the same request.
HEADER = b'{"model_name":"m0","model_version":"1","outputs":[{"name":"probabilities","datatype":"FP32",' + (
    b'"shape":[1,10],"parameters":{"binary_data_size":40}}]}'
)
_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"application/octet-stream"),
        (b"inference-header-content-length", str(len(HEADER)).encode()),
        (b"content-length", str(len(HEADER) + 40).encode()),
    ],
}


async def app(scope: Any, receive: Any, send: Any) -> None:
    pieces, more = [], True
    while more:
        message = await receive()
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"".join(pieces)
    await send(_START)
    # The request's tensor begins where its JSON part ends; the echo's answer is its first ten values.
    start = body.find(b"]}") + 2
    await send({"type": "http.response.body", "body": HEADER + body[start : start + 40]})


if __name__ == "__main__":
    uvicorn.run(
        app, port=int(sys.argv[1]), http="httptools", loop="uvloop", ws="none", lifespan="off", log_level="error"
    )
