"""Who gets in where: one set of rules given to `wraith serve` and to sshd, and real clients at both doors."""

from __future__ import annotations

import asyncio
import getpass
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import wraith
from tests.support.loops import run
from tests.support.openssh import SshClient
from tests.support.polling import LIMIT_S
from tests.support.processes import Finished, WraithServer, make_key
from tests.support.security_keys import SecurityKey, TokenAgent
from tests.support.stock_servers import Sshd
from tests.support.tools import need
from wraith.opening import OpenFailed, OpenFailure

USER = getpass.getuser()  # the only one whom sshd lets in, when it is not root


class Outcome(Enum):
    """What becomes of somebody who logs in and asks for a target."""

    OPENED = "opened"
    PROHIBITED = "logged in, and the target refused"
    REFUSED = "not logged in"


OPENED, PROHIBITED, REFUSED = Outcome.OPENED, Outcome.PROHIBITED, Outcome.REFUSED


@dataclass(frozen=True, slots=True)
class Rules:
    """What both servers are told. Templates: {key}, {user}, {port} and the names of authorities."""

    authorized_keys: str = ""
    authorities: str = ""
    revoked: str = ""


class KeyCabinet:
    """Keys of every kind, made by ssh-keygen, and security keys in software behind an agent."""

    FLAGS: Mapping[str, tuple[str, ...]] = {
        "ed25519": ("-t", "ed25519"),
        "rsa": ("-t", "rsa", "-b", "2048"),
        "ecdsa": ("-t", "ecdsa"),
        "rsa-1024": ("-t", "rsa", "-b", "1024"),
        "ecdsa-384": ("-t", "ecdsa", "-b", "384"),
    }
    AUTHORITIES: Mapping[str, str] = {
        "ca": "ed25519",
        "other_ca": "ed25519",
        "rsa_ca": "rsa",
        "ecdsa_ca": "ecdsa",
        "p384_ca": "ecdsa-384",
    }

    def __init__(self, folder: Path) -> None:
        self.keys = {kind: make_key(folder / kind, *flags) for kind, flags in self.FLAGS.items()}
        self.authorities = {name: make_key(folder / name, *self.FLAGS[kind]) for name, kind in self.AUTHORITIES.items()}
        self.tokens = {
            "sk-ed25519": SecurityKey("ed25519"),
            "sk-ecdsa": SecurityKey("ecdsa"),
            "sk-ed25519-untouched": SecurityKey("ed25519", flags=0),
            "sk-ecdsa-untouched": SecurityKey("ecdsa", flags=0),
        }
        self.agent = TokenAgent(folder, *self.tokens.values())

    def public_line(self, kind: str) -> str:
        if kind in self.tokens:
            return self.tokens[kind].public_line
        path = (self.keys | self.authorities)[kind]
        return path.with_name(path.name + ".pub").read_text().strip()

    def hand_out(self, kind: str, folder: Path, certificate: Sequence[str] = (), authority: str = "ca") -> Path:
        """Put a key into a folder, with a certificate made with these flags of ssh-keygen beside it."""
        key = folder / "id"
        public = folder / "id.pub"
        public.write_text(self.public_line(kind) + "\n")
        if kind not in self.tokens:
            shutil.copy(self.keys[kind], key)
            key.chmod(0o600)
        if certificate:
            (ssh_keygen,) = need("ssh-keygen")
            signs: list[str | Path] = [ssh_keygen, "-q", "-s", self.authorities[authority], *certificate, public]
            subprocess.run(signs, check=True, timeout=LIMIT_S, capture_output=True)
        return key


@dataclass
class Doors:
    """`wraith serve` and sshd with the same rules, which each case replaces."""

    folder: Path
    wraith: WraithServer
    sshd: Sshd
    cabinet: KeyCabinet
    port: int  # of the target that everybody asks for
    _read: int = field(default=0)  # how much of wraith's log earlier cases have made

    def set_rules(self, rules: Rules, kind: str) -> None:
        names = {name: self.cabinet.public_line(name) for name in KeyCabinet.AUTHORITIES}
        words = names | {"key": self.cabinet.public_line(kind), "user": USER, "port": str(self.port)}
        for server in (self.wraith, self.sshd):
            _replace(server.authorized_keys, rules.authorized_keys.format(**words))
        _replace(authorities_file(self.folder), rules.authorities.format(**words))
        _replace(revoked_file(self.folder), rules.revoked.format(**words))
        self._read = len(self.wraith.log())

    def openssh(self, port: int, key: Path, host: str = "127.0.0.1", source: str = "") -> Outcome:
        """Knock with OpenSSH's client, on either server."""
        flags = ["-W", f"{host}:{self.port}", *(("-b", source) if source else ())]
        certificate = key.with_name("id-cert.pub")
        if not key.exists():  # a token has it
            key = key.with_name("id.pub")
            flags += [f"-oCertificateFile={certificate}"] if certificate.exists() else []
        known_hosts = key.parent / str(port)
        known_hosts.mkdir(exist_ok=True)
        client = SshClient(port, key, known_hosts, user=USER, agent=self.cabinet.agent.socket)
        return _outcome(client.run(*flags))

    def openssh_at_both(self, key: Path, host: str = "127.0.0.1", source: str = "") -> tuple[Outcome, Outcome]:
        """Knock at wraith's door and at sshd's, at once."""
        with ThreadPoolExecutor(2) as pool:
            knocks = [pool.submit(self.openssh, server.port, key, host, source) for server in (self.wraith, self.sshd)]
            return knocks[0].result(), knocks[1].result()

    def own(self, port: int, key: Path, host: str = "127.0.0.1") -> Outcome:
        """Knock with wraith's client, on either server."""
        return run(self._own(port, key, host), loop="asyncio")

    def reason(self) -> str:
        """Give the reason of the last refusal in wraith's log, since the rules were set."""
        line = self.wraith.eventually_logs(rf"(?s)\A.{{{self._read}}}.*?auth attempt [^\n]*reason=(\S+)")
        return str(line[1])

    async def _own(self, port: int, key: Path, host: str) -> Outcome:
        options = wraith.ConnectOptions(
            host="127.0.0.1",
            port=port,
            user=USER,
            identities=(key if key.exists() else key.with_name("id.pub"),),
            known_hosts=key.parent / "known_hosts",
        )
        try:
            async with wraith.connect(options) as session:
                stream = await session.open_connection(host, self.port)
                stream.abort()
        except wraith.AuthenticationRefused:
            return REFUSED
        except OpenFailed as error:
            if error.reason is not OpenFailure.NOT_ALLOWED:
                raise
            return PROHIBITED
        finally:
            await _sockets_closed()
        return OPENED


def authorities_file(folder: Path) -> Path:
    return folder / "authorities"


def revoked_file(folder: Path) -> Path:
    return folder / "revoked"


async def _sockets_closed() -> None:
    """Wait until the peer has closed its half too: what is cut off with the loop warns of it."""
    selector: Any = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
    async with asyncio.timeout(LIMIT_S):
        while len(selector.get_map()) > 1:  # the loop's own pipe is in it
            await asyncio.sleep(0.005)


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(path.name + ".new")
    draft.write_text(text + "\n")
    draft.chmod(0o600)
    draft.replace(path)


def _outcome(done: Finished) -> Outcome:
    if done.code == 0:
        return OPENED
    if re.search(r"open failed: administratively prohibited", done.err):
        return PROHIBITED
    assert "Permission denied (publickey" in done.err, done.err
    return REFUSED
