"""The configuration files that a TensorFlow Serving reads, where they can be read here too."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from gateway import errors
from gateway.codecs import batching_parameters, model_config
from gateway.stamps import Stamp, stamp
from gateway.types import ServerBatching

log = logging.getLogger("duet.backends.tfserving")


class ModelConfigFile:
    """Read again when it has changed: it may be long, and is asked about each of its models each second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at: Stamp | None = None
        self._labels: Mapping[str, tuple[str, ...]] = {}

    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """The labels of each model by its name. Raises Unavailable where the file cannot be read or understood."""
        try:
            now = stamp(self._path)
            if now != self._read_at:
                self._labels = model_config.labels(self._path.read_text())
                self._read_at = now
        except (OSError, ValueError, errors.InvalidArgument) as error:
            log.warning("%s: %s", self._path, error)
            raise errors.Unavailable(
                "TensorFlow Serving's model configuration cannot be read", retry_after_seconds=1
            ) from error
        return self._labels


class BatchingParametersFile:
    """The file that the server gets by its flag ``--batching_parameters_file``. It is read again when it has changed.

    ``setting`` is what the gateway's settings call it, for the log. A file that cannot be read or understood is logged
    once, and nothing is known until it can.
    """

    def __init__(self, path: Path, *, setting: str) -> None:
        self._path = path
        self._setting = setting
        self._read_at: Stamp | None = None
        self._batching: ServerBatching | None = None
        self._fault = ""

    def batching(self) -> ServerBatching | None:
        try:
            now = stamp(self._path)
            if now != self._read_at:
                size = batching_parameters.max_batch_size(self._path.read_text())
                why = f"the server batches by its own configuration ({self._setting}, max_batch_size {size})"
                self._batching, self._read_at, self._fault = ServerBatching(why, size), now, ""
        except (OSError, ValueError, errors.InvalidArgument) as error:
            self._batching, self._read_at = None, None
            if str(error) != self._fault:
                log.error("%s: %s cannot be used, so requests go alone: %s", self._setting, self._path, error)
            self._fault = str(error)
        return self._batching
