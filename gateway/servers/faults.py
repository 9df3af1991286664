"""What a server's own failures mean here: a table for each kind of server, in which the first row that fits counts.

A row says what the client is told and what layers make of it (`Fault`). It is data, so that it can be tested row by
row. The rows of a kind are in its folder; those that hold for all kinds, or for all over gRPC, are here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from grpc import StatusCode

from gateway import errors
from gateway.errors import DuetError, Fault

log = logging.getLogger("duet.backends")

#: A trace, a file, an address, a memory region or a secret.
_INSIDE = re.compile(
    r"Traceback|File \"|(?<![\w.}])/[\w.-]+/[\w./-]+|[\w-]+\.py\b|\b\d{1,3}(?:\.\d{1,3}){3}\b|0x[0-9a-fA-F]{6,}"
    r"|shm_region|(?i:key|token|secret|password)\s*[=:]"
)
_MAX_LOGGED = 2000
_RETRY_AFTER_SECONDS = 1.0


class Lost(Enum):
    """A call without an answer that can be read. gRPC tells of it by codes and texts, HTTP by what the socket did."""

    CONNECT = "no connection"
    CONNECT_LATE = "no connection in time"
    CLOSED = "closed before the first byte of an answer"
    BROKEN = "closed in the middle of an answer"
    UNREADABLE = "what came is no answer"
    TOO_LONG = "an answer larger than the gateway takes"


Signal: TypeAlias = "Lost | int | StatusCode"

# What happened, and what layers make of it. Overload is no fault of the endpoint: it is shed, not broken.
DEAD = Fault("unreachable", retry_safe=True, counts=True, unreachable=True)
#: A call that ended without an answer. The next one may have one: a server is not dead for it.
LOST = Fault("lost", retry_safe=True, counts=True, by_request=True)
CORRUPT = errors.CORRUPT
CRASH = Fault("crash", retry_safe=True, counts=True, by_request=True)
OVERLOAD = Fault("overload", retry_safe=False, counts=False)
#: The version was there when the request was routed: another endpoint may still have it, or already have the next.
SWAP = errors.SWAP
#: A try after a time-out would queue behind the call that it replaces.
LATE = Fault("late", retry_safe=False, counts=True)
TOKEN = Fault("token", retry_safe=True, counts=True, unreachable=True)
#: The same, where a model can say so too: of a file that a request names, say.
DENIED = Fault("token", retry_safe=True, counts=True, by_request=True)
#: There was no memory for this request: others are smaller, and no reason to send fewer of them.
MEMORY = Fault("memory", retry_safe=False, counts=False, by_request=True)
#: The request passed our own check against the signature. What only the model can see in it is still the client's.
REFUSED = Fault("refused", retry_safe=False, counts=False, by_request=True)
TOO_LARGE = Fault("too_large", retry_safe=False, counts=False, by_request=True)
MODEL = Fault("model", retry_safe=False, counts=False, by_request=True)


@dataclass(frozen=True, slots=True)
class Row:
    """``signal`` None fits all; ``kind`` and ``text`` are patterns of what the server calls its error, and of its text.

    A model's own failure may quote what it was sent, so a pattern holds the server's words to their place: it begins
    with ``^``, or nothing is gained by what else fits.
    ``describing`` True fits only calls that ask about models, False only those that run them. ``says`` is for the
    client; ``{server}`` in it is the server's name and ``{text}`` its own text, which names no address in these rows.
    """

    signal: Signal | None
    error: type[DuetError]
    says: str
    fault: Fault
    kind: str | None = None
    text: str = ""
    describing: bool | None = None

    @property
    def retry_after_seconds(self) -> float | None:
        """Whoever is told to come later is told when: no answer of 429 or 503 is without it."""
        later = issubclass(self.error, errors.Unavailable | errors.ResourceExhausted)
        return _RETRY_AFTER_SECONDS if later and self.error is not errors.PayloadTooLarge else None

    @property
    def fits_everything(self) -> bool:
        return (self.signal, self.kind, self.text, self.describing) == (None, None, "", None)

    def fits(self, signal: Signal, text: str, kind: str, describing: bool) -> bool:
        return (
            self.signal in (None, signal)
            and (self.kind is None or re.fullmatch(self.kind, kind) is not None)
            and re.search(self.text, text, re.IGNORECASE) is not None
            and self.describing in (None, describing)
        )


AWAY = "{server} cannot be reached"
OWN = "{server}: {text}"
LARGE = "the request or its answer is larger than {server} takes"
_LONG = "the answer is larger than the gateway takes from {server}; ask for fewer rows or outputs"
_NO_CONNECTION = "^(failed to connect to all addresses|connections to all backends failing)($|; last error: )"

#: gRPC core's own words, for any server that is called over gRPC.
OF_GRPC = (
    # For a connection that cannot be made, and for one that broke.
    Row(StatusCode.UNAVAILABLE, errors.Unavailable, AWAY, DEAD, text=_NO_CONNECTION),
    Row(StatusCode.UNAVAILABLE, errors.Unavailable, AWAY, LOST),
    Row(StatusCode.CANCELLED, errors.Unavailable, "{server} gave the call up", LOST),
    Row(StatusCode.INTERNAL, errors.Unavailable, AWAY, LOST, text="^(Received )?(RST_STREAM|GOAWAY)"),
    # Of the request's making: its caller can ask for less, and joined with others they are asked alone.
    Row(StatusCode.RESOURCE_EXHAUSTED, errors.PayloadTooLarge, _LONG, TOO_LARGE, text="CLIENT: Received message"),
    Row(StatusCode.RESOURCE_EXHAUSTED, errors.PayloadTooLarge, LARGE, TOO_LARGE, text="message larger than max"),
)

_OF_ALL = (
    Row(Lost.CONNECT, errors.Unavailable, AWAY, DEAD),
    Row(Lost.CONNECT_LATE, errors.Unavailable, AWAY, LOST),
    Row(Lost.CLOSED, errors.Unavailable, "{server} closed the connection without an answer", LOST),
    Row(Lost.BROKEN, errors.DataLoss, "{server} broke off in the middle of its answer", CORRUPT),
    Row(Lost.UNREADABLE, errors.DataLoss, "{server} sent no valid answer: {text}", CORRUPT),
    Row(
        Lost.TOO_LONG,
        errors.PayloadTooLarge,
        "the answer has more than {text} bytes, which is all that the gateway takes; ask for fewer rows or outputs",
        TOO_LARGE,
    ),
)


@dataclass(frozen=True, slots=True)
class Faults:
    """The table of one kind of server. ``server`` is what errors call it; the last of its rows fits everything."""

    server: str
    own: tuple[Row, ...]
    rows: tuple[Row, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not self.own or not self.own[-1].fits_everything:
            raise ValueError(f"the last row of the faults of {self.server} must fit everything")
        object.__setattr__(self, "rows", (*_OF_ALL, *self.own))

    def row(self, signal: Signal, text: str = "", kind: str = "", *, describing: bool = False) -> Row:
        """The row that counts."""
        return next(entry for entry in self.rows if entry.fits(signal, text, kind, describing))

    def translated(self, signal: Signal, text: str = "", kind: str = "", *, describing: bool = False) -> DuetError:
        """The error for the client, with its `Fault`. ``text`` and ``kind`` are the server's own."""
        found = self.row(signal, text, kind, describing=describing)
        says = found.says.format(server=self.server, text=_scrubbed(self.server, text))
        error = found.error(says, retry_after_seconds=found.retry_after_seconds)
        error.fault = found.fault
        return error


def _scrubbed(server: str, text: str) -> str:
    """The server's words, unless they tell of its inside: with such words others were broken into.

    What a model says of its input helps who sent it; a trace, a path or an address only those who may see the log.
    """
    if not _INSIDE.search(text):
        return text
    log.warning("%s said: %s", server, text[:_MAX_LOGGED])
    return "the server's log tells what"


@contextmanager
def readable() -> Iterator[None]:
    """Around the decoding of an answer: a DataLoss from inside is the server's fault, and noted as such.

    An Unimplemented is the gateway's lack, which nobody but this request is to suffer from.
    """
    try:
        yield
    except errors.DataLoss as error:
        error.fault = CORRUPT
        raise
    except errors.Unimplemented as error:
        error.fault = errors.UNSUPPORTED
        raise
