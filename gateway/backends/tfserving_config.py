"""The configuration file that a TensorFlow Serving reads, where it can be read here too."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from gateway import errors
from gateway.codecs import model_config
from gateway.stamps import Stamp, stamp

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
