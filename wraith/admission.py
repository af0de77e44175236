"""Decides which connections a server keeps: limits that strangers cannot use against those who may log in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum

from wraith_transports import site_of

MAX_UNAUTHENTICATED = 256  # some 60 KiB each; a login takes well under a second


class NoRoom(Enum):
    """Why a connection was refused, in the words of the log."""

    ADDRESS = "too-many-from-address"  # --max-connections-per-ip
    SESSIONS = "too-many-sessions"  # --max-sessions


@dataclass(slots=True)
class _Visitor:
    site: str
    exchanged: bool = False  # has finished its key exchange


class Admission:
    """Counts connections by name and address. No I/O: it says who has to go.

    What is logged in is never asked to make room.
    """

    def __init__(
        self, *, max_per_address: int = 0, max_sessions: int = 1000, max_unauthenticated: int = MAX_UNAUTHENTICATED
    ) -> None:
        """Set the limits; `max_per_address` counts logged-in ones too, and 0 is none."""
        self._max_per_address = max_per_address
        self._max_sessions = max_sessions
        self._max_unauthenticated = max_unauthenticated
        self._waiting: dict[str, _Visitor] = {}  # not logged in; in order of arrival
        self._sessions: dict[str, _Visitor] = {}  # logged in

    def arrive(self, name: str, address: str) -> list[str] | NoRoom:
        """Judge a new connection: who has to make room for it (mostly nobody), or why it is refused.

        Who makes room has left by that.
        """
        site = site_of(address)
        if self._max_per_address and self._count(site) >= self._max_per_address:
            return NoRoom.ADDRESS
        if len(self._sessions) >= self._max_sessions:
            return NoRoom.SESSIONS
        rivals = {each: visitor for each, visitor in self._waiting.items() if visitor.site == site}
        leaving: list[str] = []
        if len(rivals) >= max(1, self._max_unauthenticated // 2):
            leaving = [_first_to_go(rivals)]
        elif len(self._waiting) >= self._max_unauthenticated:
            leaving = [_first_to_go(self._waiting)]
        for each in leaving:
            self.leave(each)
        self._waiting[name] = _Visitor(site)
        return leaving

    def exchanged(self, name: str) -> None:
        """Note a finished key exchange."""
        if name in self._waiting:
            self._waiting[name].exchanged = True

    def log_in(self, name: str) -> bool:
        """Note a login; False when it may not be, because there are as many sessions as there may be.

        A connection that was asked to make room does not log in any more.
        """
        if name not in self._waiting or len(self._sessions) >= self._max_sessions:
            return False
        self._sessions[name] = self._waiting.pop(name)
        return True

    def leave(self, name: str) -> None:
        """Note that a connection is gone."""
        self._waiting.pop(name, None)
        self._sessions.pop(name, None)

    def _count(self, site: str) -> int:
        return sum(visitor.site == site for group in (self._waiting, self._sessions) for visitor in group.values())


def _first_to_go(waiting: dict[str, _Visitor]) -> str:
    """Choose the oldest whose key exchange is not finished, else the oldest of the address with most."""
    for name, visitor in waiting.items():
        if not visitor.exchanged:
            return name
    sites = Counter(visitor.site for visitor in waiting.values())
    largest = max(sites, key=lambda site: sites[site])
    return next(name for name, visitor in waiting.items() if visitor.site == largest)
