"""Which versions of a model lie in its folder, and which of them are to be served."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


class Policy(Protocol):
    def choose(self, versions: Iterable[int]) -> set[int]: ...


@dataclass(frozen=True, slots=True)
class Latest:
    count: int = 1

    def choose(self, versions: Iterable[int]) -> set[int]:
        return set(sorted(versions)[-self.count :])


@dataclass(frozen=True, slots=True)
class All:
    def choose(self, versions: Iterable[int]) -> set[int]:
        return set(versions)


@dataclass(frozen=True, slots=True)
class Specific:
    wanted: frozenset[int]

    def choose(self, versions: Iterable[int]) -> set[int]:
        return set(versions) & self.wanted


@dataclass(frozen=True, slots=True)
class ModelConfig:
    name: str
    base_path: Path
    policy: Policy = field(default_factory=Latest)
    labels: Mapping[str, int] = field(default_factory=dict)

    def aspired(self) -> dict[int, Path] | None:
        """The versions to be served, and where they lie. A folder is a version if its name is a whole number.

        None if the base path cannot be read: then nothing changes. A base path that is empty aspires to nothing, and
        what was served is unloaded (file_system_storage_path_source.cc).
        """
        folders = _folders(self.base_path)
        if folders is None:
            return None
        found = {int(path.name): path for path in folders if _is_version(path.name)}
        return {version: found[version] for version in sorted(self.policy.choose(found))}


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdigit() and int(name) < 1 << 63


def _folders(base_path: Path) -> list[Path] | None:
    try:
        return [path for path in base_path.iterdir() if path.is_dir()]
    except OSError:
        return None  # not there yet, or not there for a moment
