"""What one login may do, and what that rests on."""

from __future__ import annotations

from dataclasses import dataclass

from .key_options import ListenPermission, OpenPermission
from .offer import Credential, Offer


@dataclass(frozen=True, slots=True)
class Grant:
    """A login that was allowed.

    It is judged again while the session lives (`KeyRing.judge_again`), by the rules as they are then.
    """

    offer: Offer
    user: str
    address: str  # of the peer
    ground: str  # the line or file that allows it, for the log
    port_forwarding: bool = True
    permit_open: tuple[OpenPermission, ...] = ()  # none: any
    permit_listen: tuple[ListenPermission, ...] = ()  # none: any

    @property
    def credential(self) -> Credential:
        """Who logged in: what owns the ports it listens on."""
        return self.offer.credential

    def permits_open(self, host: str, port: int) -> bool:
        """Whether a connection to this host and port, as they were asked for, may be made."""
        return self.port_forwarding and _any(self.permit_open, host, port)

    def permits_listen(self, host: str, port: int) -> bool:
        """Whether it may listen on this host and port, as they were asked for."""
        return self.port_forwarding and _any(self.permit_listen, host, port)

    @property
    def permits_open_path(self) -> bool:
        """Whether it may connect to the unix sockets that the server lists; a list of targets shuts them out."""
        return self.port_forwarding and not self.permit_open

    @property
    def permits_listen_path(self) -> bool:
        """Whether it may listen on the unix sockets that the server lists."""
        return self.port_forwarding and not self.permit_listen


def _any(permissions: tuple[OpenPermission, ...] | tuple[ListenPermission, ...], host: str, port: int) -> bool:
    return not permissions or any(permission.allows(host, port) for permission in permissions)
