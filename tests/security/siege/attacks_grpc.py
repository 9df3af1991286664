"""Attacks on the gRPC port: by whole calls, by halves of them, and by frames."""

from __future__ import annotations

import asyncio
import gzip
import struct
from collections.abc import Callable
from dataclasses import replace

from gateway.protos import tfserving_pb2 as tf
from gateway.protos import v2_pb2 as v2
from tests.security import doors
from tests.security.door import MODEL
from tests.security.siege import wire
from tests.security.siege.attack import EVERYBODY, NOBODY, NOTHING, TINY, Attack, Run, many
from tests.security.siege.attacks_http import churn, silent
from tests.security.siege.wire import Http2, Target

V2 = "/inference.GRPCInferenceService/"
TF = "/tensorflow.serving.PredictionService/"
TS = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
REFLECT = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
_LARGEST = 16 << 20
_STREAMS = 90


def halves(path: str, *, connections: int = 8, streams: int = 20, first: Callable[[], bytes] | None = None) -> Run:
    """Messages of 16 MiB less a little, on many streams; ``first`` is a whole message before it."""

    async def run(target: Target) -> None:
        async def one() -> None:
            connection = await Http2.dial(target)

            async def half() -> None:
                while not connection.gone:
                    stream = await connection.open_call(path, target.metadata)
                    if first is not None:
                        await connection.push(stream, wire.prefixed(first()))
                    if await connection.push(stream, wire.prefixed(bytes(_LARGEST - 100), size=_LARGEST)):
                        await connection.wait_for_end(stream)

            target.held += streams
            try:
                await asyncio.gather(*(half() for _ in range(streams)))
            finally:
                target.held -= streams
                connection.close()

        await many(target, connections, one)

    return run


def open_for_ever(path: str, message: bytes = b"", *, connections: int = 40, end: bool = False) -> Run:
    """Calls that never end: watches, and streams with nothing to say."""

    async def run(target: Target) -> None:
        async def one() -> None:
            connection = await Http2.dial(target)
            try:
                for _ in range(_STREAMS):
                    stream = await connection.open_call(path, target.metadata)
                    await connection.push(stream, wire.prefixed(message), end=end)
                while not connection.gone:
                    target.held += len(connection.open)
                    held = len(connection.open)
                    await asyncio.sleep(0.3)
                    target.held -= held
            finally:
                connection.close()

        await many(target, connections, one)

    return run


def asked(
    connections: int,
    path: str,
    message: Callable[[], bytes],
    *,
    flag: bool = False,
    at_once: int = 1,
    metadata: Callable[[], dict[str, str]] | None = None,
) -> Run:
    """Whole calls, ``at_once`` on each connection, and the next when they have ended."""

    async def run(target: Target) -> None:
        data = message()
        shown = target.metadata if metadata is None else metadata()
        if flag:
            shown = {**shown, "grpc-encoding": "gzip"}

        async def one() -> None:
            connection = await Http2.dial(target)
            try:
                while not connection.gone:
                    calls = [connection.call(path, data, shown, flag=flag) for _ in range(at_once)]
                    streams = await asyncio.gather(*calls)
                    for stream in streams:
                        await connection.wait_for_end(stream)
            finally:
                connection.close()

        await many(target, connections, one)

    return run


def unread(path: str, message: Callable[[], bytes], *, connections: int = 20, window: int = 0) -> Run:
    """Calls whose answers have no room: they stay with the gateway."""

    async def run(target: Target) -> None:
        data = message()

        async def one() -> None:
            connection = await Http2.dial(target, window=window)
            try:
                for _ in range(_STREAMS):
                    await connection.call(path, data, target.metadata)
                target.held += _STREAMS
                await connection.until_gone()
            finally:
                connection.close()

        await many(target, connections, one)

    return run


def frames(connections: int, make: Callable[[Target], bytes], *, read: bool, first: bytes = b"") -> Run:
    """The same frames again and again, as fast as they are taken (64 KiB at a time); unread, answers pile up."""

    async def run(target: Target) -> None:
        async def one() -> None:
            connection = await Http2.dial(target, read=read, unread=not read)
            try:
                if first:
                    await connection.write(first)
                data = make(target)
                data *= max(1, (64 << 10) // len(data))
                while not connection.gone:
                    await connection.write(data)
                    await asyncio.sleep(0)
            finally:
                connection.close()

        await many(target, connections, one)

    return run


def rapid_resets(path: str, message: bytes = b"") -> Run:
    async def run(target: Target) -> None:
        async def one() -> None:
            connection = await Http2.dial(target)
            try:
                while not connection.gone:
                    data = b""
                    for _ in range(50):
                        stream, begun = connection.begin(path, target.metadata)
                        data += begun + wire.frame(wire.DATA, wire.END_STREAM, stream, wire.prefixed(message))
                        data += wire.frame(wire.RST_STREAM, 0, stream, struct.pack(">I", 8))
                        connection.open.pop(stream, None)
                    await connection.write(data)
                    await asyncio.sleep(0)
            finally:
                connection.close()

        await many(target, 8, one)

    return run


def heads_without_end(*, size: int = 15_000) -> Run:
    """As many streams as there may be, each with all the metadata there may be, and no message."""

    async def run(target: Target) -> None:
        extra = [(f"x-{n}", "a" * 1000) for n in range(size // 1100)]

        async def one() -> None:
            connection = await Http2.dial(target)
            try:
                while not connection.gone:
                    while len(connection.open) < _STREAMS:
                        await connection.open_call(f"{V2}ModelStreamInfer", target.metadata, extra=extra)
                    target.held += (held := len(connection.open))
                    await asyncio.sleep(0.1)
                    target.held -= held
            finally:
                connection.close()

        await many(target, 20, one)

    return run


def continuations() -> Run:
    """A head that goes on and on in frames of its own, and is never whole."""

    async def run(target: Target) -> None:
        async def one() -> None:
            connection = await Http2.dial(target)
            piece = wire.literal("x-a", "a" * 60) * 200
            try:
                await connection.write(wire.frame(wire.HEADERS, 0, 1, wire.block(CHECK, {})))
                while not connection.gone:
                    await connection.write(wire.frame(wire.CONTINUATION, 0, 1, piece))
                    await asyncio.sleep(0)
            finally:
                connection.close()

        await many(target, 20, one)

    return run


def one_open(target: Target, path: str = f"{V2}ModelStreamInfer") -> bytes:
    return wire.head(1, path, target.metadata)


def window_update(stream: int) -> Callable[[Target], bytes]:
    return lambda _: wire.frame(wire.WINDOW_UPDATE, 0, stream, struct.pack(">I", 1))


def opened_frames(connections: int, make: bytes, *, path: str = f"{V2}ModelStreamInfer", read: bool = True) -> Run:
    """As `frames`, on a stream that is open."""

    async def run(target: Target) -> None:
        await frames(connections, lambda _: make, read=read, first=one_open(target, path))(target)

    return run


def watched_frames(connections: int, make: bytes) -> Run:
    """On a stream that nobody needs a key for."""
    message = wire.frame(wire.DATA, 0, 1, wire.prefixed(b""))
    first = wire.head(1, WATCH, {}) + message
    return frames(connections, lambda _: make, read=True, first=first)


def of_context() -> bytes:
    shared = tf.ExampleListWithContext(examples=[b""] * 8000, context=bytes(64 << 10))
    message = tf.ClassificationRequest(model_spec=tf.ModelSpec(name=MODEL))
    message.input.example_list_with_context.CopyFrom(shared)
    return bytes(message.SerializeToString())


def of_tasks() -> bytes:
    made = [tf.InferenceTask(model_spec=tf.ModelSpec(name=f"m{n}")) for n in range(20_000)]
    return bytes(tf.MultiInferenceRequest(tasks=made).SerializeToString())


def of_floats() -> bytes:
    message = v2.ModelInferRequest(model_name=MODEL)
    message.inputs.add(name="x", datatype="FP32", shape=[4_000_000, 1]).contents.fp32_contents.extend([1.0] * 4_000_000)
    return bytes(message.SerializeToString())


def of_strings() -> bytes:
    message = v2.ModelInferRequest(model_name=MODEL)
    message.inputs.add(name="x", datatype="BYTES", shape=[32_000]).contents.bytes_contents.extend([bytes(500)] * 32_000)
    return bytes(message.SerializeToString())


def of_inputs() -> bytes:
    return bytes(v2.ModelInferRequest(model_name=MODEL).SerializeToString()) + b"\x2a\x00" * ((_LARGEST - 100) // 2)


def of_zeros() -> bytes:
    return gzip.compress(bytes(200 << 20), 9)


def empty() -> bytes:
    return b""


def infer() -> bytes:
    return bytes(doors.infer(MODEL).SerializeToString())


def predictions() -> bytes:
    return bytes(doors.predictions(MODEL).SerializeToString())


async def _everything(target: Target) -> None:
    parts = (
        halves(CHECK, connections=2),
        halves(f"{V2}ModelInfer", connections=2),
        halves(f"{V2}ModelStreamInfer", connections=2),
        open_for_ever(WATCH, connections=10),
        unread(f"{V2}ServerMetadata", empty, connections=5),
        asked(10, f"{V2}ModelInfer", infer),
        heads_without_end(),
        silent(60, port="grpc"),
    )
    await asyncio.gather(*(part(target) for part in parts))


_PING = wire.frame(wire.PING, 0, 0, bytes(8))
_SETTINGS = wire.settings(window=65_535)
_EMPTY = wire.frame(wire.DATA, 0, 1)
_UPDATE = wire.frame(wire.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1))
_STREAM_UPDATE = wire.frame(wire.WINDOW_UPDATE, 0, 1, struct.pack(">I", 1))
_PRIORITY = wire.frame(wire.PRIORITY, 0, 1, bytes(5))
_EMPTY_MESSAGES = wire.frame(wire.DATA, 0, 1, wire.prefixed(b"") * 3000)
_FORGED = {"x-api-key": "gw_0123abcd_" + "A" * 43}
_MUCH = {f"x-{n}": "a" * 1000 for n in range(13)}

_GRPC: dict[str, Attack] = {
    "halves of Check": Attack(halves(CHECK)),
    "halves of ServerLive": Attack(halves(f"{V2}ServerLive")),
    "halves of ModelInfer": Attack(halves(f"{V2}ModelInfer"), (NOBODY, TINY)),
    "halves of ModelStreamInfer": Attack(halves(f"{V2}ModelStreamInfer"), EVERYBODY),
    "halves of reflection": Attack(halves(REFLECT), EVERYBODY),
    "halves of what is not there": Attack(halves(f"{V2}Nothing"), (NOTHING,)),
    "later halves of ModelStreamInfer": Attack(halves(f"{V2}ModelStreamInfer", first=infer), (NOTHING,)),
    "later halves of reflection": Attack(halves(REFLECT, first=lambda: b"\x3a\x00"), (NOTHING,)),
    "watches": Attack(open_for_ever(WATCH, end=True)),
    "idle ModelStreamInfer": Attack(open_for_ever(f"{V2}ModelStreamInfer", infer()), EVERYBODY),
    "idle reflection": Attack(open_for_ever(REFLECT, b"\x3a\x00"), (NOTHING,)),
    "unread ServerMetadata": Attack(unread(f"{V2}ServerMetadata", empty), EVERYBODY),
    "unread reflection": Attack(unread(REFLECT, lambda: b"\x22\x1einference.GRPCInferenceService"), (NOTHING,)),
    "unread refusals": Attack(unread(f"{V2}ModelInfer", infer)),
    "silent connections, gRPC": Attack(silent(600, port="grpc")),
    "idle connections, gRPC": Attack(silent(600, wire.PREFACE + wire.settings(window=65_535), port="grpc")),
    "connections that come and go, gRPC": Attack(churn(50, port="grpc", say=wire.PREFACE + _SETTINGS)),
    "HTTP/1.1 at the gRPC port": Attack(churn(20, port="grpc", say=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")),
    "rapid resets": Attack(rapid_resets(f"{V2}ModelInfer", infer()), EVERYBODY),
    "metadata without a message": Attack(heads_without_end(), (NOTHING,)),
    "continuations without end": Attack(continuations()),
    "pings": Attack(frames(4, lambda _: _PING, read=True)),
    "pings, unread": Attack(frames(20, lambda _: _PING, read=False)),
    "settings, unread": Attack(frames(20, lambda _: _SETTINGS, read=False)),
    "window updates of a connection": Attack(frames(4, lambda _: _UPDATE, read=True)),
    "window updates of a watch": Attack(watched_frames(4, _STREAM_UPDATE)),
    "priorities": Attack(frames(4, lambda _: _PRIORITY, read=True)),
    "empty data of a watch": Attack(watched_frames(4, _EMPTY)),
    "empty data of a stream": Attack(opened_frames(4, _EMPTY), (NOTHING,)),
    "empty messages of a stream": Attack(opened_frames(4, _EMPTY_MESSAGES), (NOTHING,)),
    "checks": Attack(asked(20, CHECK, empty, at_once=5)),
    "large checks": Attack(asked(8, CHECK, lambda: bytes(_LARGEST - 100))),
    "wrong keys, gRPC": Attack(asked(20, f"{V2}ModelInfer", infer, at_once=5, metadata=lambda: _FORGED)),
    "refusals, gRPC": Attack(asked(20, f"{V2}ModelInfer", infer, at_once=5), EVERYBODY),
    "refusals with all metadata": Attack(asked(20, CHECK, empty, at_once=5, metadata=lambda: _MUCH)),
    "long methods": Attack(asked(20, f"/{'a' * 8000}/b", empty, at_once=5)),
    "microseconds to answer, gRPC": Attack(
        asked(20, f"{V2}ModelInfer", infer, at_once=5, metadata=lambda: {"grpc-timeout": "1u"})
    ),
    "gzip of zeros, gRPC": Attack(asked(4, f"{V2}ModelInfer", of_zeros, flag=True), EVERYBODY),
    "floats": Attack(asked(8, f"{V2}ModelInfer", of_floats), (NOTHING, TINY)),
    "empty inputs": Attack(asked(8, f"{V2}ModelInfer", of_inputs), (NOTHING,)),
    "examples with a context": Attack(asked(8, f"{TF}Classify", of_context), (NOTHING,)),
    "many tasks": Attack(asked(8, f"{TF}MultiInference", of_tasks), (NOTHING,)),
    "everything at once, gRPC": Attack(_everything, EVERYBODY),
}

#: What a case must have done, by how its name begins; the first that fits counts. A tenth of what was seen.
_LEAST: dict[str, dict[str, int]] = {
    "halves": {"answered": 14, "bytes": 54_000},
    "later halves": {"answered": 14, "bytes": 320_000},
    "idle connections": {"connections": 100},
    "silent connections": {"connections": 100},
    "watches": {"answered": 360},
    "idle": {"answered": 300},
    "unread": {"answered": 180},
    "rapid resets": {"streams": 5_000, "answered": 5_000},
    "metadata without": {"streams": 500, "answered": 400},
    "pings": {"bytes": 1_000_000},
    "settings": {"bytes": 1_000_000},
    "checks": {"answered": 400},
    "refusals, gRPC": {"answered": 700},
    "empty messages": {"bytes": 1_000_000},
}


def _least(name: str, attack: Attack) -> Attack:
    for begin, least in _LEAST.items():
        if name.startswith(begin):
            return replace(attack, least=least)
    return attack


GRPC = {name: _least(name, attack) for name, attack in _GRPC.items()}
