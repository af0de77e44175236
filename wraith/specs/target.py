"""The server that `wraith connect` is told to reach."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from wraith.errors import UsageError

from .hostport import Malformed, join_host_port, quoted, read_host, read_port, split_host_port

TARGET_LIMIT = 1024  # longer than any user, host and port; bounds the work on nonsense
USER_LIMIT = 255

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# The form of an endpoint ID in any of the alphabets it may be written in.
_ENDPOINT_ID = re.compile(r"[A-Za-z0-9]{40,50}")
_FORM = "write [USER@]HOST[:PORT] or tls://HOST[:PORT]"


class Scheme(Enum):
    """How a server is reached, as a target or a listening address names it."""

    TCP = "tcp"
    TLS = "tls"

    @property
    def default_port(self) -> int:
        """The port when none is written."""
        return 22 if self is Scheme.TCP else 443


@dataclass(frozen=True, slots=True)
class Target:
    """A server, as far as it was written down; what is None is for flags and defaults to say."""

    host: str
    port: int | None = None
    user: str | None = None
    scheme: Scheme | None = None

    def __str__(self) -> str:
        scheme = f"{self.scheme.value}://" if self.scheme else ""
        user = f"{self.user}@" if self.user is not None else ""
        return f"{scheme}{user}{join_host_port(self.host, self.port)}"


def parse_target(text: str) -> Target:
    """Read `[USER@]HOST[:PORT]` with or without `tcp://` or `tls://` in front. Raises UsageError."""
    try:
        return _parse(text)
    except Malformed as problem:
        raise UsageError(f"target {quoted(text)}: {problem}; {_FORM}") from None


def split_scheme(text: str) -> tuple[Scheme | None, str]:
    """Take the scheme off the front of a target or a listening address. Raises Malformed."""
    match = _SCHEME.match(text)
    if match is None:
        return None, text
    try:
        return Scheme(match[1].lower()), text[match.end() :]
    except ValueError:
        known = " and ".join(f"{scheme.value}://" for scheme in Scheme)
        raise Malformed(f"{quoted(match[0])} is not understood, only {known}") from None


def _parse(text: str) -> Target:
    if len(text) > TARGET_LIMIT:
        raise Malformed("it is too long")
    if _ENDPOINT_ID.fullmatch(text):
        # Never a host name: a mistyped ID must not become a question to the resolver.
        raise Malformed("this looks like an endpoint ID, and no transport here reaches peers by ID")
    scheme, rest = split_scheme(text)
    # The last @ counts, as in ssh: a user name may contain one.
    user, at, address = rest.rpartition("@")
    host, port = split_host_port(address)
    return Target(
        read_host(host),
        None if port is None else read_port(port),
        _read_user(user) if at else None,
        scheme,
    )


def _read_user(text: str) -> str:
    if not text:
        raise Malformed("the user name before @ is missing")
    if len(text) > USER_LIMIT or not text.isprintable() or " " in text:
        raise Malformed(f"{quoted(text)} is not a user name")
    return text
