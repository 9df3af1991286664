"""How much each caller may ask for: requests a second, requests at a time, elements and bytes a day.

Over the workers of one gateway the figures are exact, since they share a `Ledger`. Several gateways know nothing of
each other: each gives the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf
from time import monotonic, time

from gateway.errors import ResourceExhausted
from gateway.security.access import Identity, Notes, Quota
from gateway.security.ledger import Ledger, Record

_DAY_SECONDS = 86_400
_MAX_PLANS = 4096


class QuotaExceeded(ResourceExhausted):
    """The caller's own quota, not the gateway's load; ``notes`` say what is left."""

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.notes: Notes = ()


@dataclass(frozen=True, slots=True)
class _Plan:
    """A quota, worked out.

    ``policy`` is the header that tells of it, ``q`` in a window of ``w`` seconds; None without a rate
    (draft-ietf-httpapi-ratelimit-headers-10).
    """

    quota: Quota
    rate: float
    burst: float
    concurrency: float
    elements_per_day: float
    bytes_per_day: float
    policy: tuple[bytes, bytes] | None

    @classmethod
    def of(cls, quota: Quota) -> _Plan:
        """What is not limited is infinite."""
        rate, burst, policy = inf, inf, None
        if quota.requests_per_second is not None:
            rate = quota.requests_per_second
            burst = quota.burst or max(1, ceil(rate))
            policy = (b"ratelimit-policy", b'"requests";q=%d;w=%d' % (burst, ceil(burst / rate)))
        return cls(
            quota,
            rate,
            burst,
            inf if quota.concurrency is None else quota.concurrency,
            inf if quota.elements_per_day is None else quota.elements_per_day,
            inf if quota.bytes_per_day is None else quota.bytes_per_day,
            policy,
        )


class Quotas:
    """``clock`` is shared by the machine's processes (CLOCK_MONOTONIC), ``time`` is of the epoch."""

    def __init__(
        self, ledger: Ledger, *, clock: Callable[[], float] = monotonic, time: Callable[[], float] = time
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._time = time
        self._plans: dict[str, _Plan] = {}

    def enter(self, identity: Identity) -> Notes:
        """A request begins: one off the rate, and one in flight, which `leave` takes back, whatever happens.

        Gives what to tell the caller of its rate. Raises QuotaExceeded, also where nothing of the day is left.
        """
        quota = identity.quota
        if quota is None:
            return ()
        plan = self._plan(identity.id, quota)
        now = self._clock()
        record = self._ledger.open(identity.id, now)
        left = plan.burst
        # Another worker may have come in between the clock and the lock: time must not go back.
        if now < record.at:
            now = record.at
        if plan.policy is not None:
            tokens = record.tokens + (now - record.at) * plan.rate
            if tokens < left:
                left = tokens
        over = None
        if record.elements >= plan.elements_per_day or record.bytes >= plan.bytes_per_day:
            over = self._over(plan, record, 1, 1)
        if over is None and record.in_flight >= plan.concurrency:
            text = f"more than {plan.concurrency} requests at a time; wait for one to end"
            over = QuotaExceeded(text, retry_after_seconds=1)
        if over is None and left < 1:
            text = f"more than {plan.rate:g} requests a second; wait and send again"
            over = QuotaExceeded(text, retry_after_seconds=(1 - left) / plan.rate)
        if over is None:
            left -= 1
        record.tokens, record.at = left, now
        self._ledger.close(record, 1 if over is None else 0)
        notes: Notes = ()
        if plan.policy is not None:
            # ``t``: seconds until the whole burst can come again.
            full = ceil((plan.burst - left) / plan.rate)
            notes = (plan.policy, (b"ratelimit", b'"requests";r=%d;t=%d' % (left, full)))
        if over is not None:
            over.notes = notes
            raise over
        return notes

    def spend(self, identity: Identity, *, elements: int = 0, bytes: int = 0) -> None:
        """Of the day's. What does not fit is not taken, and refused until midnight UTC. Raises QuotaExceeded."""
        if identity.quota is None:
            return
        plan = self._plan(identity.id, identity.quota)
        if plan.elements_per_day == inf and plan.bytes_per_day == inf:
            return
        record = self._ledger.open(identity.id, self._clock())
        over = self._over(plan, record, elements, bytes)
        if over is not None:
            self._ledger.release()
            raise over
        record.elements += elements
        record.bytes += bytes
        self._ledger.close(record)

    def leave(self, identity: Identity, *, bytes: int = 0) -> None:
        """A request that `enter` let in has ended. ``bytes`` of its body that nobody has spent count too."""
        if identity.quota is None:
            return
        record = self._ledger.open(identity.id, self._clock())
        if bytes and identity.quota.bytes_per_day is not None:
            self._over(self._plan(identity.id, identity.quota), record, 0, 0)
            record.bytes += bytes
        self._ledger.close(record, -1)

    def _over(self, plan: _Plan, record: Record, elements: int, bytes: int) -> QuotaExceeded | None:
        """What is said to who has no room for so much today. Begins a new day in the record where there is one."""
        today, seconds = divmod(self._time(), _DAY_SECONDS)
        if record.day != today:
            record.day, record.elements, record.bytes = int(today), 0, 0
        if record.elements + elements > plan.elements_per_day:
            limit = f"{plan.elements_per_day} elements"
        elif record.bytes + bytes > plan.bytes_per_day:
            limit = f"{plan.bytes_per_day} bytes"
        else:
            return None
        text = f"more than {limit} a day; the next day begins at midnight UTC"
        return QuotaExceeded(text, retry_after_seconds=_DAY_SECONDS - seconds)

    def _plan(self, caller: str, quota: Quota) -> _Plan:
        plan = self._plans.get(caller)
        if plan is None or plan.quota is not quota:
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            plan = self._plans[caller] = _Plan.of(quota)
        return plan
