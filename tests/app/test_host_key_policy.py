"""A host key is accepted, asked about, recorded or refused."""

from __future__ import annotations

import logging
import shlex
import subprocess
from pathlib import Path

import asyncssh
import pytest

from tests.support.loops import run
from tests.support.tools import need
from wraith.errors import UnusableFile, UsageError, WrongPeer
from wraith.options import HostKeyCheck
from wraith.ssh.algorithms import installed
from wraith.ssh.host_key_policy import (
    Decision,
    HostKeyChecker,
    HostKeyPolicy,
    ShownKey,
    decide,
    parse_pin,
)
from wraith.ssh.known_hosts import HostKey, HostRecord, Judgement, Marker, format_record, record_host_key

KEY = asyncssh.generate_private_key("ssh-ed25519")
OTHER = asyncssh.generate_private_key("ssh-ed25519")
PIN, OTHER_PIN = KEY.get_fingerprint(), OTHER.get_fingerprint()
SHOWN = ShownKey("[server]:2222", "ssh-ed25519", PIN)
RECORD = HostRecord(12, Marker.NONE, "[server]:2222", "ssh-ed25519", OTHER.public_data)
EVERY_CHECK = list(HostKeyCheck)


def policy(check: HostKeyCheck = HostKeyCheck.ASK, *pins: str, path: Path = Path("/known hosts")) -> HostKeyPolicy:
    return HostKeyPolicy(path, check, pins)


def refusal(chosen: HostKeyPolicy, judgement: Judgement) -> str:
    with pytest.raises(WrongPeer) as refused:
        decide(chosen, judgement, SHOWN)
    assert "\n" not in str(refused.value)
    assert PIN in str(refused.value)
    return str(refused.value)


def public(key: asyncssh.SSHKey) -> asyncssh.SSHKey:
    return key.convert_to_public()


class Person:
    """Somebody at a terminal who gives the same answer to every question."""

    def __init__(self, answer: bool) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str]] = []

    def __call__(self, host: str, fingerprint: str) -> bool:
        self.asked.append((host, fingerprint))
        return self.answer


@pytest.mark.parametrize("check", EVERY_CHECK)
def test_a_known_key_is_accepted(check: HostKeyCheck) -> None:
    assert decide(policy(check), Judgement(HostKey.KNOWN, RECORD), SHOWN) is Decision.ACCEPT


def test_an_unknown_key_is_asked_about_recorded_or_refused() -> None:
    unknown = Judgement(HostKey.UNKNOWN)
    assert decide(policy(HostKeyCheck.ASK), unknown, SHOWN) is Decision.ASK
    assert decide(policy(HostKeyCheck.ACCEPT_NEW), unknown, SHOWN) is Decision.RECORD
    assert f"--host-key {PIN}" in refusal(policy(HostKeyCheck.STRICT), unknown)


@pytest.mark.parametrize("check", EVERY_CHECK)
def test_a_changed_key_is_refused_with_the_record_and_the_way_out(check: HostKeyCheck) -> None:
    message = refusal(policy(check), Judgement(HostKey.CHANGED, RECORD))
    assert f"/known hosts:12 has {OTHER_PIN}" in message
    assert "ssh-keygen -R '[server]:2222' -f '/known hosts'" in message


@pytest.mark.parametrize("pins", [(), (PIN,)])
@pytest.mark.parametrize("check", EVERY_CHECK)
def test_a_revoked_key_is_refused_even_when_pinned(check: HostKeyCheck, pins: tuple[str, ...]) -> None:
    assert "revoked by /known hosts:12" in refusal(policy(check, *pins), Judgement(HostKey.REVOKED, RECORD))


@pytest.mark.parametrize("check", EVERY_CHECK)
@pytest.mark.parametrize("state", [HostKey.KNOWN, HostKey.UNKNOWN, HostKey.CHANGED])
def test_a_pin_alone_decides(check: HostKeyCheck, state: HostKey) -> None:
    assert decide(policy(check, PIN), Judgement(state, RECORD), SHOWN) is Decision.ACCEPT
    assert decide(policy(check, OTHER_PIN, PIN), Judgement(state, RECORD), SHOWN) is Decision.ACCEPT
    assert OTHER_PIN in refusal(policy(check, OTHER_PIN), Judgement(state, RECORD))


@pytest.mark.parametrize("pin", [PIN, f" {PIN} ", PIN + "="])
def test_a_pin_is_written_as_ssh_keygen_writes_it(pin: str) -> None:
    assert parse_pin(pin) == PIN


@pytest.mark.parametrize(
    "pin",
    [
        "",
        "SHA256:",
        PIN[:-1],
        PIN + "A",
        PIN[7:],
        PIN.lower()[:7] + PIN[7:],
        "MD5:" + "aa:" * 15 + "aa",
        "SHA256:" + "é" * 43,
    ],
)
def test_a_malformed_pin_is_a_usage_error(pin: str) -> None:
    with pytest.raises(UsageError):
        policy(HostKeyCheck.ASK, pin)


def test_accept_new_records_once_and_warns_with_the_pin(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "known"
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert HostKeyChecker(policy(HostKeyCheck.ACCEPT_NEW, path=path), "server", 22).accepts(public(KEY))
    assert path.read_text() == format_record("server", 22, KEY.public_data) + "\n"
    [record] = caplog.records
    assert f"--host-key {PIN}" in record.getMessage()


def test_a_yes_is_recorded_and_a_no_is_not(tmp_path: Path) -> None:
    path = tmp_path / "known"
    no, yes = Person(False), Person(True)
    refused = HostKeyChecker(policy(path=path), "server", 2222, ask=no)
    assert not refused.accepts(public(KEY))
    assert isinstance(refused.failure, WrongPeer)
    assert not path.exists()
    assert HostKeyChecker(policy(path=path), "server", 2222, ask=yes).accepts(public(KEY))
    assert no.asked == yes.asked == [("[server]:2222", PIN)]
    assert HostKeyChecker(policy(path=path), "server", 2222, ask=no).accepts(public(KEY))


def test_with_nobody_to_ask_an_unknown_key_is_refused(tmp_path: Path) -> None:
    checker = HostKeyChecker(policy(path=tmp_path / "known"), "server", 22)
    assert not checker.accepts(public(KEY))
    assert "nobody can be asked" in str(checker.failure)


def test_a_pinned_key_is_not_recorded(tmp_path: Path) -> None:
    path = tmp_path / "known"
    assert HostKeyChecker(policy(HostKeyCheck.ACCEPT_NEW, PIN, path=path), "server", 22).accepts(public(KEY))
    assert not path.exists()


def test_a_key_that_cannot_be_recorded_is_not_accepted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    inside = tmp_path / "folder"
    checker = HostKeyChecker(policy(HostKeyCheck.ACCEPT_NEW, path=inside / "known"), "server", 22)
    inside.symlink_to(tmp_path / "file")
    assert not checker.accepts(public(KEY))
    assert isinstance(checker.failure, UnusableFile)


def test_records_given_as_bytes_take_no_new_key() -> None:
    known = format_record("server", 22, KEY.public_data).encode()
    chosen = HostKeyPolicy(known, HostKeyCheck.ACCEPT_NEW)
    assert HostKeyChecker(chosen, "server", 22).accepts(public(KEY))
    unknown = HostKeyChecker(chosen, "another", 22)
    assert not unknown.accepts(public(KEY))
    assert isinstance(unknown.failure, UnusableFile)


def test_a_key_that_another_process_recorded_meanwhile_decides(tmp_path: Path) -> None:
    path = tmp_path / "known"

    def answer(_host: str, _fingerprint: str) -> bool:
        record_host_key(path, "server", 22, OTHER.public_data)
        return True

    checker = HostKeyChecker(policy(path=path), "server", 22, ask=answer)
    assert not checker.accepts(public(KEY))
    assert "has changed" in str(checker.failure)


def test_the_next_key_exchange_must_show_the_same_key_and_asks_nobody(tmp_path: Path) -> None:
    person = Person(True)
    checker = HostKeyChecker(policy(path=tmp_path / "known"), "server", 22, ask=person)
    assert checker.accepts(public(KEY))
    assert checker.accepts(public(KEY))
    assert len(person.asked) == 1
    assert not checker.accepts(public(OTHER))
    assert isinstance(checker.failure, WrongPeer)


def test_a_small_rsa_host_key_is_refused_even_when_pinned(tmp_path: Path) -> None:
    small = asyncssh.generate_private_key("ssh-rsa", key_size=1024)
    checker = HostKeyChecker(policy(HostKeyCheck.ASK, small.get_fingerprint(), path=tmp_path / "known"), "server", 22)
    assert not checker.accepts(public(small))
    assert "1024 bits" in str(checker.failure)


def test_the_named_command_forgets_the_changed_key(tmp_path: Path) -> None:
    need("ssh-keygen")
    path = tmp_path / "known hosts"
    record_host_key(path, "server", 2222, OTHER.public_data)
    chosen = policy(HostKeyCheck.ACCEPT_NEW, path=path)
    refused = HostKeyChecker(chosen, "server", 2222)
    assert not refused.accepts(public(KEY))
    command = shlex.split(str(refused.failure).rpartition("with: ")[2])
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert HostKeyChecker(chosen, "server", 2222).accepts(public(KEY))


def test_certificates_are_asked_for_only_with_an_authority_and_no_pin(tmp_path: Path) -> None:
    path = tmp_path / "known"
    path.write_text("@cert-authority server " + format_record("x", 22, OTHER.public_data).partition(" ")[2])
    with_authority = HostKeyChecker(policy(path=path), "server", 22)
    assert "cert" in with_authority.server_host_key_algs[0]
    assert [key.public_data for key in with_authority.known_hosts[1]] == [OTHER.public_data]
    for checker in (
        HostKeyChecker(policy(path=path), "other", 22),
        HostKeyChecker(policy(HostKeyCheck.ASK, PIN, path=path), "server", 22),
    ):
        assert "cert" not in "".join(checker.server_host_key_algs)
        assert checker.known_hosts == ((), (), ())


class Client(asyncssh.SSHClient):
    def __init__(self, checker: HostKeyChecker) -> None:
        self.checker = checker
        self.calls = 0

    def validate_host_public_key(self, _host: str, _addr: str, _port: int, key: asyncssh.SSHKey) -> bool:
        self.calls += 1
        return self.checker.accepts(key)


class OpenServer(asyncssh.SSHServer):
    def begin_auth(self, _username: str) -> bool:
        return False


async def meet(
    checker: HostKeyChecker, host_keys: list[asyncssh.SSHKey], certificates: list[bytes] | None = None
) -> Client:
    """Connect to a server with these keys; raises what asyncssh raises."""
    client = Client(checker)
    async with asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=OpenServer,
        server_host_keys=host_keys,
        server_host_certs=certificates or [],
        config=None,
        gss_host=None,
    ) as server:
        connection = await asyncssh.connect(
            "127.0.0.1",
            server.get_port(),
            client_factory=lambda: client,
            known_hosts=checker.known_hosts,
            server_host_key_algs=checker.server_host_key_algs,
            config=None,
            gss_host=None,
            client_keys=None,
            **installed().arguments(),
        )
        connection.close()
        await connection.wait_closed()
    return client


def test_asyncssh_asks_about_known_unknown_and_changed_keys(tmp_path: Path, loop_name: str) -> None:
    path = tmp_path / "known"
    new = policy(HostKeyCheck.ACCEPT_NEW, path=path)
    for expected in ("recorded", "known"):
        assert run(meet(HostKeyChecker(new, "server", 2222), [KEY]), loop_name).calls == 1, expected
    changed = HostKeyChecker(new, "server", 2222)
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        run(meet(changed, [OTHER]), loop_name)
    assert "has changed" in str(changed.failure)


def test_of_several_host_keys_the_recorded_one_is_asked_for(tmp_path: Path, loop_name: str) -> None:
    path = tmp_path / "known"
    rsa = asyncssh.generate_private_key("ssh-rsa", key_size=2048)
    record_host_key(path, "server", 2222, rsa.public_data)
    assert run(meet(HostKeyChecker(policy(HostKeyCheck.STRICT, path=path), "server", 2222), [KEY, rsa]), loop_name)


@pytest.mark.parametrize(
    ("principal", "line", "accepted"),
    [
        ("127.0.0.1", "@cert-authority server", True),
        ("elsewhere", "@cert-authority server", False),
        ("127.0.0.1", "@cert-authority other", False),
        ("127.0.0.1", "server", False),
    ],
)
def test_a_host_certificate_counts_with_its_authority_and_name(
    tmp_path: Path, loop_name: str, principal: str, line: str, accepted: bool
) -> None:
    authority = asyncssh.generate_private_key("ssh-ed25519")
    certificate = authority.generate_host_certificate(KEY, "id", principals=[principal]).export_certificate()
    path = tmp_path / "known"
    path.write_text(f"{line} {authority.export_public_key().decode()}")
    checker = HostKeyChecker(policy(HostKeyCheck.STRICT, path=path), "server", 22)
    if accepted:
        assert run(meet(checker, [KEY], [certificate]), loop_name).calls == 0
    else:
        with pytest.raises(asyncssh.HostKeyNotVerifiable):
            run(meet(checker, [KEY], [certificate]), loop_name)
