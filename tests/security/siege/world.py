"""The besieged gateway, its bystanders and one attacker, each a process of its own, and what is measured of them."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gateway.security.access import Quota
from tests.gateway.conftest import RunningGateway, start_gateway, wait_for
from tests.security.door import MODEL
from tests.security.doors import KeyFolder
from tests.security.siege.bystanders import PULSE, Order, lanes

CALM_SECONDS, ATTACK_SECONDS, SETTLE_SECONDS = 0.8, 2.0, 0.3
#: The attack's first moments count; what was due before the attacker got going does not.
_CALL_SECONDS = 10.5
_SAMPLE_SECONDS = 0.05
_PAGE = os.sysconf("SC_PAGE_SIZE")
_ATTACKER = "127.0.0.2"
#: As the kernel writes them: established, and ended by the other side alone.
_OPEN = ("01", "08")
#: Fewer than by default, so that a test reaches them: what is kept of so many is kept of more.
CONNECTIONS = {"http": 512, "grpc": 256}
#: Started anew once the process has kept so much from earlier attacks: it could serve the next one unseen.
_KEPT_BYTES = 16 << 20


@dataclass(frozen=True)
class Seen:
    """One call of a bystander."""

    due: float
    lane: str
    outcome: str
    seconds: float


@dataclass(frozen=True)
class Measured:
    """What one attack cost. ``memory`` in bytes; times in seconds, beyond those just before the attack."""

    memory: int
    stall: float
    waited: float
    lane_waited: float
    held: int
    connections: int
    refusals: dict[str, int]
    calm_p99: float
    calls: int
    worst_lane: str = ""
    #: What the attacker has done (`Target.did`).
    did: dict[str, int] = field(default_factory=dict)
    #: Of `waited` and `lane_waited`, what bystanders wait for as well while a process that has nothing to do with the
    #: gateway is attacked. None where nobody has looked.
    machine: tuple[float, float] | None = None

    @property
    def waited_for_gateway(self) -> float:
        return max(0.0, self.waited - (self.machine[0] if self.machine else 0.0))

    @property
    def lane_waited_for_gateway(self) -> float:
        return max(0.0, self.lane_waited - (self.machine[1] if self.machine else 0.0))

    def text(self) -> str:
        refused = f", {sum(self.refusals.values())} refused: {self.refusals}" if self.refusals else ""
        machine = f" ({self.machine[0] * 1e3:.0f} for the machine)" if self.machine else ""
        return (
            f"{self.memory / (1 << 20):.0f} MiB, stall {self.stall * 1e3:.0f} ms, "
            f"waited {self.waited * 1e3:.0f} ms{machine}, lane {self.worst_lane} {self.lane_waited * 1e3:.0f} ms, "
            f"holds {self.held} calls and {self.connections} connections{refused} "
            f"(calm p99 {self.calm_p99 * 1e3:.0f} ms, {self.calls} calls); "
            f"it did {self.did}"
        )


class Memory:
    """The resident memory of a process and its children, looked at all the time."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._most = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def begin(self) -> int:
        self._most = now = self.now()
        return now

    @property
    def most(self) -> int:
        return max(self._most, self.now())

    def now(self) -> int:
        return sum(self._of(pid) for pid in (self._pid, *self._children()))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            self._most = max(self._most, self.now())

    def _children(self) -> Iterator[int]:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{self._pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    yield from map(int, (task / "children").read_text().split())

    @staticmethod
    def _of(pid: int) -> int:
        try:
            return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
        except (OSError, IndexError):
            return 0


@dataclass
class Process:
    """A helper of this folder, whose lines are read as they come."""

    process: subprocess.Popen[str]
    lines: list[Any] = field(default_factory=list)

    @classmethod
    def start(cls, module: str, *arguments: str) -> Process:
        started = cls(
            subprocess.Popen(
                [sys.executable, "-m", f"tests.security.siege.{module}", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        started._reading.start()
        return started

    def __post_init__(self) -> None:
        self._reading = threading.Thread(target=self._read, daemon=True)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def first(self) -> Any:
        def come() -> bool:
            assert self.lines or self.process.poll() is None, f"{self.process.args} has died"
            return bool(self.lines)

        wait_for(come, f"{self.process.args} to begin", seconds=60)
        return self.lines[0]

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self) -> None:
        broken = self.process.poll()
        self.process.kill()
        self.process.wait()
        self._reading.join()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        assert not broken, f"{self.process.args} has died of its own"


class World:
    """Starts everything; a gateway that has kept memory is replaced by a new one."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self._folder = folder
        self._settings = settings
        self._keys = KeyFolder(folder)
        self.keys = {
            "bystander": self._keys.make("bystander", f"predict,metadata:{MODEL}", quota=Quota(concurrency=1000)),
            "nothing": self._keys.make("nothing"),
            "tiny": self._keys.make(
                "tiny",
                f"predict,metadata:{MODEL}",
                quota=Quota(requests_per_second=1, concurrency=1, bytes_per_day=1000),
            ),
        }
        self._servers = Process.start("servers")
        self._echo: Process | None = None
        self._gateway: RunningGateway | None = None
        self._bystanders: Process | None = None
        self._memory: Memory | None = None
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._end()
        self._servers.end()
        if self._echo is not None:
            self._echo.end()

    def besieged(self, name: str, shown: str, *, seconds: float = ATTACK_SECONDS) -> Measured:
        """One attack, ``shown`` being the name of the attacker's key or empty."""
        if self._memory.now() - self._fresh > _KEPT_BYTES:
            self._end()
            self._begin()
        return self._attacked(self._ports, name, shown, seconds)

    def compared(self, name: str, shown: str, *, seconds: float = ATTACK_SECONDS) -> tuple[float, float]:
        """How much later bystanders are answered, at the 99th percentile and in the worst lane, while somebody else is

        attacked in the same way: all share a few processor cores.
        """
        self._echo = self._echo or Process.start("echo")
        found = self._attacked(self._echo.first(), name, shown, seconds)
        return found.waited, found.lane_waited

    def _attacked(self, ports: dict[str, int], name: str, shown: str, seconds: float) -> Measured:
        assert self._memory is not None
        order = {**ports, "key": self.keys.get(shown, ""), "source": _ATTACKER}
        attacker = Process.start("attacker", name, json.dumps(order))
        try:
            attacker.first()
            time.sleep(CALM_SECONDS)
            before, begin = self._memory.begin(), time.monotonic()
            attacker.go()
            time.sleep(seconds / 2)
            connections = self._connections()
            time.sleep(seconds / 2)
            end, most = time.monotonic(), self._memory.most
        finally:
            attacker.end()
        assert self._gateway is not None
        assert self._gateway.process.poll() is None, "the gateway has died"
        calm, attacked = self._calls(begin - CALM_SECONDS, begin), self._calls(begin, end)
        held = max((line["held"] for line in attacker.lines if isinstance(line, dict)), default=0)
        did = next((line["did"] for line in reversed(attacker.lines) if isinstance(line, dict)), {})
        time.sleep(SETTLE_SECONDS)
        return replace(measured(calm, attacked, memory=most - before, held=held, connections=connections), did=did)

    def _begin(self) -> None:
        servers = self._servers.first()
        settings = {
            "servers": {
                "tensorflow": {"kind": "tfserving", "endpoint": servers["tensorflow"]},
                "pytorch": {"kind": "torchserve", "endpoint": servers["pytorch"], "management": servers["pytorch"]},
            },
            "models": {MODEL: {"default": "tensorflow"}},
            "auth": self._keys.settings,
            **self._settings,
            "http": {"max_connections": CONNECTIONS["http"], **self._settings.get("http", {})},
            "grpc": {"max_connections": CONNECTIONS["grpc"], "reflection": True, **self._settings.get("grpc", {})},
        }
        self._gateway = gateway = start_gateway(settings, self._folder)
        shown = {"x-api-key": self.keys["bystander"]}
        for variant in ("tensorflow", "pytorch"):
            path = f"/v2/models/{MODEL}@{variant}/ready"
            wait_for(lambda: gateway.client.get(path, headers=shown).status_code == 200, path)  # noqa: B023
        # The process that decodes large bodies is there before anything is measured.
        body = b'{"instances":[' + b"[1.0]," * 60_000 + b"[1.0]]}"
        assert gateway.client.post(f"/v1/models/{MODEL}:predict", content=body, headers=shown).status_code == 200
        ports = {"http": gateway.client.base_url.port, "grpc": gateway.grpc_port, "admin": gateway.admin.base_url.port}
        self._ports = {name: int(port or 0) for name, port in ports.items()}
        self._bystanders = Process.start("bystanders", json.dumps({**self._ports, "key": self.keys["bystander"]}))
        self._bystanders.first()
        time.sleep(1)
        self._memory = Memory(gateway.process.pid)
        self._fresh = self._memory.begin()

    def _end(self) -> None:
        memory, bystanders, gateway = self._memory, self._bystanders, self._gateway
        self._memory = self._bystanders = self._gateway = None
        if memory is not None:
            memory.close()
        if gateway is not None:
            gateway.process.kill()
            gateway.stop()
            log = gateway.log.read_text()
            # grpcio writes some traces of clients that are gone past all logs.
            traces = [trace for trace in log.split("Traceback")[1:] if "ExecuteBatchError" not in trace]
            assert not traces, traces[0][:4000]
        if bystanders is not None:
            bystanders.end()

    def _calls(self, begin: float, end: float) -> list[Seen]:
        """What was due between the two, once all of it has come to an end."""
        expected = (end - begin) * sum(lane.rate for lane in lanes(Order(0, 0, 0, ""))) - 2 * 15
        last = time.monotonic() + _CALL_SECONDS
        while True:
            found = [Seen(*line) for line in list(self._bystanders.lines) if len(line) == 4]
            found = [call for call in found if begin <= call.due < end]
            if len(found) >= expected or time.monotonic() > last:
                return found
            time.sleep(0.1)

    def _connections(self) -> int:
        """Of the attacker at the gateway, as the kernel knows them."""
        ports = {f"{port:04X}" for port in self._ports.values()}
        attacker = "".join(f"{int(part):02X}" for part in reversed(_ATTACKER.split(".")))
        count = 0
        # gRPC's sockets are of both families.
        for name in ("tcp", "tcp6"):
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
                _, here, there, state = line.split()[:4]
                mine = there.rpartition(":")[0].endswith(attacker) and here.rpartition(":")[2] in ports
                count += mine and state in _OPEN
        return count


def measured(calm: list[Seen], attacked: list[Seen], *, memory: int, held: int, connections: int) -> Measured:
    assert calm, "no bystander has called before the attack"
    assert attacked, "no bystander has called during the attack"
    fine = {"200"}
    refusals = Counter(f"{call.lane}: {call.outcome}"[:90] for call in attacked if call.outcome not in fine)
    calm_p99 = quantile((call.seconds for call in calm), 0.99)
    worst, lane = max((median_beyond(calm, attacked, lane), lane) for lane in {call.lane for call in attacked})
    return Measured(
        memory=memory,
        stall=max(0.0, _longest(attacked) - _longest(calm)),
        waited=max(0.0, quantile((call.seconds for call in attacked), 0.99) - calm_p99),
        lane_waited=max(0.0, worst),
        worst_lane=lane,
        held=held,
        connections=connections,
        refusals=dict(refusals),
        calm_p99=calm_p99,
        calls=len(attacked),
    )


def median_beyond(calm: list[Seen], attacked: list[Seen], lane: str) -> float:
    """By how much the median of one lane is later than before the attack."""
    of: dict[bool, list[float]] = defaultdict(list)
    for during, calls in ((False, calm), (True, attacked)):
        of[during] = [call.seconds for call in calls if call.lane == lane]
    return statistics.median(of[True]) - (statistics.median(of[False]) if of[False] else 0.0)


def quantile(values: Iterable[float], share: float) -> float:
    found = sorted(values)
    return found[min(len(found) - 1, int(share * len(found)))]


def _longest(calls: list[Seen]) -> float:
    """What stops the event loop holds up the next pulse for as long."""
    return max((call.seconds for call in calls if call.lane == PULSE), default=0.0)
