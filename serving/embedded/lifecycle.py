"""Loads and unloads versions so that what is configured and lies there is what is served.

A new version is loaded before an old one goes, and the last that serves stays until another can take over
(availability_preserving_policy.cc); calls in flight end on the version that they began with; a version that cannot be
loaded is reported and harms no other. Loading and unloading have threads of their own: neither a slow load nor a long
call holds up another model.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import grpc

from serving.embedded.errors import ServingError, failed_precondition, invalid_argument, not_found
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
    """`failed`: not to be tried again while it is aspired. `tried`: a first attempt has ended, well or not."""

    state: State = State.START
    error: str = ""
    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    servable: Servable | None = None
    failed: bool = False
    tried: bool = False


class LoadFailed(Exception):
    """A model cannot be loaded; the text names it and has TensorFlow's reason."""


class Lifecycle:
    """The versions of every configured model. Any thread may call anything."""

    def __init__(
        self,
        *,
        load: Callable[[str, int, Path], Servable],
        max_retries: int,
        retry_seconds: float,
        load_threads: int,
        labels_before_versions: bool,
        report: Callable[[str], None],
    ) -> None:
        self._models: dict[str, ModelConfig] = {}
        self._load = load
        self._max_retries = max_retries
        self._retry_seconds = retry_seconds
        self._labels_before_versions = labels_before_versions
        self._report = report
        self._versions: dict[str, dict[int, Version]] = {}
        self._stop = threading.Event()
        self._poller: threading.Thread | None = None
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._loads = ThreadPoolExecutor(load_threads, thread_name_prefix="load")

    def configure(self, models: Sequence[ModelConfig], *, poll_seconds: float = 0.2) -> None:
        """Serve these models and no others; returns when each has a version that serves.

        Waits for ever for a model without a version, as the real server does. Raises LoadFailed if a model cannot be
        loaded, and ServingError (FAILED_PRECONDITION) where a label names a version that does not serve.
        """
        self._check_labels(models)
        mine = {model.name: model for model in models}
        with self._lock:
            self._models = mine
        while self._models is mine and not self._stop.is_set():
            self.reconcile()
            with self._changed:
                if self._settled():
                    return
                self._changed.wait(poll_seconds)

    def poll(self, seconds: float) -> None:
        """Reconcile every ``seconds`` in the background, until `close`."""

        def run() -> None:
            while not self._stop.wait(seconds):
                self.reconcile()

        self._poller = threading.Thread(target=run, name="poll", daemon=True)
        self._poller.start()

    def close(self) -> None:
        """Start nothing more. What is being loaded is not waited for."""
        self._stop.set()
        self._loads.shutdown(wait=False, cancel_futures=True)

    def reconcile(self) -> None:
        """Begin to load what is new, and to unload what is no longer aspired once something else serves."""
        with self._lock:
            models = dict(self._models)
        for name in [*models, *(set(self._versions) - set(models))]:
            aspired = models[name].aspired() if name in models else {}
            if aspired is not None:
                with self._lock:
                    self._step(name, aspired)

    def status(self, name: str, number: int | None) -> list[tuple[int, Version]]:
        """Newest first. Raises ServingError (NOT_FOUND)."""
        with self._lock:
            versions = dict(self._versions.get(name, {}))
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
        number, servable = self.hold(name, number, label)
        try:
            yield number, servable
        finally:
            servable.release()

    def hold(self, name: str, wanted: int | None, label: str) -> tuple[int, Servable]:
        """As `serving`, for who calls the version's `release` after it. Raises ServingError."""
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

    def _check_labels(self, models: Sequence[ModelConfig]) -> None:
        """A label may only name a version that serves; with the flag, a *new* label may name any (server_core.cc)."""
        for model in models:
            known = self._models[model.name].labels if model.name in self._models else {}
            for label, number in model.labels.items():
                if self._labels_before_versions and label not in known:
                    continue
                if number not in self._available(model.name):
                    raise failed_precondition(
                        f"Request to assign label to {number} of model {model.name}, "
                        "which is not currently available for inference"
                    )

    def _settled(self) -> bool:
        """Whether every model serves and all its versions were tried once. Raises LoadFailed if one never will."""
        failures = []
        for name in self._models:
            versions = self._versions.get(name, {})
            if versions and not self._available(name) and all(version.failed for version in versions.values()):
                number, version = max(versions.items())
                told = f"{version.code.name}: {version.error}"
                failures.append(f"{{{{name: {name} version: {number}}} due to error: {told}}}")
        if failures:
            raise LoadFailed(f"{len(failures)} servable(s) did not become available: {{{', '.join(failures)}, }}")
        return all(
            self._available(name)
            and all(version.tried for version in self._versions[name].values() if version.state is not State.END)
            for name in self._models
        )

    def _step(self, name: str, aspired: dict[int, Path]) -> None:
        versions = self._versions.setdefault(name, {})
        for number, version in versions.items():
            if number not in aspired:
                version.failed = False  # the folder may come back, mended
        for number, path in aspired.items():
            version = versions.get(number)
            if version is None or (version.state is State.END and not version.failed):
                versions[number] = version = Version(State.LOADING)
                self._loads.submit(self._bring_up, name, number, path, version)
        served = any(number in aspired and version.state is State.AVAILABLE for number, version in versions.items())
        if not aspired or served:
            for number, version in versions.items():
                if number not in aspired and version.state is State.AVAILABLE:
                    version.state = State.UNLOADING
                    threading.Thread(target=self._take_down, args=(name, number, version), daemon=True).start()

    def _bring_up(self, name: str, number: int, path: Path, version: Version) -> None:
        for attempt in range(self._max_retries + 1):
            begun = time.monotonic()
            try:
                servable = self._load(name, number, path)
            except Exception as error:
                self._note(version, error)
                self._report(f"cannot load {{name: {name} version: {number}}}: {version.error}")
                if attempt < self._max_retries and self._stop.wait(self._retry_seconds):
                    break
                continue
            with self._changed:
                version.servable, version.error, version.tried = servable, "", True
                version.state = State.AVAILABLE
                self._changed.notify_all()
            seconds = time.monotonic() - begun
            self._report(f"Successfully loaded servable version {{name: {name} version: {number}}} in {seconds:.1f} s")
            self.reconcile()  # what it replaces can go now
            return
        with self._changed:
            version.failed, version.state = True, State.END
            self._changed.notify_all()

    def _note(self, version: Version, error: Exception) -> None:
        with self._changed:
            version.error, version.tried = str(error) or type(error).__name__, True
            version.code = error.code if isinstance(error, ServingError) else grpc.StatusCode.UNKNOWN
            self._changed.notify_all()

    def _take_down(self, name: str, number: int, version: Version) -> None:
        if version.servable:
            version.servable.retire()
        version.servable, version.state = None, State.END
        self._report(f"Done unloading servable version {{name: {name} version: {number}}}")
