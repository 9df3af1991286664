"""Whose turn it is, and what is not tried again. Pure decisions: no I/O, no clock."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

from gateway.errors import DuetError

_T = TypeVar("_T")


class Turns(Generic[_T]):
    """What waits, by caller. One of each caller in turn: who has many waiting makes nobody wait for more than one."""

    def __init__(self) -> None:
        self._callers: OrderedDict[str, deque[_T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._callers.values()))

    def add(self, caller: str, item: _T) -> None:
        self._callers.setdefault(caller, deque()).append(item)

    def next(self) -> _T | None:
        if not self._callers:
            return None
        caller, items = self._callers.popitem(last=False)
        item = items.popleft()
        if items:
            self._callers[caller] = items
        return item

    def discard(self, caller: str, item: _T) -> None:
        """It waits no more, if it still did."""
        items = self._callers.get(caller)
        if items is None or item not in items:
            return
        items.remove(item)
        if not items:
            del self._callers[caller]


class Quarantine:
    """The digests of requests that did harm, and the error that each got: ``most`` of them, for ``seconds``."""

    def __init__(self, *, seconds: float = 60.0, most: int = 1024) -> None:
        self._seconds = seconds
        self._most = most
        self._errors: OrderedDict[bytes, tuple[float, DuetError]] = OrderedDict()

    def add(self, digest: bytes, error: DuetError, now: float) -> None:
        self._errors.pop(digest, None)
        self._errors[digest] = now + self._seconds, error
        if len(self._errors) > self._most:
            self._errors.popitem(last=False)

    def of(self, digest: bytes, now: float) -> DuetError | None:
        while self._errors and next(iter(self._errors.values()))[0] <= now:
            self._errors.popitem(last=False)
        found = self._errors.get(digest)
        return found[1] if found is not None else None
