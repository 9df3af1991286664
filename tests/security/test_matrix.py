"""Keys x models x verbs x fronts: who may do what is said once more here, in other words than the gateway's."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import grpc
import pytest

from tests.fakes.tfserving import FakeTFServing
from tests.gateway.conftest import RunningGateway, start_gateway
from tests.security.doors import (
    ALLOWED,
    CALLS,
    MANAGEMENT,
    NOT_LET_IN,
    NOT_THERE,
    STREAMS,
    UNKNOWN_MODEL,
    KeyFolder,
    Outcome,
    forged,
)

#: The last one is on no server.
MODELS = ("alpha", "alpine", "beta", "ghost")
THERE = MODELS[:3]

#: Key -> its grants, and by verb the models for which they hold.
GRANTED: dict[str, tuple[list[str], dict[str, set[str]]]] = {
    "nothing": ([], {}),
    "predicts alpha": (["predict:alpha"], {"predict": {"alpha"}}),
    "reads alpha": (["metadata:alpha"], {"metadata": {"alpha"}}),
    "predicts and reads al*": (
        ["predict,metadata:al*"],
        {"predict": {"alpha", "alpine"}, "metadata": {"alpha", "alpine"}},
    ),
    "predicts alp??, reads beta": (["predict:alp??", "metadata:beta"], {"predict": {"alpha"}, "metadata": {"beta"}}),
    "administers beta": (["admin:beta"], {"admin": {"beta"}}),
    "everything": (["predict,metadata,admin:*"], {verb: set(THERE) for verb in ("predict", "metadata", "admin")}),
    "a name that is longer": (["predict,metadata,admin:alphabet", "predict,metadata,admin:lpha"], {}),
}
NO_KEYS = ("none", "forged", "another's secret", "revoked", "expired", "empty", "basic", "two")


class World:
    def __init__(self, gateway: RunningGateway, server: FakeTFServing, keys: dict[str, dict[str, str]]) -> None:
        self.gateway, self.server, self.keys = gateway, server, keys

    def ask(self, verb: str, call: str, model: str, key: str) -> Outcome:
        return CALLS[verb][call](self.gateway, model, self.keys[key])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = KeyFolder(tmp_path_factory.mktemp("keys"))
    made = {name: folder.make("caller", *grants) for name, (grants, _) in GRANTED.items()}
    everything = ("predict,metadata,admin:*",)
    shown = {name: {"authorization": f"Bearer {key}"} for name, key in made.items()}
    mixed = made["everything"][:12] + made["nothing"][12:]
    shown |= {
        "none": {},
        "forged": {"authorization": f"Bearer {forged()}"},
        "another's secret": {"x-api-key": mixed},
        "revoked": {"x-api-key": folder.make("revoked", *everything, revoked=True)},
        "expired": {"authorization": f"Bearer {folder.make('expired', *everything, days=-1)}"},
        "empty": {"authorization": "Bearer"},
        "basic": {"authorization": f"Basic {made['everything']}"},
        "two": {"authorization": f"Bearer {made['everything']}", "x-api-key": made["everything"]},
    }
    server = FakeTFServing({name: [1] for name in THERE})
    settings = {
        "servers": {"tensorflow": {"kind": "tfserving", "endpoint": server.endpoint}},
        "models": {name: {} for name in THERE},
        "auth": folder.settings,
    }
    gateway = start_gateway(settings, tmp_path_factory.mktemp("gateway"))
    try:
        gateway.wait_until("/v2/health/ready", 200)
        for name in THERE:
            gateway.client.headers["x-api-key"] = made["everything"]
            gateway.wait_until(f"/v2/models/{name}/ready", 200)
        del gateway.client.headers["x-api-key"]
        yield World(gateway, server, shown)
    finally:
        assert gateway.stop() == 0
        server.close()


EVERY_CALL = [(verb, call) for verb, calls in CALLS.items() for call in calls]


@pytest.mark.parametrize("key", GRANTED)
@pytest.mark.parametrize(("verb", "call"), EVERY_CALL, ids=[f"{verb}, {call}" for verb, call in EVERY_CALL])
def test_a_key_may_do_what_it_was_granted_and_nothing_else(world: World, key: str, verb: str, call: str) -> None:
    for model in MODELS:
        before = len(world.server.predicted)
        outcome = world.ask(verb, call, model, key)
        may = model in GRANTED[key][1].get(verb, ())
        assert outcome.code in (ALLOWED if may else UNKNOWN_MODEL), (model, outcome)
        assert len(world.server.predicted) - before == (may and verb == "predict"), "calls of the server"


@pytest.mark.parametrize("key", NO_KEYS)
def test_nobody_gets_in_without_a_valid_key(world: World, key: str) -> None:
    """Nor learns whether there is a model, in any front; and the server behind hears of none of it."""
    before = len(world.server.predicted)
    for verb, call in EVERY_CALL:
        texts = set()
        for model in ("alpha", "ghost"):
            outcome = world.ask(verb, call, model, key)
            assert outcome.code in NOT_LET_IN, (verb, call, outcome)
            texts.add(outcome.text)
        assert len(texts) == 1
    assert len(world.server.predicted) == before


@pytest.mark.parametrize(("verb", "call"), EVERY_CALL, ids=[f"{verb}, {call}" for verb, call in EVERY_CALL])
def test_a_model_that_is_not_granted_answers_as_one_that_does_not_exist(world: World, verb: str, call: str) -> None:
    """Text and headers are the same but for the name, which is as long."""
    for key in ("nothing", "predicts and reads al*", "a name that is longer"):
        there, missing = (world.ask(verb, call, model, key) for model in ("beta", "beto"))
        assert there.code in UNKNOWN_MODEL
        assert there.code == missing.code
        assert there.text.replace("beta", "beto") == missing.text
        assert there.headers == missing.headers


@pytest.mark.parametrize("call", MANAGEMENT)
def test_management_is_not_there_whoever_asks(world: World, call: str) -> None:
    """The same words for every model and every key, also for who may administer everything."""
    before = len(world.server.predicted)
    texts = set()
    for key in GRANTED:
        for model in MODELS:
            outcome = MANAGEMENT[call](world.gateway, model, world.keys[key])
            assert outcome.code in NOT_THERE, (key, model, outcome)
            texts.add(outcome.text.replace(model, "model"))
    assert len(texts) == 1
    for key in NO_KEYS:
        assert MANAGEMENT[call](world.gateway, "alpha", world.keys[key]).code in NOT_LET_IN, key
    assert len(world.server.predicted) == before


@pytest.mark.parametrize("call", STREAMS)
def test_a_streams_messages_are_let_in_one_by_one(world: World, call: str) -> None:
    ask = STREAMS[call]
    before = len(world.server.predicted)
    assert ask(world.gateway, "alpha", world.keys["none"]).code == "UNAUTHENTICATED"
    refused = ask(world.gateway, "beta", world.keys["predicts alpha"])
    missing = ask(world.gateway, "beto", world.keys["predicts alpha"])
    assert refused.code == "OK"  # the stream goes on; the error is in it
    assert refused.text.replace("beta", "beto") == missing.text
    assert len(world.server.predicted) == before
    ask(world.gateway, "alpha", world.keys["predicts alpha"])
    assert len(world.server.predicted) == before + 1


@pytest.mark.parametrize("key", GRANTED)
def test_listings_show_what_may_be_read_and_nothing_else(world: World, key: str) -> None:
    readable = GRANTED[key][1].get("metadata", set())
    client, shown = world.gateway.client, world.keys[key]
    for path in ("/v2/models", "/v1/models"):
        assert client.get(path, headers=shown).json() == {"models": sorted(readable)}
    index = client.post("/v2/repository/index", headers=shown).json()
    assert {entry["name"] for entry in index} == readable
    statistics = client.get("/v2/models/stats", headers=shown).json()["model_stats"]
    assert {entry["name"].partition("@")[0] for entry in statistics} == readable


def test_health_is_for_everybody_and_tells_of_no_model(world: World) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/ping", "/"):
        answer = world.gateway.client.get(path)
        assert answer.status_code == 200
        assert not any(model in answer.text for model in THERE)


@pytest.mark.parametrize("path", ["/v2", "/nowhere", "/docs", "/models", "/v2/health/live/", "/v1/models"])
def test_everything_else_is_for_who_has_a_key(world: World, path: str) -> None:
    """What is not there too: nobody can look about."""
    assert world.gateway.client.get(path).status_code == 401


def test_the_admin_ports_administration_needs_a_grant(world: World) -> None:
    ask = world.gateway.admin.get
    assert ask("/admin/backends").status_code == 401
    assert ask("/admin/backends", headers=world.keys["administers beta"]).status_code == 403
    assert ask("/admin/backends", headers=world.keys["everything"]).status_code == 200
    assert ask("/readyz").status_code == ask("/metrics").status_code == 200


def test_a_refusal_comes_before_the_body(world: World) -> None:
    """A caller without a key says that it will send ten megabytes, and is refused before it has sent any."""
    url = world.gateway.client.base_url
    with socket.create_connection((url.host, url.port), timeout=10) as connection:
        connection.sendall(
            b"POST /v2/models/alpha/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n"
        )
        answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 401 ")
        while piece := connection.recv(4096):
            answer += piece
    assert b"connection: close" in answer.lower()


def test_over_grpc_a_refusal_comes_before_the_message(world: World) -> None:
    """A caller without a key opens a call and sends no message; it is told at once."""
    with grpc.insecure_channel(f"127.0.0.1:{world.gateway.grpc_port}") as channel:
        waiting = threading.Event()

        def never() -> Iterator[bytes]:
            waiting.wait(20)
            yield b""

        # To the wire, a call that streams its request looks like one that has not sent its message yet.
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelInfer")(never(), timeout=15)
        try:
            with pytest.raises(grpc.RpcError) as caught:
                next(call)
        finally:
            waiting.set()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
