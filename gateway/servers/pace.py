"""How quickly one endpoint answers one model's calls, as far as is known. Time comes in as an argument."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import Any

#: A call's share in the average.
_SHARE = 0.3
#: What was measured that long ago counts for a third: whoever is spared for being slow is looked at again.
_FORGET_SECONDS = 10.0
#: The same for failures.
_FORGIVE_SECONDS = 5.0
_LEAST_PENALTY_SECONDS = 0.02
_MOST_PENALTY_SECONDS = 10.0
#: A server that works on nothing for so long, while requests wait there, hangs: at least, and where it never answered.
_HANGS_SECONDS = 3.0
_FIRST_ANSWER_SECONDS = 30.0


@dataclass(slots=True)
class Pace:
    """``seconds`` is the average of answers alone: a refusal is quick, and must not make an endpoint look so."""

    seconds: float = 0.0
    _measured_at: float = 0.0
    _penalty: float = 0.0
    _failed_at: float = 0.0
    _answers: int = 0
    _answers_before: int = 0
    _pending_before: int = 0
    _silent_since: float | None = None

    def answered(self, now: float, seconds: float) -> None:
        self.seconds = self.seconds + _SHARE * (seconds - self.seconds) if self._answers else seconds
        self._measured_at = now
        self._answers += 1
        if self._penalty:
            self._penalty /= 2

    def failed(self, now: float, seconds: float) -> None:
        """It costs the endpoint more each time, and is forgiven with time and with each answer."""
        penalty = max(_LEAST_PENALTY_SECONDS, seconds, 2 * self.seconds, 2 * self._penalty_now(now))
        self._penalty = min(penalty, _MOST_PENALTY_SECONDS)
        self._failed_at = now

    def forgive(self) -> None:
        """What it failed is no sign of what it will do."""
        self._penalty = 0.0

    def expected(self, now: float) -> float:
        """Seconds that a call should take; 0 where nothing is known."""
        measured = self.seconds * exp((self._measured_at - now) / _FORGET_SECONDS)
        return max(measured, self._penalty_now(now)) if self._penalty else measured

    def hangs(self, now: float, pending: int) -> bool:
        """To be asked at each look at the server, which has ``pending`` requests waiting.

        True where these have not become fewer for long, and nothing was answered meanwhile.
        """
        moves = not pending or pending < self._pending_before or self._answers != self._answers_before
        self._pending_before, self._answers_before = pending, self._answers
        if moves:
            self._silent_since = None
            return False
        if self._silent_since is None:
            self._silent_since = now
        patience = max(_HANGS_SECONDS, 5 * self.seconds) if self._answers else _FIRST_ANSWER_SECONDS
        return now - self._silent_since >= patience

    def state(self) -> dict[str, Any]:
        return {"answers": self._answers, "seconds": round(self.seconds, 6)}

    def _penalty_now(self, now: float) -> float:
        return self._penalty * exp((self._failed_at - now) / _FORGIVE_SECONDS)
