from __future__ import annotations

from contextlib import suppress

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs import multipart
from gateway.errors import InvalidArgument

TYPE = "multipart/form-data; boundary=b"


def body(*parts: bytes, boundary: bytes = b"b") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"


def part(name: str, data: bytes) -> bytes:
    return f'Content-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + data


@given(st.dictionaries(st.text(st.characters(categories=["L", "N"]), min_size=1), st.binary(max_size=50), min_size=1))
def test_what_a_client_sends_is_what_is_read(files: dict[str, bytes]) -> None:
    """httpx stands for the clients; any bytes, line ends and dashes too."""
    request = httpx.Request("POST", "http://x", files={name: ("f", data) for name, data in files.items()})
    parts = multipart.decode(request.read(), request.headers["content-type"])
    assert {name: bytes(found.data) for name, found in parts.items()} == files
    assert {found.content_type for found in parts.values()} == {"application/octet-stream"}


def test_a_plain_field_has_no_type_and_parts_are_not_copied() -> None:
    data = body(part("a", b"1"), part("b", b"--b"))
    parts = multipart.decode(data, TYPE)
    assert (parts["a"].content_type, bytes(parts["a"].data), bytes(parts["b"].data)) == (None, b"1", b"--b")
    assert parts["a"].data.obj is data


def test_of_equal_names_the_last_counts() -> None:
    """As for TorchServe."""
    assert bytes(multipart.decode(body(part("a", b"1"), part("a", b"2")), TYPE)["a"].data) == b"2"


@pytest.mark.parametrize(
    "content_type",
    [
        'multipart/form-data; boundary="b"',
        "multipart/form-data;boundary=b",
        "Multipart/Form-Data; charset=utf-8; Boundary=b",
    ],
)
def test_forms_of_the_boundary(content_type: str) -> None:
    assert set(multipart.decode(b"preamble\r\n" + body(part("a", b"1")), content_type)) == {"a"}


@pytest.mark.parametrize(
    ("data", "content_type", "says"),
    [
        (body(part("a", b"1")), "multipart/form-data", "needs a boundary"),
        (body(part("a", b"1")), f"multipart/form-data; boundary={'b' * 71}", "needs a boundary"),
        (b"", TYPE, "does not hold its boundary"),
        (b"x", TYPE, "does not hold its boundary"),
        (body(part("a", b"1"))[:-6], TYPE, "ends before its closing boundary"),
        (b"--b\r\nContent-Disposition: form-data", TYPE, "no end of its headers"),
        (body(b"Content-Type: text/plain\r\n\r\n1"), TYPE, "has no name"),
        (body(b'Content-Disposition: form-data; name="\xff"\r\n\r\n1'), TYPE, "not UTF-8"),
        (body(b"X: " + b"x" * 9000 + b"\r\n" + part("a", b"1")), TYPE, "no end of its headers"),
        (body(*[part("a", b"1")] * 257), TYPE, "more than 256 parts"),
    ],
)
def test_broken_bodies_are_told_what_is_wrong(data: bytes, content_type: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        multipart.decode(data, content_type)


@given(st.binary(max_size=60))
def test_no_body_raises_anything_but_invalid_argument(data: bytes) -> None:
    for whole in (data, b"--b" + data, body(data)):
        with suppress(InvalidArgument):
            multipart.decode(whole, TYPE)
