"""One loaded version of a model, and who uses it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from serving.embedded.model import Model, Quick, Run, SignatureDef


class Servable:
    """Calls hold the servable; `retire` waits for them, then closes the model."""

    def __init__(self, model: Model, *, batched: Callable[[Run], Run] | None = None, duet: bytes = b"") -> None:
        self._model = model
        #: What Duet knows of it, as JSON; empty where that is nothing.
        self.duet = duet
        self.signatures: Mapping[str, SignatureDef] = model.signatures
        self.run: Run = batched(model.run) if batched else model.run
        #: Who leads a batch waits for others.
        self.quick: Quick = (lambda feeds, fetches: False) if batched else model.quick
        self._idle = threading.Condition()
        self._calls = 0
        self._retired = False

    def hold(self) -> bool:
        """Take part; False once it is retired."""
        with self._idle:
            if self._retired:
                return False
            self._calls += 1
            return True

    def release(self) -> None:
        with self._idle:
            self._calls -= 1
            if not self._calls:
                self._idle.notify_all()

    def retire(self) -> None:
        """Take no more calls, wait for those in flight, close."""
        with self._idle:
            self._retired = True
            self._idle.wait_for(lambda: not self._calls)
        self._model.close()
