"""An address that `wraith serve` listens on."""

from __future__ import annotations

from dataclasses import dataclass

from wraith.errors import UsageError

from .hostport import Malformed, is_ipv6, join_host_port, quoted, read_host, read_port, split_fields
from .target import Scheme, split_scheme

ALL_ADDRESSES = "::"  # IPv6 and IPv4 both, by way of two sockets


@dataclass(frozen=True, slots=True)
class ListenSpec:
    """Where to listen; without a scheme it is the transport that `--transport` names."""

    host: str
    port: int
    scheme: Scheme | None = None

    def __str__(self) -> str:
        scheme = f"{self.scheme.value}://" if self.scheme else ""
        return f"{scheme}{join_host_port(self.host, self.port)}"


def parse_listen(text: str) -> ListenSpec:
    """Read `[SCHEME://]ADDR:PORT`; `*` or nothing as ADDR is every address, port 0 any free one. Raises UsageError."""
    try:
        scheme, address = split_scheme(text)
        fields = split_fields(address)
        if len(fields) != 2:
            hint = "an IPv6 address needs brackets" if is_ipv6(address) or len(fields) > 2 else "the port is missing"
            raise Malformed(hint)
        host, port = fields
        return ListenSpec(ALL_ADDRESSES if host in ("", "*") else read_host(host), read_port(port, lowest=0), scheme)
    except Malformed as problem:
        raise UsageError(
            f"--listen {quoted(text)}: {problem}; write [SCHEME://]ADDR:PORT, as in tls://[::]:443"
        ) from None
