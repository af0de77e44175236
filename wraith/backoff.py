"""Decides when to try again after a session could not be had or was lost, and when not to."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import AuthenticationRefused, UnusableFile, UsageError, WraithError, WrongPeer

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0
JITTER = 0.25  # of a delay, which may be shorter by so much: a thousand clients do not come back together
SETTLED_S = 10.0  # a session that lived so long was a success; after a shorter one the delay goes on growing

# A wrong key or a refused one after a success: a captive portal, or somebody at work on the server.
REFUSED_FIRST_DELAY_S = 300.0
REFUSED_LONGEST_DELAY_S = 3600.0

_REFUSALS = (AuthenticationRefused, WrongPeer)
_FATAL_AT_FIRST = (*_REFUSALS, UnusableFile, UsageError)


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again after `delay_s`.

    `refused` tells that the server or its key was the wrong one, `news` that this was not so, or
    not for the same reason, after the last attempt.
    """

    delay_s: float
    refused: bool
    news: bool


class Backoff:
    """Counts failures. Fed with what happened; has no clock and no chance of its own."""

    def __init__(
        self,
        *,
        first_s: float = FIRST_DELAY_S,
        longest_s: float = LONGEST_DELAY_S,
        refused_first_s: float = REFUSED_FIRST_DELAY_S,
        refused_longest_s: float = REFUSED_LONGEST_DELAY_S,
    ) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._refused_first_s = refused_first_s
        self._refused_longest_s = refused_longest_s
        self._delay_s = first_s
        self._refused_delay_s = refused_first_s
        self._refused = False  # reported since the last login
        self._last = ""  # what was said of the last failure
        self.connected_before = False

    def connected(self) -> None:
        """Note a login."""
        self.connected_before = True
        self._refused = False
        self._refused_delay_s = self._refused_first_s
        self._last = ""

    def lost(self, lived_s: float, chance: float) -> Retry:
        """Note that a session was lost after `lived_s`; `chance` is from 0 to 1."""
        if lived_s >= SETTLED_S:
            self._delay_s = self._first_s
        return Retry(self._next(chance), refused=False, news=True)

    def failed(self, error: WraithError, chance: float) -> Retry | None:
        """Note a failed attempt; None when trying again cannot help. `chance` is from 0 to 1."""
        if not self.connected_before and isinstance(error, _FATAL_AT_FIRST):
            return None
        if not isinstance(error, _REFUSALS):
            news, self._last = str(error) != self._last, str(error)
            return Retry(self._next(chance), refused=False, news=news)
        news, self._refused = not self._refused, True
        self._last = ""
        delay_s = self._refused_delay_s
        self._refused_delay_s = min(2 * delay_s, self._refused_longest_s)
        return Retry(_jittered(delay_s, chance), refused=True, news=news)

    def _next(self, chance: float) -> float:
        delay_s = self._delay_s
        self._delay_s = min(2 * delay_s, self._longest_s)
        return _jittered(delay_s, chance)


def _jittered(delay_s: float, chance: float) -> float:
    return delay_s * (1 - JITTER * chance)
