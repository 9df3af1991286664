"""Endpoints that fail are taken out, and tried again once a second. State machines: time comes in as an argument.

The rules hold for one endpoint or two as well as for many. Any number may be out at once, since a request to a server
that is known to fail helps nobody; in return the way back is short: one try that succeeds.

Most failures can be of a request's own making. An endpoint is not taken out for those while it still answers what it
has answered before: first it is doubted, and asked that once more (`Balanced` does it). A caller can make its own
requests fail as often as it likes, and not that one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.backends.base import WHOLE
from gateway.errors import Fault
from gateway.layers.signals import Signals

#: Below it the average is nothing: most calls need not look at it then.
_LEAST_RATE = 1e-4
#: A call's share in the average of failures: about the last twenty count.
_RATE_SHARE = 0.05
#: After a doubt that was cleared, failures do not raise another one for this share of `probe_seconds`.
_CLEARED_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Policy:
    """``failures`` in a row take an endpoint out, and so does a ``rate`` of them over its last calls.

    A call that was given up counts only where it took ``slow_seconds``, and three times longer than usual: a client
    with little time says nothing of the server.
    """

    failures: int = 5
    rate: float = 0.5
    slow_seconds: float = 0.25
    probe_seconds: float = 1.0


@dataclass(slots=True, eq=False)
class Circuit:
    """Closed, or open: then it may be tried, one call at a time. ``name`` is its model's, or `WHOLE`.

    ``doubted``: closed, and about to be opened or cleared.
    """

    name: str
    policy: Policy
    open: bool = False
    doubted: bool = False
    reason: str = ""
    failures: int = 0
    rate: float = 0.0
    trying: bool = False
    _try_at: float = 0.0
    _cleared_until: float = 0.0

    def succeeded(self) -> None:
        """A call that was let through. What began before the circuit opened says nothing of now."""
        if not self.open:
            self.failures = 0
            self.rate -= _RATE_SHARE * self.rate
            if self.rate < _LEAST_RATE:
                self.rate = 0.0

    def failed(self, now: float, *, at_once: str = "", may_doubt: bool = False) -> bool:
        """True where this opens the circuit: ``at_once`` for that reason, or by the policy.

        With ``may_doubt`` the policy makes it doubted in place of open; `judged` decides.
        """
        if self.open or (self.doubted and not at_once):
            return False
        if may_doubt and now < self._cleared_until:
            return False
        self.failures += 1
        self.rate += _RATE_SHARE * (1.0 - self.rate)
        if not at_once and self.failures < self.policy.failures and self.rate < self.policy.rate:
            return False
        self.reason = at_once or ("failures" if self.failures >= self.policy.failures else "rate")
        if may_doubt and not at_once:
            self.doubted = True
            return False
        self._open(now)
        return True

    def silent(self, now: float) -> None:
        """It answers nothing while others do: doubted, though it has not failed often enough."""
        if not self.open and not self.doubted and now >= self._cleared_until:
            self.doubted, self.reason = True, "silent"

    def judged(self, well: bool, now: float) -> bool:
        """The end of a doubt. True where this opens the circuit."""
        if not self.doubted or self.open:
            self.doubted = False
            return False
        self.doubted = False
        if not well:
            self._open(now)
            return True
        self.failures, self.rate = 0, 0.0
        self._cleared_until = now + _CLEARED_SHARE * self.policy.probe_seconds
        return False

    def _open(self, now: float) -> None:
        self.open, self.doubted = True, False
        self._try_at = now + self.policy.probe_seconds

    def due(self, now: float) -> bool:
        return self.open and not self.trying and now >= self._try_at

    def try_now(self, now: float) -> None:
        self._try_at = min(self._try_at, now)

    def begin_try(self, now: float) -> None:
        self.trying = True
        self._try_at = now + self.policy.probe_seconds

    def end_try(self, well: bool | None) -> bool:
        """True where this closes the circuit. The next failure would open it again, the next success makes it firm."""
        self.trying = False
        if not well or not self.open:
            return False
        self.open = False
        self.failures = self.policy.failures - 1
        self.rate = 0.0
        return True


@dataclass(slots=True, eq=False)
class Breaker:
    """The circuits of one endpoint: one for each model, and one for the endpoint itself.

    ``default`` is for models that ``models`` does not name; None, in either, leaves a model without a circuit.
    ``told`` hears of each change, for the log.
    """

    variant: str
    signals: Signals
    default: Policy | None
    models: Mapping[str, Policy | None]
    told: Callable[[str, str], None]
    _whole: Circuit | None = field(init=False)
    #: Those that a model's calls go through: the endpoint's and its own.
    _of: dict[str, tuple[Circuit, ...]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._whole = Circuit(WHOLE, self.default) if self.default else None

    def admits(self, model: str) -> bool:
        for circuit in self._of.get(model) or self._circuits(model):  # noqa: SIM110 - the hot path
            if circuit.open:
                return False
        return True

    def due(self, model: str, now: float) -> bool:
        opened = [circuit for circuit in self._circuits(model) if circuit.open]
        return bool(opened) and all(circuit.due(now) for circuit in opened)

    def trying(self, model: str, now: float) -> None:
        for circuit in self._circuits(model):
            if circuit.open:
                circuit.begin_try(now)

    def tried(self, model: str, well: bool | None, now: float) -> None:
        if well is not None:
            self.signals.probes(model, self.variant, "well" if well else "failed").inc()
        for circuit in self._circuits(model):
            if circuit.trying and circuit.end_try(well):
                self.signals.ejected(circuit.name, self.variant).dec()
                self.told(circuit.name, "is in again")

    def answered(self, model: str) -> None:
        for circuit in self._of.get(model) or self._circuits(model):
            if circuit.failures or circuit.rate:
                circuit.succeeded()

    def failed(self, model: str, fault: Fault, now: float, *, may_doubt: bool = False) -> None:
        may_doubt = may_doubt and fault.by_request
        if fault.unreachable:
            self._count(self._whole, now, at_once="absent")
        elif fault.name == "lost":
            self._count(self._whole, now, may_doubt=may_doubt)
        elif fault.counts:
            self._count(self._circuit(model), now, may_doubt=may_doubt)

    def late(
        self,
        model: str,
        seconds: float,
        usual_seconds: float,
        now: float,
        callers: int,
        *,
        may_doubt: bool = False,
    ) -> None:
        circuit = self._circuit(model)
        if circuit is not None and seconds >= max(circuit.policy.slow_seconds, 3 * usual_seconds):
            for _ in range(callers):  # each of them waited in vain, though they were asked together
                self._count(circuit, now, may_doubt=may_doubt)

    def silent(self, model: str, seconds: float, now: float) -> None:
        circuit = self._circuit(model)
        if circuit is not None and seconds >= circuit.policy.slow_seconds:
            circuit.silent(now)

    def doubts(self, model: str) -> bool:
        for circuit in self._circuits(model):  # noqa: SIM110 - after each failure
            if circuit.doubted:
                return True
        return False

    def judged(self, model: str, well: bool, now: float) -> None:
        for circuit in self._circuits(model):
            if circuit.judged(well, now):
                self._opened(circuit)

    def hung(self, model: str, now: float) -> None:
        self._count(self._circuit(model), now, at_once="hung")

    def reached(self, now: float) -> None:
        """One that was absent is there: it need not be waited for."""
        if self._whole is not None and self._whole.reason == "absent":
            self._whole.try_now(now)

    def close(self) -> None:
        """The endpoint is gone, and no longer among those that are out."""
        for circuit in self._known():
            if circuit.open:
                self.signals.ejected(circuit.name, self.variant).dec()

    def state(self) -> dict[str, Any]:
        return {
            circuit.name: {"reason": circuit.reason, "trying": circuit.trying}
            for circuit in self._known()
            if circuit.open
        }

    def _count(self, circuit: Circuit | None, now: float, *, at_once: str = "", may_doubt: bool = False) -> None:
        if circuit is not None and circuit.failed(now, at_once=at_once, may_doubt=may_doubt):
            self._opened(circuit)

    def _opened(self, circuit: Circuit) -> None:
        self.signals.ejections(circuit.name, self.variant, circuit.reason).inc()
        self.signals.ejected(circuit.name, self.variant).inc()
        self.told(circuit.name, f"is out: {circuit.reason}")

    def _circuits(self, model: str) -> tuple[Circuit, ...]:
        found = self._of.get(model)
        if found is None:
            policy = self.models.get(model, self.default)
            own = Circuit(model, policy) if policy else None
            found = self._of[model] = tuple(circuit for circuit in (self._whole, own) if circuit is not None)
        return found

    def _circuit(self, model: str) -> Circuit | None:
        return next((circuit for circuit in self._circuits(model) if circuit.name == model), None)

    def _known(self) -> set[Circuit]:
        known = {circuit for circuits in self._of.values() for circuit in circuits}
        return known | ({self._whole} if self._whole is not None else set())
