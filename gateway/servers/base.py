"""A kind of server is a plug-in: a folder here, and one line in `gateway.servers.kinds`.

What `ServerKind` needs is imported where settings are read, by the supervisor of workers too. So its module imports
neither its client nor the table of its faults at the top: these bring the libraries of the wire with them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from gateway.backends.base import Server as Server
from gateway.servers.settings import ServerSettings

if TYPE_CHECKING:
    from gateway.servers.faults import Faults
    from gateway.tls import ClientTls

S = TypeVar("S", bound=ServerSettings)


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """One address of a configured server, and what its client needs besides the server's own settings.

    ``variant`` is the server's name in the settings, which its answers carry. ``host`` is an address as it stands in a
    URL. ``opaque`` names the models whose bodies are passed on as they are.
    """

    variant: str
    host: str
    port: int
    tls: ClientTls | None = None
    opaque: frozenset[str] = frozenset()

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.port}"


class ServerKind(ABC, Generic[S]):
    """``name`` is the value of ``kind`` in the settings, ``title`` what errors and logs call the server."""

    name: ClassVar[str]
    title: ClassVar[str]
    settings: type[S]
    #: Whether it can serve a model with a handler of the user's own, and so take a `Payload`.
    takes_opaque: ClassVar[bool] = False
    #: Whether a call that is given up costs it nothing more, so that one request may be sent twice (layers/hedge.py).
    may_be_hedged: ClassVar[bool] = False

    @abstractmethod
    def connect(self, settings: S, endpoint: ServerAddress) -> Server:
        """The client of one endpoint. It connects when it is first called, and raises nothing before."""

    @abstractmethod
    def faults(self) -> Faults:
        """What the server's failures mean: the table by which its client translates them."""


AnyKind = ServerKind[Any]
