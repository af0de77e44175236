"""Decides when to try again after a session could not be had or was lost, and when not to."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import AuthenticationRefused, UnusableFile, UsageError, WraithError, WrongPeer

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0
JITTER = 0.25  # of the delay, either way: a thousand clients of one server do not come back together
SETTLED_S = 10.0  # a session that lived so long was a success; a shorter one does not shorten the delay

# A wrong key or a refused one after a success: a captive portal, or somebody at work on the server.
REFUSED_FIRST_DELAY_S = 300.0
REFUSED_LONGEST_DELAY_S = 3600.0

_REFUSALS = (AuthenticationRefused, WrongPeer)
_FATAL_AT_FIRST = (*_REFUSALS, UnusableFile, UsageError)


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again after `delay_s`. `news` is False for a refusal that was reported before."""

    delay_s: float
    news: bool = True


class Backoff:
    """Counts failures. Fed with what happened; has no clock and no chance of its own."""

    def __init__(self) -> None:
        self._delay_s = FIRST_DELAY_S
        self._refused_delay_s = REFUSED_FIRST_DELAY_S
        self._refused = False
        self.connected_before = False

    def connected(self) -> None:
        """Note a login."""
        self.connected_before = True
        self._refused = False
        self._refused_delay_s = REFUSED_FIRST_DELAY_S

    def lost(self, lived_s: float, chance: float) -> Retry:
        """Note that a session was lost after `lived_s`; `chance` is from 0 to 1."""
        if lived_s >= SETTLED_S:
            self._delay_s = FIRST_DELAY_S
        return Retry(self._next(chance))

    def failed(self, error: WraithError, chance: float) -> Retry | None:
        """Note a failed attempt; None when trying again cannot help. `chance` is from 0 to 1."""
        if not self.connected_before and isinstance(error, _FATAL_AT_FIRST):
            return None
        if not isinstance(error, _REFUSALS):
            return Retry(self._next(chance))
        news, self._refused = not self._refused, True
        delay_s = self._refused_delay_s
        self._refused_delay_s = min(2 * delay_s, REFUSED_LONGEST_DELAY_S)
        return Retry(_jittered(delay_s, chance), news)

    def _next(self, chance: float) -> float:
        delay_s = self._delay_s
        self._delay_s = min(2 * delay_s, LONGEST_DELAY_S)
        return _jittered(delay_s, chance)


def _jittered(delay_s: float, chance: float) -> float:
    return delay_s * (1 + JITTER * (2 * chance - 1))
