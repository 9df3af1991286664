"""TLS is spoken over a connection that has a place first. The kind: bytes that come sooner than they are waited for."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.rest.asgi import Receive, Scope, Send
from gateway.rest.connection import Crowd, Patience
from gateway.rest.room import Room
from gateway.tls import ServerTls
from tests.security.authority import Authority, Pair

#: One address may have them all: fewer than 64 would not be kept apart.
_PLACES = 64
_REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


class Client:
    """A TLS client by bytes: each piece of what it says is sent when the test says so."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    def hello(self) -> bytes:
        with suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._outgoing.read()

    async def ask(self) -> bytes:
        """The handshake's rest and a request, the request in one piece with the handshake's last bytes."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._incoming.write(await self._more())
        self._tls.write(_REQUEST)
        await loop.sock_sendall(self.sock, self._outgoing.read())
        answer = b""
        while not answer.endswith(b"ok"):
            try:
                answer += self._tls.read(65_536)
            except ssl.SSLWantReadError:
                self._incoming.write(await self._more())
        return answer

    async def _more(self) -> bytes:
        data = await asyncio.get_running_loop().sock_recv(self.sock, 65_536)
        assert data, "the gateway has closed the connection"
        return data


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Pair]:
    made = Authority(tmp_path_factory.mktemp("handshake"))
    return made, made.issue("gateway")


@asynccontextmanager
async def listening(pair: Pair, patience: Patience) -> AsyncIterator[tuple[str, int]]:
    """Connections are made by the kernel, and taken when the event loop runs."""
    crowd = Crowd(
        patience,
        max_connections=_PLACES,
        room=Room(1 << 20),
        on_cut=lambda reason: None,
        tls=ServerTls(cert=pair.cert, key=pair.key).context(),
    )
    config, state = Config(app, ws="none", lifespan="off", log_config=None), ServerState()  # type: ignore[arg-type]
    config.load()
    server = await asyncio.get_running_loop().create_server(
        lambda: crowd.protocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0, backlog=200
    )
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()


async def asked(authority: Path, pair: Pair, *, early: int | None, count: int = 3) -> list[bytes]:
    """What clients are answered that send ``early`` bytes, or all, of what they begin with before they are taken."""
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        async with listening(pair, Patience()) as address, asyncio.timeout(5):
            clients = []
            for _ in range(count):
                sock = stack.enter_context(socket.create_connection(address))
                client = Client(sock, ssl.create_default_context(cafile=authority))
                hello = client.hello()
                cut = len(hello) if early is None else early
                sock.sendall(hello[:cut])
                sock.setblocking(False)
                clients.append((client, hello[cut:]))
            for client, rest in clients:
                if rest:
                    await asyncio.sleep(0.05)
                    await loop.sock_sendall(client.sock, rest)
            return [await client.ask() for client, _ in clients]


@pytest.mark.parametrize("early", [None, 0, 1, 100])
@pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
def test_nothing_is_lost_of_what_comes_before_tls_is_spoken(
    authority: tuple[Authority, Pair], run: Callable[[Coroutine[Any, Any, list[bytes]]], list[bytes]], early: int | None
) -> None:
    """All, a part or nothing of a client's first message is there when its connection is taken."""
    made, pair = authority
    answers = run(asked(made.file, pair, early=early))
    assert [answer.split()[1] for answer in answers] == [b"200"] * 3


async def left(pair: Pair, says: bytes, *, headers_seconds: float, expected: int) -> int:
    """How many of clients that begin a handshake and then hold still are not closed, sooner or later."""
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        async with listening(pair, Patience(headers_seconds=headers_seconds)) as address:
            socks = [stack.enter_context(socket.create_connection(address)) for _ in range(_PLACES + 30)]
            for sock in socks:
                sock.sendall(says)
                sock.setblocking(False)
            reading = [asyncio.ensure_future(loop.sock_recv(sock, 1)) for sock in socks]
            last = loop.time() + 5
            while len(held := [one for one in reading if not one.done()]) > expected and loop.time() < last:
                await asyncio.wait(held, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
            for one in reading:
                one.cancel()
            await asyncio.gather(*reading, return_exceptions=True)
            return len(held)


@pytest.mark.parametrize("says", [b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\0\1\0\1"])
def test_half_of_a_handshake_has_a_place(authority: tuple[Authority, Pair], says: bytes) -> None:
    """Clients that say nothing, or next to nothing: those that came first make way."""
    assert uvloop.run(left(authority[1], says, headers_seconds=60, expected=_PLACES)) == _PLACES


@pytest.mark.parametrize("says", [b"", b"\x16\x03\x01"])
def test_half_of_a_handshake_has_a_time(authority: tuple[Authority, Pair], says: bytes) -> None:
    """That of a request's head."""
    assert uvloop.run(left(authority[1], says, headers_seconds=0.2, expected=0)) == 0
