"""Where a large JSON document can be cut: the lists and objects that are large, and commas in them.

One pass over the bytes, a block at a time. A list or an object is large if it lasts over the border of two blocks and
is longer than one, so that there are few. What is no JSON is cut somehow: nothing here is a check.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

#: Also about how long the pieces are. A parser makes a megabyte or two of so much.
BLOCK_BYTES = 1 << 16
#: As deep as `gateway.codecs.scan` lets a document be.
MAX_DEPTH = 32

_MARKS = tuple(b'[]{}"')
_IS_TOKEN = np.zeros(256, np.bool_)
_IS_TOKEN[list(b"[]{},")] = True
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1
_QUOTE, _COMMA, _LIST = ord('"'), ord(","), ord("[")

Places = NDArray[np.int64]


@dataclass(slots=True)
class Cut:
    """A large list or object: from its bracket at ``start`` to the one at ``end``. ``commas`` are some of its own."""

    start: int
    is_list: bool
    end: int = -1
    commas: list[int] = field(default_factory=list)
    children: list[Cut] = field(default_factory=list)
    #: A child has just ended: the next comma is one to cut at.
    after_child: bool = False

    def pieces(self) -> list[tuple[int, int, Cut | None]]:
        """From where to where the pieces between the commas go, and the child that is the value of one."""
        borders = [self.start, *self.commas, self.end]
        found: list[tuple[int, int, Cut | None]] = []
        starts = [child.start for child in self.children]
        for before, after in pairwise(borders):
            place = bisect_left(starts, before + 1)
            inside = place < len(starts) and starts[place] < after
            found.append((before + 1, after, self.children[place] if inside else None))
        return found


def cut(text: bytes) -> Cut | None:
    """The document's own list or object, and the large ones in it. None where it is not large itself."""
    reading = _Reading(text)
    start = 0
    while start < len(text) and not reading.done:
        end = _block_end(text, start)
        reading.read(start, end)
        start = end
    return reading.root_cut()


def _block_end(text: bytes, start: int) -> int:
    """Never between a backslash and what it escapes."""
    end = min(start + BLOCK_BYTES, len(text))
    block = text[start:end]
    escapes = (len(block) - len(block.rstrip(b"\\"))) % 2 == 1
    return min(end + escapes, len(text))


class _Reading:
    def __init__(self, text: bytes) -> None:
        self.done = False
        self._text = text
        self._in_string = False
        self._open: list[Cut] = []
        self._root: Cut | None = None

    def root_cut(self) -> Cut | None:
        """Whatever is still open ends with the text."""
        while self._open:
            self._close(len(self._text))
        return self._root

    def read(self, start: int, end: int) -> None:
        block = self._text[start:end]
        if not self._in_string and self._open and not any(mark in block for mark in _MARKS):
            self._read_plain(block, start)
            return
        places, tokens = self._tokens(block)
        depths = np.cumsum(_STEPS[tokens], dtype=np.int32) + len(self._open)
        over = np.flatnonzero(depths <= 0)
        if len(over):  # the document is over; what follows is not for us
            self.done = True
            stop = int(over[0]) + int(depths[over[0]] == 0)  # one bracket too many closes nothing
            places, tokens, depths = places[:stop], tokens[:stop], depths[:stop]
        if not len(tokens):
            return
        self._follow(places + start, tokens, depths)

    def _read_plain(self, block: bytes, start: int) -> None:
        """Of values alone, as most blocks of numbers are."""
        top = self._open[-1]
        if top.after_child:
            first = block.find(b",")
            if first < 0:
                return
            top.commas.append(start + first)
            top.after_child = False
        last = block.rfind(b",")
        if last >= 0:
            self._cut_at(top, start + last)

    def _tokens(self, block: bytes) -> tuple[Places, NDArray[np.uint8]]:
        """Brackets, braces and commas outside of strings, and their places in the block."""
        if b"\\" in block:
            block = block.replace(rb"\\", b"__").replace(rb"\"", b"__")
        marks = np.frombuffer(block, np.uint8)
        wanted = _IS_TOKEN[marks]
        if self._in_string or b'"' in block:
            inside = np.logical_xor.accumulate(marks == _QUOTE) ^ self._in_string
            self._in_string = bool(inside[-1])
            wanted &= ~inside
        places = np.flatnonzero(wanted)
        return places, marks[places]

    def _follow(self, places: Places, tokens: NDArray[np.uint8], depths: NDArray[np.int32]) -> None:
        """What was open before: its last comma here, and where it ends. Then what stays open."""
        commas = tokens == _COMMA
        lowest = min(int(depths.min()), len(self._open))
        begin = 0
        while len(self._open) > lowest:
            level = len(self._open)
            close = begin + int(np.argmax(depths[begin:] < level))
            self._take_commas(places[begin:close][commas[begin:close] & (depths[begin:close] == level)])
            self._close(int(places[close]))
            begin = close
        for level in range(lowest, int(depths[-1]) + 1):
            if level > lowest:
                begin = self._opening(tokens, depths, level)
                if begin < 0:
                    return
                self._open.append(Cut(int(places[begin]), bool(tokens[begin] == _LIST)))
            if level:
                self._take_commas(places[begin:][commas[begin:] & (depths[begin:] == level)])

    @staticmethod
    def _opening(tokens: NDArray[np.uint8], depths: NDArray[np.int32], level: int) -> int:
        found = np.flatnonzero((depths == level) & (_STEPS[tokens] == 1))
        return int(found[-1]) if len(found) else -1

    def _take_commas(self, places: Places) -> None:
        """The first one after a child, and the last one."""
        top = self._open[-1]
        if not len(places):
            return
        if top.after_child:
            top.commas.append(int(places[0]))
            top.after_child = False
        self._cut_at(top, int(places[-1]))

    @staticmethod
    def _cut_at(top: Cut, place: int) -> None:
        if not top.commas or top.commas[-1] != place:
            top.commas.append(place)

    def _close(self, place: int) -> None:
        closed = self._open.pop()
        closed.end = place
        if place - closed.start <= BLOCK_BYTES:
            return
        if self._open:
            self._open[-1].children.append(closed)
            self._open[-1].after_child = True
        else:
            self._root = closed
