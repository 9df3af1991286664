"""TorchServe's REST with Duet's handler, as far as the gateway calls it, and its faults on the wire."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import secrets
import socket
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import httptools

from tests.faults import echo
from tests.faults.replica import Model, Script, die

_LENGTH = "inference-header-content-length"
_BUSY = 'Model "echo" Version 1 has no worker to serve inference request. Please use scale workers API to add workers.'
#: A gigabyte of nothing, in a megabyte.
_BOMB_BYTES = 1 << 30


async def serve(model: Model, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: _Connection(model), host, port, backlog=1024)


def write_keys(script: Script, path: Path) -> None:
    """New keys, as TorchServe writes them at a start."""
    _replace(path, {kind: _new_key(script) for kind in ("management", "inference")} | {"API": {"key": "renew"}})


def renew_key(script: Script, kind: str) -> None:
    """One of them, as ``GET /token?type=`` asks for."""
    path = Path(script.key_file)
    _replace(path, json.loads(path.read_text()) | {kind: _new_key(script)})


def _new_key(script: Script) -> dict[str, str]:
    return {"key": secrets.token_urlsafe(8), "expiration time": _moment(script.key_seconds)}


def _replace(path: Path, keys: dict[str, dict[str, str]]) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(keys))
    fresh.rename(path)


def _moment(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class _Connection(asyncio.Protocol):
    def __init__(self, model: Model) -> None:
        self._model = model
        self._parser = httptools.HttpRequestParser(self)
        self._task: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._model.counts.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._model.counts.connections -= 1
        if self._idle is not None:
            self._idle.cancel()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url, self._body = b"", b""
        self._headers: dict[str, str] = {}

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        path = self._url.decode()
        if path.startswith("/token"):
            renew_key(self._model.script, path.rpartition("=")[2])
            self._send(200, {}, b"{}")
        elif not self._is_let_in(path):
            self._fail(400, "InvalidKeyException", "Token Authorization failed. Token either incorrect or expired")
        elif path.startswith("/predictions/"):
            self._task = asyncio.get_running_loop().create_task(self._predict(int(path.rpartition("/")[2])))
        else:
            self._send(200, {}, _described(self._model, path))

    def _is_let_in(self, path: str) -> bool:
        script = self._model.script
        if not script.key_file or path == "/ping":
            return True
        kind = "inference" if path.startswith("/predictions/") else "management"
        entry = json.loads(Path(script.key_file).read_text())[kind]
        expired = entry["expiration time"] < _moment(0)
        return not expired and self._headers.get("authorization") == f"Bearer {entry['key']}"

    async def _predict(self, version: int) -> None:
        model, length = self._model, int(self._headers[_LENGTH])
        document, x = json.loads(self._body[:length]), self._body[length:]
        if struct.unpack_from("<f", x)[0] == echo.POISON:
            die()
        fault = model.take()
        if fault == "reset_before":
            self._reset()
            return
        if fault == "overload" or model.full:
            self._fail(503, "ServiceUnavailableException", _BUSY)
            return
        if version not in model.script.versions:
            self._fail(404, "ModelVersionNotFoundException", f"Model version: {version} does not exist for model: echo")
            return
        await model.work()
        model.counts.rows += len(x) // (4 * echo.WIDTH)
        if fault == "crash":
            self._fail(500, "InternalServerException", "Worker died.")
            return
        y, h = echo.answer(x, version)
        shape = document["inputs"][0]["shape"]
        head, body = _answer(y, h, shape, fault)
        await self._send_faulty(head, body, fault)

    async def _send_faulty(self, head: bytes, body: bytes, fault: str) -> None:
        whole = f"HTTP/1.1 200 OK\r\n{_LENGTH}: {len(head)}\r\ncontent-length: {len(head) + len(body)}\r\n\r\n".encode()
        whole += head + body
        if fault == "reset_mid":
            self._transport.write(whole[: self._model.script.after_bytes or len(whole) - 8])
            await asyncio.sleep(0.01)  # so that it is seen before the reset
            self._reset()
        elif fault == "stall":
            self._transport.write(whole[: len(whole) - 8])
        elif fault == "drip":
            for start in range(len(whole)):
                self._transport.write(whole[start : start + 1])
                await asyncio.sleep(0.02)
        elif fault == "noise":
            self._transport.write(os.urandom(4096))
        elif fault == "html":
            self._send(200, {"content-type": "text/html"}, b"<html><body>It works!</body></html>")
        elif fault == "huge_length":
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n" + bytes(65_536))
        elif fault == "endless":
            self._transport.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for _ in range(2048):
                self._transport.write(b"10000\r\n" + bytes(65_536) + b"\r\n")
                await asyncio.sleep(0)
        elif fault == "bomb":
            self._send(200, {"content-encoding": "gzip"}, gzip.compress(bytes(_BOMB_BYTES >> 6)) * 64)
        else:
            self._transport.write(whole)
            self._rest()

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._transport.write(f"HTTP/1.1 {status} x\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body)
        self._rest()

    def _fail(self, status: int, kind: str, message: str) -> None:
        self._send(status, {}, json.dumps({"code": status, "type": kind, "message": message}).encode())

    def _rest(self) -> None:
        seconds = self._model.script.idle_seconds
        self._idle = asyncio.get_running_loop().call_later(seconds, self._transport.close)

    def _reset(self) -> None:
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


def _answer(y: bytes, h: bytes, shape: list[int], fault: str) -> tuple[bytes, bytes]:
    rows = shape[0]
    outputs = [
        {"name": "y", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": len(y)}},
        {"name": "h", "datatype": "INT64", "shape": [rows, 1], "parameters": {"binary_data_size": len(h)}},
    ]
    if fault == "wrong_dtype":
        outputs[0]["datatype"] = "INT32"
    elif fault == "wrong_shape":
        outputs[0]["shape"] = [rows, 2, 2]
    elif fault == "wrong_name":
        outputs[0]["name"] = "z"
    elif fault == "wrong_rows":
        outputs[0]["shape"], outputs[0]["parameters"] = [rows + 1, echo.WIDTH], {"binary_data_size": len(y) + 16}
        y += bytes(16)
    elif fault == "missing":
        del outputs[1]
        h = b""
    elif fault == "huge_shape":
        outputs[0]["shape"] = [1_000_000_000]
    return json.dumps({"outputs": outputs}).encode(), y + h


def _described(model: Model, path: str) -> bytes:
    path, _, query = path.partition("?")
    if path == "/ping":
        return b'{"status": "Healthy"}'
    if path == "/models":
        return b'{"models": [{"modelName": "echo", "modelUrl": "echo.mar"}]}'
    workers = [{"id": str(9000 + number), "status": "READY"} for number in range(model.script.workers)]
    last = path.rpartition("/")[2]
    chosen = model.script.versions if last == "all" else (int(last) if last.isdigit() else model.script.versions[-1],)
    entries: list[dict[str, object]] = [
        {"modelName": "echo", "modelVersion": str(version), "workers": workers} for version in chosen
    ]
    if "customized=true" in query:
        for entry in entries:
            entry["customizedMetadata"] = echo.SIGNATURE
    return json.dumps(entries).encode()
