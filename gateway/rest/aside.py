"""Large JSON bodies are decoded in a process of their own, so that small requests are not held up.

A thread would not do: the parsers hold the interpreter's lock from a body's first byte to its last. The process is
started with the first large body; ``python -m gateway.rest.aside`` is what runs in it.
"""

from __future__ import annotations

import asyncio
import pickle
import struct
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO, TypeVar

from gateway.errors import DuetError, Internal

_LENGTH = struct.Struct("<Q")

_T = TypeVar("_T")


class Aside:
    """Calls functions in another process, one after the other: worth its while from ``min_bytes`` of JSON on.

    Functions are a module's own, and their arguments and results can be pickled. 128 KB of JSON take two milliseconds.
    """

    def __init__(self, *, min_bytes: int = 128 << 10) -> None:
        self.min_bytes = min_bytes
        self._process: Process | None = None
        self._turn = asyncio.Lock()
        self._calls: set[asyncio.Task[Any]] = set()

    def takes(self, json_bytes: int) -> bool:
        return json_bytes >= self.min_bytes

    async def call(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """What ``function(*arguments)`` returns, or raises of DuetError. Raises Internal where the process dies."""
        # In a task of its own: the process answers in turn, also to those who have gone.
        call = asyncio.create_task(self._exchange(pickle.dumps((function, arguments), protocol=5)))
        self._calls.add(call)
        call.add_done_callback(self._forget)
        result = await asyncio.shield(call)
        if isinstance(result, DuetError):
            raise result
        return result  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        for call in self._calls:
            call.cancel()
        if self._process is not None:
            await _end(self._process)

    def _forget(self, call: asyncio.Task[Any]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()

    async def _exchange(self, question: bytes) -> Any:
        async with self._turn:
            process = self._process or await self._start()
            try:
                stdin, stdout = process.stdin, process.stdout
                assert stdin is not None and stdout is not None  # noqa: S101, PT018 - both are pipes
                stdin.writelines((_LENGTH.pack(len(question)), question))
                await stdin.drain()
                (length,) = _LENGTH.unpack(await stdout.readexactly(_LENGTH.size))
                answer = await stdout.readexactly(length)
            except (OSError, asyncio.IncompleteReadError):
                self._process = None
                await _end(process)
                raise Internal("the body could not be decoded: the process that does it died") from None
            except asyncio.CancelledError:
                self._process = None
                await _end(process)
                raise
        return pickle.loads(answer)  # noqa: S301 - our own child's pipe

    async def _start(self) -> Process:
        # A session of its own: a terminal's Ctrl-C is for the gateway, with whose end its pipe ends.
        command = (sys.executable, "-m", __name__)
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, limit=1 << 20, start_new_session=True
        )
        return self._process


async def _end(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def main(questions: BinaryIO, answers: BinaryIO) -> None:
    while head := questions.read(_LENGTH.size):
        function, arguments = pickle.loads(questions.read(*_LENGTH.unpack(head)))  # noqa: S301 - our parent's pipe
        try:
            result = function(*arguments)
        except DuetError as error:
            result = error.with_traceback(None)
        except Exception as error:
            result = Internal(f"{type(error).__name__} while the body was decoded: {error}")
        answer = pickle.dumps(result, protocol=5)
        answers.write(_LENGTH.pack(len(answer)))
        answers.write(answer)
        answers.flush()


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
