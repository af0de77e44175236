"""wraith's two ends in two hosts of the lab, and what a test needs beside them: targets there, curl here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.lab.network.host import Host
from tests.support.processes import Finished, Peer, WraithClient, WraithServer, run_program
from tests.support.targets import Handler, Target
from tests.support.tools import need


class LabServer(WraithServer):
    """`wraith serve` on every address of a host; `address` is the one, or the name, that clients are given."""

    def __init__(self, host: Host, address: str, tmp_path: Path, *flags: str, transport: str = "tcp") -> None:
        super().__init__(tmp_path, *flags, transport=transport, listen="[::]:0")
        self.argv = host.command(*self.argv)
        self.address = address

    @property
    def reached_by(self) -> Sequence[str]:
        _, *others = super().reached_by
        host = f"[{self.address}]" if ":" in self.address else self.address
        return (f"{self.transport}://{host}:{self.port}", *others)


class LabClient(WraithClient):
    """`wraith connect` from a host, with a SOCKS port on that host's loopback."""

    def __init__(self, host: Host, peer: Peer, *flags: str) -> None:
        super().__init__(peer, *flags)
        self.argv = host.command(*self.argv)
        self.host = host

    def curl(self, url: str, *flags: str | Path, limit_s: float = 60) -> Finished:
        """Run curl beside it, through its SOCKS port."""
        (curl,) = need("curl")
        argv = self.host.command(curl, "-q", "-sS", "--fail", "--proxy", self.socks5h, *flags, url)
        return run_program(*argv, folder=self.folder, limit_s=limit_s)


@contextlib.contextmanager
def target_in(host: Host, handler: Handler, address: str = "127.0.0.1") -> Iterator[Target]:
    """Listen in a host, with threads of this process."""
    with host.inside():
        target = Target(handler, address)
    with target:
        yield target
