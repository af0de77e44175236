"""Which targets may be opened and which addresses listened on: `--permit-open` and `--permit-listen`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from wraith.errors import UsageError

from .hostport import Malformed, is_ipv6, join_host_port, quoted, read_host, read_port, split_fields
from .local import read_path

LOWEST_UNPRIVILEGED_PORT = 1024

_OPEN_FORM = "write HOST:PORT, with * for any host or any port, or the absolute path of a unix socket"
_LISTEN_FORM = "write [HOST:]PORT, with * for any host or any port, or the absolute path of a unix socket"


@dataclass(frozen=True, slots=True)
class AddressPattern:
    """One host and one port, either of which may be any (None)."""

    host: str | None
    port: int | None

    def matches(self, host: str, port: int) -> bool:
        """Compare as sshd does: the host as it was asked for, letter by letter, never resolved."""
        return self.host in (None, host) and self.port in (None, port)

    def __str__(self) -> str:
        if self.port is None:
            return f"{'*' if self.host is None else join_host_port(self.host, None)}:*"
        return join_host_port("*" if self.host is None else self.host, self.port)


@dataclass(frozen=True, slots=True)
class PermitOpen:
    """What may be opened: anything that one of the patterns matches, and without patterns everything.

    Unix sockets only where they are listed; listing one does not narrow the rest.
    """

    patterns: tuple[AddressPattern, ...] = ()
    paths: frozenset[str] = frozenset()

    def allows(self, host: str, port: int) -> bool:
        """Whether a connection to this host and port may be made."""
        return not self.patterns or any(pattern.matches(host, port) for pattern in self.patterns)

    def allows_path(self, path: str) -> bool:
        """Whether a connection to this unix socket may be made."""
        return path in self.paths


@dataclass(frozen=True, slots=True)
class PermitListen:
    """What may be listened on for a client: what is listed, and without a list every unprivileged port."""

    patterns: tuple[AddressPattern, ...] = ()
    paths: frozenset[str] = frozenset()

    def allows(self, host: str, port: int) -> bool:
        """Whether this may be listened on; port 0 asks for any free one, which is never privileged."""
        if not self.patterns:
            return port == 0 or port >= LOWEST_UNPRIVILEGED_PORT
        return any(pattern.matches(host, port) for pattern in self.patterns)

    def allows_path(self, path: str) -> bool:
        """Whether a unix socket may be made here."""
        return path in self.paths


def parse_open_pattern(text: str) -> AddressPattern:
    """Read `HOST:PORT` with `*` on either side and IPv6 in brackets. Raises UsageError."""
    try:
        return _read_pattern(text, host_needed=True)
    except Malformed as problem:
        raise UsageError(f"--permit-open {quoted(text)}: {problem}; {_OPEN_FORM}") from None


def parse_listen_pattern(text: str) -> AddressPattern:
    """Read `[HOST:]PORT` with `*` on either side and IPv6 in brackets. Raises UsageError."""
    try:
        return _read_pattern(text, host_needed=False)
    except Malformed as problem:
        raise UsageError(f"--permit-listen {quoted(text)}: {problem}; {_LISTEN_FORM}") from None


def parse_permit_open(texts: Iterable[str]) -> PermitOpen:
    """Read every `--permit-open`; none means that everything but unix sockets may be opened. Raises UsageError."""
    paths, others = _apart(texts, "--permit-open", _OPEN_FORM)
    return PermitOpen(tuple(parse_open_pattern(text) for text in others), paths)


def parse_permit_listen(texts: Iterable[str]) -> PermitListen:
    """Read every `--permit-listen`. Raises UsageError."""
    paths, others = _apart(texts, "--permit-listen", _LISTEN_FORM)
    return PermitListen(tuple(parse_listen_pattern(text) for text in others), paths)


def _apart(texts: Iterable[str], flag: str, form: str) -> tuple[frozenset[str], list[str]]:
    paths, others = set(), []
    for text in texts:
        if not text.startswith("/"):
            others.append(text)
            continue
        try:
            paths.add(read_path(text))
        except Malformed as problem:
            raise UsageError(f"{flag} {quoted(text)}: {problem}; {form}") from None
    return frozenset(paths), others


def _read_pattern(text: str, *, host_needed: bool) -> AddressPattern:
    fields = split_fields(text)
    if len(fields) == 1 and not host_needed:
        fields = ["*", *fields]
    if len(fields) != 2:
        raise Malformed("an IPv6 address needs brackets" if is_ipv6(text) or len(fields) > 2 else "the port is missing")
    host, port = fields
    if "*" in host and host != "*":
        raise Malformed("* stands for any host and cannot be part of a name")
    return AddressPattern(None if host == "*" else read_host(host), None if port == "*" else read_port(port))
