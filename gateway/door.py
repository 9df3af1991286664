"""``python -m gateway.door``: the only way to a TorchServe that listens on loopback, run in the same pod.

TorchServe makes its tokens anew at each start, so that nobody outside its pod can know them, and its management and
metrics ports must not be open at all. The door knows them from the key file. It lets through, for those who bear the
token that the operator chose, predictions and the reads that tell about models; everybody may ask ``/ping``; nothing
else is there. Metrics have a port of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hmac
import logging
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
import uvicorn
import uvloop

from gateway.errors import DuetError, PayloadTooLarge
from gateway.rest import asgi
from gateway.servers.http import HttpPool, Response
from gateway.servers.torchserve.faults import TORCHSERVE
from gateway.servers.torchserve.keys import Keys

log = logging.getLogger("duet.door")

MAX_BODY_BYTES = 32 << 20
_RENEW_SECONDS = 5.0

_NAME = r"[^/?#%]+(?:%[0-9A-Fa-f]{2}[^/?#%]*)*"
_PREDICTION = re.compile(rf"/predictions/{_NAME}(/{_NAME})?")
_READ = re.compile(rf"/models(/{_NAME}(/{_NAME})?)?")
_QUERY = re.compile(r"(limit=\d+|next_page_token=\d+|customized=(true|false)|&)*")
_TO_SERVER = (b"content-type", b"inference-header-content-length")
_TO_CLIENT = (b"content-type", b"inference-header-content-length")


class Door:
    """The ASGI application. ``token`` is what callers show; ``keys`` are TorchServe's own."""

    def __init__(self, *, inference: HttpPool, management: HttpPool, token: Keys, keys: Keys) -> None:
        self._inference = inference
        self._management = management
        self._token = token
        self._keys = keys

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        try:
            status, headers, body = await self._answer(scope, receive)
        except asgi.ClientGone:
            return
        except DuetError as error:
            # Of no TorchServe type: the gateway takes it for what it is, a server that cannot be reached.
            status = 413 if isinstance(error, PayloadTooLarge) else 502
            headers, body = [asgi.JSON], orjson.dumps({"message": error.message})
        await asgi.respond(send, status, headers, [body])

    async def renew_keys(self) -> None:
        """Takes TorchServe's new keys, and has it make some before the old ones expire. Raises DuetError."""
        self._token.reread()
        self._keys.reread()
        if self._keys.due_for_renewal():
            for kind in ("inference", "management"):
                await self._management.request("GET", f"/token?type={kind}", headers=self._keys.renewal)
            self._keys.reread()

    async def _answer(self, scope: asgi.Scope, receive: asgi.Receive) -> tuple[int, asgi.Headers, bytes]:
        method, path = scope["method"], scope["raw_path"].decode("latin-1")
        query = scope["query_string"].decode("latin-1")
        if (method, path) == ("GET", "/ping"):
            return _copied(await self._call(self._inference, "GET", "/ping"))
        if method == "POST" and not query and _PREDICTION.fullmatch(path):
            if not _shown(scope, self._token.inference):
                return _refused()
            body = await asgi.read_body(scope, receive, max_bytes=MAX_BODY_BYTES)
            return _copied(await self._call(self._inference, "POST", path, _kept(scope), body))
        if method == "GET" and _READ.fullmatch(path) and _QUERY.fullmatch(query):
            if not _shown(scope, self._token.management):
                return _refused()
            return _copied(await self._call(self._management, "GET", f"{path}?{query}" if query else path))
        return 404, [asgi.JSON], b'{"code": 404, "type": "ResourceNotFoundException", "message": "Not here"}'

    async def _call(self, pool: HttpPool, method: str, path: str, headers: str = "", body: bytes = b"") -> Response:
        before = self._own_key(pool)
        response = await pool.request(method, path, headers=headers + before, body=[body], size=len(body))
        if response.status == 400 and b"InvalidKeyException" in response.body:
            self._keys.reread()
            if self._own_key(pool) != before:  # TorchServe has been started anew
                headers += self._own_key(pool)
                response = await pool.request(method, path, headers=headers, body=[body], size=len(body))
        return response

    def _own_key(self, pool: HttpPool) -> str:
        return self._keys.inference if pool is self._inference else self._keys.management


class MetricsDoor:
    """``GET /metrics`` and nothing else, without a token: who may ask is for the network to say."""

    def __init__(self, metrics: HttpPool) -> None:
        self._metrics = metrics

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        if (scope["method"], scope["path"]) != ("GET", "/metrics"):
            await asgi.respond(send, 404, [], [b""])
            return
        query = scope["query_string"].decode("latin-1")
        if not re.fullmatch(r"(name(\[\]|%5B%5D)=\w+|&)*", query):
            await asgi.respond(send, 404, [], [b""])
            return
        try:
            response = await self._metrics.request("GET", "/metrics" + (f"?{query}" if query else ""))
            status, headers, body = _copied(response)
        except DuetError:
            status, headers, body = 502, [], b""
        await asgi.respond(send, status, headers, [body])


def _shown(scope: asgi.Scope, line: str) -> bool:
    """Whether the caller bears the token of the header line; nobody does where there is none."""
    expected = line.partition(": ")[2].strip().encode()
    shown = asgi.header(scope, b"authorization") or b""
    return bool(expected) and hmac.compare_digest(shown, expected)


def _refused() -> tuple[int, asgi.Headers, bytes]:
    """As TorchServe itself refuses a token."""
    body = {"code": 400, "type": "InvalidKeyException", "message": "Token Authorization failed. Token is incorrect"}
    return 400, [asgi.JSON], orjson.dumps(body)


def _kept(scope: asgi.Scope) -> str:
    kept = ((name, value) for name, value in scope["headers"] if name in _TO_SERVER)
    return "".join(f"{name.decode()}: {value.decode('latin-1')}\r\n" for name, value in kept)


def _copied(response: Response) -> tuple[int, asgi.Headers, bytes]:
    headers = [(name, response.headers[name]) for name in _TO_CLIENT if name in response.headers]
    return response.status, headers, response.body


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: both servers stop on one signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(arguments: argparse.Namespace, token: Keys) -> None:
    pools = {name: HttpPool(url, faults=TORCHSERVE) for name, url in arguments.servers.items()}
    keys = Keys(arguments.key_file)
    door = Door(inference=pools["inference"], management=pools["management"], token=token, keys=keys)
    servers = [_server(door, arguments.host, arguments.port)]
    if arguments.metrics_port:
        servers.append(_server(MetricsDoor(pools["metrics"]), arguments.host, arguments.metrics_port))
    renewing = asyncio.create_task(_keep_renewing(door))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, servers)
    await asyncio.gather(*(server.serve() for server in servers))
    renewing.cancel()
    for pool in pools.values():
        await pool.aclose()


def _stop(servers: Sequence[uvicorn.Server]) -> None:
    for server in servers:
        server.should_exit = True


async def _keep_renewing(door: Door) -> None:
    while True:
        try:
            await door.renew_keys()
        except DuetError as error:
            log.warning("TorchServe's keys are not renewed: %s", error)
        await asyncio.sleep(_RENEW_SECONDS)


def _server(app: object, host: str, port: int) -> _Server:
    return _Server(
        uvicorn.Config(
            app,  # type: ignore[arg-type]  # uvicorn's own ASGI types
            host=host,
            port=port,
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=30,
        )
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gateway.door", description="The way to a TorchServe on loopback")
    parser.add_argument("--host", default="0.0.0.0", help="where to listen")  # noqa: S104 - a pod's address
    parser.add_argument("--port", type=int, default=8080, help="for predictions, reads and /ping")
    parser.add_argument("--metrics-port", type=int, default=0, help="for /metrics; 0: not opened")
    parser.add_argument("--inference", required=True, metavar="URL", help="TorchServe's inference address")
    parser.add_argument("--management", required=True, metavar="URL", help="its management address")
    parser.add_argument("--metrics", default="http://127.0.0.1:8082", metavar="URL", help="its metrics address")
    parser.add_argument("--token-file", type=Path, required=True, help="the token that callers bear, as a key file")
    parser.add_argument("--key-file", type=Path, required=True, help="the key file that TorchServe writes")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = _parser().parse_args(arguments)
    parsed.servers = {name: getattr(parsed, name) for name in ("inference", "management", "metrics")}
    token = Keys(parsed.token_file)
    token.reread()
    if not (token.inference and token.management):
        print(
            f'{parsed.token_file}: must hold {{"management": {{"key": "..."}}, "inference": {{"key": "..."}}}}',
            file=sys.stderr,
        )
        return 2
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(parsed, token))
    return 0


if __name__ == "__main__":
    sys.exit(main())
