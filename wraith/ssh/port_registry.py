"""Who holds which remote port, over all sessions of a server, and who may take one over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from ..specs import ALL_ADDRESSES, LOCALHOST, TcpBind, UnixBind
from .offer import Credential

Place = TcpBind | UnixBind

LOOPBACK = frozenset({"127.0.0.1", "::1"})  # what LOCALHOST is bound to


class HoldingSession(Protocol):
    """A session that may hold ports."""

    async def answers(self) -> bool:
        """Whether its client is alive: probes it, and waits a bounded time for a byte."""
        ...

    async def end_whole(self) -> None:
        """End it, its listeners included."""
        ...


@dataclass(frozen=True, slots=True)
class Claim:
    """A session's wish for a place, with who is behind the session.

    `credential` is what proved the login, never the user name, which any key holder may choose;
    `instance` names one process of wraith's client.
    """

    session: HoldingSession
    credential: Credential | None
    instance: bytes | None


@dataclass(frozen=True, slots=True)
class Holding:
    """A place that is held."""

    claim: Claim
    since: datetime


class PortHeld(Exception):
    """The place is held by somebody who keeps it; `since` is told only to the same credential."""

    def __init__(self, since: datetime | None) -> None:
        super().__init__("held")
        self.since = since


class PortRegistry:
    """Places and their holders. A credential's later session replaces a dead one; nobody else does."""

    def __init__(self) -> None:
        self._held: dict[Place, Holding] = {}

    async def claim(self, place: Place, claim: Claim) -> None:
        """Give the place to the claim, ending the session that held it where that is due. Raises PortHeld."""
        while (held := self._holding_of(place)) is not None:
            held_place, holding = held
            holder = holding.claim
            if claim.credential is None or holder.credential != claim.credential:
                raise PortHeld(None)
            if holder.session is claim.session:
                raise PortHeld(holding.since)
            same_process = claim.instance is not None and holder.instance == claim.instance
            if not same_process and await holder.session.answers():
                raise PortHeld(holding.since)
            await holder.session.end_whole()
            # It gives up its places as it ends; should it not, they are taken from it.
            if self._held.get(held_place) is holding:
                del self._held[held_place]
        self._held[place] = Holding(claim, datetime.now(UTC))

    def release(self, place: Place, session: HoldingSession) -> None:
        """Give a place back; nothing happens if the session does not hold it."""
        holding = self._held.get(place)
        if holding is not None and holding.claim.session is session:
            del self._held[place]

    def _holding_of(self, place: Place) -> tuple[Place, Holding] | None:
        """Find who holds the place, or one that it cannot be listened on beside."""
        return next((held for held in self._held.items() if _overlap(held[0], place)), None)


def _overlap(one: Place, other: Place) -> bool:
    """Whether two places share an address and its port; names other than localhost are not looked up."""
    if isinstance(one, UnixBind) or isinstance(other, UnixBind) or one.port != other.port:
        return one == other
    hosts = {one.host, other.host}
    return len(hosts) == 1 or ALL_ADDRESSES in hosts or (LOCALHOST in hosts and not hosts.isdisjoint(LOOPBACK))
