"""How much a caller may ask for: the rate, at once, a day; one worker or two."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.security.access import Identity, Quota
from gateway.security.grants import NO_GRANTS
from gateway.security.ledger import Alone, Ledger, Shared
from gateway.security.quotas import QuotaExceeded, Quotas
from tests.fakes.tfserving import FakeTFServing
from tests.gateway.conftest import RunningGateway, wait_for
from tests.security.doors import PREDICT, STREAMS, KeyFolder, infer

Start = Callable[[dict[str, Any]], RunningGateway]

DAY = 86_400


class World:
    """Quotas on clocks that stand still until they are moved."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.clock, self.now = 50.0, 20_000.0 * DAY
        self.quotas = Quotas(ledger or Alone(), clock=lambda: self.clock, time=lambda: self.now)

    def taken(self, caller: Identity) -> bool:
        """Whether a request, which ends at once, is let in."""
        try:
            self.quotas.enter(caller)
        except QuotaExceeded:
            return False
        self.quotas.leave(caller)
        return True


def caller(name: str = "a", **quota: Any) -> Identity:
    return Identity(name, name, "key", NO_GRANTS, Quota(**quota))


@settings(max_examples=100, deadline=None)
@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 100),
    gaps=st.lists(st.floats(0, 5), max_size=200),
)
def test_no_window_has_more_than_its_burst_and_its_rate(rate: float, burst: int, gaps: list[float]) -> None:
    """Any stretch of time, from any request to any later one; and none waits for more than its turn."""
    world, who = World(), caller(requests_per_second=rate, burst=burst)
    times = []
    for gap in gaps:
        world.clock += gap
        if world.taken(who):
            times.append(world.clock)
    for first in range(len(times)):
        for last in range(first, len(times)):
            assert last - first + 1 <= burst + rate * (times[last] - times[first]) * (1 + 1e-9) + 1e-6


def test_ten_times_the_rate_lets_the_rate_through() -> None:
    """For 100 seconds: the burst, and then what was set, within one in a thousand."""
    world, who = World(), caller(requests_per_second=50, burst=10)
    taken = 0
    for _ in range(100 * 500):
        world.clock += 1 / 500
        taken += world.taken(who)
    assert abs(taken - (10 + 50 * 100)) <= 5


def test_who_is_told_to_wait_is_let_in_after_that_time() -> None:
    world, who = World(), caller(requests_per_second=0.5, burst=1)
    assert dict(world.quotas.enter(who)) == {
        b"ratelimit-policy": b'"requests";q=1;w=2',
        b"ratelimit": b'"requests";r=0;t=2',
    }
    with pytest.raises(QuotaExceeded) as caught:
        world.quotas.enter(who)
    assert caught.value.retry_after_seconds == pytest.approx(2)
    world.clock += 1.99
    assert not world.taken(who)
    world.clock += 0.02
    assert world.taken(who)


def test_callers_do_not_use_up_each_others_quota() -> None:
    world = World()
    for number in range(200):
        assert world.taken(caller(f"caller {number}", requests_per_second=1, burst=1))
    assert not world.taken(caller("caller 0", requests_per_second=1, burst=1))


def test_so_many_at_a_time_and_again_when_one_ends() -> None:
    world, who = World(), caller(concurrency=2)
    world.quotas.enter(who)
    world.quotas.enter(who)
    with pytest.raises(QuotaExceeded, match="2 requests at a time"):
        world.quotas.enter(who)
    world.quotas.leave(who)
    world.quotas.enter(who)


@pytest.mark.parametrize("what", ["elements", "bytes"])
def test_a_days_use_is_bounded_and_begins_anew_at_midnight(what: str) -> None:
    """What does not fit is not taken: something smaller may fit still."""
    world, who = World(), caller(**{f"{what}_per_day": 100})
    world.now += DAY - 10
    world.quotas.spend(who, **{what: 60})
    with pytest.raises(QuotaExceeded, match=f"100 {what} a day") as caught:
        world.quotas.spend(who, **{what: 41})
    assert caught.value.retry_after_seconds == pytest.approx(10)
    world.quotas.spend(who, **{what: 40})
    world.now += 10
    world.quotas.spend(who, **{what: 100})


def test_bytes_of_requests_that_were_never_sent_on_count_too() -> None:
    """They are known when the request ends; whoever has used up the day is refused before the next body."""
    world, who = World(), caller(bytes_per_day=100)
    world.quotas.enter(who)
    world.quotas.leave(who, bytes=250)
    with pytest.raises(QuotaExceeded, match="100 bytes a day"):
        world.quotas.enter(who)


def test_a_caller_without_quota_is_not_counted() -> None:
    world, who = World(), Identity("a", "a", "key", NO_GRANTS)
    for _ in range(10_000):
        world.quotas.enter(who)
        world.quotas.spend(who, elements=1 << 40, bytes=1 << 40)


def test_more_callers_than_there_are_records_go_on_being_counted() -> None:
    """The one whose use was longest ago is forgotten; who calls now is not."""
    world, steady = World(), caller("steady", requests_per_second=0.001, burst=1)
    world.taken(steady)
    for number in range(20_000):
        world.clock += 1e-6
        world.taken(caller(f"caller {number}", requests_per_second=1))
        if number % 100 == 0:
            assert not world.taken(steady), number


def test_a_worker_that_died_holds_no_places(tmp_path: Path) -> None:
    """What it had in flight is forgotten with the next worker's start; what the living have is not."""
    path, who = tmp_path / "ledger", caller(concurrency=2)
    dead = World(Shared(path, places=3, place=0, running={0, 1}))
    living = World(Shared(path, places=3, place=1, running={0, 1}))
    dead.quotas.enter(who)
    living.quotas.enter(who)
    with pytest.raises(QuotaExceeded):
        living.quotas.enter(who)
    World(Shared(path, places=3, place=2, running={1, 2})).quotas.enter(who)
    with pytest.raises(QuotaExceeded):
        living.quotas.enter(who)


_HAMMER = """
import sys, time
from pathlib import Path
from gateway.security.ledger import Shared
from gateway.security.quotas import QuotaExceeded, Quotas
from tests.security.test_quotas import caller

quotas = Quotas(Shared(Path(sys.argv[1]), places=2, place=int(sys.argv[2]), running={0, 1}))
who, spender, taken = caller(requests_per_second=400, burst=1000), caller("b", bytes_per_day=1500), 0
first = time.monotonic()
while (now := time.monotonic()) < first + 2:
    last = now
    try:
        quotas.enter(who)
        taken += 1
    except QuotaExceeded:
        pass
spent = 0
for _ in range(2000):
    try:
        quotas.spend(spender, bytes=1)
        spent += 1
    except QuotaExceeded:
        pass
print(taken, first, last, spent)
"""


def test_two_processes_at_ten_times_the_rate_have_the_rate_together(tmp_path: Path) -> None:
    """Within one per cent of the burst and the rate over the time that they took; and a day's bytes to the byte."""
    command = [sys.executable, "-c", _HAMMER, str(tmp_path / "ledger")]
    processes = [subprocess.Popen([*command, str(place)], stdout=subprocess.PIPE, text=True) for place in (0, 1)]
    lines = [process.communicate(timeout=60)[0].split() for process in processes]
    taken = sum(int(line[0]) for line in lines)
    seconds = max(float(line[2]) for line in lines) - min(float(line[1]) for line in lines)
    assert taken == pytest.approx(1000 + 400 * seconds, rel=0.01)
    assert sum(int(line[3]) for line in lines) == 1500


@pytest.fixture
def server() -> Any:
    fake = FakeTFServing({"m": [1]})
    yield fake
    fake.close()


def with_quota(start: Start, server: FakeTFServing, folder: KeyFolder, **more: Any) -> RunningGateway:
    gateway = start(
        {
            "servers": {"t": {"kind": "tfserving", "endpoint": server.endpoint}},
            "models": {"m": {}},
            "auth": folder.settings,
            **more,
        }
    )
    gateway.wait_until("/v2/health/ready", 200)
    return gateway


def test_over_rest_and_grpc_a_quota_is_one(tmp_path: Path, gateway_with: Start, server: FakeTFServing) -> None:
    """Headers and trailing metadata tell what is left, and when to come again."""
    folder = KeyFolder(tmp_path)
    key = {"x-api-key": folder.make("a", "predict:*", quota=Quota(requests_per_second=0.01, burst=4))}
    gateway = with_quota(gateway_with, server, folder)
    for left, front in zip((3, 2, 1, 0), ("v2 REST", "v2 gRPC", "TF Serving REST", "TorchServe gRPC"), strict=True):
        outcome = PREDICT[front](gateway, "m", key)
        assert outcome.code in (200, "OK")
        assert outcome.headers["ratelimit"].startswith(f'"requests";r={left};t=')
        assert outcome.headers["ratelimit-policy"] == '"requests";q=4;w=400'
    called = len(server.predicted)
    for front, ask in {**PREDICT, "v2 gRPC, stream": STREAMS["v2 gRPC, stream"]}.items():
        outcome = ask(gateway, "m", key)
        if front.endswith("stream"):
            assert "more than 0.01 requests a second" in outcome.text
            continue
        assert outcome.code in (429, "RESOURCE_EXHAUSTED"), front
        assert 60 <= int(outcome.headers["retry-after"]) <= 100
        assert outcome.headers["ratelimit"].startswith('"requests";r=0;t=')
    assert len(server.predicted) == called


def test_a_days_elements_and_bytes_are_counted(tmp_path: Path, gateway_with: Start, server: FakeTFServing) -> None:
    folder = KeyFolder(tmp_path)
    elements = {"x-api-key": folder.make("a", "predict:*", quota=Quota(elements_per_day=2))}
    few = {"x-api-key": folder.make("b", "predict:*", quota=Quota(bytes_per_day=len(infer("m").SerializeToString())))}
    gateway = with_quota(gateway_with, server, folder)
    for shown, times in ((elements, 2), (few, 1)):
        for _ in range(times):
            assert PREDICT["v2 gRPC"](gateway, "m", shown).code == "OK"
        for front in ("v2 gRPC", "v2 REST", "TF Serving gRPC", "TorchServe REST"):
            outcome = PREDICT[front](gateway, "m", shown)
            assert outcome.code in (429, "RESOURCE_EXHAUSTED"), front
            assert "a day" in outcome.text
    assert len(server.predicted) == 3


def test_who_has_one_request_at_a_time_has_one(tmp_path: Path, gateway_with: Start, server: FakeTFServing) -> None:
    """Its end gives the place back, also where the caller has gone away or was refused."""
    folder = KeyFolder(tmp_path)
    key = {"x-api-key": folder.make("a", "predict:*", quota=Quota(concurrency=1))}
    gateway = with_quota(gateway_with, server, folder)
    server.delay_seconds = 1.5
    first = threading.Thread(target=PREDICT["v2 REST"], args=(gateway, "m", key))
    first.start()
    wait_for(lambda: len(server.predicted) == 1, "the request to reach the server")
    outcome = PREDICT["v2 gRPC"](gateway, "m", key)
    assert outcome.code == "RESOURCE_EXHAUSTED"
    assert outcome.headers["retry-after"] == "1"
    first.join()
    with grpc.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError):
            call(infer("m").SerializeToString(), timeout=0.2, metadata=tuple(key.items()))
    with pytest.raises(httpx.ReadTimeout):
        gateway.client.post("/v2/models/m/infer", json=BODY, headers=key, timeout=0.2)
    server.delay_seconds = 0
    for _ in range(3):
        wait_for(lambda: PREDICT["v2 REST"](gateway, "ghost", key).code == 404, "the place to be free again")
    assert PREDICT["v2 REST"](gateway, "m", key).code == 200


BODY = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1.0]}]}


def test_two_workers_share_a_callers_rate(tmp_path: Path, gateway_with: Start, server: FakeTFServing) -> None:
    """Eight connections, which the kernel gives to either, ask for more than the rate for three seconds.

    The burst is large, so that a machine that stands still for a second or two has lost nothing by it.
    """
    folder = KeyFolder(tmp_path)
    key = folder.make("a", "metadata:*", quota=Quota(requests_per_second=40, burst=100))
    gateway = with_quota(gateway_with, server, folder, workers=2, discover=False, log={"access": False})
    clients = [httpx.Client(base_url=gateway.url, headers={"x-api-key": key}, timeout=20) for _ in range(8)]
    asked: list[tuple[float, int]] = []
    end = time.monotonic() + 3

    def ask(client: httpx.Client) -> None:
        while time.monotonic() < end:
            begun = time.monotonic()
            asked.append((begun, client.get("/v2/models").status_code))

    threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    answers = Counter(status for _, status in asked)
    seconds = max(asked)[0] - min(asked)[0]
    assert set(answers) == {200, 429}
    # Requests arrive a little after they were sent: one request more or less, and one per cent.
    assert answers[200] == pytest.approx(100 + 40 * seconds, rel=0.01, abs=2)

    def counted() -> float:
        lines = gateway.admin.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if 'verdict="over_quota"' in line)

    wait_for(lambda: counted() == answers[429], "every refusal to be counted")
