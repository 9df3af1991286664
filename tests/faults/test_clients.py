"""R5, R6, R14, R16 to R18: clients that crawl, do not read, hang up, and are many."""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gateway.protos import v2_pb2
from tests.fakes import http2
from tests.faults import echo
from tests.faults.findings import SCALE, Findings, run, steady
from tests.faults.load import Load, Window
from tests.faults.rig import Replica, Rig, until

Found = Callable[[str, str], Findings]
KIND = "torchserve"
RATE = 50
HEAD = b"POST /v2/models/echo/infer HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@contextmanager
def sockets() -> Iterator[list[socket.socket]]:
    opened: list[socket.socket] = []
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield opened
    finally:
        for sock in opened:
            sock.close()


async def connect(port: int, opened: list[socket.socket], *, receive_bytes: int = 0) -> socket.socket:
    sock = socket.socket()
    if receive_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.setblocking(False)
    opened.append(sock)
    # From several addresses: one has not ports enough for 10,000 connections beside those of other programs.
    sock.bind((f"127.0.1.{1 + len(opened) % 200}", 0))
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return sock


def is_closed(sock: socket.socket) -> bool:
    """Reads what has come; True at the end."""
    try:
        while sock.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


async def drip(opened: list[socket.socket], seconds: float) -> float:
    """One byte a second from each, until all were closed; gives the seconds that it took."""
    begun, alive = time.monotonic(), list(opened)
    while alive and time.monotonic() - begun < seconds:
        still = []
        for number, sock in enumerate(alive):
            if number % 50 == 0:
                await asyncio.sleep(0)
            if is_closed(sock):
                continue
            with suppress(OSError):
                sock.send(b"a")
            still.append(sock)
        alive = still
        await asyncio.sleep(1)
    return time.monotonic() - begun if not alive else float("inf")


@pytest.mark.faults
@pytest.mark.parametrize("part", ["heads", "bodies"])
def test_r05_a_thousand_clients_send_a_byte_a_second(part: str, found: Found, tmp_path: Path) -> None:
    findings = found("R5", "slow-loris, 1,000 connections")
    first = b"GET /v2 HTTP/1.1\r\nx: " if part == "heads" else HEAD + b"content-length: 1000000\r\n\r\n{"

    async def scenario() -> None:
        with sockets() as opened:
            async with Rig(tmp_path, KIND, replicas=1) as rig, Load(rig.ports, rate=RATE) as load:
                await load.seconds(1)
                start = load.mark
                await load.seconds(4)
                begun = load.mark
                for _ in range(1000):
                    sock = await connect(rig.ports["http"], opened)
                    sock.send(first)
                seconds = await drip(opened, 45)
                before = findings.saw("before", load.window(start, begun))
                during = findings.saw("during", load.window(begun))
                findings.gauge("during", rig)
                limit = 8 if part == "heads" else 35
                findings.must(f"all are gone within {limit} s", seconds, seconds <= limit)
                findings.must("good traffic >= 99.9 %", during.success, during.success >= 0.999)
                p99 = during.quantile(0.99, "ok")
                findings.must("its p99 <= 1.5x", p99, steady(during, before, 1.5), timed=True)

    run(scenario())
    findings.judge()


@pytest.mark.faults
@pytest.mark.parametrize("front", ["rest", "grpc"])
def test_r06_nobody_reads_the_answers(front: str, found: Found, tmp_path: Path) -> None:
    """Forty clients ask for answers of 4 MB each, or of 2 MB over gRPC, and read none."""
    findings = found("R6", "slow readers")
    port, cut = ("http", "stalled") if front == "rest" else ("grpc", "unread")

    async def scenario() -> None:
        stall = {"stall_seconds": 5, "bytes_per_second": 1 << 20}
        settings = {"http": stall, "grpc": stall, "limit": {"enabled": False}}
        with sockets() as opened:
            async with Rig(tmp_path, KIND, replicas=1, **settings) as rig:
                base = rig.memory_bytes
                ask = {"rest": ask_over_rest, "grpc": ask_over_grpc}[front]
                for _ in range(40):
                    await ask(await connect(rig.ports[port], opened, receive_bytes=4096), 100_000)
                top = [base]

                async def given_up() -> bool:
                    top[0] = max(top[0], rig.memory_bytes)
                    return await rig.metric(f'duet_connections_cut_total{{reason="{cut}"}}') >= 40

                seconds = await until(given_up, "all to be given up", seconds=60)
                growth = (top[0] - base) >> 20
                findings.must("all are given up", round(seconds, 1), True)
                findings.must("memory grows <= 40 x (answer + request) x 2", f"{growth} MiB", growth <= 40 * 8 * 2)
                await asyncio.sleep(1)
                answer = await rig.infer()
                findings.must("others are served", answer.status_code, answer.status_code == 200)
                gone = sum(map(is_closed, opened))
                findings.must("their connections are closed", gone, gone == 40)

    run(scenario())
    findings.judge()


async def ask_over_rest(sock: socket.socket, rows: int) -> None:
    numbers = ",".join(["1"] * (echo.WIDTH * rows))
    document = f'{{"inputs": [{{"name": "x", "shape": [{rows}, 4], "datatype": "FP32", "data": [{numbers}]}}]}}'
    body = document.encode()
    head = HEAD + b"x-duet-timeout-ms: 60000\r\ncontent-length: %d\r\n\r\n" % len(body)
    await asyncio.get_running_loop().sock_sendall(sock, head + body)


async def ask_over_grpc(sock: socket.socket, rows: int) -> None:
    request = v2_pb2.ModelInferRequest(model_name="echo")
    request.inputs.add(name="x", datatype="FP32", shape=[rows, echo.WIDTH])
    request.raw_input_contents.append(struct.pack("<f", 1.0) * echo.WIDTH * rows)
    await http2.ask(sock, "/inference.GRPCInferenceService/ModelInfer", request.SerializeToString())


@pytest.mark.faults
def test_r14_clients_hang_up(kind: str, batching: dict[str, Any], found: Found, tmp_path: Path) -> None:
    """Half of the requests are given up by their clients after a few milliseconds."""
    findings = found("R14", "50 % of clients disconnect")
    requests = round(100_000 * SCALE)

    async def scenario() -> None:
        async with Rig(tmp_path, kind, replicas=1, **batching) as rig:
            server = rig.replicas[kind][0]
            await server.order(seconds=0.05, workers=64)
            await hang_up(rig, 400)
            before = await held(rig, server)
            findings.gauge("before", rig)
            during = findings.saw("during", await hang_up(rig, requests))
            after = await held(rig, server)
            released = await release(rig, server)
            findings.gauge("after", rig)
            stayed = [sample for sample in during.samples if sample.outcome != "lost"]
            well = sum(sample.outcome == "ok" for sample in stayed) / max(1, len(stayed))
            findings.must(f"of {requests}, who stayed is answered", well, well >= 0.999)
            gone = during.outcomes["lost"]
            findings.must("about half hung up", gone, 0.2 * requests <= gone <= 0.6 * requests)
            findings.must("let go within 100 ms", released, released <= 0.1, timed=True)
            for name, change in {name: after[name] - before[name] for name in before}.items():
                findings.must(f"{name} as before, +/- 5", change, abs(change) <= 5)
            tracebacks = "Traceback" in rig.log.read_text()
            findings.must("no traceback", tracebacks, not tracebacks)

    run(scenario())
    findings.judge()


async def hang_up(rig: Rig, requests: int) -> Window:
    """What became of so many requests."""
    async with Load(rig.ports, rate=250) as load:
        for target in load.targets.values():
            hasty(target)
        await load.answered(requests)
    return load.window()


async def release(rig: Rig, server: Replica) -> float:
    """Forty are being worked on when their clients hang up: how long it takes until none is."""
    await server.order(seconds=5)
    async with Load(rig.ports, rate=200, deadline_seconds=3) as load:
        given_up: list[Callable[[], object]] = []
        for target in load.targets.values():
            give_up_later(target, given_up)
        await until(lambda: _in_flight(rig, 40), "forty to be in flight", seconds=10)
        begun = time.monotonic()
        load.pause()
        for give_up in given_up:
            give_up()
        await until(lambda: _none_in_flight(rig), "all to be let go", seconds=10)
        return time.monotonic() - begun


async def held(rig: Rig, server: Replica) -> dict[str, int]:
    """Tasks, and descriptors but those of kept connections to the server, three seconds later."""
    await asyncio.sleep(3)
    return {"tasks": rig.tasks, "descriptors": rig.descriptors - (await server.order())["connections"]}


def hasty(target: object) -> None:
    """Every second request of the target is given up after 10 ms."""
    send, turn = target.send, [0]  # type: ignore[attr-defined]

    def send_and_hang_up(payload: int, done: object) -> object:
        abandon = send(payload, done)
        turn[0] += 1
        if turn[0] % 2:
            asyncio.get_running_loop().call_later(0.01, abandon)
        return abandon

    target.send = send_and_hang_up  # type: ignore[attr-defined]


def give_up_later(target: object, given_up: list[Callable[[], object]]) -> None:
    """What gives up each of the target's requests is put into the list."""
    send = target.send  # type: ignore[attr-defined]

    def send_and_keep(payload: int, done: object) -> object:
        given_up.append(send(payload, done))
        return given_up[-1]

    target.send = send_and_keep  # type: ignore[attr-defined]


async def _in_flight(rig: Rig, count: int) -> bool:
    return await rig.metric("duet_requests_in_flight{") >= count


async def _none_in_flight(rig: Rig) -> bool:
    return await rig.metric("duet_requests_in_flight{") == 0


def test_r16_bodies_without_measure(found: Found, tmp_path: Path) -> None:
    """64 clients send bodies at the cap and do not end them; eight more have no end at all."""
    findings = found("R16", "64 bodies at the cap, chunked ones beyond it")
    cap, budget = 1 << 20, 16 << 20

    async def scenario() -> None:
        settings = {"http": {"max_body_bytes": cap}, "max_bytes_in_flight": budget}
        with sockets() as opened:
            async with Rig(tmp_path, KIND, replicas=1, **settings) as rig:
                base, loop = rig.memory_bytes, asyncio.get_running_loop()
                refused = 0
                for _ in range(64):
                    sock = await connect(rig.ports["http"], opened)
                    with suppress(OSError):
                        await loop.sock_sendall(sock, HEAD + b"content-length: %d\r\n\r\n" % cap + b" " * (cap - 1))
                top = rig.memory_bytes
                await asyncio.sleep(1)
                for sock in opened:
                    with suppress(OSError):
                        refused += sock.recv(20).startswith(b"HTTP/1.1 503")
                answers = await asyncio.gather(*(_endless(rig.ports["http"], opened, cap) for _ in range(8)))
                top = max(top, rig.memory_bytes)
                # Each comes from an address of its own: those find room that are within a quarter of what the others leave.
                findings.must("about 53 beyond the budget are told 503", refused, 51 <= refused <= 55)
                told = {answer[9:12].decode() for answer in answers}
                findings.must("without end: 413 or 503", sorted(told), told <= {"413", "503"})
                growth = (top - base) >> 20
                findings.must("memory grows <= 2 x budget", f"{growth} MiB", growth <= 2 * budget >> 20)
                for sock in opened:
                    sock.close()
                seconds = await until(lambda: _well(rig), "it to serve again", seconds=10)
                findings.must("serves again", round(seconds, 2), True)

    run(scenario())
    findings.judge()


async def _endless(port: int, opened: list[socket.socket], cap: int) -> bytes:
    loop, sock = asyncio.get_running_loop(), await connect(port, opened)
    await loop.sock_sendall(sock, HEAD + b"transfer-encoding: chunked\r\n\r\n")
    with suppress(OSError):
        for _ in range(4 * cap // 65_536):
            await loop.sock_sendall(sock, b"10000\r\n" + b" " * 65_536 + b"\r\n")
    with suppress(OSError):
        return await loop.sock_recv(sock, 100)
    return b"HTTP/1.1 503"  # cut off before it could be read


async def _well(rig: Rig) -> bool:
    return (await rig.infer()).status_code == 200


@pytest.mark.faults
def test_r17_ten_thousand_idle_connections(found: Found, tmp_path: Path) -> None:
    findings = found("R17", "10,000 idle keep-alive connections")
    count = 10_000

    async def scenario() -> None:
        with sockets() as opened:
            settings = {"http": {"idle_seconds": 15}}
            async with Rig(tmp_path, KIND, replicas=1, **settings) as rig, Load(rig.ports, rate=RATE) as load:
                await load.seconds(1)
                start, base = load.mark, rig.memory_bytes
                await load.seconds(3)
                begun = load.mark
                for number in range(count):
                    await connect(rig.ports["http"], opened)
                    if number % 20 == 0:
                        await asyncio.sleep(0.005)
                idle = load.mark
                await load.seconds(4)
                accepted, grown = rig.descriptors, (rig.memory_bytes - base) / count
                before, during = load.window(start, begun), load.window(idle)
                findings.saw("before", before)
                findings.saw("during", during)
                findings.gauge("during", rig)
                closed = await until(lambda: _few(rig), "the idle ones to be closed", seconds=40)
                findings.must("all are accepted", accepted, accepted >= count)
                findings.must("<= 30 KiB each", f"{grown / 1024:.1f} KiB", grown <= 30 * 1024)
                findings.must("p99 <= 1.2x", during.quantile(0.99, "ok"), steady(during, before, 1.2), timed=True)
                findings.must("idle ones are closed", round(closed, 1), True)
                failed = load.window(start).failed
                findings.must("nobody fails", failed, not failed)

    run(scenario())
    findings.judge()


async def _few(rig: Rig) -> bool:
    await asyncio.sleep(0.2)
    return rig.descriptors < 200


@pytest.mark.faults
def test_r18_no_more_files_may_be_opened(found: Found, tmp_path: Path) -> None:
    """400 connections where 256 files are allowed: no busy loop, and all is well once they are gone."""
    findings = found("R18", "file descriptors run out")

    async def scenario() -> None:
        with sockets() as opened:
            async with Rig(tmp_path, KIND, replicas=1, open_files=256) as rig:
                for _ in range(400):
                    await connect(rig.ports["http"], opened)
                    await connect(rig.ports["grpc"], opened)
                await asyncio.sleep(1)
                begun, used = time.monotonic(), rig.processor_seconds()
                await asyncio.sleep(4)
                share = (rig.processor_seconds() - used) / (time.monotonic() - begun)
                findings.gauge("during", rig)
                findings.must("< 10 % of a processor", share, share < 0.1)
                for sock in opened:
                    sock.close()
                seconds = await until(lambda: _well(rig), "it to serve again", seconds=15)
                findings.must("serves again", round(seconds, 2), True)
                warned = "files may be open" in rig.log.read_text()
                findings.must("the log told at the start", warned, warned)

    run(scenario())
    findings.judge()
