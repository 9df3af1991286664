"""Calls that hold on to what others need: places, bytes on their way in, time. And who may go on with a stream.

The limits here are small ones, so that a few calls reach them. Bystanders call from another address, or with another
key, and what they get is looked at.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from time import time
from typing import Any

import grpc
import psutil
import pytest

from gateway.protos import torchserve_pb2 as ts_pb
from gateway.protos import v2_pb2
from gateway.security.access import Quota
from gateway.security.grants import Grants
from gateway.security.keyfile import changing
from tests.fakes import http2
from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe
from tests.gateway.conftest import RunningGateway, start_gateway, wait_for
from tests.security import doors
from tests.security.doors import KeyFolder

MODEL = "double"
CALLS, WATCHES, SHARE, IDLE_SECONDS = 40, 12, 0.25, 2.0
OF_ONE = int(CALLS * SHARE)
V2 = "/inference.GRPCInferenceService/"
TORCHSERVE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
REFLECT = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
STREAMS: dict[str, tuple[str, bytes]] = {
    "v2": (f"{V2}ModelStreamInfer", doors.infer(MODEL).SerializeToString()),
    "TorchServe": (f"{TORCHSERVE}StreamPredictions2", doors.predictions(MODEL).SerializeToString()),
    "reflection": (REFLECT, b"\x3a\x00"),
}
MESSAGE_BYTES = 16 << 20
#: What one caller may make the process take.
CAP = 64 << 20


#: Method, and whether a key is shown. Messages of all of them are announced and never whole.
HALVES = {
    "ServerLive": (f"{V2}ServerLive", False),
    "ServerReady": (f"{V2}ServerReady", False),
    "Ping": (f"{TORCHSERVE}Ping", False),
    "Check": (CHECK, False),
    "Watch": (WATCH, False),
    "ModelInfer without a key": (f"{V2}ModelInfer", False),
    "ModelInfer": (f"{V2}ModelInfer", True),
    "Predict": ("/tensorflow.serving.PredictionService/Predict", True),
    "StreamPredictions": (f"{TORCHSERVE}StreamPredictions", True),
    "a method that is not there": (f"{V2}Nothing", False),
    # Messages of open streams: they are read before anybody knows of them.
    "ModelStreamInfer": (f"{V2}ModelStreamInfer", True),
    "StreamPredictions2": (f"{TORCHSERVE}StreamPredictions2", True),
    "reflection": (REFLECT, True),
}


QUICK = ("Check", "ServerLive", "ModelStreamInfer")


def revoke(keys: KeyFolder, key: str) -> None:
    with changing(keys.file) as entries:
        entries[key[3:11]] = replace(entries[key[3:11]], revoked=time())


def expire(keys: KeyFolder, key: str) -> None:
    with changing(keys.file) as entries:
        entries[key[3:11]] = replace(entries[key[3:11]], expires=time() - 1)


def remove(keys: KeyFolder, key: str) -> None:
    with changing(keys.file) as entries:
        del entries[key[3:11]]


def take_grants(keys: KeyFolder, key: str) -> None:
    with changing(keys.file) as entries:
        entries[key[3:11]] = replace(entries[key[3:11]], grants=Grants(()))


ENDS: dict[str, Callable[[KeyFolder, str], None]] = {"revoked": revoke, "expired": expire, "removed": remove}


class World:
    def __init__(
        self, gateway: RunningGateway, folder: KeyFolder, keys: dict[str, str], tensorflow: FakeTFServing
    ) -> None:
        self.gateway, self.folder, self.keys, self.tensorflow = gateway, folder, keys, tensorflow
        self.port = gateway.grpc_port

    def wait_for_keys(self) -> None:
        """Until the gateway has read the key file as it is now."""
        key = self.folder.make("the last one", f"predict,metadata:{MODEL}")
        path, shown = f"/v2/models/{MODEL}/ready", {"x-api-key": key}
        wait_for(lambda: self.gateway.client.get(path, headers=shown).status_code == 200, "the keys to be read")

    def channel(self) -> grpc.Channel:
        return grpc.insecure_channel(f"127.0.0.1:{self.port}", [("grpc.use_local_subchannel_pool", 1)])

    def bystanders(self) -> list[grpc.StatusCode]:
        """A probe from another address, and a prediction with another key from there and from here."""
        message, shown = doors.infer(MODEL).SerializeToString(), (("x-api-key", self.keys["bystander"]),)
        with elsewhere(self.port) as port, grpc.insecure_channel(f"127.0.0.1:{port}") as there, self.channel() as here:
            asked = [there.unary_unary(CHECK).future(b"", timeout=5)]
            for channel in (there, here):
                asked.append(channel.unary_unary(f"{V2}ModelInfer").future(message, timeout=5, metadata=shown))
            return [call.code() for call in asked]


FINE = [grpc.StatusCode.OK] * 3


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    tensorflow, pytorch = FakeTFServing({MODEL: [1]}), FakeTorchServe({MODEL: ["1"]})
    folder, granted = KeyFolder(tmp_path_factory.mktemp("keys")), f"predict,metadata:{MODEL}"
    names = ["bystander", "idle", "less and less", "other", *ENDS, *(f"streams of {name}" for name in STREAMS), *HALVES]
    keys = {name: folder.make(name, granted) for name in names}
    keys["one call"] = folder.make("one call", granted, quota=Quota(concurrency=1, bytes_per_day=1000))
    settings = {
        "servers": {
            "tensorflow": {"kind": "tfserving", "endpoint": tensorflow.endpoint},
            "pytorch": {"kind": "torchserve", "endpoint": pytorch.url, "management": pytorch.url},
        },
        "models": {MODEL: {"default": "tensorflow"}},
        "auth": folder.settings,
        "grpc": {
            "max_calls": CALLS,
            "max_watches": WATCHES,
            "caller_share": SHARE,
            "receive_seconds": 1.0,
            "stream_idle_seconds": IDLE_SECONDS,
            "reflection": True,
        },
    }
    gateway = start_gateway(settings, tmp_path_factory.mktemp("gateway"))
    try:
        for variant in ("tensorflow", "pytorch"):
            path, shown = f"/v2/models/{MODEL}@{variant}/ready", {"x-api-key": keys["bystander"]}
            wait_for(lambda: gateway.client.get(path, headers=shown).status_code == 200, path)  # noqa: B023
        yield World(gateway, folder, keys, tensorflow)
    finally:
        gateway.stop()
        tensorflow.close()
        pytorch.close()
    assert "Traceback" not in gateway.log.read_text()


@contextmanager
def elsewhere(port: int) -> Iterator[int]:
    """A port from which the gateway is reached as from 127.0.0.2."""

    def copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", port), 10, source_address=("127.0.0.2", 0))
            far.settimeout(None)
            sockets.extend((near, far))
            for ends in ((near, far), (far, near)):
                threading.Thread(target=copy, args=ends, daemon=True).start()

    sockets: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for sock in sockets:
                sock.close()


class Open:
    """A stream that its client keeps open, and sends on when told to."""

    def __init__(self, channel: grpc.Channel, method: str, key: str) -> None:
        self._requests: queue.Queue[bytes | None] = queue.Queue()
        self.call = channel.stream_stream(method)(
            iter(self._requests.get, None), timeout=20, metadata=(("x-api-key", key),)
        )

    def ask(self, message: bytes) -> bytes:
        self._requests.put(message)
        answer: bytes = next(self.call)
        return answer

    def close(self) -> None:
        self._requests.put(None)
        self.call.cancel()


@contextmanager
def opened(world: World, method: str, key: str, count: int = 1) -> Iterator[list[Open]]:
    with world.channel() as channel:
        streams = [Open(channel, method, key) for _ in range(count)]
        try:
            yield streams
        finally:
            for stream in streams:
                stream.close()


def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    found: grpc.StatusCode = caught.value.code()
    return found


def watch_or_refusal(call: Any) -> Iterator[bytes | None]:
    try:
        yield next(call)
    except grpc.RpcError:
        yield None


def test_watches_are_counted_by_themselves(world: World) -> None:
    """As many on many connections: one address has its share of them, others theirs, and nobody else's call is lost."""
    with ExitStack() as stack:
        channels = [stack.enter_context(world.channel()) for _ in range(3)]
        watching = [channel.unary_stream(WATCH)(b"", timeout=20) for channel in channels for _ in range(CALLS // 2)]
        answers = [next(watch_or_refusal(call)) for call in watching]
        refused = [call for call, answer in zip(watching, answers, strict=True) if answer is None]
        assert len(watching) - len(refused) == int(WATCHES * SHARE)
        assert {call.code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert all("grpc.max_watches" in call.details() for call in refused)
        assert world.bystanders() == FINE
        with elsewhere(world.port) as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            other = channel.unary_stream(WATCH)(b"", timeout=20)
            assert next(other)
            other.cancel()
        for call in watching:
            call.cancel()


@pytest.mark.parametrize("name", ["v2", *(pytest.param(name, marks=pytest.mark.full) for name in list(STREAMS)[1:])])
def test_a_callers_idle_streams_take_its_share_of_the_calls_alone(world: World, name: str) -> None:
    """Streams of every dialect, on several connections: with its share taken a caller is refused, others are not."""
    method, message = STREAMS[name]
    key = world.keys[f"streams of {name}"]
    with ExitStack() as stack:
        for _ in range(2):
            streams = stack.enter_context(opened(world, method, key, OF_ONE // 2))
            assert all(stream.ask(message) for stream in streams)
        (one_more,) = stack.enter_context(opened(world, method, key))
        assert code_of(one_more.call) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "grpc.max_calls" in one_more.call.details()
        assert world.bystanders() == FINE


@pytest.mark.full
def test_an_idle_stream_ends(world: World) -> None:
    """One of each dialect. What takes longer than that to answer is no idleness."""
    key = world.keys["idle"]
    with ExitStack() as stack:
        idle = [stack.enter_context(opened(world, method, key))[0] for method, _ in STREAMS.values()]
        (busy,) = stack.enter_context(opened(world, STREAMS["v2"][0], key))
        world.tensorflow.delay_seconds = 1.25 * IDLE_SECONDS
        try:
            answer = busy.ask(doors.infer(f"{MODEL}@tensorflow").SerializeToString())
        finally:
            world.tensorflow.delay_seconds = 0
        assert v2_pb2.ModelStreamInferResponse.FromString(answer).infer_response.outputs
        for stream in idle:
            assert code_of(stream.call) is grpc.StatusCode.UNAVAILABLE
            assert "grpc.stream_idle_seconds" in stream.call.details()


def test_an_open_stream_ends_with_its_key(world: World) -> None:
    """However the key ends, whichever dialect's stream it is. A grant that is taken counts from the next message on.

    Others' streams go on.
    """
    v2, torchserve = STREAMS["v2"], STREAMS["TorchServe"]
    with ExitStack() as stack:

        def begun(name: str, method: str, message: bytes) -> Open:
            stream: Open = stack.enter_context(opened(world, method, world.keys[name]))[0]
            assert stream.ask(message)
            return stream

        running = [(begun(name, *of), of[1]) for name in ENDS for of in STREAMS.values()]
        less = [begun("less and less", *v2), begun("less and less", *torchserve)]
        other = begun("other", *v2)
        for name, end in ENDS.items():
            end(world.folder, world.keys[name])
        take_grants(world.folder, world.keys["less and less"])
        world.wait_for_keys()
        for stream, message in running:
            with pytest.raises(grpc.RpcError) as caught:
                stream.ask(message)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "unknown model" in v2_pb2.ModelStreamInferResponse.FromString(less[0].ask(v2[1])).error_message
        status = ts_pb.PredictionResponse.FromString(less[1].ask(torchserve[1])).status
        assert status.code == grpc.StatusCode.NOT_FOUND.value[0]
        assert not v2_pb2.ModelStreamInferResponse.FromString(other.ask(v2[1])).error_message


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.full) for name in HALVES]
)
def test_half_messages_hold_little_and_end(
    world: World, name: str, record_property: Callable[[str, object], None]
) -> None:
    """Twenty calls announce 16 MiB each and send all but 100 bytes of what they are given room for."""
    path, with_key = HALVES[name]
    shown = {"x_api_key": world.keys[name]} if with_key else {}
    process = psutil.Process(world.gateway.process.pid)
    before, most, stop = process.memory_info().rss, [0], threading.Event()

    def look() -> None:
        while not stop.wait(0.01):
            most[0] = max(most[0], process.memory_info().rss - before)

    looking = threading.Thread(target=look)
    looking.start()
    answered = []
    with socket.create_connection(("127.0.0.1", world.port)) as sock:
        asking = threading.Thread(target=lambda: answered.extend(world.bystanders()))
        asking.start()
        ended = http2.push_halves(sock, path, 20, MESSAGE_BYTES, seconds=1.5 if with_key else 0.4, **shown)
        asking.join()
    stop.set()
    looking.join()
    assert answered == FINE
    assert most[0] <= CAP
    assert ended or name in ("Check", "Watch")
    if not with_key:
        assert len(ended) == 20 or name in ("Check", "Watch")
    record_property("figure", f"half messages of {name}: {most[0] >> 20} MiB")


def test_a_quota_is_entered_before_a_message_is_read(world: World) -> None:
    """With a quota of one call at a time, one half message is taken in, whatever else the caller announces."""
    key = world.keys["one call"]
    with socket.create_connection(("127.0.0.1", world.port)) as sock:
        ended = http2.push_halves(sock, f"{V2}ModelInfer", 10, MESSAGE_BYTES, seconds=0.5, x_api_key=key)
    assert len(ended) == 9
