"""Keeps pages of other websites out: by the name that a request is for, and by the page that made it.

A browser lets any page send some requests to any address that it reaches, a loopback port included. A `text/plain` POST
needs nobody's leave. Where a page's own name turns into this machine's address after the page was loaded (DNS
rebinding), the page can even read the answers. Programs are not browsers: they send neither ``Origin`` nor
``Sec-Fetch-Site``, and may call by any name that `Hosts` allows.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import ip_address

from gateway.errors import PermissionDenied
from gateway.rest import asgi
from gateway.rest.guarded import refuse

#: Brackets hold an IPv6 address. Digits and dots are an IPv4 address in one of its spellings, such as ``127.1``: no
#: domain of the public DNS ends in a number (WHATWG URL, "ends in a number").
_LITERAL = re.compile(r"\[.*\]|[0-9.]+")
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}
#: Values of Host that were found right. A client could make up more than we care to remember, by their ports.
_MAX_REMEMBERED = 256
_MAX_SHOWN = 80


class Hosts:
    """The names in a ``Host`` header by which one port may be called.

    ``names`` may hold ``*`` for every name and ``*.example.org`` for all names below one. None stands for the default:
    the names of loopback alone if the port listens there (``listens_on``), and every name otherwise.

    These always pass, with any port: ``localhost``, names below it, and IP addresses. Rebinding needs a name that the
    attacker's DNS answers for, and an address is none. So probes and scrapes by a pod's address need no setting.
    A request without a Host (HTTP/1.0) passes too, since no browser sends one.
    """

    def __init__(self, names: Collection[str] | None, *, listens_on: str) -> None:
        if names is None:
            names = () if is_loopback(listens_on) else ("*",)
        folded = {name.lower().removesuffix(".") for name in names}
        self._every = "*" in folded
        self._names = frozenset({"localhost"} | {name for name in folded if not name.startswith("*")})
        self._below = (".localhost", *(name[1:] for name in folded if name.startswith("*.")))
        self._right: set[bytes] = set()

    def allow(self, host: bytes | None) -> bool:
        if self._every or host is None or host in self._right:
            return True
        if not self._allow(host.decode("latin-1").lower()):
            return False
        if len(self._right) < _MAX_REMEMBERED:
            self._right.add(host)
        return True

    def _allow(self, host: str) -> bool:
        name = re.sub(r":[0-9]*\Z", "", host).removesuffix(".")
        return bool(_LITERAL.fullmatch(name)) or name in self._names or name.endswith(self._below)


class Fenced:
    """Refuses with 403 what a page of another website sent, before anybody asks for a key or reads a body.

    ``port`` names the part of the settings for messages, ``origins`` the websites that may call. A page's own origin is
    the one that the request is for. ``same-site`` is refused too: on loopback, each port is the same site as this one.
    """

    def __init__(self, app: asgi.App, *, hosts: Hosts, port: str, origins: Collection[str] = ()) -> None:
        self._app = app
        self._hosts = hosts
        self._port = port
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            host, origin, site = headers.get(b"host"), headers.get(b"origin"), headers.get(b"sec-fetch-site")
            if not self._hosts.allow(host):
                await refuse(PermissionDenied(self._for_another(host or b"")), scope, send)
                return
            if (origin is not None or site is not None) and self._is_foreign(host or b"", origin, site):
                await refuse(PermissionDenied(self._from_another(origin)), scope, send)
                return
        await self._app(scope, receive, send)

    def _is_foreign(self, host: bytes, origin: bytes | None, site: bytes | None) -> bool:
        if origin in self._origins:
            return False
        if site is not None and site.lower() not in (b"none", b"same-origin"):
            return True
        return origin is not None and not _is_of(origin.lower(), host.lower())

    def _for_another(self, host: bytes) -> str:
        return (
            f"this port may not be called by the name {_shown(host)}; call it by an IP address or localhost, "
            f"or list the name in {self._port}.allowed_hosts"
        )

    def _from_another(self, origin: bytes | None) -> str:
        of = "another website" if origin is None else _shown(origin)
        if self._port == "http":
            return f"pages of {of} may not call this gateway; list the website's origin in http.cors_origins"
        return f"pages of {of} may not call this port; type the address into the browser, or call the HTTP port"


def is_loopback(host: str) -> bool:
    """Whether a port that listens on ``host`` is reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_of(origin: bytes, host: bytes) -> bool:
    """Whether the page at ``origin`` comes from ``host``. Schemes may differ: a proxy before us may speak TLS.

    >>> _is_of(b"http://[::1]:8002", b"[::1]:8002"), _is_of(b"https://a.example", b"a.example:443")
    (True, True)
    >>> _is_of(b"http://localhost:3000", b"localhost:8002"), _is_of(b"null", b"null")
    (False, False)
    """
    scheme, separator, authority = origin.partition(b"://")
    return bool(separator) and host in (authority, authority + _DEFAULT_PORTS.get(scheme, b""))


def _shown(value: bytes) -> str:
    return repr(value[:_MAX_SHOWN].decode("ascii", "replace"))
