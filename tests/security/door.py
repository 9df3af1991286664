"""One gateway before a server of each framework that counts what reaches it, and a way to talk to it byte by byte."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe
from tests.gateway.conftest import RunningGateway, start_gateway

MODEL = "double"
#: What no answer may hold: a trace, a path, an address, a token, a server's own text.
LEAK = re.compile(rb"Traceback|File \"|/[a-z]+/site-packages|\.py\b|127\.0\.0\.1|localhost:|Bearer|0x[0-9a-f]{8}")

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}]}).encode()


@dataclass
class Door:
    gateway: RunningGateway
    tensorflow: FakeTFServing
    pytorch: FakeTorchServe

    @property
    def port(self) -> int:
        return int(self.gateway.url.rpartition(":")[2].rstrip("/"))

    @property
    def predictions(self) -> int:
        """How many requests have reached a model at either server."""
        return len(self.tensorflow.predicted) + len(self.pytorch.predicted) + len(self.pytorch.handed_over)

    def others_asked(self) -> set[str]:
        """Paths and models that the servers were asked for, but for those of the gateway's own watching."""
        paths = {path for path in self.pytorch.asked if not _OWN.fullmatch(path)}
        return paths | (set(self.tensorflow.described) - {MODEL})

    def talk(self, *pieces: bytes, seconds: float = 10, half_close: bool = False) -> bytes:
        """Sends the pieces and returns all that comes back until the gateway closes, or is silent for a while."""
        with socket.create_connection(("127.0.0.1", self.port), seconds) as connection:
            connection.settimeout(seconds)
            try:
                for piece in pieces:
                    connection.sendall(piece)
            except OSError:
                pass  # refused before all was sent
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            return read_answers(connection, seconds)


_OWN = re.compile(rf"/models(\?limit=1000&next_page_token=\d+|/{MODEL}(/all|/\d+\?customized=true)?)|/token\?type=\w+")


def read_answers(connection: socket.socket, seconds: float) -> bytes:
    """Until the end, or until a whole answer has come and nothing more for 0.2 s."""
    found, end = b"", monotonic() + seconds
    while monotonic() < end:
        connection.settimeout(0.2 if is_whole(found) else max(0.01, end - monotonic()))
        try:
            piece = connection.recv(65536)
        except TimeoutError:
            return found
        except OSError:
            return found
        if not piece:
            return found
        found += piece
    return found


def is_whole(answer: bytes) -> bool:
    head, separator, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return bool(separator and length) and len(body) >= int(length[1])  # type: ignore[index]


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


def request(target: str = f"/v2/models/{MODEL}/infer", body: bytes = BODY, *lines: str, method: str = "POST") -> bytes:
    head = [f"{method} {target} HTTP/1.1", "Host: duet", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


@contextmanager
def open_door(folder: Path, **settings: Any) -> Iterator[Door]:
    tensorflow, pytorch = FakeTFServing({MODEL: [1]}), FakeTorchServe({MODEL: ["1"]})
    chosen = {
        "servers": {
            "tensorflow": {"kind": "tfserving", "endpoint": tensorflow.endpoint},
            "pytorch": {"kind": "torchserve", "endpoint": pytorch.url, "management": pytorch.url},
        },
        "models": {MODEL: {}},
        # What `request` and the raw sockets call it.
        "http": {"allowed_hosts": ["duet", "*.example"]},
        **settings,
    }
    running = start_gateway(chosen, folder)
    try:
        for variant in ("tensorflow", "pytorch"):
            running.wait_until(f"/v2/models/{MODEL}@{variant}/ready", 200)
        yield Door(running, tensorflow, pytorch)
    finally:
        running.stop()
        tensorflow.close()
        pytorch.close()
    # What a server says is logged on one line; a trace of the gateway's own goes on with a line feed.
    assert not re.search(r"Traceback \(most recent call last\):(\n|\\n)", running.log.read_text())
