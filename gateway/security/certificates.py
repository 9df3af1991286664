"""The names in a client's certificate, which the transport has checked: who it is under mutual TLS.

Over REST the transport gives ``ssl.SSLSocket.getpeercert()``'s mapping as the scope's ``extensions.tls.client_cert``,
over gRPC it is ``ServicerContext.auth_context()``. Names come in the order in which they count: URIs (SPIFFE), DNS
names, the subject's common name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Names = tuple[str, ...]


def of_scope(scope: Mapping[str, Any]) -> Names:
    tls = (scope.get("extensions") or {}).get("tls")
    certificate = tls.get("client_cert") if tls else None
    if not certificate:
        return ()
    alternatives: Iterable[tuple[str, str]] = certificate.get("subjectAltName", ())
    uris = [value for kind, value in alternatives if kind == "URI"]
    hosts = [value for kind, value in alternatives if kind == "DNS"]
    subject = [value for part in certificate.get("subject", ()) for kind, value in part if kind == "commonName"]
    return (*uris, *hosts, *subject)


def of_auth_context(context: Mapping[str, Iterable[bytes]]) -> Names:
    if b"ssl" not in context.get("transport_security_type", ()):
        return ()
    alternatives = [value.decode("utf-8", "replace") for value in context.get("x509_subject_alternative_name", ())]
    subject = [value.decode("utf-8", "replace") for value in context.get("x509_common_name", ())]
    return (*sorted(alternatives, key=lambda name: "://" not in name), *subject)
