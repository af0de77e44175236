"""The keys a client offers, from files and from a real agent."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import asyncssh
import pytest

from tests.support.loops import run
from tests.support.tools import need
from wraith.errors import UnusableFile
from wraith.ssh import identities
from wraith.ssh.algorithms import installed
from wraith.ssh.identities import Identities, LockedKeyPair, load_identities
from wraith.ssh.key_files import generate_ed25519, read_private_key

SECRET = "correct horse"


class Person:
    """Somebody at a terminal who knows one passphrase."""

    def __init__(self, answer: str | None = SECRET) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def __call__(self, name: str) -> str | None:
        self.asked.append(Path(name).name)
        return self.answer


class Agent:
    """A real ssh-agent."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket

    def add(self, *arguments: object) -> None:
        [program] = need("ssh-add")
        subprocess.run(
            [program, "-q", *map(str, arguments)],
            env={**os.environ, "SSH_AUTH_SOCK": str(self.socket)},
            check=True,
            capture_output=True,
            timeout=60,
        )


@pytest.fixture
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    [program] = need("ssh-agent")
    folder = tmp_path_factory.mktemp("a")
    process = subprocess.Popen([program, "-D", "-a", folder / "s"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.readline()  # it listens before it says where
    try:
        yield Agent(folder / "s")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


class Home:
    """A home with ~/.ssh and wraith's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path / "wraith"
        self.ssh = path / ".ssh"

    async def load(
        self,
        *explicit: Path | bytes,
        agent: Path | str | None = None,
        ask: Person | None = None,
        certificate: Path | None = None,
    ) -> Identities:
        return await load_identities(
            explicit,
            folder=self.folder,
            home=self.path,
            agent_socket=None if agent is None else str(agent),
            ask_passphrase=ask,
            certificate=certificate,
        )

    def offered(self, *explicit: Path | bytes, agent: Path | str | None = None, ask: Person | None = None) -> list[str]:
        async def load() -> list[str]:
            found = await self.load(*explicit, agent=agent, ask=ask)
            await found.aclose()
            return [(pair.get_comment() or "?") for pair in found.client_keys]

        return run(load())


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def make(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    [program] = need("ssh-keygen")
    path.parent.mkdir(exist_ok=True, mode=0o700)
    arguments = (
        "-q",
        "-t",
        kind,
        "-N",
        passphrase,
        "-C",
        path.name,
        "-f",
        str(path),
        *(("-b", "2048") if kind == "rsa" else ()),
    )
    subprocess.run([program, *arguments], check=True, capture_output=True, timeout=60)
    return path


def test_default_keys_come_in_order(home: Home) -> None:
    make(home.ssh / "id_rsa", "rsa")
    make(home.ssh / "id_ecdsa", "ecdsa")
    make(home.ssh / "id_ed25519")
    make(home.ssh / "id_other")
    generate_ed25519(home.folder / "id_ed25519", "wraith's own")
    assert home.offered() == ["wraith's own", "id_ed25519", "id_ecdsa", "id_rsa"]


def test_explicit_keys_are_offered_alone_in_their_order_and_once(home: Home) -> None:
    make(home.ssh / "id_ed25519")
    first, second = make(home.path / "first"), make(home.path / "second", "ecdsa")
    assert home.offered(second, first, second, first.read_bytes()) == ["second", "first"]


def test_no_key_at_all_names_keygen(home: Home) -> None:
    with pytest.raises(UnusableFile, match="wraith keygen"):
        home.offered()


def test_a_missing_explicit_key_is_an_error(home: Home) -> None:
    make(home.ssh / "id_ed25519")
    with pytest.raises(UnusableFile, match="no such file"):
        home.offered(home.path / "none")


def test_an_unusable_key_of_wraith_is_an_error_and_one_of_ssh_is_passed_over(home: Home) -> None:
    make(home.ssh / "id_ed25519").chmod(0o644)
    with pytest.raises(UnusableFile, match=r"no key to offer .*chmod 600"):
        home.offered()
    make(home.ssh / "id_rsa", "rsa")
    assert home.offered() == ["id_rsa"]
    make(home.folder / "id_ed25519").chmod(0o644)
    with pytest.raises(UnusableFile, match="chmod 600"):
        home.offered()


def test_locked_default_keys_are_left_out_when_nobody_can_be_asked(home: Home) -> None:
    make(home.ssh / "id_ed25519", passphrase=SECRET)
    with pytest.raises(UnusableFile, match=r"has a passphrase.*wraith keygen"):
        home.offered()
    make(home.ssh / "id_rsa", "rsa")
    assert home.offered() == ["id_rsa"]


def test_nobody_is_asked_before_a_server_takes_the_key(home: Home) -> None:
    person = Person()
    make(home.ssh / "id_ed25519", passphrase=SECRET)
    assert len(home.offered(ask=person)) == 1
    assert person.asked == []


def test_an_explicit_locked_key_with_nobody_to_ask_names_ssh_add(home: Home) -> None:
    path = make(home.path / "key", passphrase=SECRET)
    with pytest.raises(UnusableFile, match=f"ssh-add {path}"):
        home.offered(path)


def test_the_agent_comes_first_and_holds_no_key_twice(home: Home, agent: Agent) -> None:
    make(home.ssh / "id_ed25519", passphrase="")
    make(home.ssh / "id_rsa", "rsa")
    agent.add(home.ssh / "id_rsa")
    agent.add(make(home.path / "only in the agent"))
    assert home.offered(agent=agent.socket) == ["id_rsa", "only in the agent", "id_ed25519"]


def test_with_explicit_keys_the_agent_offers_only_those(home: Home, agent: Agent) -> None:
    key, other = make(home.path / "key"), make(home.path / "other")
    agent.add(key)
    agent.add(other)
    locked = home.path / "locked"
    shutil.copy(key, locked)
    [program] = need("ssh-keygen")
    subprocess.run([program, "-p", "-N", SECRET, "-f", locked], check=True, capture_output=True, timeout=60)
    assert home.offered(locked, agent=agent.socket) == ["key"]
    assert home.offered(home.path / "other.pub", agent=agent.socket) == ["other"]


def test_a_public_key_without_an_agent_that_has_it_is_an_error(home: Home, agent: Agent) -> None:
    make(home.path / "key")
    for socket in (None, agent.socket):
        with pytest.raises(UnusableFile, match=r"key\.pub is a public key"):
            home.offered(home.path / "key.pub", agent=socket)


def certify(key: Path, authority: Path) -> Path:
    [program] = need("ssh-keygen")
    public = key.with_name(key.name + ".pub")
    command: list[str | Path] = [program, "-q", "-s", authority, "-I", "me", "-n", "wraith", public]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return key.with_name(key.name + "-cert.pub")


async def types(home: Home, *explicit: Path, agent: Path | None = None, certificate: Path | None = None) -> list[str]:
    found = await home.load(*explicit, agent=agent, certificate=certificate)
    await found.aclose()
    options = asyncssh.SSHClientConnectionOptions(client_keys=found.client_keys, config=None, agent_path=None)
    assert options.client_keys is not None
    return [pair.get_algorithm() for pair in options.client_keys]


CERTIFIED = ["ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519"]


def test_a_certificate_beside_a_key_is_offered_before_it(home: Home, agent: Agent) -> None:
    authority, key = make(home.path / "authority"), make(home.ssh / "id_ed25519")
    certify(key, authority)
    assert run(types(home)) == CERTIFIED
    assert run(types(home, key)) == CERTIFIED
    agent.add(key)  # adds the certificate too
    assert sorted(run(types(home, agent=agent.socket))) == sorted(CERTIFIED)
    assert run(types(home, key.with_name("id_ed25519.pub"), agent=agent.socket)) == CERTIFIED


def test_a_chosen_certificate_replaces_the_one_beside_the_key(home: Home) -> None:
    authority, key = make(home.path / "authority"), make(home.ssh / "id_ed25519")
    other = make(home.path / "other")
    chosen = certify(other, authority)
    certify(key, authority)
    assert run(types(home, key, other, certificate=chosen)) == ["ssh-ed25519", *CERTIFIED]
    with pytest.raises(UnusableFile, match=r"other-cert\.pub is for a key that is not offered .*: name it with -i"):
        run(home.load(key, certificate=chosen))


def test_a_certificate_waits_for_the_passphrase_of_its_key(home: Home) -> None:
    authority, key = make(home.path / "authority"), make(home.ssh / "id_ed25519", passphrase=SECRET)
    certify(key, authority)
    person = Person()
    certified, plain = run(home.load(key, ask=person)).key_pairs
    assert not person.asked
    certified.set_sig_algorithm(b"ssh-ed25519")
    assert certified.sign(b"data") == plain.sign(b"data")
    assert person.asked == ["id_ed25519"]


def test_a_chosen_certificate_must_be_one(home: Home) -> None:
    authority, key = make(home.path / "authority"), make(home.ssh / "id_ed25519")
    [program] = need("ssh-keygen")
    with pytest.raises(UnusableFile, match="there is no such file"):
        run(home.load(key, certificate=home.path / "none"))
    with pytest.raises(UnusableFile, match="is not an OpenSSH certificate"):
        run(home.load(key, certificate=key.with_name("id_ed25519.pub")))
    public = authority.with_name("authority.pub")
    command: list[str | Path] = [program, "-q", "-s", authority, "-h", "-I", "me", "-n", "host", public]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    with pytest.raises(UnusableFile, match="is for a host"):
        run(home.load(key, certificate=home.path / "authority-cert.pub"))


def test_a_broken_certificate_beside_a_key_is_left_and_said(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    make(home.ssh / "id_ed25519").with_name("id_ed25519-cert.pub").write_text("nonsense")
    assert run(types(home)) == ["ssh-ed25519"]
    assert "certificate not offered" in caplog.text


@pytest.mark.parametrize("kind", ["missing", "file", "refuses", "garbage"])
def test_a_dead_agent_counts_as_none(home: Home, loop_name: str, kind: str) -> None:
    make(home.ssh / "id_ed25519")
    socket = home.path / "agent"
    if kind == "file":
        socket.write_text("")

    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\0\0\0\x05\x0c\xff\xff\xff\xff" if kind == "garbage" else b"")
        writer.close()
        await writer.wait_closed()

    async def load() -> int:
        async with contextlib.AsyncExitStack() as stack:
            if kind in ("refuses", "garbage"):
                await stack.enter_async_context(await asyncio.start_unix_server(garbage, socket))
            found = await home.load(agent=socket)
            await found.aclose()
        return len(found.client_keys)

    assert run(load(), loop_name) == 1


def test_a_silent_agent_costs_a_moment_and_nothing_else(
    home: Home, loop_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identities, "AGENT_TIMEOUT_S", 0.05)
    make(home.ssh / "id_ed25519")

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(100):
                pass
        writer.close()

    async def load() -> int:
        server = await asyncio.start_unix_server(silent, home.path / "agent")
        async with server:
            found = await home.load(agent=home.path / "agent")
            await found.aclose()
        return len(found.client_keys)

    assert run(load(), loop_name) == 1


def test_a_locked_key_says_nothing_of_itself(home: Home) -> None:
    file = read_private_key(make(home.path / "key", passphrase=SECRET))
    pair = LockedKeyPair(file, Person(), required=True)
    pair.sign(b"data")
    assert SECRET not in repr(pair) + repr(vars(pair))


class Server(asyncssh.SSHServer):
    """Lets in whoever has one of these keys, and remembers which were offered."""

    def __init__(self, accepted: Sequence[bytes], offered: list[bytes]) -> None:
        self.accepted = accepted
        self.offered = offered

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, _username: str, key: asyncssh.SSHKey) -> bool:
        if key.public_data not in self.offered:
            self.offered.append(key.public_data)
        return key.public_data in self.accepted


async def log_in(found: Identities, accepted: Sequence[Path], times: int = 1) -> list[str]:
    """Log in at a real server and give the fingerprints it was offered; raises what asyncssh raises."""
    keys = [asyncssh.read_public_key(path.with_name(path.name + ".pub")) for path in accepted]
    offered: list[bytes] = []
    async with asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=lambda: Server([key.public_data for key in keys], offered),
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        config=None,
        gss_host=None,
        **installed().arguments(),
    ) as server:
        try:
            for _ in range(times):
                async with asyncssh.connect(
                    "127.0.0.1",
                    server.get_port(),
                    known_hosts=None,
                    config=None,
                    gss_host=None,
                    username="wraith",
                    client_keys=found.client_keys,
                    agent_path=None,
                    **installed().arguments(),
                ):
                    pass
                await found.aclose()
        finally:
            await found.aclose()
    return [asyncssh.import_public_key(_line(blob)).get_fingerprint() for blob in offered]


def _line(blob: bytes) -> bytes:

    return blob[4 : 4 + int.from_bytes(blob[:4], "big")] + b" " + base64.b64encode(blob)


def fingerprints(*paths: Path) -> list[str]:
    return [asyncssh.read_public_key(path.with_name(path.name + ".pub")).get_fingerprint() for path in paths]


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_locked_key_logs_in_and_is_asked_for_once(home: Home, loop_name: str, kind: str) -> None:
    path = make(home.path / "key", kind, SECRET)
    person = Person()

    async def work() -> list[str]:
        return await log_in(await home.load(path, ask=person), [path], times=2)

    assert run(work(), loop_name) == fingerprints(path)
    assert person.asked == ["key"]


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_key_of_the_agent_logs_in_again_and_again(home: Home, agent: Agent, loop_name: str, kind: str) -> None:
    path = make(home.path / "key", kind)
    agent.add(path)

    async def work() -> list[str]:
        return await log_in(await home.load(agent=agent.socket), [path], times=2)

    assert run(work(), loop_name) == fingerprints(path)


def test_keys_are_offered_until_one_fits(home: Home, agent: Agent, loop_name: str) -> None:
    held, locked, last = make(home.path / "held"), make(home.ssh / "id_ed25519", "ed25519", SECRET), home.ssh / "id_rsa"
    make(last, "rsa")
    agent.add(held)
    person = Person()

    async def work() -> list[str]:
        return await log_in(await home.load(agent=agent.socket, ask=person), [last])

    assert run(work(), loop_name) == fingerprints(held, locked, last)
    assert person.asked == []


def test_a_default_key_that_stays_locked_is_passed_over(home: Home, loop_name: str) -> None:
    locked, last = make(home.ssh / "id_ed25519", "ed25519", SECRET), make(home.ssh / "id_rsa", "rsa")
    person = Person(None)

    async def work() -> list[str]:
        return await log_in(await home.load(ask=person), [locked, last], times=2)

    assert run(work(), loop_name) == fingerprints(locked, last)
    assert person.asked == ["id_ed25519"]


def test_an_explicit_key_that_stays_locked_ends_the_connection_with_its_reason(home: Home, loop_name: str) -> None:
    path = make(home.path / "key", "ed25519", SECRET)
    person = Person("wrong")

    async def work() -> None:
        await log_in(await home.load(path, ask=person), [path])

    with pytest.raises(UnusableFile, match="wrong 3 times"):
        run(work(), loop_name)
    assert person.asked == ["key"] * 3
