"""Tokens of an issuer: which count, which do not, and what happens while the issuer is away."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import DuetError, Unauthenticated, Unavailable
from gateway.security import jwks
from gateway.security.fetching import FetchError, get
from gateway.security.jwks import Jwks, JwksError, from_issuer, from_url
from gateway.security.tokens import Tokens
from tests.fakes.tfserving import FakeTFServing
from tests.gateway.conftest import RunningGateway
from tests.security import issuer
from tests.security.doors import METADATA, PREDICT
from tests.security.issuer import AUDIENCE, ISSUER, NOW, token

FORGERIES = issuer.forgeries()
TEN_MINUTES, DAY_SECONDS = 600.0, 86_400.0


class Source:
    """An issuer's key set, which can be away. It counts how often it is asked."""

    def __init__(self, content: bytes | None = None) -> None:
        self.content: bytes | None = issuer.jwks() if content is None else content
        self.asked = 0

    async def __call__(self) -> bytes:
        self.asked += 1
        await asyncio.sleep(0)
        if self.content is None:
            raise JwksError("away")
        return self.content


class World:
    """Tokens and keys on clocks that stand still until they are moved."""

    def __init__(self, source: Callable[[], Awaitable[bytes]], **more: Any) -> None:
        self.now, self.clock = NOW, 1000.0
        self.jwks = Jwks(source, clock=lambda: self.clock)
        options = {"issuer": ISSUER, "audience": AUDIENCE, "algorithms": ("RS256", "ES256", "EdDSA"), **more}
        self.tokens = Tokens(self.jwks, time=lambda: self.now, **options)

    def name(self, text: str) -> str:
        return asyncio.run(self.once(text))

    async def once(self, text: str) -> str:
        try:
            return await self.tokens.name(text)
        finally:
            await self.settle()

    async def settle(self) -> None:
        """Lets a fetch in the background end."""
        for _ in range(5):
            await asyncio.sleep(0)

    def pass_seconds(self, seconds: float) -> None:
        self.now += seconds
        self.clock += seconds


@pytest.mark.parametrize("key", ["rsa", "ec", "ed"])
def test_a_token_signed_by_the_issuer_names_its_bearer(key: str) -> None:
    assert World(Source()).name(token(key)) == "alice"


@pytest.mark.parametrize(
    "claims", [{"aud": ["other", AUDIENCE]}, {"exp": int(NOW) - 59}, {"nbf": int(NOW) + 59}, {"exp": NOW + 0.5}]
)
def test_what_the_standard_allows_counts(claims: dict[str, Any]) -> None:
    """Several audiences, a minute's leeway, fractions of seconds."""
    assert World(Source()).name(token(**claims)) == "alice"


def test_another_claim_can_name_the_bearer() -> None:
    assert World(Source(), name_claim="email").name(token(email="a@example.com")) == "a@example.com"


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_or_odd_token_is_refused(forgery: str) -> None:
    """In the same words, whatever is wrong with it."""
    with pytest.raises(Unauthenticated) as caught:
        World(Source()).name(FORGERIES[forgery])
    assert caught.value.message == "the token is not valid here; get a new one from its issuer"


def test_there_are_enough_forgeries() -> None:
    assert len(set(FORGERIES.values())) == len(FORGERIES) >= 60


def test_only_the_algorithms_of_the_settings_count() -> None:
    world = World(Source(), algorithms=("ES256",))
    assert world.name(token("ec")) == "alice"
    with pytest.raises(Unauthenticated):
        world.name(token("rsa"))


def test_a_token_that_was_seen_counts_until_its_end_and_no_longer() -> None:
    world = World(Source())
    text = token()
    assert world.name(text) == "alice"
    world.pass_seconds(300 + 59)
    assert world.name(text) == "alice"
    world.pass_seconds(1)
    with pytest.raises(Unauthenticated):
        world.name(text)


def test_a_key_that_the_issuer_took_back_counts_no_more() -> None:
    """For tokens that were seen before too, as soon as the keys were fetched again."""
    source = Source()
    world = World(source)
    text = token(exp=int(NOW) + 10**6)
    assert world.name(text) == "alice"
    source.content = issuer.jwks("ec")
    world.pass_seconds(TEN_MINUTES)
    assert world.name(text) == "alice"  # known still, while the new keys are on their way
    with pytest.raises(Unauthenticated):
        world.name(text)


def test_keys_are_fetched_once_for_ten_minutes() -> None:
    source = Source()
    world = World(source)
    for _ in range(20):
        world.name(token(exp=int(world.now) + 60))
        world.pass_seconds(TEN_MINUTES / 21)
    assert source.asked == 1
    world.pass_seconds(TEN_MINUTES / 20)
    world.name(token(exp=int(world.now) + 60))
    assert source.asked == 2


def test_a_new_key_is_found_by_asking_again() -> None:
    source = Source(issuer.jwks("ec"))
    world = World(source)
    world.name(token("ec"))
    source.content = issuer.jwks("ec", "rsa")
    world.pass_seconds(31)
    assert world.name(token("rsa")) == "alice"
    assert source.asked == 2


def test_invented_key_ids_ask_the_issuer_at_most_every_thirty_seconds() -> None:
    source = Source()
    world = World(source)
    world.name(token())
    for number in range(200):
        with pytest.raises(Unauthenticated):
            world.name(token(header={"kid": f"made up {number}"}))
        world.pass_seconds(0.5)
    assert source.asked <= 1 + 200 * 0.5 / 30 + 1


def test_callers_at_once_wait_for_one_fetch() -> None:
    source = Source()
    world = World(source)

    async def many() -> list[str]:
        return await asyncio.gather(*(world.tokens.name(token(jti=str(number))) for number in range(20)))

    assert asyncio.run(many()) == ["alice"] * 20
    assert source.asked == 1


def test_an_issuer_that_is_away_is_not_missed_for_a_day() -> None:
    source = Source()
    world = World(source)
    world.name(token())
    source.content = None
    for _ in range(24):
        world.pass_seconds(DAY_SECONDS / 24 - 1)
        assert world.name(token(exp=int(world.now) + 60)) == "alice"
    world.pass_seconds(60)
    with pytest.raises(Unavailable, match="issuer cannot be reached"):
        world.name(token(exp=int(world.now) + 60))
    source.content = issuer.jwks()
    world.pass_seconds(31)
    assert world.name(token(exp=int(world.now) + 60)) == "alice"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"{",
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": [1, null, {"kty": "RSA"}]}',
        json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "rsa", "alg": "HS256"}]}).encode(),
        json.dumps({"keys": [issuer.jwk("weak")]}).encode(),
        json.dumps({"keys": [issuer.jwk("rsa", use="enc")]}).encode(),
        json.dumps({"keys": [issuer.jwk("rsa", alg="HS256")]}).encode(),
        json.dumps({"keys": [issuer.jwk("ed")] * 101}).encode(),
    ],
)
def test_a_key_set_without_a_fit_key_is_as_none(content: bytes) -> None:
    with pytest.raises(Unavailable):
        World(Source(content)).name(token())


@contextmanager
def served(pages: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """An HTTP server with these pages; one that begins with a slash is a redirection."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            page = pages.get(self.path)
            redirected = page is not None and page.startswith(b"/")
            self.send_response(302 if redirected else 200 if page is not None else 404)
            if redirected and page is not None:
                self.send_header("location", page.decode())
            self.end_headers()
            self.wfile.write(page or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_keys_come_over_http_and_by_discovery() -> None:
    pages = {"/keys": issuer.jwks()}
    with served(pages) as (url, _):
        assert asyncio.run(from_url(f"{url}/keys")()) == issuer.jwks()
        pages["/.well-known/openid-configuration"] = json.dumps({"issuer": url, "jwks_uri": f"{url}/keys"}).encode()
        assert asyncio.run(from_issuer(url)()) == issuer.jwks()


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://evil.example.com", "jwks_uri": "{}/keys"},
        {"issuer": "{}", "jwks_uri": "http://evil.example.com/keys"},
        {"issuer": "{}", "jwks_uri": "file:///etc/passwd"},
        {"issuer": "{}"},
        [],
    ],
)
def test_a_discovery_that_leads_elsewhere_is_not_followed(document: Any) -> None:
    pages = {"/keys": issuer.jwks()}
    with served(pages) as (url, asked):
        pages["/.well-known/openid-configuration"] = json.dumps(document).replace("{}", url).encode()
        with pytest.raises(JwksError):
            asyncio.run(from_issuer(url)())
        assert asked == ["/.well-known/openid-configuration"]


@pytest.mark.parametrize("page", [b"/elsewhere", b"x" * (257 << 10)])
def test_redirections_and_floods_of_keys_are_errors(page: bytes) -> None:
    with served({"/keys": page, "/elsewhere": issuer.jwks()}) as (url, asked):
        with pytest.raises(JwksError):
            asyncio.run(from_url(f"{url}/keys")())
        assert asked == ["/keys"]


HEAD = b"HTTP/1.1 200 OK\r\n"
DRIPS = {
    "its handshake": b"\x16\x03\x03\x10\x00",  # a record of 4,096 bytes
    "its head": HEAD,
    "its head's end": HEAD + b"x: " + b"x" * 4000,
    "its body": HEAD + b"content-length: 1000\r\n\r\n{",
    "its chunks": HEAD + b"transfer-encoding: chunked\r\n\r\n",
    "a body without end": HEAD + b"\r\n",
}


@contextmanager
def dripping(beginning: bytes) -> Iterator[str]:
    """A server that sends ``beginning`` and then a byte each twentieth of a second, for ever."""
    ended = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.sendall(beginning)
            while not ended.wait(0.05):
                connection.sendall(b"1")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=drip, args=(listening.accept()[0],), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            ended.set()


@pytest.mark.parametrize("beginning", DRIPS.values(), ids=list(DRIPS))
def test_an_issuer_that_drips_is_given_up_as_a_whole(beginning: bytes) -> None:
    """The kind: whatever part of the answer never ends, each of its reads is in time and the whole is not."""
    with dripping(beginning) as address, pytest.raises(FetchError, match=r"not whole after 0\.3 s"):
        get(f"{'http' if beginning.startswith(b'HTTP') else 'https'}://{address}/keys", seconds=0.3, max_bytes=10_000)


def test_callers_with_known_keys_are_served_while_the_issuer_drips(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller whose key is not known waits for a bounded time; those whose key is known do not wait at all."""
    monkeypatch.setattr(jwks, "WAIT_SECONDS", 0.05)
    source, hanging = Source(issuer.jwks("rsa")), asyncio.Event()
    world = World(source)

    async def drips() -> bytes:
        await hanging.wait()
        raise JwksError("never whole")

    async def story() -> None:
        assert await world.once(token("rsa")) == "alice"
        world.jwks._fetch = drips
        world.pass_seconds(31)
        with pytest.raises(Unauthenticated):
            await asyncio.wait_for(world.tokens.name(token("ec")), 5)
        assert await asyncio.wait_for(world.tokens.name(token("rsa", jti="another")), 0.04) == "alice"
        world.pass_seconds(DAY_SECONDS)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(world.tokens.name(token("rsa", exp=int(world.now) + 60)), 5)
        hanging.set()
        await world.settle()

    asyncio.run(story())


def test_a_gateway_takes_tokens_over_rest_and_grpc(
    tmp_path: Path, gateway_with: Callable[[dict[str, Any]], RunningGateway]
) -> None:
    """The first caller that fits counts; a subject that fits none may do nothing."""
    keys = tmp_path / "jwks.json"
    keys.write_bytes(issuer.jwks())
    server = FakeTFServing({"m": [1]})
    callers = [
        {"token": "alice", "grants": ["predict:m"]},
        {"token": "*@example.com", "grants": ["metadata:m"]},
    ]
    auth = {"tokens": {"issuer": ISSUER, "audience": AUDIENCE, "jwks": str(keys)}, "callers": callers}
    gateway = gateway_with(
        {"servers": {"t": {"kind": "tfserving", "endpoint": server.endpoint}}, "models": {"m": {}}, "auth": auth}
    )
    gateway.wait_until("/v2/health/ready", 200)

    def shown(**claims: Any) -> dict[str, str]:
        return {"authorization": f"Bearer {token(exp=int(time.time()) + 60, iat=int(time.time()), **claims)}"}

    for front in ("v2 REST", "v2 gRPC"):
        ask = {"predict": PREDICT[front], "metadata": METADATA[front]}
        assert ask["predict"](gateway, "m", shown()).code in (200, "OK")
        assert ask["metadata"](gateway, "m", shown()).code in (404, "NOT_FOUND")
        assert ask["metadata"](gateway, "m", shown(sub="x@example.com")).code in (200, "OK")
        assert ask["predict"](gateway, "m", shown(sub="bob")).code in (404, "NOT_FOUND")
        assert ask["predict"](gateway, "m", {"authorization": "Bearer a.b.c"}).code in (401, "UNAUTHENTICATED")
        assert ask["predict"](gateway, "m", {"x-api-key": shown()["authorization"][7:]}).code in (
            401,
            "UNAUTHENTICATED",
        )
    server.close()


def test_every_failure_is_one_of_ours() -> None:
    """No forgery makes anything but a refusal: a library's own exception would be an internal error."""
    world = World(Source())
    for text in FORGERIES.values():
        with pytest.raises(DuetError):
            world.name(text)
