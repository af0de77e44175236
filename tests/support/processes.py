"""Real processes for tests: `wraith serve`, `wraith connect`, and any other program, each ended by its pid.

Output goes to files, because a pipe that nobody reads fills up; pytest shows it when a test fails.
Stock servers to run against are in `stock_servers.py`, targets that behave oddly in `targets.py`.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import psutil

from tests.support.polling import LIMIT_S, eventually
from tests.support.tools import need

ROOT = Path(__file__).resolve().parents[2]
TERMINATION_S = 3.0  # for a process to end by itself before it is killed
KILL_S = 10.0  # that the kernel may take to end a process that was killed
WRAITH = (sys.executable, "-m", "wraith")
SHOWN = 8000  # characters of a process's output that a failing test shows

_numbers = count(1)


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Give a process nothing of this machine's keys, agents, proxies or settings: its home is `folder`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("WRAITH_", "SSH_")) and not name.lower().endswith("_proxy")
    }
    # An editable installation finds the packages by itself; without one this does.
    roots = os.pathsep.join(str(ROOT / each) for each in (".", "transports", "acme"))
    return kept | {"PYTHONPATH": roots, "HOME": str(folder), "WRAITH_DIR": str(folder), "NO_COLOR": "1"} | more


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program that was run to its end did."""

    code: int
    out: str
    err: str

    def one_line(self) -> str:
        """Give the only line of stderr."""
        lines = self.err.splitlines()
        assert len(lines) == 1, f"expected one line, got {self.err!r}"
        return lines[0]


class Process:
    """One program from `with` to the end of the block, where it is killed if it still runs."""

    def __init__(
        self,
        argv: Sequence[str | Path],
        folder: Path,
        *,
        name: str = "",
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.argv = [str(each) for each in argv]
        self.folder = folder
        self.name = f"{name or Path(self.argv[0]).name}-{next(_numbers)}"
        self._env = dict(env) if env is not None else environment(folder)
        self._stdin = stdin
        self._out = folder / f"{self.name}.out"
        self._err = folder / f"{self.name}.err"
        self._popen: subprocess.Popen[bytes] | None = None
        self._family: set[psutil.Process] = set()  # the children seen so far, to be ended too

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def start(self) -> None:
        """Start it, without waiting until it is ready."""
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._popen = subprocess.Popen(
                self.argv, cwd=self.folder, env=self._env, stdin=self._stdin, stdout=out, stderr=err
            )

    def wait_ready(self) -> None:
        """Wait until it does what it is for; a subclass says what that is."""

    @property
    def popen(self) -> subprocess.Popen[bytes]:
        assert self._popen is not None, f"{self.name} was not started"
        return self._popen

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def out(self) -> str:
        return self._out.read_text(errors="replace")

    def log(self) -> str:
        """Give all of its stderr so far."""
        return self._err.read_text(errors="replace")

    def rss(self) -> int:
        """Give its resident memory, in bytes."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208 - names alone are counted

    def listening(self) -> set[int]:
        """Give the ports it listens on now."""
        sockets = psutil.Process(self.pid).net_connections("inet")
        return {each.laddr.port for each in sockets if each.status == psutil.CONN_LISTEN}

    def wait(self, limit_s: float = LIMIT_S) -> int:
        """Wait for its end, and return the exit code: negative for a signal."""
        try:
            return self.popen.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {limit_s:.0f} s:\n{self._shown()}") from None

    def stop(self, number: signal.Signals = signal.SIGTERM, limit_s: float = LIMIT_S) -> int:
        """Send it a signal and wait for its end."""
        self.children()  # which it may leave behind, as sshd does on purpose
        self.popen.send_signal(number)
        return self.wait(limit_s)

    def children(self) -> list[psutil.Process]:
        """Give the processes it has started, directly or not; they are ended with it."""
        found = psutil.Process(self.pid).children(recursive=True) if self.running else []
        self._family.update(found)
        return found

    def finished(self, limit_s: float = LIMIT_S) -> Finished:
        return Finished(self.wait(limit_s), self.out(), self.log())

    def end(self) -> None:
        """End it and its children, if it still runs, and print what it said, for pytest to show or drop."""
        if self._popen is None:
            return
        self.children()
        if self.running:
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(TERMINATION_S)
        if self.running:
            self.popen.kill()
            self.popen.wait(KILL_S)
        for child in self._family:
            with contextlib.suppress(psutil.NoSuchProcess):  # psutil compares the start time with the pid
                child.kill()
        print(f"--- {self.name}: exit code {self.popen.returncode}\n{self._shown()}")

    def eventually_logs(self, pattern: str, limit_s: float = LIMIT_S) -> re.Match[str]:
        """Wait for a line of stderr; fails at once when the process ends without it."""

        def found() -> re.Match[str] | None:
            over = not self.running
            match = re.search(pattern, self.log(), re.MULTILINE)
            assert match or not over, f"{self.name} ended without {pattern!r}:\n{self._shown()}"
            return match

        try:
            return eventually(found, f"{pattern!r} from {self.name}", limit_s)
        except AssertionError as error:
            error.add_note(self._shown())
            raise

    def _shown(self) -> str:
        return (self.out() + self.log())[-SHOWN:]


def run_program(
    *argv: str | Path, folder: Path, limit_s: float = LIMIT_S, env: Mapping[str, str] | None = None
) -> Finished:
    """Run a program to its end."""
    with Process(argv, folder, env=env) as process:
        return process.finished(limit_s)


def wraith(*arguments: str | Path, folder: Path, limit_s: float = LIMIT_S, **more: str) -> Finished:
    """Run one `wraith` command to its end; `more` are environment variables."""
    return run_program(*WRAITH, *arguments, folder=folder, limit_s=limit_s, env=environment(folder, **more))


class Peer(Protocol):
    """A server that `wraith connect` can be run against."""

    @property
    def folder(self) -> Path:
        """Where it keeps its files; clients of it get folders beside this one."""
        ...

    @property
    def reached_by(self) -> Sequence[str]:
        """The arguments of `wraith connect` that reach it: target, pins, and which key to use."""
        ...


def make_key(path: Path, *flags: str) -> Path:
    """Make a key with ssh-keygen (Ed25519 without a passphrase, unless `flags` say otherwise)."""
    (ssh_keygen,) = need("ssh-keygen")
    path.parent.mkdir(parents=True, exist_ok=True)
    chosen = [*(() if "-t" in flags else ("-t", "ed25519")), *(() if "-N" in flags else ("-N", "")), *flags]
    subprocess.run([ssh_keygen, "-q", "-C", "test", *chosen, "-f", path], check=True, timeout=LIMIT_S)
    return path


def authorize(authorized_keys: Path, *keys: Path) -> None:
    """Let the holders of these private keys in, and nobody else."""
    authorized_keys.write_text("".join(key.with_name(key.name + ".pub").read_text() for key in keys))
    authorized_keys.chmod(0o600)


class WraithServer(Process):
    """`wraith serve` on a loopback port of its own, with one client key that may log in."""

    def __init__(
        self,
        tmp_path: Path,
        *flags: str,
        transport: str = "tcp",
        loop: str = "uvloop",
        listen: str = "127.0.0.1:0",
        **more: str,
    ) -> None:
        folder = tmp_path / f"server-{next(_numbers)}"
        argv = [*WRAITH, "serve", "--listen", f"{transport}://{listen}", *flags]
        super().__init__(argv, folder, name="serve", env=environment(folder, WRAITH_LOOP=loop, **more))
        self.transport = transport
        self.host_key = ""  # fingerprint
        self.tls_pin: str | None = None
        self.port = 0
        self.client_key = make_key(folder / "client_key")
        self.authorized_keys = folder / "authorized_keys"
        authorize(self.authorized_keys, self.client_key)

    def wait_ready(self) -> None:
        """Wait until it says where it listens. Not for -q, which says nothing."""
        self.eventually_logs(r"^ +wraith connect ")  # the last line of the summary
        self.port = int(self.eventually_logs(r"listening on +\w+://.*:(\d+)$")[1])
        self.host_key = self.eventually_logs(r"host key +(SHA256:\S+)")[1]
        pin = re.search(r"TLS pin +(sha256//\S+)", self.log())
        self.tls_pin = pin[1] if pin else None

    @property
    def reached_by(self) -> Sequence[str]:
        pin = ("--tls-pin", self.tls_pin) if self.tls_pin else ()
        target = f"{self.transport}://127.0.0.1:{self.port}"
        return (target, "--host-key", self.host_key, "-i", str(self.client_key), *pin)


class WraithClient(Process):
    """`wraith connect` to a peer; with a SOCKS port unless a flag is about -D or --no-socks5.

    It ends at the first failure, so that a test does too, unless it `stays`.
    """

    def __init__(self, peer: Peer, *flags: str, loop: str = "uvloop", stays: bool = False, **more: str) -> None:
        folder = peer.folder.parent / f"client-{next(_numbers)}"
        socks = () if {"-D", "--socks5", "--no-socks5"} & set(flags) else ("-D", "127.0.0.1:0")
        ends = () if stays else ("--exit-on-failure",)
        argv = [*WRAITH, "connect", *peer.reached_by, *socks, *ends, *flags]
        super().__init__(argv, folder, name="connect", env=environment(folder, WRAITH_LOOP=loop, **more))
        self.socks_port = 0
        self.forward_ports: list[int] = []  # of the -L flags, in their order

    def wait_ready(self) -> None:
        """Wait until the session is there. Not for -q, which says nothing."""
        self.eventually_logs(r"Ctrl-C ends it")  # the last line of the summary
        socks = re.search(r"SOCKS5 proxy +\S+:(\d+)$", self.log(), re.MULTILINE)
        self.socks_port = int(socks[1]) if socks else 0
        self.forward_ports = [int(port) for port in re.findall(r"forward +\S+:(\d+) to ", self.log())]

    @property
    def socks5h(self) -> str:
        return f"socks5h://127.0.0.1:{self.socks_port}"
