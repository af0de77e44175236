"""Links between two hosts of the lab: an interface at each end, which can be cut, taken down and renumbered."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.lab.network.host import COMMAND_LIMIT_S, Host, command
from tests.lab.network.packet_path import Conditions, Counters
from tests.lab.network.tun import open_tun
from tests.support.polling import eventually

ROOT = Path(__file__).resolve().parents[3]
DEFAULT_MTU = 1500
LEAST_QUEUE = 256 << 10  # four of the largest packets


class Interface:
    """One end of a link: a device in a host, named alike in the other one, and its addresses with prefix lengths."""

    def __init__(self, host: Host, device: str, other: Host) -> None:
        self.host = host
        self.device = device
        self._other = other
        self.addresses: list[str] = []

    @property
    def ipv4(self) -> str:
        """The first IPv4 address."""
        return next(each.partition("/")[0] for each in self.addresses if ":" not in each)

    @property
    def ipv6(self) -> str:
        """The first IPv6 address."""
        return next(each.partition("/")[0] for each in self.addresses if ":" in each)

    def add(self, address: str) -> None:
        """Give it one more address, ADDRESS/LENGTH."""
        nodad = ["nodad"] if ":" in address else []
        command("ip", "-n", self.host.namespace, "address", "add", address, "dev", self.device, *nodad)
        self.addresses.append(address)

    def remove(self, address: str) -> None:
        command("ip", "-n", self.host.namespace, "address", "del", address, "dev", self.device)
        self.addresses.remove(address)

    def change(self, old: str, new: str) -> None:
        """Take one address away and give it another, as a host that moves to another network."""
        self.remove(old)
        self.add(new)

    def up(self) -> None:
        """Bring it up, and wait until both hosts have noticed."""
        command("ip", "-n", self.host.namespace, "link", "set", self.device, "up")
        for host in (self.host, self._other):
            eventually(lambda: _is_noticed(host, self.device), f"{self.device} is up in {host.name}")  # noqa: B023

    def down(self) -> None:
        """Take it down. The host is told: its sends fail at once. Routes through gateways do not come back."""
        command("ip", "-n", self.host.namespace, "link", "set", self.device, "down")

    def cut(self) -> None:
        """Let everything vanish that arrives here."""
        self.host.nft(f'add element inet lab cut {{ "{self.device}" }}')

    def mend(self) -> None:
        self.host.nft(f'delete element inet lab cut {{ "{self.device}" }}')


@dataclass(frozen=True, slots=True)
class Link:
    """Two interfaces that reach each other."""

    a: Interface
    b: Interface

    def cut(self) -> None:
        """Let everything vanish in both directions; neither end is told."""
        self.a.cut()
        self.b.cut()

    def mend(self) -> None:
        self.a.mend()
        self.b.mend()


class EmulatedLink:
    """A process with a TUN device in each of two hosts, which carries their packets under some conditions."""

    def __init__(self, a: Host, b: Host, device: str, conditions: Conditions) -> None:
        self._conditions = conditions
        with contextlib.ExitStack() as stack:
            ends = []
            for host in (a, b):
                with host.inside():
                    end = open_tun(device)
                ends.append(end)
                stack.callback(os.close, end)
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.lab.network.link_process"),
                    *(str(end) for end in ends),
                    json.dumps(asdict(conditions)),
                ],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=ends,
            )
        try:
            self.counters()  # it runs
        except BaseException:
            self.end()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def counters(self) -> tuple[Counters, Counters]:
        """Tell what happened so far to packets from `a` to `b`, and to those from `b` to `a`."""
        return self._say("")

    def set(
        self, *, round_trip_ms: float | None = None, rate_mbit: float | None = None, loss: float | None = None
    ) -> None:
        """Change conditions from now on, those that are given."""
        new = conditions_of(
            round_trip_ms=self._conditions.delay_s * 2000 if round_trip_ms is None else round_trip_ms,
            rate_mbit=rate_mbit,
            loss=self._conditions.loss if loss is None else loss,
        )
        if rate_mbit is None:
            new = replace(new, rate=self._conditions.rate, queue=self._conditions.queue)
        self._conditions = new
        self._say(json.dumps(asdict(new)))

    def end(self) -> None:
        """End the process; its devices go with it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # it ended before
            self._process.stdin.close()
        try:
            self._process.wait(COMMAND_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(COMMAND_LIMIT_S)
        self._process.stdout.close()

    def _say(self, line: str) -> tuple[Counters, Counters]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], COMMAND_LIMIT_S)
        answer = self._process.stdout.readline() if ready else b""
        if not answer:
            raise RuntimeError("the process of an emulated link gave no answer")
        forth, back = json.loads(answer)
        return Counters(**forth), Counters(**back)


def _is_noticed(host: Host, device: str) -> bool:
    # The kernel tells IPv6 some time after there is a carrier, and until then sends nothing by it.
    (found,) = json.loads(command("ip", "-j", "-n", host.namespace, "link", "show", device))
    return "LOWER_UP" not in found["flags"] or found["operstate"] in {"UP", "UNKNOWN"}


def conditions_of(
    *, round_trip_ms: float = 0.0, rate_mbit: float | None = None, loss: float = 0.0, queue_bytes: int | None = None
) -> Conditions:
    """Say for one direction what the link as a whole is to be; the queue holds one round trip unless told."""
    rate = None if rate_mbit is None else rate_mbit * 1e6 / 8
    if queue_bytes is None:
        queue_bytes = max(LEAST_QUEUE, int((rate or 0) * round_trip_ms / 1000))
    return Conditions(delay_s=round_trip_ms / 2000, rate=rate, loss=loss, queue=queue_bytes)
