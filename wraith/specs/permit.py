"""Which targets may be opened: the patterns of `--permit-open`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from wraith.errors import UsageError

from .hostport import Malformed, is_ipv6, join_host_port, quoted, read_host, read_port, split_fields


@dataclass(frozen=True, slots=True)
class OpenPattern:
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
    """What may be opened: anything that one of the patterns matches, and without patterns everything."""

    patterns: tuple[OpenPattern, ...] = ()

    def allows(self, host: str, port: int) -> bool:
        """Whether a connection to this host and port may be made."""
        return not self.patterns or any(pattern.matches(host, port) for pattern in self.patterns)


def parse_open_pattern(text: str) -> OpenPattern:
    """Read `HOST:PORT` with `*` on either side and IPv6 in brackets. Raises UsageError."""
    try:
        fields = split_fields(text)
        if len(fields) != 2:
            hint = "an IPv6 address needs brackets" if is_ipv6(text) or len(fields) > 2 else "the port is missing"
            raise Malformed(hint)
        host, port = fields
        if "*" in host and host != "*":
            raise Malformed("* stands for any host and cannot be part of a name")
        return OpenPattern(None if host == "*" else read_host(host), None if port == "*" else read_port(port))
    except Malformed as problem:
        raise UsageError(
            f"--permit-open {quoted(text)}: {problem}; write HOST:PORT, with * for any host or any port"
        ) from None


def parse_permit_open(texts: Iterable[str]) -> PermitOpen:
    """Read every `--permit-open`; none means that everything may be opened. Raises UsageError."""
    return PermitOpen(tuple(parse_open_pattern(text) for text in texts))
