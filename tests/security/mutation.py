"""One control switched off: where, how, and which tests must notice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """``tests`` is what pytest is given: a file of this folder, and the words that its tests' names hold."""

    control: str
    file: str
    old: str
    new: str
    tests: str
    words: str = ""
