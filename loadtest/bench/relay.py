"""The floor under any gateway in Python that is one more process: bytes in, the same bytes out, and nothing read.

``python -m loadtest.bench.relay PORT SERVER_PORT``
"""

from __future__ import annotations

import asyncio
import sys

import uvloop


class _Side(asyncio.Protocol):
    """One of a pair of connections. What came before its peer was there goes out first."""

    def __init__(self) -> None:
        self.peer: _Side | None = None
        self.transport: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        if self.peer is not None and self.peer.transport is not None:
            transport.writelines(self.peer._early)
            self.peer._early.clear()

    def data_received(self, data: bytes) -> None:
        if self.peer is None or self.peer.transport is None:
            self._early.append(data)
        else:
            self.peer.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.close()


async def main(port: int, server_port: int) -> None:
    loop = asyncio.get_running_loop()
    opening = set()

    def accept() -> _Side:
        outer, inner = _Side(), _Side()
        outer.peer, inner.peer = inner, outer
        task = loop.create_task(loop.create_connection(lambda: inner, "127.0.0.1", server_port))
        opening.add(task)
        task.add_done_callback(opening.discard)
        return outer

    server = await loop.create_server(accept, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
