"""Servers that have nothing to do with the gateway and do next to nothing: ``python -m tests.security.siege.echo``.

They are attacked as the gateway was, for comparison: what its callers wait for then is the machine, which all share.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import cast

import grpc.aio
import uvloop

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class _Answers(asyncio.Protocol):
    """An answer to each head's end, unless the client does not read."""

    _paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if not self._paused:
            self._transport.write(_ANSWER * data.count(b"\r\n\r\n"))

    def pause_writing(self) -> None:
        self._paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        self._transport.resume_reading()


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    https = [await loop.create_server(_Answers, "127.0.0.1", 0) for _ in range(2)]
    calls = grpc.aio.server()  # without a method: whatever is called is not implemented
    grpc_port = calls.add_insecure_port("127.0.0.1:0")
    await calls.start()
    http, admin = (server.sockets[0].getsockname()[1] for server in https)
    print(json.dumps({"http": http, "admin": admin, "grpc": grpc_port}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # until whoever started this is gone


if __name__ == "__main__":
    uvloop.run(_serve())
