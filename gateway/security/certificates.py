"""The names in a client's certificate, which the transport has checked: who it is under mutual TLS.

One parser reads the certificate itself, whichever transport brings it: over REST the scope's
``extensions.tls.client_cert`` holds its DER form, over gRPC ``ServicerContext.auth_context()`` its PEM form. gRPC's own
list of alternative names does not tell of which kind each is, and an e-mail address is no host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple

_MAX_REMEMBERED = 1024
#: Matches names of every kind.
ANYBODY = "*"


class Kind(Enum):
    """RFC 5280: GeneralName's uniformResourceIdentifier and dNSName, and the subject's commonName."""

    URI = "uri"
    HOST = "dns"
    COMMON = "cn"


class Name(NamedTuple):
    kind: Kind
    text: str

    @property
    def id(self) -> str:
        """Differs for names of the same text and of other kinds."""
        return f"certificate:{self.text}" if self.kind is not Kind.COMMON else f"certificate:cn={self.text}"


#: In the order in which they count: URIs (SPIFFE), hosts, common names. Other kinds name nobody.
Names = tuple[Name, ...]


def fits(pattern: str, kind: Kind) -> bool:
    """Whether the pattern is about names of this kind: one with a scheme about URIs alone, others never about URIs.

    >>> fits("spiffe://prod/*", Kind.COMMON), fits("*.example.com", Kind.HOST), fits("*", Kind.URI)
    (False, True, True)
    """
    return pattern == ANYBODY or ("://" in pattern) == (kind is Kind.URI)


def of_scope(scope: Mapping[str, Any]) -> Names:
    tls = (scope.get("extensions") or {}).get("tls")
    certificate = tls.get("client_cert") if tls else None
    return _names(certificate, False) if certificate else ()


def of_auth_context(context: Mapping[str, Iterable[bytes]]) -> Names:
    if b"ssl" not in context.get("transport_security_type", ()):
        return ()
    certificate = next(iter(context.get("x509_pem_cert", ())), None)
    return _names(certificate, True) if certificate else ()


@lru_cache(_MAX_REMEMBERED)
def _names(certificate: bytes, is_pem: bool) -> Names:
    """None for one that cannot be read: a certificate whose names are in doubt names nobody."""
    from cryptography import x509

    try:
        read = x509.load_pem_x509_certificate if is_pem else x509.load_der_x509_certificate
        parsed = read(certificate)
        uris, hosts = _alternatives(parsed)
        common = [str(one.value) for one in parsed.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    except (ValueError, TypeError, x509.DuplicateExtension):
        return ()
    found = ((Kind.URI, uris), (Kind.HOST, hosts), (Kind.COMMON, common))
    return tuple(Name(kind, text) for kind, texts in found for text in texts)


def _alternatives(certificate: Any) -> tuple[list[str], list[str]]:
    from cryptography import x509

    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [], []
    return (
        extension.get_values_for_type(x509.UniformResourceIdentifier),
        extension.get_values_for_type(x509.DNSName),
    )
