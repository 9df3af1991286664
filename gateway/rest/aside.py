"""Large JSON bodies are decoded in a process of their own, so that small requests are not held up.

A thread would not do: the parsers hold the interpreter's lock from a body's first byte to its last. The process is
started with the first large body; `gateway.rest.aside_child` is what runs in it.
"""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from typing import Any, TypeVar

import numpy as np

from gateway.errors import DuetError, Internal, InvalidArgument
from gateway.rest.aside_child import LENGTH, SLICE_BYTES, head
from gateway.rest.turns import Quarantine, Turns
from gateway.security.access import ACCESS

#: Of the process's time for one body. The slowest body within all limits takes a fifth of it.
_DECODE_SECONDS = 10.0
#: Of anybody's time, for a process that does not even get to run.
_HUNG_SECONDS = 120.0
#: From the end of a process's pipe to its own.
_DYING_SECONDS = 1.0
#: Shorter values are copied with the rest of a question.
_MIN_BUFFER_BYTES = 1 << 12
#: glibc gives large blocks back when they are freed; by default it learns from the first not to.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 18), "MALLOC_TRIM_THRESHOLD_": str(1 << 20)}
_CHILD = "gateway.rest.aside_child"

_T = TypeVar("_T")


class Aside:
    """Calls functions in another process, one after the other: worth its while from ``min_bytes`` of JSON on.

    Functions are a module's own, and their arguments and results can be pickled. 128 KB of JSON take two milliseconds.
    Callers take turns. A body that ends the process, or takes it more than ``decode_seconds``, gets the same error for
    a minute without being tried again.
    """

    def __init__(self, *, min_bytes: int = 128 << 10, decode_seconds: float = _DECODE_SECONDS) -> None:
        self.min_bytes = min_bytes
        self._decode_seconds = decode_seconds
        self._process: Process | None = None
        self._turns: Turns[_Waiting] = Turns()
        self._quarantine = Quarantine()
        self._serving: asyncio.Task[None] | None = None

    def takes(self, json_bytes: int) -> bool:
        return json_bytes >= self.min_bytes

    async def call(self, function: Callable[..., _T], *arguments: Any, caller: str | None = None) -> _T:
        """What ``function(*arguments)`` returns, or raises of DuetError.

        ``caller`` is whose turn it takes; by default the one who was let in. Large arguments are let go of as soon as
        they are sent. Raises Internal where the process dies, InvalidArgument where it takes too long.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(_framed(function, arguments), loop.create_future())
        del arguments
        waiting.digest = await _digest(waiting.frames)
        known = self._quarantine.of(waiting.digest, loop.time())
        if known is not None:
            raise copy.copy(known)
        caller = _caller() if caller is None else caller
        self._turns.add(caller, waiting)
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve())
        try:
            result = await waiting.answer
        finally:
            self._turns.discard(caller, waiting)
        if isinstance(result, DuetError):
            raise result
        return result  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])
        while (waiting := self._turns.next()) is not None:
            waiting.answer.cancel()
        if self._process is not None:
            await _end(self._process)

    async def _serve(self) -> None:
        """Until nobody waits. Who has gone by its turn has none."""
        while (waiting := self._turns.next()) is not None:
            if waiting.answer.done():
                continue
            try:
                result = await self._exchange(waiting)
            except asyncio.CancelledError:
                waiting.answer.cancel()
                raise
            except Exception as error:  # whatever it is, others wait
                result = error if isinstance(error, DuetError) else Internal(f"the body could not be decoded: {error}")
            if not waiting.answer.done():
                waiting.answer.set_result(result)
            del result

    async def _exchange(self, waiting: _Waiting) -> Any:
        process = self._process
        if process is None or process.returncode is not None:
            process = await self._start()
        try:
            async with asyncio.timeout(_HUNG_SECONDS):
                await _send(process, waiting)
                return await _receive(process)
        except (OSError, asyncio.IncompleteReadError) as error:  # TimeoutError is an OSError
            self._process = None
            await _ended(process)
            late = isinstance(error, TimeoutError) or process.returncode == -signal.SIGPROF
            failure = self._too_long() if late else _died()
            self._quarantine.add(waiting.digest, failure, asyncio.get_running_loop().time())
            raise failure from None
        except asyncio.CancelledError:
            self._process = None
            await _end(process)
            raise

    async def _start(self) -> Process:
        # A session of its own: a terminal's Ctrl-C is for the gateway, with whose end its pipe ends.
        command = (sys.executable, "-m", _CHILD, str(self._decode_seconds))
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, limit=1 << 20, start_new_session=True, env={**_MALLOC, **os.environ}
        )
        return self._process

    def _too_long(self) -> InvalidArgument:
        return InvalidArgument(
            f"the body takes more than {self._decode_seconds:g} s to decode; send its values as binary tensors, over "
            "gRPC, or in several requests"
        )


class _Waiting:
    """A question, and the future that waits for its answer."""

    __slots__ = ("answer", "digest", "frames")

    def __init__(self, frames: list[bytes | memoryview], answer: asyncio.Future[Any]) -> None:
        self.frames = frames
        self.answer = answer
        self.digest = b""


def _died() -> Internal:
    return Internal("the body could not be decoded: the process that does it died")


def _caller() -> str:
    access = ACCESS.get()
    return access.identity.id if access is not None else ""


def _framed(function: Callable[..., Any], arguments: tuple[Any, ...]) -> list[bytes | memoryview]:
    """Bodies, and the parts of a body that come by name, are not copied into what is pickled."""
    buffers: list[pickle.PickleBuffer] = []
    question = (function, tuple(map(_out_of_band, arguments)))
    pickled = pickle.dumps(question, protocol=5, buffer_callback=buffers.append)
    return [pickled, *(buffer.raw() for buffer in buffers)]


def _out_of_band(value: Any) -> Any:
    if isinstance(value, bytes) and len(value) >= _MIN_BUFFER_BYTES:
        return pickle.PickleBuffer(value)
    if isinstance(value, dict):
        return {name: _out_of_band(item) for name, item in value.items()}
    return value


async def _digest(frames: list[bytes | memoryview]) -> bytes:
    """In slices, between which others get on: a large body takes 20 milliseconds."""
    digest, since = blake2b(digest_size=16), 0
    for frame in frames:
        for start in range(0, len(frame), SLICE_BYTES):
            piece = frame[start : start + SLICE_BYTES]
            digest.update(piece)
            since += len(piece)
            if since > SLICE_BYTES:  # of many small frames too
                since = 0
                await asyncio.sleep(0)
    return digest.digest()


async def _send(process: Process, waiting: _Waiting) -> None:
    stdin = process.stdin
    assert stdin is not None  # noqa: S101 - a pipe
    stdin.write(head(waiting.frames))
    for frame in waiting.frames:
        for start in range(0, len(frame), SLICE_BYTES):
            stdin.write(frame[start : start + SLICE_BYTES])
            await stdin.drain()
    waiting.frames = []


async def _receive(process: Process) -> Any:
    stdout = process.stdout
    assert stdout is not None  # noqa: S101 - a pipe
    (count,) = LENGTH.unpack(await stdout.readexactly(LENGTH.size))
    sizes = [LENGTH.unpack(await stdout.readexactly(LENGTH.size))[0] for _ in range(count)]
    frames: list[memoryview] = []
    for size in sizes:
        # Pages are taken as they are filled, while the other process gives its own back.
        frame = np.empty(size, np.uint8).data
        filled = 0
        while filled < size:
            piece = await stdout.read(min(SLICE_BYTES, size - filled))
            if not piece:
                raise asyncio.IncompleteReadError(b"", size)
            frame[filled : filled + len(piece)] = piece
            filled += len(piece)
        frames.append(frame)
    return pickle.loads(frames[0], buffers=frames[1:])  # noqa: S301 - our own child's pipe


async def _ended(process: Process) -> None:
    """Ends a process that has closed its pipe. It is given a moment to end by itself: its exit code says why."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_DYING_SECONDS):
            await process.wait()
            return
    await _end(process)


async def _end(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()
