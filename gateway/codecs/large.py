"""Large JSON documents, of which only what is looked at becomes Python objects, and that a piece at a time.

A parser makes up to 64 bytes of memory of each number. So a large document is cut at commas into runs of about
`PIECE_BYTES`. Each run is parsed by itself to check it, and parsed again whenever somebody goes through it. What is
kept is the text, and where its runs begin. Values, and the parsers' errors, are those of the document as a whole.

The proof that a document is valid if its runs are: put one plain value in place of each run, and what is left (the
skeleton) is parsed too. Where both hold, the whole is valid; where one does not, the error is found by parsing the
document with all valid runs blanked out, so that the parser finds it at the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from itertools import chain, islice
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway.codecs import cuts
from gateway.codecs.cuts import Cut
from gateway.codecs.raw import Buffer
from gateway.errors import InvalidArgument

#: Smaller documents are parsed as they are: of a megabyte, a parser makes 16 at most.
MIN_BYTES = 1 << 20
#: The longest string, as it is written. By default a string may have a megabyte; escaped, each of its bytes takes six.
#: The rest is for what stands beside it in its run. A longer one is refused because Python takes four bytes for each
#: character of a string that holds a single unusual one.
MAX_TEXT_BYTES = (6 << 20) + 2 * cuts.BLOCK_BYTES

_MAX_REPR = 4096
_BLANK = bytes(byte if byte == 0x0A else 0x20 for byte in range(256))
#: All bytes of a character but its first: orjson counts characters.
_CONTINUED = bytes(range(0x80, 0xC0))


@dataclass(frozen=True, slots=True)
class Parser:
    """``loads`` parses a whole document. ``errors`` are what it raises for what is none.

    ``counts_bytes``: its errors tell a place in bytes, not in characters. ``first_counts``: of equal keys, the first.
    """

    loads: Callable[[bytes], Any]
    errors: tuple[type[Exception], ...]
    counts_bytes: bool = False
    first_counts: bool = False


ORJSON = Parser(orjson.loads, (orjson.JSONDecodeError,))


def loads(document: Buffer, parser: Parser = ORJSON) -> Any:
    """As ``parser.loads(document)``, but a large list is `Elements`, and a large object is `Members`.

    Raises what the parser raises, and InvalidArgument for a string that is too long.
    """
    if len(document) < MIN_BYTES:
        return parser.loads(document)  # type: ignore[arg-type]  # parsers take any buffer
    text = bytes(document)
    root = cuts.cut(text)
    if root is None:
        _check_text(len(text))
        return parser.loads(text)
    found = _checked(text, root, parser)
    return found if found is not None else parser.loads(text)


@dataclass(slots=True)
class Level:
    """All values at one depth of a list of lists: how many, the kind of the first, and of all.

    ``sizes`` are those of the lists among them, -1 for other values.
    """

    count: int
    first: type
    kinds: set[type]
    sizes: set[int]

    def is_even(self) -> bool:
        """Whether there is a next level: all values are lists of one size, and not of none."""
        return self.kinds == {list} and len(self.sizes) == 1 and 0 not in self.sizes


@dataclass(slots=True)
class Form:
    """How a list is nested. ``levels`` end with the first one that is not even, or not of lists.

    ``booleans`` are the depths at which there is one, however uneven the lists are.
    """

    levels: list[Level]
    booleans: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, values: list[Any], *, may_hold_booleans: bool) -> Form:
        levels: list[Level] = []
        booleans = _boolean_depths(values) if may_hold_booleans else set()
        while values:
            kinds = _kinds(values)
            levels.append(Level(len(values), _kinds(values[:1]).pop(), kinds, _sizes(values, kinds)))
            if not levels[-1].is_even():
                break
            values = list(chain.from_iterable(values))
        return cls(levels, booleans)

    def add(self, other: Form) -> None:
        """The same of these values followed by the other's."""
        if not self.levels:
            self.levels, self.booleans = other.levels, other.booleans
            return
        self.booleans |= other.booleans
        common = min(len(self.levels), len(other.levels))
        for depth in range(common):
            mine, its = self.levels[depth], other.levels[depth]
            mine.count += its.count
            mine.kinds |= its.kinds
            mine.sizes |= its.sizes
            if not mine.is_even():
                common = depth + 1
                break
        del self.levels[common:]

    def below(self, value: Elements) -> Form:
        """Of a list with ``value`` as its only element, this being the form of the value."""
        levels = [Level(1, list, {list}, {len(value)})]
        return Form(levels + [_copied(level) for level in self.levels], {depth + 1 for depth in self.booleans})


@dataclass(slots=True)
class _Part:
    """Elements that follow one another: small ones, that ``load`` parses, or a large one alone, ``single``."""

    count: int
    load: Callable[[], list[Any]]
    single: Any = None
    form: Form | None = None


class Elements(list[Any]):
    """A large list. Behaves as one to those who go through it, and holds no elements of its own."""

    def __init__(self, parts: list[_Part]) -> None:
        super().__init__()
        self._parts = parts
        self._count = sum(part.count for part in parts)
        self._form: Form | None = None

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        return self._count > 0

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(part.load() for part in self._parts)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return self._sliced(*place.indices(self._count))
        if place < 0:
            place += self._count
        for part in self._parts:
            if 0 <= place < part.count:
                return part.load()[place]
            place -= part.count
        raise IndexError("list index out of range")

    def __repr__(self) -> str:
        """The beginning of what a list would show: errors, which quote it, are cut sooner."""
        pieces, size = [], 0
        for item in self:
            pieces.append(repr(item))
            size += len(pieces[-1])
            if size > _MAX_REPR:
                break
        return f"[{', '.join(pieces)}]"

    @property
    def form(self) -> Form:
        if self._form is None:
            form = Form([])
            for part in self._parts:
                if part.form is None:
                    part.form = _form_of(part)
                form.add(Form([_copied(level) for level in part.form.levels], set(part.form.booleans)))
            self._form = form
        return self._form

    def pick(self, name: str) -> Elements:
        """The member ``name`` of each element; all are objects and have it."""
        return Elements([_picked(part, name) for part in self._parts])

    def at(self, depth: int) -> Iterator[list[Any]]:
        """The values at a depth, in lists of them, as if there were a list of all; lists above it are opened."""
        for part in self._parts:
            if isinstance(part.single, Elements) and depth:
                yield from part.single.at(depth - 1)
            else:
                yield from opened(part.load(), depth)

    def _sliced(self, start: int, stop: int, step: int) -> Elements:
        if step != 1:
            raise ValueError("a large list has no steps")
        parts: list[_Part] = []
        for part in self._parts:
            first, last = max(start, 0), min(stop, part.count)
            if first < last:
                parts.append(part if last - first == part.count else _Part(last - first, _slice_of(part, first, last)))
            start, stop = start - part.count, stop - part.count
        return Elements(parts)


@dataclass(frozen=True, slots=True)
class Opened:
    """The values of ``elements`` with ``depth`` lists opened, where there are lists: not all need lie equally deep."""

    elements: Elements
    depth: int

    def pieces(self) -> Iterator[list[Any]]:
        return self.elements.at(self.depth)

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.pieces())


class Leaves(list[Any]):
    """The values of ``elements`` at a depth, as one list. It holds none of them either."""

    def __init__(self, elements: Elements, depth: int) -> None:
        super().__init__()
        levels = elements.form.levels
        self._count = levels[depth].count if depth < len(levels) else 0
        self.kinds = levels[depth].kinds if depth < len(levels) else set()
        self._elements = elements
        self._depth = depth

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        return self._count > 0

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.pieces())

    def __getitem__(self, place: Any) -> Any:
        """For the first few."""
        return next(islice(self, place, None))

    def pieces(self) -> Iterator[list[Any]]:
        return self._elements.at(self._depth)


class Members(dict[str, Any]):
    """A large object. Its keys are a dict's own; values are parsed when they are asked for."""

    def __init__(self, members: dict[str, Callable[[], Any]]) -> None:
        super().__init__(members)

    def __getitem__(self, name: str) -> Any:
        return super().__getitem__(name)()

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401 - that calls `get`

    def items(self) -> Any:
        return ((name, self[name]) for name in self)

    def values(self) -> Any:
        return (self[name] for name in self)


def _check_text(size: int) -> None:
    """Of what has no commas to cut it at, which is one string, or nothing but space. Raises InvalidArgument."""
    if size > MAX_TEXT_BYTES:
        raise InvalidArgument(
            f"a string of the JSON takes {size} bytes; at most {MAX_TEXT_BYTES} are taken: send it as a binary tensor, "
            "or over gRPC"
        )


def plain(value: dict[str, Any]) -> dict[str, Any]:
    """An object as a dict of its own values; large lists among them stay what they are."""
    return {name: value[name] for name in value} if isinstance(value, Members) else value


def empty(count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """As ``numpy.empty``, in pages of its own, which can be given back one after the other."""
    if not count:
        return np.empty(0, dtype)
    return np.frombuffer(mmap(-1, count * dtype.itemsize, flags=MAP_PRIVATE | MAP_ANONYMOUS), dtype)


def column(rows: list[Any], name: str) -> list[Any]:
    """The member ``name`` of each row; all are objects and have it."""
    return rows.pick(name) if isinstance(rows, Elements) else [row[name] for row in rows]


def pieces(values: list[Any]) -> Iterable[list[Any]]:
    return values.at(0) if isinstance(values, Elements) else (values,)


def kinds(values: list[Any]) -> set[type]:
    """The types of the elements; large lists and objects count as what they are."""
    if isinstance(values, Elements):
        return values.form.levels[0].kinds if values else set()
    if isinstance(values, Leaves):
        return values.kinds
    return set(map(type, values))


def opened(values: list[Any], depth: int) -> Iterator[list[Any]]:
    """The values ``depth`` lists down; what is no list stays what it is. Large lists come in pieces."""
    for _ in range(depth):
        kinds = set(map(type, values))
        if kinds == {list}:
            values = list(chain.from_iterable(values))
        elif any(issubclass(kind, list) for kind in kinds):
            values = list(chain.from_iterable(item if isinstance(item, list) else (item,) for item in values))
        else:
            break
    yield values


def _kinds(values: list[Any]) -> set[type]:
    """Large lists and objects count as what they are."""
    return {list if kind is Elements else dict if kind is Members else kind for kind in set(map(type, values))}


def _sizes(values: list[Any], kinds: set[type]) -> set[int]:
    if list not in kinds:
        return {-1}
    if len(kinds) == 1:
        return set(map(len, values))
    return {len(item) if isinstance(item, list) else -1 for item in values}


def _copied(level: Level) -> Level:
    return Level(level.count, level.first, set(level.kinds), set(level.sizes))


def _boolean_depths(values: list[Any]) -> set[int]:
    depths: set[int] = set()
    for depth in range(cuts.MAX_DEPTH + 1):
        if bool in set(map(type, values)):
            depths.add(depth)
        values = list(chain.from_iterable(item for item in values if isinstance(item, list)))
        if not values:
            break
    return depths


def _form_of(part: _Part) -> Form:
    if isinstance(part.single, Elements):
        return part.single.form.below(part.single)
    return Form.of(part.load(), may_hold_booleans=True)


def _picked(part: _Part, name: str) -> _Part:
    if isinstance(part.single, Members):
        return _single(part.single[name])
    return _Part(part.count, lambda: [row[name] for row in part.load()])


def _slice_of(part: _Part, first: int, last: int) -> Callable[[], list[Any]]:
    return lambda: part.load()[first:last]


def _single(value: Any) -> _Part:
    return _Part(1, lambda: [value], value if isinstance(value, Elements | Members) else None)


def _same(value: Any) -> Any:
    return value


class _Wrong(Exception):
    """The run that is no JSON; all before it are."""


@dataclass(slots=True)
class _Reading:
    """One document on its way to be checked."""

    text: bytes
    parser: Parser
    #: Of each run that was found valid: from where, to where, and what stands for it.
    runs: list[tuple[int, int, bytes]] = field(default_factory=list)
    _view: memoryview = field(init=False)

    def __post_init__(self) -> None:
        self._view = memoryview(self.text)

    def value(self, cut: Cut) -> Elements | Members:
        return self._elements(cut) if cut.is_list else self._members(cut)

    def _elements(self, cut: Cut) -> Elements:
        parts: list[_Part] = []
        pieces = cut.pieces()
        for start, end, child in pieces:
            if child is not None:
                parts.append(_single(self.value(child)))
                continue
            values = self._parsed(start, end, b"[", b"]")
            if not values:
                if len(pieces) > 1:
                    raise _Wrong
                break
            form = Form.of(values, may_hold_booleans=self._has_booleans(start, end))
            parts.append(_Part(len(values), self._loader(start, end), form=form))
            self.runs.append((start, end, b"0"))
        return Elements(parts)

    def _members(self, cut: Cut) -> Members:
        found: list[dict[str, Callable[[], Any]]] = []
        pieces = cut.pieces()
        for start, end, child in pieces:
            if child is not None:
                key = self._parsed(start, child.start, b"{", b"0}")
                value = self.value(child)
                found.extend({name: partial(_same, value)} for name in key)
                continue
            run = self._parsed(start, end, b"{", b"}")
            if not run:
                if len(pieces) > 1:
                    raise _Wrong
                break
            found.append({name: self._member(start, end, name) for name in run})
            self.runs.append((start, end, b'"":0'))
        members: dict[str, Callable[[], Any]] = {}
        # As the parsers do: orjson lets the last count, at the place of the first; the other goes from the end.
        for run in reversed(found) if self.parser.first_counts else found:
            members.update(run)
        return Members(members)

    def _member(self, start: int, end: int, name: str) -> Callable[[], Any]:
        return lambda: self.parser.loads(b"".join((b"{", self._view[start:end], b"}")))[name]

    def _loader(self, start: int, end: int) -> Callable[[], list[Any]]:
        return lambda: self.parser.loads(b"".join((b"[", self._view[start:end], b"]")))

    def _has_booleans(self, start: int, end: int) -> bool:
        return self.text.find(b"true", start, end) >= 0 or self.text.find(b"false", start, end) >= 0

    def _parsed(self, start: int, end: int, before: bytes, after: bytes) -> Any:
        _check_text(end - start)
        try:
            return self.parser.loads(b"".join((before, self._view[start:end], after)))
        except self.parser.errors:
            raise _Wrong from None

    def skeleton(self) -> bytes:
        return b"".join(self._pieces(lambda start, end, instead: instead))

    def blanked(self) -> bytes:
        """Of the document's size, and so made in one piece."""
        whole = BytesIO()
        whole.writelines(self._pieces(self._blank))
        return whole.getvalue()

    def _pieces(self, replaced: Callable[[int, int, bytes], bytes]) -> Iterator[bytes | memoryview]:
        at = 0
        for start, end, instead in self.runs:
            yield self._view[at:start]
            yield replaced(start, end, instead)
            at = end
        yield self._view[at:]

    def _blank(self, start: int, end: int, instead: bytes) -> bytes:
        """As long as the run is, with its line breaks: ``instead`` where the run's first value begins."""
        run = self.text[start:end]
        begin = len(run) - len(run.lstrip(b" \t\r\n"))
        blank = run.translate(_BLANK, b"" if self.parser.counts_bytes else _CONTINUED)
        return blank[:begin] + instead + blank[begin + len(instead) :]


def _checked(text: bytes, root: Cut, parser: Parser) -> Elements | Members | None:
    """None where the error is not found, so that the parser itself has to find it."""
    reading = _Reading(text, parser)
    try:
        found = reading.value(root)
    except _Wrong:
        parser.loads(reading.blanked())
        return None
    try:
        parser.loads(reading.skeleton())
    except parser.errors:
        parser.loads(reading.blanked())
        return None
    return found
