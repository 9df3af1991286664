"""Keeps a few servers running: starts them together, restarts what dies, stops them in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from serving.children import Child, Launch, kill_session
from serving.failures import Failure
from serving.restarts import MOST_CRASHES, WINDOW_SECONDS, Restarts
from serving.runrecord import RunRecord

POLL_SECONDS = 0.05


class Crashed(Failure):
    """A server has died and will not be started again."""

    def __init__(self, child: Child, sentence: str) -> None:
        super().__init__(sentence, log=child.launch.log, last_lines=tuple(child.last_lines()))


@dataclass(slots=True)
class Seat:
    """One server's place: who sits in it now, and when the next one may."""

    launch: Launch
    child: Child | None = None
    restarts: Restarts = field(default_factory=Restarts)
    restart_at: float | None = None


class Supervisor:
    """`launches` in the order of starting; they are stopped stage by stage in the opposite order.

    A stage is what may be started or stopped at the same time. Not for threads: one loop starts, checks and stops.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[Launch]],
        *,
        record: RunRecord,
        report: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stages = [[Seat(launch) for launch in stage] for stage in stages]
        self._seats = [seat for stage in self._stages for seat in stage]
        self._record = record
        self._report = report
        self._now = now

    @property
    def children(self) -> list[Child]:
        return [seat.child for seat in self._seats if seat.child]

    def start(self) -> None:
        """Start all. Raises OSError if one cannot be started; what was started stays for `stop`."""
        for seat in self._seats:
            self._seat(seat)

    def check_all_alive(self) -> None:
        """While they start: raise Crashed if one has ended."""
        for child in self.children:
            if child.exit_code is not None:
                raise Crashed(child, f"{child.name} {child.describe_end()} while starting")

    def restart_dead(self) -> None:
        """While they serve: report and restart what has ended. Raises Crashed when one ends too often."""
        for seat in self._seats:
            if seat.restart_at is not None:
                if self._now() >= seat.restart_at:
                    self._seat(seat)
            elif seat.child and seat.child.exit_code is not None:
                self._plan_restart(seat, seat.child)

    def stop(self, *, hurry: Callable[[], bool] = lambda: False) -> list[int]:
        """End all, last stage first; kill what outlives its grace, or everything once `hurry` says so.

        Returns the process ids that are still alive after all that: empty unless the kernel holds one.
        """
        left: list[int] = []
        for stage in reversed(self._stages):
            children = [seat.child for seat in stage if seat.child]
            left += self._stop_together(children, hurry)
        return left

    def _seat(self, seat: Seat) -> None:
        seat.child, seat.restart_at = Child(seat.launch), None
        self._record.write(self.children)

    def _plan_restart(self, seat: Seat, child: Child) -> None:
        kill_session(child.pid)  # what it left would hold the ports
        delay = seat.restarts.delay_seconds(self._now())
        if delay is None:
            raise Crashed(
                child,
                f"{child.name} {child.describe_end()}, the {MOST_CRASHES}th time within {WINDOW_SECONDS:.0f} s",
            )
        self._report(f"{child.name} {child.describe_end()}; starting it again in {delay:.0f} s")
        seat.restart_at = self._now() + delay

    def _stop_together(self, children: Sequence[Child], hurry: Callable[[], bool]) -> list[int]:
        begun = self._now()
        for child in children:
            child.terminate()
        left: list[int] = []
        waiting = list(children)
        while waiting := [child for child in waiting if not child.gone()]:
            late = [child for child in waiting if hurry() or self._now() - begun > child.launch.grace_seconds]
            for child in late:
                left += child.kill()
                waiting.remove(child)
            time.sleep(POLL_SECONDS)
        return left
