"""An answer's head and body in one write.

uvicorn writes them apart: two system calls, two packets, and a client that wakes for a head with nothing to read.
"""

from __future__ import annotations

import asyncio


class Joined:
    """In a transport's place, for one answer: its first write waits for the second, at most a turn of the loop."""

    __slots__ = ("_begun", "_held", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""
        self._begun = False

    def write(self, data: bytes) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.writelines([held, data])
        elif self._begun:
            self._transport.write(data)
        else:
            self._begun, self._held = True, data
            self._loop.call_soon(self._flush)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)
