"""What runs in the process of `gateway.rest.aside`: ``python -m gateway.rest.aside_child SECONDS``.

Questions and answers are frames: how many, the length of each (both `LENGTH`), and then their bytes. The first is
pickled, the others are its buffers (pickle protocol 5), which are not copied into it. Little is imported here: an idle
process holds what it imported.
"""

from __future__ import annotations

import mmap
import pickle
import signal
import struct
import sys
from collections.abc import Sequence
from typing import Any, BinaryIO

from gateway.errors import DuetError, Internal

LENGTH = struct.Struct("<Q")
SLICE_BYTES = 1 << 18


def main(questions: BinaryIO, answers: BinaryIO, seconds: float) -> None:
    """A question that takes more than ``seconds`` of processor time ends the process, by SIGPROF."""
    while frames := _read(questions):
        function, arguments = pickle.loads(frames[0], buffers=frames[1:])  # noqa: S301 - our parent's pipe
        del frames
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            result = function(*arguments)
        except DuetError as error:
            result = error.with_traceback(None)
        except Exception as error:
            result = Internal(f"{type(error).__name__} while the body was decoded: {error}")
        signal.setitimer(signal.ITIMER_PROF, 0)
        del arguments  # the body is not needed any more, and the answer is sent without it
        _answer(answers, result)
        del result


def _read(questions: BinaryIO) -> list[bytes]:
    head = questions.read(LENGTH.size)
    count = LENGTH.unpack(head)[0] if head else 0
    sizes = [LENGTH.unpack(questions.read(LENGTH.size))[0] for _ in range(count)]
    return [questions.read(size) for size in sizes]


def _answer(answers: BinaryIO, result: Any) -> None:
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(result, protocol=5, buffer_callback=buffers.append)
    frames: list[bytes | memoryview] = [pickled, *(each.raw() for each in buffers)]
    answers.write(head(frames))
    for frame in frames:
        pages = _pages(frame)
        for start in range(0, len(frame), SLICE_BYTES):
            answers.write(frame[start : start + SLICE_BYTES])
            if pages is not None:
                # Sent, and so given back: the other process takes as much for it at this moment.
                answers.flush()
                pages.madvise(mmap.MADV_DONTNEED, start, min(SLICE_BYTES, len(pages) - start))
    answers.flush()


def head(frames: Sequence[bytes | memoryview]) -> bytes:
    return b"".join(map(LENGTH.pack, (len(frames), *map(len, frames))))


def _pages(frame: bytes | memoryview) -> mmap.mmap | None:
    """The memory that is the frame's alone, if it was made by `gateway.codecs.large.empty`."""
    owner: Any = frame.obj if isinstance(frame, memoryview) else None
    while owner is not None and not isinstance(owner, mmap.mmap):
        owner = getattr(owner, "base", None) if not isinstance(owner, memoryview) else owner.obj
    return owner if owner is not None and len(owner) == len(frame) else None


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer, float(sys.argv[1]))
