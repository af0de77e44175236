"""A network namespace that plays one host: runs programs, and drops what arrives when told to."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.support.tools import SYSTEM_FOLDERS

NAMESPACES = Path("/run/netns")  # where iproute2 keeps them
FILES = Path("/etc/netns")  # what `ip netns exec` lays over /etc
COMMAND_LIMIT_S = 20.0  # for ip and nft, which take milliseconds
CLONE_NEWNET = 0x40000000

# A sender's own firewall would tell it (EPERM), so packets are dropped where they arrive; before connection tracking,
# which must not have seen them.
RULES = """
table inet lab {
    set cut { type ifname; }
    chain drops { }
    chain arrivals {
        type filter hook prerouting priority raw - 10; policy accept;
        iifname @cut drop
        iifname != "lo" jump drops
    }
}
"""
SETTINGS = {
    "net.ipv4.ping_group_range": "0 0",  # root's group may ping without raw sockets
    # The link is to be the limit, not the buffers: 32 MiB are 2.5 Gbit/s at 100 ms. Sockets grow into them.
    "net.ipv4.tcp_rmem": "4096 131072 67108864",
    "net.ipv4.tcp_wmem": "4096 65536 67108864",
    # An address can be used at once, and is still there when the interface was down.
    "net.ipv6.conf.default.accept_dad": "0",
    "net.ipv6.conf.default.keep_addr_on_down": "1",
}

_libc = ctypes.CDLL(None, use_errno=True)


def command(*argv: str | Path, stdin: str = "") -> str:
    """Run `ip`, `nft` and the like to their end; their output. Raises RuntimeError with what they said."""
    line = _found(argv)
    done = subprocess.run(line, input=stdin, capture_output=True, text=True, timeout=COMMAND_LIMIT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(line)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def processes_in(namespace: str) -> set[int]:
    """Give the pids of the processes in a namespace, but not ours."""
    return {int(pid) for pid in command("ip", "netns", "pids", namespace).split()} - {os.getpid()}


def end_processes(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def remove_namespace(namespace: str) -> None:
    """Remove a namespace with the interfaces, files and processes in it. What is not there is left alone."""
    if (NAMESPACES / namespace).exists():
        # Another run may be removing the same leftovers.
        with contextlib.suppress(RuntimeError):
            end_processes(processes_in(namespace))
        with contextlib.suppress(RuntimeError):
            command("ip", "netns", "delete", namespace)
    shutil.rmtree(FILES / namespace, ignore_errors=True)
    with contextlib.suppress(OSError):  # other namespaces have files there, or nobody ever had
        FILES.rmdir()


class Host:
    """One namespace, from `create` to `remove`."""

    def __init__(self, name: str, namespace: str) -> None:
        self.name = name
        self.namespace = namespace
        self._started: list[subprocess.Popen[bytes]] = []

    def create(self) -> None:
        command("ip", "netns", "add", self.namespace)
        for name, value in SETTINGS.items():
            self.set(name, value)
        command("ip", "-n", self.namespace, "link", "set", "lo", "up")
        self.nft(RULES)

    def remove(self) -> None:
        """End everything that runs in it, and remove it."""
        remove_namespace(self.namespace)
        for process in self._started:
            process.kill()  # it may have left the namespace; a no-op once it is over
            process.wait(COMMAND_LIMIT_S)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def command(self, *argv: str | Path) -> list[str]:
        """Give the command that runs `argv` in here, as the same process: its pid is the program's."""
        return _found(["ip", "netns", "exec", self.namespace, *argv])

    def run(
        self, *argv: str | Path, limit_s: float = COMMAND_LIMIT_S, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end in here."""
        return subprocess.run(
            self.command(*argv), capture_output=True, text=True, timeout=limit_s, env=env, check=False
        )

    def popen(
        self,
        *argv: str | Path,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        stderr: int = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program in here, which is killed at the latest with the lab."""
        process = subprocess.Popen(self.command(*argv), stdin=stdin, stdout=stdout, stderr=stderr, env=env)
        self._started.append(process)
        return process

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Put this thread into the namespace: sockets, threads and processes that it makes meanwhile belong there.

        Unlike `command`, names are looked up in the machine's own /etc/hosts.
        """
        with contextlib.ExitStack() as stack:
            here = _open(Path("/proc/thread-self/ns/net"), stack)
            there = _open(NAMESPACES / self.namespace, stack)
            _enter(there)
            stack.callback(_enter, here)
            yield

    def set(self, name: str, value: str) -> None:
        """Change a kernel setting of this host, as sysctl names it."""
        with self.inside():
            Path("/proc/sys", *name.split(".")).write_text(value)

    def knows(self, addresses: Mapping[str, Sequence[str]]) -> None:
        """Write /etc/hosts for the programs that `run`, `popen` and `command` start: name to addresses."""
        folder = FILES / self.namespace
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{address} {name}\n" for name, each in addresses.items() for address in each]
        (folder / "hosts").write_text("".join(["127.0.0.1 localhost\n", "::1 localhost\n", *lines]))

    def nft(self, rules: str) -> None:
        """Add to this host's own nftables rules."""
        command(*self.command(*_found(["nft", "-f", "-"])), stdin=rules)

    def drop(
        self,
        *,
        source: str = "",
        destination: str = "",
        protocol: str = "",
        port: int | None = None,
        share: float = 1.0,
    ) -> None:
        """Let packets that arrive vanish: those that match all that is given, and of them only `share`.

        `port` is on either side, of TCP and UDP unless `protocol` says which. Nobody is told: no reset, no ICMP.
        """
        terms = [*_address("saddr", source), *_address("daddr", destination)]
        if protocol or port is not None:
            terms.append(f"meta l4proto {protocol or '{ tcp, udp }'}")
        ports = [""] if port is None else [f"th sport {port}", f"th dport {port}"]
        chance = [] if share >= 1 else [f"numgen random mod 100000 < {round(share * 100_000)}"]
        for each in ports:
            self.nft(f"add rule inet lab drops {' '.join([*terms, each, *chance])} drop")

    def undrop(self) -> None:
        """Let everything arrive again."""
        self.nft("flush chain inet lab drops")


def _found(argv: Sequence[str | Path]) -> list[str]:
    # Debian keeps ip and nft where the PATH of `su` does not look.
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS))
    return [shutil.which(argv[0], path=path) or str(argv[0]), *(str(each) for each in argv[1:])]


def _address(side: str, address: str) -> list[str]:
    return [f"{'ip6' if ':' in address else 'ip'} {side} {address}"] if address else []


def _open(path: Path, stack: contextlib.ExitStack) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "setns")
