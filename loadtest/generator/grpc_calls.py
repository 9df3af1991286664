"""gRPC for load: bytes in, bytes out, over a few channels that share no connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter_ns
from typing import Any

import grpc
import grpc.aio

from loadtest.generator.http1 import Done, Reply
from loadtest.recorder import FAILED, OK

CHANNELS = 4
OPTIONS = (
    # Otherwise all channels to one address share one connection, and its limit of streams.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),
)


class GrpcTarget:
    """One method of one address. ``bodies`` are serialised messages."""

    def __init__(
        self,
        host: str,
        port: int,
        method: str,
        headers: Mapping[str, str],
        bodies: Sequence[bytes],
        *,
        timeout_seconds: float,
    ) -> None:
        self._bodies = bodies
        self._metadata = tuple((name.lower(), value) for name, value in headers.items())
        self._timeout_seconds = timeout_seconds
        address = f"{host}:{port}"
        self._channels = [grpc.aio.insecure_channel(address, options=OPTIONS) for _ in range(CHANNELS)]
        self._methods: list[Any] = [channel.unary_unary(method) for channel in self._channels]
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self, _: int) -> None:
        """Raises OSError where nobody answers within five seconds."""
        try:
            async with asyncio.timeout(5):
                await asyncio.gather(*(channel.channel_ready() for channel in self._channels))
        except TimeoutError:
            raise ConnectionRefusedError("no gRPC server answers") from None

    def send(self, payload: int, done: Done) -> Callable[[], None]:
        self._turn = (self._turn + 1) % CHANNELS
        task = asyncio.get_running_loop().create_task(self._call(self._methods[self._turn], payload, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task.cancel  # type: ignore[return-value]  # its bool is of no interest

    async def _call(self, method: Any, payload: int, done: Done) -> None:
        call = method(self._bodies[payload], metadata=self._metadata, timeout=self._timeout_seconds)
        try:
            body = await call
        except grpc.aio.AioRpcError as error:
            done(Reply(FAILED, perf_counter_ns(), text=f"{error.code().name} {error.details()}"))
            return
        reply = Reply(OK, perf_counter_ns(), body)
        trailing = await call.trailing_metadata()
        reply.timing = str(next((value for key, value in trailing or () if key == "server-timing"), ""))
        done(reply)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def aclose(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))
