"""OpenSSH's client and its agent, run against a server of a test and nothing else of this machine."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.polling import LIMIT_S, eventually
from tests.support.processes import Finished, Process, WraithServer, environment
from tests.support.targets import Handler
from tests.support.tools import need

USER = "somebody"  # wraith's server takes any name

# What ssh would otherwise take from this machine: its files, its agent, its questions.
_ALONE = (
    *("-F", "none"),
    "-oIdentitiesOnly=yes",
    "-oGlobalKnownHostsFile=/dev/null",
    "-oStrictHostKeyChecking=accept-new",
    "-oUpdateHostKeys=no",
    "-oBatchMode=yes",
    "-oConnectTimeout=20",
)


@dataclass(frozen=True, slots=True)
class SshClient:
    """Stock ssh, as it reaches one server with one key."""

    port: int
    key: Path
    folder: Path  # for known_hosts and what it says
    user: str = USER
    agent: Path | None = None  # socket of the one that may be asked for the key

    @classmethod
    def of(cls, server: WraithServer, folder: Path) -> SshClient:
        """Reach this server with its client's key."""
        return cls(server.port, server.client_key, folder)

    def options(self, port_flag: str = "-p") -> list[str]:
        """Give what ssh and its kind (sftp takes `-P`) have in common."""
        known_hosts = f"-oUserKnownHostsFile={self.folder / 'ssh_known_hosts'}"
        agent = f"-oIdentityAgent={self.agent or 'none'}"
        return [*_ALONE, agent, known_hosts, "-i", str(self.key), port_flag, str(self.port)]

    def command(self, *flags: str, remote: Sequence[str] = ()) -> list[str]:
        (ssh,) = need("ssh")
        return [str(ssh), *self.options(), *flags, f"{self.user}@127.0.0.1", *remote]

    def run(
        self,
        *flags: str,
        remote: Sequence[str] = (),
        stdin: bytes = b"",
        limit_s: float = LIMIT_S,
        more: Mapping[str, str] | None = None,
    ) -> Finished:
        """Run ssh to its end. Its stdout is decoded as Latin-1: one character a byte."""
        done = subprocess.run(
            self.command(*flags, remote=remote),
            input=stdin,
            capture_output=True,
            timeout=limit_s,
            check=False,
            env=environment(self.folder, **(more or {})),
        )
        return Finished(done.returncode, done.stdout.decode("latin-1"), done.stderr.decode(errors="replace"))

    def tunnel(self, *flags: str) -> SshTunnel:
        """Prepare `ssh -N` with forwards."""
        return SshTunnel(self.command("-v", "-N", *flags), self.folder, name="ssh")


class SshTunnel(Process):
    """`ssh -v -N`, logged in and with its listeners up."""

    def wait_ready(self) -> None:
        self.eventually_logs(r"^debug1: Entering interactive session")

    def key_exchanges(self) -> int:
        return key_exchanges(self.log())


def key_exchanges(debug_log: str) -> int:
    """Count the key exchanges in what `ssh -v` or sshd's `LogLevel DEBUG` says."""
    return len(re.findall(r"^debug1: SSH2_MSG_KEXINIT received", debug_log, re.MULTILINE))


class SshAgent(Process):
    """An ssh-agent that holds the keys it was given."""

    def __init__(self, folder: Path) -> None:
        (program,) = need("ssh-agent")
        self.socket = folder / "agent.sock"
        super().__init__([program, "-D", "-a", self.socket], folder, name="agent")

    def wait_ready(self) -> None:
        eventually(self.socket.is_socket, "the agent listens")

    def add(self, key: Path, passphrase: str = "") -> None:
        """Give it a key."""
        self._tell("-q", key, answer=passphrase)

    def lock(self) -> None:
        """Make it deny that it has any."""
        self._tell("-x", answer="locked")

    def _tell(self, *arguments: str | Path, answer: str) -> None:
        """Run ssh-add, whose question for a passphrase has this answer."""
        (add,) = need("ssh-add")
        ask = self.folder / "askpass"
        ask.write_text(f"#!/bin/sh\necho '{answer}'\n")
        ask.chmod(0o700)
        subprocess.run(
            [add, *arguments],
            check=True,
            timeout=LIMIT_S,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=os.environ
            | {"SSH_AUTH_SOCK": str(self.socket), "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"},
        )


@contextlib.contextmanager
def odd_agent(path: Path, handler: Handler | None) -> Iterator[None]:
    """Have a socket where an agent should be; `handler` gets each connection. None: nothing listens on it any more."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        if handler is None:
            yield
            return
        listener.listen()
        stopping = threading.Event()
        thread = threading.Thread(target=_accept, args=(listener, handler, stopping), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            with socket.socket(socket.AF_UNIX) as last:  # wakes accept()
                last.connect(str(path))
            thread.join(LIMIT_S)


def _accept(listener: socket.socket, handler: Handler, stopping: threading.Event) -> None:
    while True:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            if stopping.is_set():
                return
            handler(connection)
