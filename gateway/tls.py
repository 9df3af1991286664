"""TLS on both sides, from files that may be replaced at any time: who connects next gets what they hold then.

The files are looked at when a connection is made. A pair that does not fit yet, since its second file is still being
written, is passed over: what was read before goes on until there is one that does.
"""

from __future__ import annotations

import logging
import ssl
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import grpc

from gateway.stamps import Stamp, stamp

log = logging.getLogger("duet.tls")


class _Files(ABC):
    """Certificate, key and authorities, each of which may be absent; ``version`` counts how often they were read."""

    def __init__(self, *, cert: Path | None, key: Path | None, authorities: Path | None) -> None:
        self._cert, self._key, self._authorities = cert, key, authorities
        self._stamp: tuple[Stamp, ...] | None = None
        self._reported: tuple[Stamp, ...] | str | None = None
        self.version = 0
        self.read()
        if not self.version:
            raise OSError("the certificates cannot be used, see above")

    def read(self) -> bool:
        """Whether there is something new. Files that cannot be used are tried each time, and reported once."""
        found: tuple[Stamp, ...] | None = None
        try:
            found = tuple(stamp(path) for path in (self._cert, self._key, self._authorities) if path)
            if found == self._stamp:
                return False
            self.load()
        except (OSError, ssl.SSLError, ValueError) as error:
            self._report(found, getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error))
            return False
        self._stamp, self._reported = found, None
        self.version += 1
        return True

    def _report(self, found: tuple[Stamp, ...] | None, reason: str) -> None:
        """Once for each state of the files."""
        state = found or reason
        if state != self._reported:
            self._reported = state
            log.warning("%s: %s; the certificates are not taken", self._cert or self._authorities, reason)

    @abstractmethod
    def load(self) -> None:
        """Reads them all. Raises OSError (ssl.SSLError is one) or ValueError, having changed nothing."""

    def _fill(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._cert is not None:
            context.load_cert_chain(self._cert, self._key)
        return context


class ServerTls(_Files):
    """A listener's. Clients must show a certificate of ``client_ca`` where that is given.

    Raises OSError where the files cannot be used.
    """

    def __init__(self, *, cert: Path, key: Path, client_ca: Path | None = None) -> None:
        self._client_ca = client_ca
        super().__init__(cert=cert, key=key, authorities=client_ca)

    def load(self) -> None:
        context = self._fill(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        context.set_alpn_protocols(["http/1.1"])
        if self._client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self._client_ca)
            # A session that is taken up again is not verified again.
            context.options |= ssl.OP_NO_TICKET
            context.num_tickets = 0
        self._configuration = _configuration(self._cert, self._key, self._client_ca)
        self._context = context

    def context(self) -> ssl.SSLContext:
        """For a listener's whole life: each handshake is done with what the files hold by then."""
        listening = self._context

        def take_newest(connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
            self.read()
            connection.context = self._context

        listening.sni_callback = take_newest
        return listening

    def grpc_credentials(self) -> grpc.ServerCredentials:
        told = self.version

        def fetch() -> Any:
            nonlocal told
            self.read()
            if told == self.version:
                return None
            told = self.version
            return self._configuration

        return grpc.dynamic_ssl_server_credentials(self._configuration, fetch, self._client_ca is not None)


class ClientTls(_Files):
    """For calls of a server, whose certificate must be of ``ca``, or of the system's authorities, and bear ``name``.

    ``cert`` and ``key`` are shown to it where they are given. Raises OSError where the files cannot be used.
    """

    def __init__(self, *, name: str, ca: Path | None = None, cert: Path | None = None, key: Path | None = None) -> None:
        self.name = name
        super().__init__(cert=cert, key=key, authorities=ca)

    def load(self) -> None:
        context = self._fill(ssl.create_default_context(cafile=self._authorities))
        self._credentials = grpc.ssl_channel_credentials(*map(_bytes, (self._authorities, self._key, self._cert)))
        self._context = context

    def context(self) -> ssl.SSLContext:
        self.read()
        return self._context

    def grpc_credentials(self) -> grpc.ChannelCredentials:
        return self._credentials


def _configuration(cert: Path | None, key: Path | None, client_ca: Path | None) -> Any:
    return grpc.ssl_server_certificate_configuration([(_bytes(key), _bytes(cert))], _bytes(client_ca))


def _bytes(path: Path | None) -> bytes | None:
    return path.read_bytes() if path is not None else None
