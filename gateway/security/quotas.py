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
from gateway.security.access import Identity, Quota
from gateway.security.ledger import Ledger, Record

_DAY_SECONDS = 86_400
_MAX_PLANS = 4096

#: Names and values of headers, or of trailing metadata.
Notes = tuple[tuple[str, str], ...]


class QuotaExceeded(ResourceExhausted):
    """The caller's own quota, not the gateway's load; ``notes`` say what is left."""

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.notes: Notes = ()


@dataclass(frozen=True, slots=True)
class _Plan:
    """A quota, worked out. ``policy``: ``q`` in a window of ``w`` seconds (draft-ietf-httpapi-ratelimit-headers-10)."""

    quota: Quota
    rate: float
    burst: int
    daily: bool
    policy: str

    @classmethod
    def of(cls, quota: Quota) -> _Plan:
        """Without a rate, one that is never used up."""
        rate = quota.requests_per_second
        if rate is None:
            return cls(quota, inf, 1, _is_daily(quota), "")
        burst = quota.burst or max(1, ceil(rate))
        return cls(quota, rate, burst, _is_daily(quota), f'"requests";q={burst};w={ceil(burst / rate)}')


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
        plan = self._plans.get(identity.id)
        if plan is None or plan.quota is not quota:
            plan = self._plan(identity.id, quota)
        now = self._clock()
        record = self._ledger.open(identity.id, now)
        left = float(plan.burst)
        if plan.rate != inf:
            left = min(left, record.tokens + max(0.0, now - record.at) * plan.rate)
        over = self._over(quota, record, 1, 1) if plan.daily else None
        if over is None and quota.concurrency is not None and record.in_flight >= quota.concurrency:
            text = f"more than {quota.concurrency} requests at a time; wait for one to end"
            over = QuotaExceeded(text, retry_after_seconds=1)
        if over is None and left < 1:
            text = f"more than {plan.rate:g} requests a second; wait and send again"
            over = QuotaExceeded(text, retry_after_seconds=(1 - left) / plan.rate)
        if over is None:
            left -= 1
        # Another worker may have come in between the clock and the lock: time must not go back.
        record.tokens, record.at = left, max(record.at, now)
        self._ledger.close(record, 1 if over is None else 0)
        notes = _notes(plan, left) if plan.policy else ()
        if over is not None:
            over.notes = notes
            raise over
        return notes

    def spend(self, identity: Identity, *, elements: int = 0, bytes: int = 0) -> None:
        """Of the day's. What does not fit is not taken, and refused until midnight UTC. Raises QuotaExceeded."""
        quota = identity.quota
        if quota is None or not _is_daily(quota):
            return
        record = self._ledger.open(identity.id, self._clock())
        over = self._over(quota, record, elements, bytes)
        if over is not None:
            self._ledger.release()
            raise over
        record.elements += elements
        record.bytes += bytes
        self._ledger.close(record)

    def leave(self, identity: Identity, *, bytes: int = 0) -> None:
        """A request that `enter` let in has ended. ``bytes`` of its body that nobody has spent count too."""
        quota = identity.quota
        if quota is None:
            return
        record = self._ledger.open(identity.id, self._clock())
        if bytes and quota.bytes_per_day is not None:
            self._over(quota, record, 0, 0)
            record.bytes += bytes
        self._ledger.close(record, -1)

    def _over(self, quota: Quota, record: Record, elements: int, bytes: int) -> QuotaExceeded | None:
        """What is said to who has no room for so much today. Begins a new day in the record where there is one."""
        today, seconds = divmod(self._time(), _DAY_SECONDS)
        if record.day != today:
            record.day, record.elements, record.bytes = int(today), 0, 0
        for what, limit, used in (
            ("elements", quota.elements_per_day, record.elements + elements),
            ("bytes", quota.bytes_per_day, record.bytes + bytes),
        ):
            if limit is not None and used > limit:
                text = f"more than {limit} {what} a day; the next day begins at midnight UTC"
                return QuotaExceeded(text, retry_after_seconds=_DAY_SECONDS - seconds)
        return None

    def _plan(self, caller: str, quota: Quota) -> _Plan:
        if len(self._plans) >= _MAX_PLANS:
            self._plans.clear()
        plan = self._plans[caller] = _Plan.of(quota)
        return plan


def _is_daily(quota: Quota) -> bool:
    return quota.elements_per_day is not None or quota.bytes_per_day is not None


def _notes(plan: _Plan, left: float) -> Notes:
    """``t``: seconds until the whole burst can come again."""
    full = ceil((plan.burst - left) / plan.rate)
    return (("ratelimit-policy", plan.policy), ("ratelimit", f'"requests";r={int(left)};t={full}'))
