"""A document over HTTP within a time that holds for all of it, however slowly its server drips."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, cast
from urllib.error import HTTPError
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener


class FetchError(Exception):
    """The document cannot be had; the message is for the log."""


def get(url: str, *, seconds: float, max_bytes: int) -> bytes:
    """The document. Blocks for ``seconds`` at most, and for as long as the resolver takes. Raises FetchError.

    A time-out of the socket would hold for each read alone: a server that sends a byte now and then would never meet
    it, in its TLS handshake, its head or its body.
    """
    request = Request(url, headers={"accept": "application/json"})  # noqa: S310 - settings allow https and loopback
    with _Deadline(seconds) as deadline, _explained(url, deadline):
        opener = build_opener(_NoRedirect, _Http(deadline), _Https(deadline))
        with opener.open(request, timeout=seconds) as answer:
            content = cast(bytes, answer.read(max_bytes + 1))
        if deadline.passed:  # its end looks like the answer's
            raise TimeoutError
    if len(content) > max_bytes:
        raise FetchError(f"{url}: more than {max_bytes} bytes")
    return content


@contextmanager
def _explained(url: str, deadline: _Deadline) -> Iterator[None]:
    try:
        yield
    except HTTPError as error:
        error.close()
        raise FetchError(f"{url}: status {error.code}") from None
    except (OSError, ValueError, HTTPException) as error:
        reason = f"not whole after {deadline.seconds:g} s" if deadline.passed else str(error)
        raise FetchError(f"{url}: {reason}") from None


class _Deadline:
    """Ends the connections that were made under it once its time has passed: whoever reads them gets an error."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.passed = False
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            for one in self._sockets:
                one.close()

    def connect(self, *arguments: Any, **options: Any) -> socket.socket:
        """As `socket.create_connection`."""
        made = socket.create_connection(*arguments, **options)
        with self._lock:
            # A duplicate: TLS takes the socket's descriptor away from it.
            self._sockets.append(made.dup())
        if self.passed:
            self._end()
        return made

    def _end(self) -> None:
        self.passed = True
        with self._lock:
            for one in self._sockets:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)


def _connecting(kind: type[HTTPConnection], deadline: _Deadline, *arguments: Any, **options: Any) -> HTTPConnection:
    connection = kind(*arguments, **options)
    connection._create_connection = deadline.connect  # type: ignore[attr-defined]  # of http.client, since Python 2.6
    return connection


class _Http(HTTPHandler):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, request: Request) -> Any:
        return self.do_open(partial(_connecting, HTTPConnection, self._deadline), request)


class _Https(HTTPSHandler):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def https_open(self, request: Request) -> Any:
        return self.do_open(partial(_connecting, HTTPSConnection, self._deadline), request)


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """None: the answer is an error, wherever it leads."""
