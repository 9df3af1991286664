from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop

from gateway.errors import DataLoss, Internal, PayloadTooLarge, Unavailable
from gateway.servers.faults import MODEL, OWN, Faults, Row
from gateway.servers.http import HttpPool

pytestmark = pytest.mark.anyio

THE_SERVER = Faults("the server", (Row(None, Internal, OWN, MODEL),))
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def pool_to(serve: Serve, **options: float) -> AsyncIterator[HttpPool]:
    """A pool of connections to a server that handles each connection with ``serve``."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    pool = HttpPool(f"http://{host}:{port}", faults=THE_SERVER, **options)  # type: ignore[arg-type]
    try:
        yield pool
    finally:
        await pool.aclose()
        server.close()


async def test_a_connection_is_used_again() -> None:
    connections: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        while True:
            request = await reader.readuntil(b"abc")
            assert request.startswith(b"POST /p HTTP/1.1\r\nHost: 127.0.0.1:")
            writer.write(OK)

    async with pool_to(serve) as pool:
        for _ in range(3):
            response = await pool.request("POST", "/p", body=[b"a", memoryview(b"bc")], size=3)
            assert (response.status, response.headers[b"x-a"], response.body) == (200, b"b", b"ok")
    assert len(connections) == 1


async def test_an_answer_in_chunks_and_pieces_is_put_together() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in (b"HTTP/1.1 200 OK\r\nTransfer-", b"Encoding: chunked\r\n\r\n2\r\nab", b"\r\n1\r\nc\r\n0\r\n\r\n"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)

    async with pool_to(serve) as pool:
        assert (await pool.request("GET", "/")).body == b"abc"


async def answer_one_of_two(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Requests: the first is answered, the second only read."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(OK)
    await reader.readuntil(b"\r\n\r\n")


async def test_a_request_into_a_connection_that_was_just_closed_is_sent_once_more() -> None:
    """The stale keep-alive race: not one byte of an answer has come, so that nothing can be done twice."""
    served = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        await answer_one_of_two(reader, writer)  # the connection is closed on the second

    async with pool_to(serve) as pool:
        assert (await pool.request("GET", "/")).body == b"ok"
        assert (await pool.request("GET", "/")).body == b"ok"
    assert served == 2


async def test_a_request_that_was_worked_on_is_not_sent_again_here() -> None:
    """The server hung up long after it had the request: that is no race. Another may be asked."""
    served = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        await answer_one_of_two(reader, writer)
        served += 1
        await asyncio.sleep(0.15)

    async with pool_to(serve) as pool:
        assert (await pool.request("GET", "/")).body == b"ok"
        with pytest.raises(Unavailable, match="closed the connection") as caught:
            await pool.request("GET", "/")
    assert served == 2
    assert caught.value.fault is not None
    assert caught.value.fault.retry_safe


async def test_a_server_that_dies_is_not_mistaken_for_one_that_hangs_up_twice() -> None:
    """Its connections are closed a moment before its port: asked again a moment later, it refuses."""
    servers: list[asyncio.Server] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer_one_of_two(reader, writer)
        writer.transport.abort()
        asyncio.get_running_loop().call_later(0.001, servers.pop().close)

    servers.append(await asyncio.start_server(serve, "127.0.0.1", 0))
    port = servers[0].sockets[0].getsockname()[1]
    pool = HttpPool(f"http://127.0.0.1:{port}", faults=THE_SERVER)
    assert (await pool.request("GET", "/")).body == b"ok"
    with pytest.raises(Unavailable, match="cannot be reached") as caught:
        await pool.request("GET", "/")
    assert caught.value.fault is not None
    assert caught.value.fault.retry_safe
    await pool.aclose()


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (b"", Unavailable, "closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", DataLoss, "broke off in the middle"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", DataLoss, "no valid answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + b"x" * 99, PayloadTooLarge, "more than 64 bytes"),
    ],
    ids=["nothing", "half an answer", "no HTTP", "too long"],
)
async def test_bad_answers_have_their_own_errors(answer: bytes, error: type[Exception], says: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async with pool_to(serve, max_response_bytes=64) as pool:
        with pytest.raises(error, match=says):
            await pool.request("GET", "/")


async def test_nobody_listening_is_unavailable_and_names_no_address() -> None:
    pool = HttpPool("http://127.0.0.1:1", faults=THE_SERVER)
    with pytest.raises(Unavailable, match=r"^the server cannot be reached$"):
        await pool.request("GET", "/")


async def test_a_call_that_is_given_up_never_hands_its_answer_to_the_next() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await reader.readuntil(b"\r\n\r\n")
            path = request.split()[1]
            await asyncio.sleep(0.05 if path == b"/slow" else 0)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(path), path))

    async with pool_to(serve) as pool:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.request("GET", "/slow"), 0.01)
        for _ in range(5):
            assert (await pool.request("GET", "/fast")).body == b"/fast"
            await asyncio.sleep(0.02)


async def test_calls_above_the_limit_of_connections_wait_their_turn() -> None:
    open_now = most = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await asyncio.sleep(0.005)
                writer.write(OK)
        finally:
            open_now -= 1

    async with pool_to(serve, max_connections=3) as pool:
        answers = await asyncio.gather(*(pool.request("GET", "/") for _ in range(20)))
    assert len(answers) == 20
    assert most == 3


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "https://host", "http://host/path", "http://"])
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="no address of the form"):
        HttpPool(url, faults=THE_SERVER)


def test_a_request_that_is_given_up_is_not_read_on_from_its_memory() -> None:
    """Joined requests lie in a buffer that is used again: a server that hung must not get what lies there later."""

    async def main() -> None:
        goes_on, ended, received = asyncio.Event(), asyncio.Event(), bytearray()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await goes_on.wait()
            try:
                while piece := await reader.read(1 << 20):
                    received.extend(piece)
            finally:
                ended.set()

        async with pool_to(serve) as pool:
            body = bytearray(16 << 20)
            call = asyncio.create_task(pool.request("POST", "/p", body=[memoryview(body)], size=len(body)))
            await asyncio.sleep(0.1)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            body[:] = b"x" * len(body)
            goes_on.set()
            await ended.wait()
        assert 0 < len(received) < len(body)
        assert b"xxx" not in received

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # the gateway's, which copies no memory
        runner.run(main())
