"""HEAD wherever GET is answered: the same status and the same headers, and no body (RFC 9110, section 9.3.2)."""

from __future__ import annotations

from gateway.rest.asgi import App, Message, Receive, Scope, Send

#: In the scope of a HEAD request, which those inside see as a GET.
HEAD = "duet.head"


class Bodiless:
    """Asks ``app`` for a HEAD as for a GET, and keeps the body back.

    Routes then need not name HEAD, and none can be forgotten. A method that is not allowed stays so.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message["body"] = b""
            await send(message)

        await self._app({**scope, "method": "GET", HEAD: True}, receive, send_without_body)
