"""The decode process in this one: what goes there and back is framed as there, and its time is not the loop's."""

from __future__ import annotations

import asyncio
import io
import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from gateway.errors import DuetError
from gateway.rest import aside, aside_child
from gateway.rest.aside_child import LENGTH
from tests.security.fuzzing.measure import Steps

_T = TypeVar("_T")


class Beside(aside.Aside):
    """Both processes' memory is this one's, so that it counts. An exception that is no DuetError is not caught."""

    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self._steps = steps

    async def call(self, function: Callable[..., _T], *arguments: Any, caller: str | None = None) -> _T:
        frames = aside._framed(function, arguments)
        del arguments
        await aside._digest(frames)
        await asyncio.sleep(0)
        with self._steps.elsewhere():
            received = [bytes(frame) for frame in frames]
            frames = []
            called, given = pickle.loads(received[0], buffers=received[1:])  # noqa: S301 - our own
            del received
            try:
                result = called(*given)
            except DuetError as error:
                result = error.with_traceback(None)
            del given
            answers = _Answers()
            aside_child._answer(answers, result)
            del result
        await asyncio.sleep(0)
        found = pickle.loads(answers.frames[0], buffers=answers.frames[1:])  # noqa: S301 - our own
        if isinstance(found, DuetError):
            raise found
        return found  # type: ignore[no-any-return]


class _Answers(io.RawIOBase):
    """The pipe back, and what reads from it: frames are filled as their pieces come."""

    def __init__(self) -> None:
        self.frames: list[memoryview] = []
        self._at = self._filled = -1

    def write(self, data: Any) -> int:
        if self._at < 0:
            _, *sizes = (size for (size,) in LENGTH.iter_unpack(data))
            self.frames = [np.empty(size, np.uint8).data for size in sizes]
            self._at = self._filled = 0
            return len(data)
        while self._filled == len(self.frames[self._at]):
            self._at, self._filled = self._at + 1, 0
        self.frames[self._at][self._filled : self._filled + len(data)] = data
        self._filled += len(data)
        return len(data)
