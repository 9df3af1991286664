"""Which versions a model should have: version policies over the folders under its base path.

The behaviour is that of sources/storage_path/file_system_storage_path_source.cc.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from serving.embedded.errors import ServingError, invalid_argument

LOG = logging.getLogger(__name__)

Aspired = Mapping[str, Mapping[int, str]]
"""Model name -> version -> path of its folder."""

_NUMBER = re.compile(r"\s*-?[0-9]+\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Latest:
    count: int


@dataclass(frozen=True, slots=True)
class All:
    pass


@dataclass(frozen=True, slots=True)
class Specific:
    versions: frozenset[int]


Policy = Latest | All | Specific


class Watched(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def base_path(self) -> str: ...
    @property
    def policy(self) -> Policy: ...


def version_number(child: str) -> int | None:
    """The version that a folder's name means, or None; as strings::safe_strto64 reads it, so `007` is 7."""
    if not _NUMBER.fullmatch(child):
        return None
    number = int(child)
    return number if -(2**63) <= number < 2**63 else None


def aspired_versions(policy: Policy, children: Iterable[str]) -> dict[int, str]:
    """Version -> folder name, of the children that the policy wants; of two names for one version the later counts."""
    found = {number: child for child in sorted(children) if (number := version_number(child)) is not None}
    match policy:
        case Latest(count):
            return {number: found[number] for number in sorted(found, reverse=True)[:count]}
        case All():
            return found
        case Specific(versions):
            return {number: child for number, child in found.items() if number in versions}


class FolderSource:
    """Polls the base paths of `models`.

    One base path that cannot be read fails the whole poll, so nothing is loaded and nothing unloaded, for any model: so
    does TF Serving. A base path that exists and is empty unloads the model's versions.
    """

    def __init__(self, models: Sequence[Watched]) -> None:
        self._models = tuple(models)
        self._complaints: set[str] = set()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(model.name for model in self._models)

    def poll(self) -> Aspired | None:
        """What should be served now; None, with a log line on the first time, if a base path cannot be read."""
        try:
            aspired = {model.name: self._poll_one(model) for model in self._models}
        except ServingError as error:
            self._complain(f"filesystem access error: {error.message}")
            return None
        self._complain(*(f"no version folders under the base path of {name}" for name in aspired if not aspired[name]))
        return aspired

    def _poll_one(self, model: Watched) -> dict[int, str]:
        try:
            children = os.listdir(model.base_path)
        except OSError as error:
            raise invalid_argument(
                f"Could not find base path {model.base_path} for servable {model.name} "
                f"with error {os.strerror(error.errno or 0)}"
            ) from error
        wanted = aspired_versions(model.policy, children)
        return {number: os.path.join(model.base_path, child) for number, child in wanted.items()}

    def _complain(self, *complaints: str) -> None:
        # The same line at every poll would bury the rest of the log.
        for complaint in sorted(set(complaints) - self._complaints):
            LOG.warning("%s", complaint)
        self._complaints = set(complaints)
