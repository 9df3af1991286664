"""TLS is spoken over a connection that has a place first. The kind: bytes that come sooner than they are waited for."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop
from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.rest.asgi import Receive, Scope, Send
from gateway.rest.connection import Crowd, Patience
from gateway.rest.room import Room
from gateway.tls import ServerTls
from tests.security.authority import Authority, Pair

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


async def asked(authority: Path, pair: Pair, *, early: int | None, count: int = 3) -> list[bytes]:
    """What clients are answered that send ``early`` bytes, or all, of what they begin with before they are taken."""
    loop = asyncio.get_running_loop()
    crowd = Crowd(
        Patience(),
        max_connections=100,
        room=Room(1 << 20),
        on_cut=lambda reason: None,
        tls=ServerTls(cert=pair.cert, key=pair.key).context(),
    )
    config, state = Config(app, ws="none", lifespan="off", log_config=None), ServerState()
    config.load()
    server = await loop.create_server(
        lambda: crowd.protocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    clients = []
    for _ in range(count):
        sock = socket.create_connection(server.sockets[0].getsockname())  # by the kernel: the loop is not run yet
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
    try:
        async with asyncio.timeout(5):
            return [await client.ask() for client, _ in clients]
    finally:
        server.close()
        for client, _ in clients:
            client.sock.close()


@pytest.mark.parametrize("early", [None, 0, 1, 100])
@pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
def test_nothing_is_lost_of_what_comes_before_tls_is_spoken(authority, run, early) -> None:  # type: ignore[no-untyped-def]
    """All, a part or nothing of a client's first message is there when its connection is taken."""
    made, pair = authority
    answers = run(asked(made.file, pair, early=early))
    assert [answer.split()[1] for answer in answers] == [b"200"] * 3
