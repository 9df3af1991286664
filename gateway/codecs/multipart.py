"""``multipart/form-data`` bodies (RFC 7578): named parts, none of which is copied."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.errors import InvalidArgument

#: Far above what any model has inputs.
MAX_PARTS = 256
_MAX_HEADER_BYTES = 8 << 10
#: Of all parts together, and how many parameters one header has: all of them are looked at.
_MAX_HEADERS_BYTES = 128 << 10
_MAX_PARAMETERS = 16
_PARAMETER = re.compile(r""";\s*([\w!#$&+.^`|~*-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))""")


@dataclass(frozen=True, slots=True)
class Part:
    """``content_type`` is None where the part names none, as a form's plain fields do."""

    content_type: str | None
    data: memoryview


def decode(body: bytes, content_type: str) -> dict[str, Part]:
    """The parts by name; of several with one name the last counts, as it does for TorchServe.

    ``content_type`` is the request's header, which names the boundary. Raises InvalidArgument.
    """
    boundary = _parameters(content_type).get("boundary", "")
    if not 0 < len(boundary) <= 70:
        raise InvalidArgument("multipart/form-data needs a boundary of 1 to 70 characters in its Content-Type")
    delimiter = b"\r\n--" + boundary.encode("latin-1")
    position = 0 if body.startswith(delimiter[2:]) else body.find(delimiter) + 2
    if position == 1:
        raise InvalidArgument("the multipart body does not hold its boundary")
    position += len(delimiter) - 2
    parts: dict[str, Part] = {}
    headers_bytes = 0
    for _ in range(MAX_PARTS + 1):
        if body.startswith(b"--", position):
            return parts
        begin = position
        name, part, position = _part(body, position, delimiter)
        parts[name] = part
        headers_bytes += position - begin - len(part.data)
        if headers_bytes > _MAX_HEADERS_BYTES:
            raise InvalidArgument(
                f"the headers of the multipart body's parts take more than {_MAX_HEADERS_BYTES} bytes; send fewer parts"
            )
    raise InvalidArgument(f"the multipart body has more than {MAX_PARTS} parts")


def encode(parts: Mapping[str, bytes]) -> tuple[bytes, str]:
    """The body and its Content-Type. Each part is a file of bytes: TorchServe makes text of some others.

    Raises InvalidArgument for a name that a header cannot hold.
    """
    boundary = os.urandom(16).hex()
    pieces: list[bytes] = []
    for name, data in parts.items():
        if not name.isprintable() or set(name) & set('"\\'):
            raise InvalidArgument(f"{name!r} is no name for an input: it holds quotes or control characters")
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
        pieces += [head.encode(), b"Content-Type: application/octet-stream\r\n\r\n", data, b"\r\n"]
    pieces.append(f"--{boundary}--\r\n".encode())
    return b"".join(pieces), f"multipart/form-data; boundary={boundary}"


def _part(body: bytes, position: int, delimiter: bytes) -> tuple[str, Part, int]:
    """The part whose delimiter ends at ``position``, and where the next delimiter ends."""
    end_of_headers = body.find(b"\r\n\r\n", position, position + _MAX_HEADER_BYTES)
    if end_of_headers < 0:
        raise InvalidArgument("a part of the multipart body has no end of its headers")
    start = end_of_headers + 4
    end = body.find(delimiter, start)
    if end < 0:
        raise InvalidArgument("the multipart body ends before its closing boundary")
    try:
        lines = body[position:end_of_headers].decode().split("\r\n")[1:]
    except UnicodeDecodeError:
        raise InvalidArgument("the headers of a part of the multipart body are not UTF-8") from None
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    name = _parameters(headers.get("content-disposition", "")).get("name")
    if name is None:
        raise InvalidArgument("a part of the multipart body has no name in its Content-Disposition")
    return name, Part(headers.get("content-type"), memoryview(body)[start:end]), end + len(delimiter)


def _parameters(value: str) -> dict[str, str]:
    """The parameters behind a header's first word. Raises InvalidArgument for more than anybody has a use for.

    >>> _parameters('form-data; name="a b"; filename=c')
    {'name': 'a b', 'filename': 'c'}
    """
    found = {}
    for count, match in enumerate(_PARAMETER.finditer(value)):
        if count == _MAX_PARAMETERS:
            raise InvalidArgument(f"a header of the multipart body has more than {_MAX_PARAMETERS} parameters")
        name, quoted, token = match.groups()
        found[name.lower()] = token or re.sub(r"\\(.)", r"\1", quoted or "")
    return found
