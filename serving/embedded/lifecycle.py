"""Loads and unloads versions so that what is configured and lies there is what is served.

A new version is loaded before an old one goes (availability_preserving_policy.cc), calls in flight end on the version
that they began with, and a version that cannot be loaded is reported and harms no other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from serving.embedded.errors import invalid_argument, not_found
from serving.embedded.servable import Servable
from serving.embedded.versions import ModelConfig


class State(Enum):
    """ModelVersionStatus.State (apis/get_model_status.proto)."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(slots=True)
class Version:
    state: State
    error: str = ""
    servable: Servable | None = None


class LoadFailed(Exception):
    """A version cannot be loaded; the text is TensorFlow's."""


class Lifecycle:
    """The versions of every configured model. `reconcile` is called by one thread; everything else may be by any."""

    def __init__(
        self,
        models: Sequence[ModelConfig],
        *,
        load: Callable[[Path], Servable],
        max_retries: int,
        retry_seconds: float,
        report: Callable[[str], None],
    ) -> None:
        self._models = {model.name: model for model in models}
        self._load = load
        self._max_retries = max_retries
        self._retry_seconds = retry_seconds
        self._report = report
        self._versions: dict[str, dict[int, Version]] = {name: {} for name in self._models}
        self._stop = threading.Event()
        self._poller: threading.Thread | None = None

    def load_all(self) -> None:
        """Load what lies there; wait for models without a version. Raises LoadFailed if a version cannot be loaded."""
        while not self._stop.is_set():
            self.reconcile()
            for name, versions in self._versions.items():
                for number, version in versions.items():
                    if version.error:
                        raise LoadFailed(f"{{name: {name} version: {number}}}: {version.error}")
            if all(self._available(name) for name in self._models):
                return
            self._stop.wait(0.2)

    def poll(self, seconds: float) -> None:
        """Reconcile every ``seconds`` in the background, until `close`."""

        def run() -> None:
            while not self._stop.wait(seconds):
                self.reconcile()

        self._poller = threading.Thread(target=run, name="poll", daemon=True)
        self._poller.start()

    def close(self) -> None:
        self._stop.set()
        if self._poller:
            self._poller.join()

    def reconcile(self) -> None:
        """Load what is new, then unload what is no longer aspired."""
        for name, model in self._models.items():
            aspired, versions = model.aspired(), self._versions[name]
            for number, path in aspired.items():
                if number not in versions or (versions[number].state is State.END and not versions[number].error):
                    self._bring_up(name, number, path)
            if not aspired:
                continue  # an empty or vanished folder never takes a model out of service
            for number, version in list(versions.items()):
                if number not in aspired and version.state is State.AVAILABLE:
                    self._take_down(name, number, version)

    def status(self, name: str, number: int | None) -> list[tuple[int, Version]]:
        """Newest first. Raises ServingError (NOT_FOUND)."""
        versions = self._versions.get(name)
        if not versions:
            raise not_found(f"Could not find any versions of model {name}")
        if number is None:
            return sorted(versions.items(), reverse=True)
        if number not in versions:
            raise not_found(f"Could not find version {number} of model {name}")
        return [(number, versions[number])]

    @contextmanager
    def serving(self, name: str, *, number: int | None = None, label: str = "") -> Iterator[tuple[int, Servable]]:
        """A version that stays loaded inside the context. Raises ServingError."""
        number, servable = self._hold(name, number, label)
        try:
            yield number, servable
        finally:
            servable.release()

    def _hold(self, name: str, wanted: int | None, label: str) -> tuple[int, Servable]:
        if label:
            labels = self._models[name].labels if name in self._models else {}
            if label not in labels:
                raise invalid_argument(f"Unrecognized servable version label: {label}")
            wanted = labels[label]
        while True:
            available = self._available(name)
            number = max(available, default=None) if wanted is None else wanted
            servable = available.get(number) if number is not None else None
            if number is None or servable is None:
                what = f"Latest({name})" if wanted is None else f"Specific({name}, {wanted})"
                raise not_found(f"Servable not found for request: {what}")
            if servable.hold():
                return number, servable

    def _available(self, name: str) -> dict[int, Servable]:
        versions = self._versions.get(name, {})
        return {
            number: version.servable
            for number, version in list(versions.items())
            if version.state is State.AVAILABLE and version.servable
        }

    def _bring_up(self, name: str, number: int, path: Path) -> None:
        version = self._versions[name][number] = Version(State.LOADING)
        for attempt in range(self._max_retries + 1):
            begun = time.monotonic()
            try:
                version.servable = self._load(path)
            except Exception as error:
                version.error = str(error) or type(error).__name__
                self._report(f"cannot load {{name: {name} version: {number}}}: {version.error}")
                if attempt < self._max_retries and self._stop.wait(self._retry_seconds):
                    break
                continue
            version.error, version.state = "", State.AVAILABLE
            seconds = time.monotonic() - begun
            self._report(f"Successfully loaded servable version {{name: {name} version: {number}}} in {seconds:.1f} s")
            return
        version.state = State.END

    def _take_down(self, name: str, number: int, version: Version) -> None:
        version.state = State.UNLOADING
        if version.servable:
            version.servable.retire()
        version.servable, version.state = None, State.END
        self._report(f"Done unloading servable version {{name: {name} version: {number}}}")
