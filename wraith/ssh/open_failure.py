"""Translates why a target could not be reached to and from SSH's open failures (RFC 4254, 5.1)."""

from __future__ import annotations

import asyncssh
from asyncssh.constants import OPEN_ADMINISTRATIVELY_PROHIBITED, OPEN_CONNECT_FAILED

from wraith_transports import DialFailure

from ..opening import SAME_FAILURES, OpenFailed, OpenFailure

# SSH has one code for all failed connections; the words beside it are what tells them apart.
# These are the words of the C library, which is what OpenSSH sends.
_WORDS = {
    DialFailure.REFUSED: "Connection refused",
    DialFailure.HOST_UNREACHABLE: "No route to host",
    DialFailure.NETWORK_UNREACHABLE: "Network is unreachable",
    DialFailure.NOT_FOUND: "Name or service not known",
    DialFailure.TIMED_OUT: "Connection timed out",
    DialFailure.NOT_ALLOWED: "Permission denied",
    DialFailure.OTHER: "Connection failed",
}

_FAILURES = (
    ("connection refused", OpenFailure.REFUSED),
    ("no route to host", OpenFailure.HOST_UNREACHABLE),
    ("host is unreachable", OpenFailure.HOST_UNREACHABLE),
    ("network is unreachable", OpenFailure.NETWORK_UNREACHABLE),
    ("name or service not known", OpenFailure.NOT_FOUND),
    ("no address associated", OpenFailure.NOT_FOUND),
    ("unknown host", OpenFailure.NOT_FOUND),
    ("temporary failure in name resolution", OpenFailure.NOT_FOUND),
    ("timed out", OpenFailure.TIMED_OUT),
    ("permission denied", OpenFailure.NOT_ALLOWED),
)

MAX_REASON = 200  # characters of a server's words that are shown


def refusal(reason: DialFailure) -> asyncssh.ChannelOpenError:
    """Say to the client why its target could not be reached; never where it was."""
    code = OPEN_ADMINISTRATIVELY_PROHIBITED if reason is DialFailure.NOT_ALLOWED else OPEN_CONNECT_FAILED
    return asyncssh.ChannelOpenError(code, _WORDS[reason])


def refusal_of(error: OpenFailed) -> asyncssh.ChannelOpenError:
    """Say to the server why the target of a remote forward could not be reached."""
    words = {failure: _WORDS[dial] for dial, failure in SAME_FAILURES.items()}
    return asyncssh.ChannelOpenError(OPEN_CONNECT_FAILED, words.get(error.reason, "Connection failed"))


def open_failed(code: int, words: str) -> OpenFailed:
    """Read a server's refusal."""
    shown = "".join(c if c.isprintable() else "?" for c in words[:MAX_REASON]) or "no reason given"
    if code == OPEN_ADMINISTRATIVELY_PROHIBITED:
        return OpenFailed(f"not allowed by the server: {shown}", OpenFailure.NOT_ALLOWED)
    if code == OPEN_CONNECT_FAILED:
        lowered = words.lower()
        for part, reason in _FAILURES:
            if part in lowered:
                return OpenFailed(reason.value, reason)
    return OpenFailed(f"refused by the server: {shown}", OpenFailure.OTHER)
