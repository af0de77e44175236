"""Claims about keys on real files, with ssh-keygen's and an agent's: who logs in, who is asked, what is refused."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.consoles import terminal
from tests.support.openssh import SshAgent, odd_agent
from tests.support.polling import LIMIT_S
from tests.support.processes import WRAITH, Process, WraithClient, WraithServer, authorize, environment, make_key
from tests.support.refusals import AT_A_TERMINAL, refusal
from tests.support.stock_servers import Sshd
from tests.support.targets import Handler
from tests.support.tools import need

PASSPHRASE = "open sesame"
LOCKED = ("-N", PASSPHRASE, "-a", "1")  # one round of bcrypt: how long a guess takes is not tried here
KINDS = {"ed25519": ("-t", "ed25519"), "ecdsa": ("-t", "ecdsa"), "rsa": ("-t", "rsa", "-b", "3072")}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WraithServer]:
    """A server that every key of `keys` may log in to."""
    with WraithServer(tmp_path_factory.mktemp("server")) as wraith:
        yield wraith


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys that may log in: one of each kind, and one with a passphrase."""

    by_kind: dict[str, Path]
    locked: Path


@pytest.fixture(scope="module")
def keys(server: WraithServer, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    by_kind = {kind: make_key(folder / kind, *flags) for kind, flags in KINDS.items()}
    locked = make_key(folder / "locked", *LOCKED)
    authorize(server.authorized_keys, server.client_key, locked, *by_kind.values())
    return Keys(by_kind, locked)


@dataclass(slots=True)
class Way:
    """How a client reaches a server, with what it is told about keys."""

    folder: Path
    reached_by: Sequence[str]


def way(server: WraithServer, folder: Path, *flags: str) -> Way:
    return Way(folder, (f"127.0.0.1:{server.port}", "--host-key", server.host_key, "--no-socks5", *flags))


def fingerprint(key: Path) -> str:
    (keygen,) = need("ssh-keygen")
    return subprocess.run([keygen, "-l", "-f", key], check=True, capture_output=True, text=True).stdout.split()[1]


def logs_in(server: WraithServer, key: Path, folder: Path, *flags: str, tried: int = 1, **more: str) -> str:
    """Log in, and see that it was with this key; what the client said."""
    seen = len(server.log())
    # The folder that a client makes for itself is beside its peer's.
    with WraithClient(way(server, folder / "peer", *flags), "--no-socks5", **more) as client:
        assert client.stop() == 0
    said = server.log()[seen:]
    assert f"key_fingerprint={fingerprint(key)} result=accept keys_tried={tried} " in said, said
    return client.log()


# Files


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_by_ssh_keygen_logs_in(kind: str, server: WraithServer, keys: Keys, tmp_path: Path) -> None:
    logs_in(server, keys.by_kind[kind], tmp_path, "-i", str(keys.by_kind[kind]))


def test_several_keys_are_offered_in_their_order_and_make_one_log_line(
    server: WraithServer, keys: Keys, tmp_path: Path
) -> None:
    strangers = [make_key(tmp_path / f"stranger{number}") for number in range(3)]
    flags = [flag for key in (*strangers, keys.by_kind["rsa"]) for flag in ("-i", str(key))]
    logs_in(server, keys.by_kind["rsa"], tmp_path, *flags, tried=4)


def test_the_default_keys_are_wraiths_own_and_then_those_of_ssh(
    server: WraithServer, keys: Keys, tmp_path: Path
) -> None:
    home, own = tmp_path / "home", tmp_path / "own"
    make_key(own / "id_ed25519")
    (home / ".ssh").mkdir(parents=True)
    for kind in ("ecdsa", "rsa"):
        copied = home / ".ssh" / f"id_{kind}"
        copied.write_bytes(keys.by_kind[kind].read_bytes())
        copied.chmod(0o600)
    logs_in(server, keys.by_kind["ecdsa"], tmp_path, tried=2, HOME=str(home), WRAITH_DIR=str(own))


def test_a_refused_key_is_exit_code_5_and_names_the_user_flag(server: WraithServer, tmp_path: Path) -> None:
    stranger = make_key(tmp_path / "stranger")
    refused = refusal(5, "connect", *way(server, tmp_path, "-i", str(stranger)).reached_by, folder=tmp_path)
    assert "-l" in refused.line
    assert "authorized_keys" in refused.line
    assert refused.log == ()
    server.eventually_logs(
        f"key_fingerprint={re.escape(fingerprint(stranger))} result=reject keys_tried=1 reason=unknown-key"
    )


def test_a_wrong_user_is_exit_code_5_and_names_the_user_flag(tmp_path: Path) -> None:
    with Sshd(tmp_path) as sshd:
        target, *others = sshd.reached_by
        refused = refusal(5, "connect", target.partition("@")[2], "-l", "nosuchuser", *others, folder=tmp_path)
    assert "-l" in refused.line
    assert "nosuchuser" in refused.line


def test_files_that_cannot_be_a_key_are_exit_code_3(server: WraithServer, keys: Keys, tmp_path: Path) -> None:
    readable = make_key(tmp_path / "readable")
    readable.chmod(0o644)
    folder = tmp_path / "folder"
    folder.mkdir()
    junk = tmp_path / "junk"
    junk.write_text("no key\n")
    weak = make_key(tmp_path / "weak", "-t", "rsa", "-b", "1024")
    public = keys.by_kind["rsa"].with_name("rsa.pub")
    for path, words in (
        (readable, f"can be read by others; mend it with: chmod 600 {readable}"),
        (folder, "is a folder"),
        (tmp_path / "missing", "there is no such file"),
        (junk, "is not an OpenSSH private key"),
        (weak, "1024 bits"),
        (public, "ssh-agent"),
    ):
        junk.chmod(0o600)
        refused = refusal(3, "connect", *way(server, tmp_path, "-i", str(path)).reached_by, folder=tmp_path)
        assert words in refused.line
        assert str(path) in refused.line
        assert refused.log == ()


def test_a_file_that_may_not_be_read_is_exit_code_3(server: WraithServer, tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    key.chmod(0o000)
    flags = way(server, tmp_path, "-i", str(key)).reached_by
    refused = refusal(3, "connect", *flags, folder=tmp_path, without="-dac_override,-dac_read_search")
    assert refused.line == f"private key {key}: Permission denied"


def test_a_pem_key_is_exit_code_3_and_the_line_it_names_mends_it(server: WraithServer, tmp_path: Path) -> None:
    key = make_key(tmp_path / "a key", "-t", "rsa", "-b", "2048", "-m", "PEM")
    flags = way(server, tmp_path, "-i", str(key)).reached_by
    line = refusal(3, "connect", *flags, folder=tmp_path).line
    assert "PEM" in line
    command = line[line.index("ssh-keygen -p") :]
    # What it would ask on a terminal: the new passphrase, twice.
    subprocess.run(f"{command} -q -N ''", shell=True, check=True, stdin=subprocess.DEVNULL, timeout=LIMIT_S)
    assert "-l" in refusal(5, "connect", *flags, folder=tmp_path).line  # it is a key now, if a stranger's


def test_no_key_at_all_is_exit_code_3_and_names_keygen(server: WraithServer, tmp_path: Path) -> None:
    refused = refusal(3, "connect", *way(server, tmp_path).reached_by, folder=tmp_path)
    assert "wraith keygen" in refused.line


# Passphrases


def passphrase_prompt(key: Path) -> str:
    return f"Passphrase for {key}: "


def test_the_passphrase_is_asked_for_on_the_terminal(server: WraithServer, keys: Keys, tmp_path: Path) -> None:
    arguments = ("connect", *way(server, tmp_path, "-i", str(keys.locked)).reached_by)
    with terminal(AT_A_TERMINAL, *arguments, env=environment(tmp_path)) as person:
        for answer in ("", "wrong", PASSPHRASE):
            person.wait_for(passphrase_prompt(keys.locked))
            person.wait_for_hidden_input()
            person.type(answer + "\n")
        person.wait_for("Ctrl-C ends it.")
        person.type("\x03")
        assert person.end() == 0
    assert PASSPHRASE not in person.shown
    assert "Traceback" not in person.shown


@pytest.mark.parametrize("answer", ["wrong", ""])
def test_three_wrong_passphrases_are_exit_code_3(answer: str, server: WraithServer, keys: Keys, tmp_path: Path) -> None:
    arguments = ("connect", *way(server, tmp_path, "-i", str(keys.locked)).reached_by)
    with terminal(AT_A_TERMINAL, *arguments, env=environment(tmp_path)) as person:
        for _ in range(3):
            person.wait_for(passphrase_prompt(keys.locked))
            person.wait_for_hidden_input()
            person.type(answer + "\n")
        assert person.end() == 3
    last = person.shown.splitlines()[-1]
    assert last == f"wraith: private key {keys.locked}: the passphrase was wrong 3 times"
    assert person.shown.count("wraith: ") == 1


def test_a_question_that_is_interrupted_ends_without_a_failure(
    server: WraithServer, keys: Keys, tmp_path: Path
) -> None:
    arguments = ("connect", *way(server, tmp_path, "-i", str(keys.locked)).reached_by)
    with terminal(AT_A_TERMINAL, *arguments, env=environment(tmp_path)) as person:
        person.wait_for(passphrase_prompt(keys.locked))
        person.wait_for_hidden_input()
        person.type("\x03")
        assert person.end() == 0
    assert "wraith: " not in person.shown
    assert "Traceback" not in person.shown


def test_a_passphrase_is_not_asked_for_when_the_server_does_not_want_the_key(
    server: WraithServer, tmp_path: Path
) -> None:
    locked = make_key(tmp_path / "locked", *LOCKED)
    arguments = ("connect", *way(server, tmp_path, "-i", str(locked)).reached_by)
    with terminal(AT_A_TERMINAL, *arguments, env=environment(tmp_path)) as person:
        assert person.end() == 5
    assert "Passphrase" not in person.shown


def test_without_a_terminal_a_locked_key_is_exit_code_3_and_names_ssh_add(
    server: WraithServer, keys: Keys, tmp_path: Path
) -> None:
    refused = refusal(3, "connect", *way(server, tmp_path, "-i", str(keys.locked)).reached_by, folder=tmp_path)
    assert refused.line.endswith(f"ssh-add {keys.locked}")


# The agent


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[SshAgent]:
    with SshAgent(tmp_path / "agent") as running:
        yield running


def test_the_agents_keys_are_offered_first(agent: SshAgent, server: WraithServer, keys: Keys, tmp_path: Path) -> None:
    for kind in KINDS:
        agent.add(keys.by_kind[kind])
    said = logs_in(server, keys.by_kind["ed25519"], tmp_path, SSH_AUTH_SOCK=str(agent.socket))
    assert "WARN" not in said


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_signs_for_the_key_that_i_names_alone(
    kind: str, agent: SshAgent, server: WraithServer, keys: Keys, tmp_path: Path
) -> None:
    agent.add(make_key(tmp_path / "stranger"))
    for each in KINDS:
        agent.add(keys.by_kind[each])
    public = keys.by_kind[kind].with_name(f"{kind}.pub")
    logs_in(server, keys.by_kind[kind], tmp_path, "-i", str(public), SSH_AUTH_SOCK=str(agent.socket))


def test_an_agent_spares_the_passphrase(agent: SshAgent, server: WraithServer, keys: Keys, tmp_path: Path) -> None:
    agent.add(keys.locked, PASSPHRASE)
    logs_in(server, keys.locked, tmp_path, "-i", str(keys.locked), SSH_AUTH_SOCK=str(agent.socket))


def test_a_locked_agent_has_no_keys(agent: SshAgent, server: WraithServer, keys: Keys, tmp_path: Path) -> None:
    agent.add(keys.by_kind["ed25519"])
    agent.lock()
    flags = way(server, tmp_path).reached_by
    refused = refusal(3, "connect", *flags, folder=tmp_path, SSH_AUTH_SOCK=str(agent.socket))
    assert "wraith keygen" in refused.line


def test_more_keys_than_a_server_takes_are_refused_in_one_log_line(
    agent: SshAgent, server: WraithServer, keys: Keys, tmp_path: Path
) -> None:
    for number in range(11):
        agent.add(make_key(tmp_path / f"stranger{number}"))
    agent.add(keys.by_kind["ed25519"])
    seen = len(server.log())
    refused = refusal(5, "connect", *way(server, tmp_path).reached_by, folder=tmp_path, SSH_AUTH_SOCK=str(agent.socket))
    assert "-l" in refused.line
    server.eventually_logs("result=reject keys_tried=10 ")
    assert server.log()[seen:].count("auth attempt") == 1


def close_at_once(connection: socket.socket) -> None:
    connection.recv(1)


def answer_with_garbage(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def say_nothing(connection: socket.socket) -> None:
    while connection.recv(100):
        pass


@pytest.mark.parametrize("handler", [close_at_once, answer_with_garbage, say_nothing, None])
def test_an_agent_that_does_not_answer_counts_as_none(
    handler: Handler | None, server: WraithServer, keys: Keys, tmp_path: Path
) -> None:
    path = tmp_path / "agent.sock"
    folder = str(tmp_path / "own")
    own = make_key(tmp_path / "own" / "id_ed25519")
    authorize(server.authorized_keys, server.client_key, keys.locked, *keys.by_kind.values(), own)
    with odd_agent(path, handler):
        began = time.monotonic()
        said = logs_in(server, own, tmp_path, SSH_AUTH_SOCK=str(path), WRAITH_DIR=folder)
        assert time.monotonic() - began < 10
        assert "WARN ssh-agent does not answer" in said
        own.unlink()
        refused = refusal(
            3,
            "connect",
            *way(server, tmp_path).reached_by,
            folder=tmp_path,
            SSH_AUTH_SOCK=str(path),
            WRAITH_DIR=folder,
        )
        assert "wraith keygen" in refused.line
        assert len(refused.log) == 1


def test_an_agent_that_hangs_over_a_signature_can_be_interrupted(
    agent: SshAgent, server: WraithServer, keys: Keys, tmp_path: Path
) -> None:
    agent.add(keys.by_kind["ed25519"])
    asked_to_sign = threading.Event()

    def list_and_then_hang(connection: socket.socket) -> None:
        with socket.socket(socket.AF_UNIX) as real:
            real.connect(str(agent.socket))
            real.sendall(connection.recv(4096))
            connection.sendall(real.recv(4096))
        if connection.recv(1):
            asked_to_sign.set()
        say_nothing(connection)

    path = tmp_path / "hanging.sock"
    argv = [*WRAITH, "connect", *way(server, tmp_path).reached_by]
    with (
        odd_agent(path, list_and_then_hang),
        Process(argv, tmp_path, env=environment(tmp_path, SSH_AUTH_SOCK=str(path))) as client,
    ):
        assert asked_to_sign.wait(LIMIT_S)
        assert client.stop(signal.SIGINT) == 0
        assert client.log() == ""


# The server's files


def serve_refusal(folder: Path, *flags: str | Path) -> str:
    refused = refusal(3, "serve", "--listen", "127.0.0.1:0", *flags, folder=folder)
    assert refused.log == ()
    return refused.line


def test_authorized_keys_that_cannot_be_used_are_exit_code_3(tmp_path: Path) -> None:
    public = make_key(tmp_path / "key").with_name("key.pub").read_text()
    for number, (text, words) in enumerate(
        (
            (f"{public}# a comment\nrestricted {public}", ":3: the option 'restricted' is unknown"),
            (f'command="id" {public}', ":1: the option command is not supported"),
            (f"\n{public[:40]}\n", ":2: "),
            ("ssh-dss AAAAB3NzaC1kc3MAAACBAJ me\n", ":1: "),
        )
    ):
        file = tmp_path / f"authorized_keys{number}"
        file.write_text(text)
        file.chmod(0o600)
        line = serve_refusal(tmp_path, "--authorized-keys", file)
        assert line.startswith(f"{file}{words}")


def test_authorized_keys_that_others_can_write_are_exit_code_3(tmp_path: Path) -> None:
    file = tmp_path / "authorized_keys"
    authorize(file, make_key(tmp_path / "key"))
    for mode in (0o620, 0o602):
        file.chmod(mode)
        assert f"chmod go-w {file}" in serve_refusal(tmp_path)
    assert "is a folder" in serve_refusal(tmp_path, "--authorized-keys", tmp_path)


def test_a_host_key_that_cannot_be_used_is_exit_code_3(tmp_path: Path) -> None:
    readable = make_key(tmp_path / "readable")
    readable.chmod(0o640)
    locked = make_key(tmp_path / "locked", *LOCKED)
    pem = make_key(tmp_path / "pem", "-t", "rsa", "-b", "2048", "-m", "PEM")
    for path, words in (
        (readable, f"chmod 600 {readable}"),
        (locked, "has a passphrase"),
        (pem, "ssh-keygen -p"),
        (tmp_path, "is a folder"),
    ):
        line = serve_refusal(tmp_path, "--key", path)
        assert words in line
        assert str(path) in line


def test_authorized_keys_follow_the_file(tmp_path: Path) -> None:
    first, second = make_key(tmp_path / "first"), make_key(tmp_path / "second")
    with WraithServer(tmp_path) as server:
        file = server.authorized_keys
        file.unlink()
        refusal(5, "connect", *way(server, tmp_path, "-i", str(first)).reached_by, folder=tmp_path)
        authorize(file, first)
        logs_in(server, first, tmp_path, "-i", str(first))
        authorize(file, second)
        refusal(5, "connect", *way(server, tmp_path, "-i", str(first)).reached_by, folder=tmp_path)
        logs_in(server, second, tmp_path, "-i", str(second))
        # A bad line is left out and said; the rest of the new file is in force.
        file.write_text("restricted " + file.read_text() + first.with_name("first.pub").read_text())
        logs_in(server, first, tmp_path, "-i", str(first))
        refusal(5, "connect", *way(server, tmp_path, "-i", str(second)).reached_by, folder=tmp_path)
        server.eventually_logs(rf"ERROR a line of authorized_keys is left out .*{file}:1: ")
        file.chmod(0o666)
        refusal(5, "connect", *way(server, tmp_path, "-i", str(first)).reached_by, folder=tmp_path)
        server.eventually_logs(r"ERROR authorized_keys cannot be used: .*can be written by others")
        file.chmod(0o600)
        logs_in(server, first, tmp_path, "-i", str(first))


def test_a_server_without_authorized_keys_says_where_to_put_the_line(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    argv = WraithServer(tmp_path).argv
    with Process(argv, folder) as serving:
        serving.eventually_logs("Then, on the client")
        assert str(folder / "authorized_keys") in serving.log()
        assert "wraith keygen" in serving.log()
        assert serving.stop(signal.SIGINT) == 0
    assert (folder / "host_ed25519").stat().st_mode & 0o777 == 0o600
