"""English prose that every Python carries, the topics of `help()`, cut into windows for a model of characters."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from functools import cache

import numpy as np

from models.spec import Array, Dataset, Split

VOCABULARY = "\n " + string.ascii_lowercase + string.ascii_uppercase + string.digits + ".,;:!?'\"()*_-/"
"""A character's token is its place in here. A line break begins and ends a paragraph, and stands nowhere inside."""
TIME = 64
FEWEST_CHARACTERS = 60
MOST_MARKUP = 1 / 18
HELD_OUT_SHARE = 0.1
SPLIT_SEED = 20
PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "`": "'"})


def encode(text: str) -> list[int]:
    """Tokens of the characters; ValueError names one that the vocabulary has not.

    >>> encode("a b")
    [2, 1, 3]
    """
    if unknown := sorted(set(text) - set(VOCABULARY)):
        raise ValueError(f"the model knows no {unknown[0]!r}; it knows {VOCABULARY[2:]}, space and line break")
    return [VOCABULARY.index(character) for character in text]


def decode(tokens: Iterable[int]) -> str:
    return "".join(VOCABULARY[token] for token in tokens)


@cache
def python_topics(hidden: int) -> Dataset:
    """A tenth of the paragraphs held out. int64 [n, 64] and two states of zeros, float32 [n, hidden]; the targets are
    the tokens one character on. Which paragraphs there are depends on the version of Python.
    """
    from pydoc_data.topics import topics

    found = paragraphs(topics[name] for name in sorted(topics))
    order = np.random.default_rng(SPLIT_SEED).permutation(len(found))
    held_out = round(HELD_OUT_SHARE * len(found))
    parts = [[found[place] for place in order[held_out:]], [found[place] for place in order[:held_out]]]
    train, rest = (windows("\n" + "\n".join(part), hidden) for part in parts)
    return Dataset("python_topics", train, rest)


def paragraphs(texts: Iterable[str]) -> list[str]:
    """Each once, on one line. Left out: headings, code, grammar, and what is mostly names."""
    found: dict[str, None] = {}
    for text in texts:
        for block in re.split(r"\n\s*\n", text):
            line = " ".join(block.translate(PLAIN).split())
            if is_prose(line):
                found[line] = None
    return list(found)


def is_prose(line: str) -> bool:
    markup = sum(line.count(sign) for sign in "\"*_('")
    return (
        len(line) >= FEWEST_CHARACTERS
        and line[0].isalpha()
        and line[-1] in ".:"
        and set(line) <= set(VOCABULARY)
        and markup <= MOST_MARKUP * len(line)
    )


def windows(text: str, hidden: int) -> Split:
    tokens = np.array(encode(text), np.int64)
    rows = (len(tokens) - 1) // TIME
    state: Array = np.zeros((rows, hidden), np.float32)
    shown, following = (tokens[start : start + rows * TIME].reshape(rows, TIME) for start in (0, 1))
    return Split((shown, state, state), following)
