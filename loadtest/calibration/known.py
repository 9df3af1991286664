"""A server whose every answer takes a known time: ``python -m loadtest.calibration.known``. Prints its two ports.

Over HTTP the path says how long, in milliseconds: ``/null`` nothing, ``/known?delay=5&jitter=1&factor=1.05`` a delay
with an exponential part, all of it times the factor; ``/known?delay=2&stall=1000&after=4000`` stalls for a second, four
seconds after the first request with this path. ``&spun=1`` keeps the time to some microseconds, at the cost of the
processor's: a timer alone wakes an idle one up to half a millisecond late. Over gRPC every method echoes at once.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import sys
import threading
from contextlib import suppress
from random import Random
from time import perf_counter
from typing import cast
from urllib.parse import parse_qsl, urlsplit

import grpc
import grpc.aio
import httptools

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PRIORITY = 1
SPUN_SECONDS = 0.0005
TIMES = ("delay", "jitter", "factor", "stall", "after")


class Clocks:
    """When each path was first asked: its stall counts from then."""

    def __init__(self) -> None:
        self._first: dict[bytes, float] = {}
        self._chance = Random(0)  # noqa: S311 - jitter, by seed

    def seconds(self, url: bytes) -> float:
        """How long the answer to a request that has come now must take."""
        now = perf_counter()
        known = {name: float(value) / 1e3 for name, value in parse_qsl(urlsplit(url).query.decode()) if name in TIMES}
        begun = self._first.setdefault(url, now)
        wait = known.get("delay", 0.0) + known.get("jitter", 0.0) * self._chance.expovariate(1)
        wait *= known.get("factor", 1e-3) * 1e3
        over = begun + known.get("after", 0.0) + known.get("stall", 0.0)
        if "stall" in known and begun + known.get("after", 0.0) <= now < over:
            wait += over - now
        return wait


class Connection(asyncio.Protocol):
    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_message_complete(self) -> None:
        seconds = self._clocks.seconds(self._url)
        loop = asyncio.get_running_loop()
        if b"spun=1" in self._url:
            loop.call_later(seconds - SPUN_SECONDS, self._spin_until, perf_counter() + seconds)
        elif seconds:
            loop.call_later(seconds, self._transport.write, ANSWER)
        else:
            self._transport.write(ANSWER)

    def _spin_until(self, due: float) -> None:
        while perf_counter() < due:
            pass
        self._transport.write(ANSWER)


class Echo(grpc.GenericRpcHandler):
    def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        async def answer(request: bytes, __: object) -> bytes:
            return request

        return grpc.unary_unary_rpc_method_handler(answer)


async def serve() -> None:
    clocks = Clocks()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(clocks), "127.0.0.1", 0)
    other = grpc.aio.server()
    other.add_generic_rpc_handlers((Echo(),))
    grpc_port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    print(server.sockets[0].getsockname()[1], grpc_port, flush=True)
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    # It ends with whoever started it: its standard input closes then.
    threading.Thread(target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(over.set)), daemon=True).start()
    await over.wait()
    await other.stop(0)
    server.close()


def main() -> None:
    with suppress(OSError, AttributeError):  # its delays shall be the known ones, whatever else runs
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    loop.run_until_complete(serve())


if __name__ == "__main__":
    main()
