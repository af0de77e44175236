"""A tunnel to test through: a server, a client of it, and the files that nginx has at its far end."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.processes import WraithClient, WraithServer

TRANSPORTS = ("tcp", "tls")

BIG = "big"
MEDIUM = "medium"
FILES = {BIG: 256 << 20, MEDIUM: 16 << 20}


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A server, and a client of it with a SOCKS port and one forward, to nginx."""

    server: WraithServer
    client: WraithClient

    @property
    def forward_port(self) -> int:
        return self.client.forward_ports[0]
