"""Networks on one machine, each from a `with` to its end: hosts that are namespaces, and links between them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab.network.host import FILES, NAMESPACES, Host, command, remove_namespace
from tests.lab.network.links import DEFAULT_MTU, EmulatedLink, Interface, Link, conditions_of

PREFIX = "wraith-lab"
OURS = re.compile(rf"{PREFIX}-(\d+)-")  # the pid of the process that made it

_numbers = count(1)


def leftovers(folder: Path = NAMESPACES) -> set[str]:
    """Give the namespaces of processes that are gone. One whose pid was given out again is found another time."""
    return {name for name, pid in _labs(folder) if not Path(f"/proc/{pid}").exists()}


def namespaces_of(pid: int) -> set[str]:
    """Give the namespaces that a process has made and not removed, and those that have files."""
    return {name for folder in (NAMESPACES, FILES) for name, owner in _labs(folder) if owner == pid}


def sweep() -> None:
    """Remove what killed runs left behind."""
    for name in leftovers() | leftovers(FILES):
        remove_namespace(name)


class Lab:
    """Hosts and links with names of their own, so that several labs do not meet. Everything ends with the block."""

    def __init__(self) -> None:
        self._prefix = f"{PREFIX}-{os.getpid()}-{next(_numbers)}"
        self._hosts: dict[str, Host] = {}
        self._links = count(1)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        sweep()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def host(self, name: str) -> Host:
        """Give the host of that name, which is made when first asked for."""
        if name not in self._hosts:
            host = Host(name, f"{self._prefix}-{name}")
            self._stack.callback(host.remove)  # also when it is made only in part
            host.create()
            self._hosts[name] = host
        return self._hosts[name]

    def link(
        self, a: Host, b: Host, *, a_has: Sequence[str] = (), b_has: Sequence[str] = (), mtu: int = DEFAULT_MTU
    ) -> Link:
        """Join two hosts by a pair of Ethernet devices.

        `a_has` and `b_has` are addresses with prefix length; without any, each link is an IPv4 and an IPv6 network.
        """
        number = next(self._links)
        device = f"eth{number}"
        end = ("type", "veth", "peer", "name", device, "netns", b.namespace)
        command("ip", "link", "add", "name", device, "netns", a.namespace, *end)
        ends = Interface(a, device, b), Interface(b, device, a)
        return _joined(*ends, mtu, a_has or _addresses(number, 1), b_has or _addresses(number, 2))

    def emulated_link(
        self,
        a: Host,
        b: Host,
        *,
        round_trip_ms: float = 0.0,
        rate_mbit: float | None = None,
        loss: float = 0.0,
        queue_bytes: int | None = None,
        a_has: Sequence[str] = (),
        b_has: Sequence[str] = (),
        mtu: int = DEFAULT_MTU,
    ) -> tuple[Link, EmulatedLink]:
        """Join two hosts by a link with a round trip, and in each direction a rate, a queue and a share of loss.

        The rate counts IP packets, without Ethernet's framing; the queue holds one round trip unless told.
        """
        conditions = conditions_of(round_trip_ms=round_trip_ms, rate_mbit=rate_mbit, loss=loss, queue_bytes=queue_bytes)
        number = next(self._links)
        device = f"wan{number}"
        emulated = EmulatedLink(a, b, device, conditions)
        self._stack.callback(emulated.end)
        for host in (a, b):
            # Nothing but what the programs send: no router is looked for.
            command("ip", "-n", host.namespace, "link", "set", device, "addrgenmode", "none", "txqueuelen", "1000")
        ends = Interface(a, device, b), Interface(b, device, a)
        link = _joined(*ends, mtu, a_has or _addresses(number, 1), b_has or _addresses(number, 2))
        return link, emulated


def _joined(a: Interface, b: Interface, mtu: int, a_has: Sequence[str], b_has: Sequence[str]) -> Link:
    for end, addresses in ((a, a_has), (b, b_has)):
        command("ip", "-n", end.host.namespace, "link", "set", end.device, "mtu", str(mtu))
        for address in addresses:
            end.add(address)
    for end in (a, b):
        end.up()
    return Link(a, b)


def _addresses(link: int, end: int) -> tuple[str, str]:
    # For benchmarks (RFC 2544) and for documentation (RFC 3849): not private, so that IPv6 is tried first (RFC 6724).
    return f"198.18.{link}.{end}/24", f"2001:db8:{link:x}::{end}/64"


def _labs(folder: Path) -> list[tuple[str, int]]:
    names = os.listdir(folder) if folder.exists() else []  # noqa: PTH208 - names alone are matched
    return [(name, int(match[1])) for name in names if (match := OURS.match(name))]
