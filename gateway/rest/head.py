"""What a request's head may be: its size, its framing, its host, its path. What is doubtful is refused, not mended.

Two programs that read one request differently are how requests are smuggled (RFC 9112, section 11.2). llhttp refuses
most of what could be read in two ways; the rest is refused here, before anything of the application sees it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

Headers = Sequence[tuple[bytes, bytes]]

#: Headers by which a message is framed, or something is decided: of two, each reader could take another one.
_SINGLE = frozenset(
    {
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"content-type",
        b"content-encoding",
        b"inference-header-content-length",
        b"x-duet-variant",
        b"x-duet-signature",
        b"x-duet-timeout-ms",
        b"x-duet-criticality",
        b"x-request-id",
        b"traceparent",
        b"expect",
    }
)
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?")
#: Encoded, a slash or a percent sign makes one path of another in whoever decodes once more or once less.
_DOUBTFUL_ESCAPE = re.compile(rb"%(?:2[Ff]|5[Cc]|25|(?![0-9A-Fa-f]{2}))")
_DOUBTFUL_CHARACTER = re.compile(rb"[\x00-\x1f\x7f\\]")


@dataclass(frozen=True, slots=True)
class Limits:
    """``header_bytes`` and ``headers`` are those of one request, ``url_bytes`` of path and query.

    A body in chunks may have ``chunks_per_mib`` of them for each MiB, begun ones too.
    """

    url_bytes: int = 2 << 10
    header_bytes: int = 32 << 10
    headers: int = 100
    chunks_per_mib: int = 10_000


class Refused(Exception):
    """``status`` is HTTP's, ``message`` for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def check_name(name: bytes) -> None:
    """Raises Refused for an underscore: whoever makes variables of headers takes it for a hyphen."""
    if b"_" in name:
        raise Refused(400, "a header's name must not have an underscore in it")


def check(method: bytes, target: bytes, version: str, headers: Headers) -> None:
    """The whole head; names of headers are in lower case. Raises Refused."""
    if version not in ("1.1", "1.0"):
        raise Refused(505, "this server speaks HTTP/1.1")
    if method == b"CONNECT":
        raise Refused(400, "CONNECT is for proxies, and this server is none")
    values = dict(headers)
    if len(values) != len(headers):
        repeated = Counter(name for name, _ in headers)
        if any(count > 1 and name in _SINGLE for name, count in repeated.items()):
            raise Refused(400, "a header that may come once came twice")
    _check_host(values.get(b"host"), version)
    coding = values.get(b"transfer-encoding")
    if coding is not None and (version != "1.1" or coding.lower() != b"chunked"):
        raise Refused(400, "the only Transfer-Encoding that is taken is chunked, over HTTP/1.1")
    if values.get(b"expect", b"100-continue").lower() != b"100-continue":
        raise Refused(417, "the only expectation that is met is 100-continue")
    _check_target(method, target, values.get(b"host", b""))


def _check_host(host: bytes | None, version: str) -> None:
    if host is None:
        if version == "1.1":
            raise Refused(400, "the request has no Host")
    elif not _HOST.fullmatch(host):
        raise Refused(400, "the Host is no host")


def _check_target(method: bytes, target: bytes, host: bytes) -> None:
    if not target.startswith(b"/"):
        if target == b"*" and method == b"OPTIONS":
            return
        scheme, separator, rest = target.partition(b"://")
        authority, _, path = rest.partition(b"/")
        if not separator or scheme.lower() not in (b"http", b"https") or authority.lower() != host.lower():
            raise Refused(400, "the request is for another server")
        target = b"/" + path
    path = target.partition(b"?")[0]
    if b"#" in target or _DOUBTFUL_ESCAPE.search(path):
        raise Refused(400, "the path holds an encoded slash or percent sign, or what is no encoding")
    plain = unquote_to_bytes(path) if b"%" in path else path
    if _DOUBTFUL_CHARACTER.search(plain):
        raise Refused(400, "the path holds a control character or a backslash")
    if b"/." in plain and {b".", b".."} & set(plain.split(b"/")):
        raise Refused(400, "the path holds . or .. by itself")
