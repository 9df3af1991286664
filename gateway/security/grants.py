"""What a caller may do: verbs by patterns of models. What no grant names is not allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import IntEnum
from fnmatch import translate

#: Answers that are remembered for a caller: names that clients make up must not fill the memory.
_MAX_REMEMBERED = 4096
_PATTERN = re.compile(r"[A-Za-z0-9._*?-]{1,128}")


class Verb(IntEnum):
    """``admin`` is for what changes a server or tells of it; the rest is about models."""

    PREDICT = 0
    METADATA = 1
    ADMIN = 2

    def __str__(self) -> str:
        return self.name.lower()


_VERBS = {str(verb): verb for verb in Verb}


class GrantError(ValueError):
    """A grant that cannot be read; the message says how one is written."""


class Grants:
    """``entries`` are written ``VERB[,VERB...]:PATTERN``, where ``*`` stands for any text and ``?`` for one character.

    >>> Grants(["predict,metadata:convnet*"]).allow(Verb.PREDICT, "convnet-2")
    True
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self.entries = tuple(entries)
        self._rules = [_rule(entry) for entry in self.entries]
        self._known: dict[str, list[bool]] = {}

    def allow(self, verb: Verb, model: str) -> bool:
        answers = self._known.get(model)
        if answers is None:
            granted = [verbs for verbs, pattern in self._rules if pattern.fullmatch(model)]
            answers = [any(each in verbs for verbs in granted) for each in Verb]
            if len(self._known) >= _MAX_REMEMBERED:
                self._known.clear()
            self._known[model] = answers
        return answers[verb]


NO_GRANTS = Grants(())


def _rule(entry: str) -> tuple[frozenset[Verb], re.Pattern[str]]:
    verbs, separator, pattern = entry.partition(":")
    try:
        granted = frozenset(_VERBS[verb.strip()] for verb in verbs.split(","))
    except KeyError:
        granted = frozenset()
    if not separator or not granted or not _PATTERN.fullmatch(pattern):
        raise GrantError(
            f"{entry!r} is no grant; write verbs and models, such as predict,metadata:convnet* "
            f"(verbs: {', '.join(_VERBS)})"
        )
    return granted, re.compile(translate(pattern))
