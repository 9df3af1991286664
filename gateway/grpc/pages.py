"""Keeps pages of other websites out of the gRPC port.

Browsers speak HTTP/2 over TLS alone, be it ours or that of a proxy before us. Most cannot send ``te: trailers``, which
gRPC's core asks for; Firefox does so by itself. The core takes every content type, ``text/plain`` too, which a page may
send without asking first. So what browsers say of a page is looked at here as well; clients of gRPC send none of it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import grpc
import grpc.aio

_SAYS_SO = frozenset({"origin", "sec-fetch-site"})


class Pages(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Refuses calls that pages made, but for pages of ``origins``: gRPC-Web's proxies pass the origin on.

    No website is the gRPC port's own, since the port serves no page.
    """

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origins)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """None leaves the call to the services."""
        told = [value for name, value in details.invocation_metadata if name in _SAYS_SO]
        if told and self._origins.isdisjoint(told):
            return _REFUSING
        return None


async def _refuse(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    text = "pages of websites may not call this gateway; list the website's origin in http.cors_origins"
    await context.abort(grpc.StatusCode.PERMISSION_DENIED, text)


#: Of a stream, so that no message is read first.
_REFUSING = grpc.stream_stream_rpc_method_handler(_refuse)
