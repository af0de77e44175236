"""Decides which connections a server keeps: limits that strangers cannot use against those who may log in."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

MAX_UNAUTHENTICATED = 256  # some 60 KiB each; a login takes well under a second

IPV6_SITE_BITS = 64  # what one customer gets at least, so what one stranger can be anywhere in


@dataclass(slots=True)
class _Visitor:
    site: str
    exchanged: bool = False  # has finished its key exchange
    authenticated: bool = False


class Admission:
    """Counts connections by name and address. No I/O: it says who has to go."""

    def __init__(
        self, *, max_per_address: int = 0, max_sessions: int = 1000, max_unauthenticated: int = MAX_UNAUTHENTICATED
    ) -> None:
        """Set the limits; `max_per_address` counts logged-in ones too, and 0 is none."""
        self._max_per_address = max_per_address
        self._max_sessions = max_sessions
        self._max_unauthenticated = max_unauthenticated
        self._visitors: dict[str, _Visitor] = {}  # in order of arrival

    def arrive(self, name: str, address: str) -> list[str] | None:
        """Judge a new connection: who has to make room for it (mostly nobody), or None when it is refused."""
        site = site_of(address)
        same = [visitor for visitor in self._visitors.values() if visitor.site == site]
        if self._max_per_address and len(same) >= self._max_per_address:
            return None
        if sum(visitor.authenticated for visitor in self._visitors.values()) >= self._max_sessions:
            return None
        leaving: list[str] = []
        if sum(not visitor.authenticated for visitor in same) >= self._max_unauthenticated // 2:
            own = self._oldest(site=site, exchanged=False)
            if own is None:
                return None
            leaving.append(own)
        elif self._unauthenticated() >= self._max_unauthenticated:
            leaving.append(self._oldest(exchanged=False) or self._oldest(site=self._largest_site()) or "")
        for each in leaving:
            self.leave(each)
        self._visitors[name] = _Visitor(site)
        return leaving

    def exchanged(self, name: str) -> None:
        """Note a finished key exchange."""
        if name in self._visitors:
            self._visitors[name].exchanged = True

    def authenticated(self, name: str) -> None:
        """Note a login."""
        if name in self._visitors:
            self._visitors[name].exchanged = self._visitors[name].authenticated = True

    def leave(self, name: str) -> None:
        """Note that a connection is gone."""
        self._visitors.pop(name, None)

    def _unauthenticated(self) -> int:
        return sum(not visitor.authenticated for visitor in self._visitors.values())

    def _oldest(self, *, site: str | None = None, exchanged: bool | None = None) -> str | None:
        for name, visitor in self._visitors.items():
            if visitor.authenticated or (site is not None and visitor.site != site):
                continue
            if exchanged is None or visitor.exchanged == exchanged:
                return name
        return None

    def _largest_site(self) -> str:
        counts: dict[str, int] = {}
        for visitor in self._visitors.values():
            if not visitor.authenticated:
                counts[visitor.site] = counts.get(visitor.site, 0) + 1
        return max(counts, key=lambda site: counts[site])


def site_of(address: str) -> str:
    """Give what counts as one address: an IPv4 address itself, an IPv6 one's /64."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, IPV6_SITE_BITS), strict=False).network_address)
