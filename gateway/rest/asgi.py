"""Reading a request body and sending an answer, straight on ASGI."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from gateway.errors import Code, DuetError, InvalidArgument, PayloadTooLarge

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
#: In the scope of a request whose client hung up while it was worked on.
GONE = "duet.gone"
OCTETS = (b"content-type", b"application/octet-stream")


#: In a scope: what is told a body's size, as ``bytes_in``, once all of it has come.
RECEIVED = "duet.received"
#: In a scope: to be called with the caller's id once it is known, since its connection's bytes are held for it.
BELONGS_TO = "duet.belongs_to"


class ClientGone(DuetError):
    """The client hung up before its request was complete; nobody is there to answer to."""

    code = Code.CANCELLED


def header(scope: Scope, name: bytes) -> bytes | None:
    """The value of the header ``name`` (lower case), the first of several."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def text(scope: Scope, name: bytes) -> str | None:
    """As `header`, decoded."""
    value = header(scope, name)
    return None if value is None else value.decode("latin-1")


async def pieces(scope: Scope, receive: Receive, *, max_bytes: int) -> AsyncIterator[bytes]:
    """The body as it comes in. Raises PayloadTooLarge once it passes ``max_bytes``, ClientGone where it ends early."""
    declared = header(scope, b"content-length")
    if declared is not None and (not declared.isdigit() or int(declared) > max_bytes):
        raise too_large(max_bytes) if declared.isdigit() else InvalidArgument("Content-Length is no number")
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone("the client hung up")
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if size > max_bytes:
            raise too_large(max_bytes)
        more = message.get("more_body", False)
        if not more and RECEIVED in scope:
            scope[RECEIVED].bytes_in = size
        yield piece


async def read_body(scope: Scope, receive: Receive, *, max_bytes: int) -> bytes:
    """The whole body. Raises what `pieces` raises."""
    found = [piece async for piece in pieces(scope, receive, max_bytes=max_bytes)]
    return found[0] if len(found) == 1 else b"".join(found)


async def respond(send: Send, status: int, headers: Headers, pieces: Sequence[bytes | memoryview]) -> None:
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the body is larger than the {max_bytes} bytes that this server takes (http.max_body_bytes)"
    )
