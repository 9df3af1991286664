"""How much each caller may ask for: requests a second, requests at a time, elements and bytes a day.

Over the workers of one gateway the figures are exact, since they share a `Ledger`. Several gateways know nothing of
each other: each gives the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from time import monotonic, time

from gateway.errors import ResourceExhausted
from gateway.security.access import Identity, Quota
from gateway.security.ledger import Ledger, Record

_DAY_SECONDS = 86_400

#: Names and values of headers, or of trailing metadata.
Notes = tuple[tuple[str, str], ...]


class QuotaExceeded(ResourceExhausted):
    """The caller's own quota, not the gateway's load; ``notes`` say what is left."""

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.notes: Notes = ()


class Quotas:
    """``clock`` is shared by the machine's processes (CLOCK_MONOTONIC), ``time`` is of the epoch."""

    def __init__(
        self, ledger: Ledger, *, clock: Callable[[], float] = monotonic, time: Callable[[], float] = time
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._time = time
        self._policies: dict[Quota, str] = {}

    def enter(self, identity: Identity) -> Notes:
        """A request begins: one off the rate, and one in flight, which `leave` takes back, whatever happens.

        Gives what to tell the caller of its rate. Raises QuotaExceeded, also where nothing of the day is left.
        """
        quota = identity.quota
        if quota is None:
            return ()
        ledger = self._ledger
        ledger.lock.acquire()
        try:
            now = self._clock()
            offset = ledger.find(identity.id, now)
            record = ledger.read(offset)
            over = self._over(quota, record, elements=1, bytes=1)
            if over is None and quota.concurrency is not None and ledger.in_flight(offset) >= quota.concurrency:
                over = QuotaExceeded(
                    f"more than {quota.concurrency} requests at a time; wait for one to end", retry_after_seconds=1
                )
            rate, left = quota.requests_per_second, 0.0
            if rate is not None:
                left = min(_burst(quota), record.tokens + max(0.0, now - record.at) * rate)
                if over is None and left < 1:
                    text = f"more than {rate:g} requests a second; wait and send again"
                    over = QuotaExceeded(text, retry_after_seconds=(1 - left) / rate)
                elif over is None:
                    left -= 1
                record.tokens = left
            record.at = now
            ledger.write(offset, record)
            if over is None and quota.concurrency is not None:
                ledger.add_in_flight(offset, 1)
        finally:
            ledger.lock.release()
        notes = () if rate is None else self._notes(quota, rate, left)
        if over is not None:
            over.notes = notes
            raise over
        return notes

    def spend(self, identity: Identity, *, elements: int = 0, bytes: int = 0) -> None:
        """Of the day's. What does not fit is not taken, and refused until midnight UTC. Raises QuotaExceeded."""
        quota = identity.quota
        if quota is None or (quota.elements_per_day is None and quota.bytes_per_day is None):
            return
        ledger = self._ledger
        ledger.lock.acquire()
        try:
            offset = ledger.find(identity.id, self._clock())
            record = ledger.read(offset)
            over = self._over(quota, record, elements, bytes)
            if over is None:
                record.elements += elements
                record.bytes += bytes
                ledger.write(offset, record)
        finally:
            ledger.lock.release()
        if over is not None:
            raise over

    def leave(self, identity: Identity, *, bytes: int = 0) -> None:
        """A request that `enter` let in has ended. ``bytes`` of its body that nobody has spent count too."""
        quota = identity.quota
        if quota is None or (quota.concurrency is None and (not bytes or quota.bytes_per_day is None)):
            return
        ledger = self._ledger
        ledger.lock.acquire()
        try:
            offset = ledger.find(identity.id, self._clock())
            if quota.concurrency is not None:
                ledger.add_in_flight(offset, -1)
            if bytes:
                record = ledger.read(offset)
                self._over(quota, record, 0, 0)
                record.bytes += bytes
                ledger.write(offset, record)
        finally:
            ledger.lock.release()

    def _over(self, quota: Quota, record: Record, elements: int, bytes: int) -> QuotaExceeded | None:
        """What is said to who has no room for so much today. Begins a new day in the record where there is one."""
        if quota.elements_per_day is None and quota.bytes_per_day is None:
            return None
        today, seconds = divmod(self._time(), _DAY_SECONDS)
        if record.day != today:
            record.day, record.elements, record.bytes = int(today), 0, 0
        over = _over(quota, record, elements, bytes)
        return None if over is None else QuotaExceeded(over, retry_after_seconds=_DAY_SECONDS - seconds)

    def _notes(self, quota: Quota, rate: float, left: float) -> Notes:
        return (
            ("ratelimit-policy", self._policy(quota)),
            ("ratelimit", f'"requests";r={int(left)};t={ceil((_burst(quota) - left) / rate)}'),
        )

    def _policy(self, quota: Quota) -> str:
        """draft-ietf-httpapi-ratelimit-headers-10: ``q`` within a window of ``w`` seconds."""
        known = self._policies.get(quota)
        if known is None:
            burst = _burst(quota)
            known = f'"requests";q={burst};w={ceil(burst / (quota.requests_per_second or 1))}'
            self._policies[quota] = known
        return known


def _burst(quota: Quota) -> int:
    return quota.burst or max(1, ceil(quota.requests_per_second or 1))


def _over(quota: Quota, record: Record, elements: int, bytes: int) -> str | None:
    if quota.elements_per_day is not None and record.elements + elements > quota.elements_per_day:
        return f"more than {quota.elements_per_day} elements a day; the next day begins at midnight UTC"
    if quota.bytes_per_day is not None and record.bytes + bytes > quota.bytes_per_day:
        return f"more than {quota.bytes_per_day} bytes a day; the next day begins at midnight UTC"
    return None
