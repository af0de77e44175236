"""Claims about host keys: unknown, asked about, recorded, pinned, changed, hashed, certified, revoked."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.consoles import terminal
from tests.support.openssh import SshClient
from tests.support.polling import LIMIT_S
from tests.support.processes import WRAITH, Process, WraithServer, environment, make_key, run_program
from tests.support.refusals import AT_A_TERMINAL, refusal
from tests.support.stock_servers import Sshd
from tests.support.tools import need

READY = r"Ctrl-C ends it"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WraithServer]:
    with WraithServer(tmp_path_factory.mktemp("server")) as wraith:
        yield wraith


def to(server: WraithServer, *flags: str) -> list[str]:
    """Give the arguments that connect to a server without a word about its host key."""
    return ["connect", f"127.0.0.1:{server.port}", "--no-socks5", "-i", str(server.client_key), *flags]


def to_sshd(sshd: Sshd, *flags: str) -> list[str]:
    return ["connect", f"{sshd.user}@127.0.0.1:{sshd.port}", "--no-socks5", "-i", str(sshd.client_key), *flags]


def connects(arguments: list[str], folder: Path) -> str:
    """Connect and leave again; the log lines of it."""
    (setsid,) = need("setsid")  # without a terminal to ask on
    with Process([setsid, *WRAITH, *arguments], folder, name="connect", env=environment(folder)) as client:
        client.eventually_logs(READY)
        assert client.stop() == 0
        return client.log().partition("wraith is connected")[0]


def keygen(*arguments: str | Path, folder: Path) -> str:
    (program,) = need("ssh-keygen")
    done = run_program(program, *arguments, folder=folder)
    assert done.code == 0, done.err
    return done.out


# Unknown


def test_an_unknown_key_is_recorded_with_a_warning_and_then_known(server: WraithServer, tmp_path: Path) -> None:
    said = connects(to(server), tmp_path)
    assert said.count("\n") == 1
    assert " WARN " in said
    assert connects(to(server, "--host-key-check", "strict"), tmp_path) == ""
    known_hosts = tmp_path / "known_hosts"
    assert server.host_key in keygen("-l", "-F", f"[127.0.0.1]:{server.port}", "-f", known_hosts, folder=tmp_path)
    # What the warning says to pass is right.
    pin = re.findall(r"--host-key (SHA256:\S+)", said)
    known_hosts.unlink()
    assert connects(to(server, "--host-key", *pin), tmp_path) == ""
    assert not known_hosts.exists()  # a pin records nothing


def test_openssh_reads_what_wraith_records(server: WraithServer, tmp_path: Path) -> None:
    connects(to(server), tmp_path)
    (tmp_path / "known_hosts").rename(tmp_path / "ssh_known_hosts")
    done = SshClient.of(server, tmp_path).run("-oStrictHostKeyChecking=yes", "-T")
    assert done.code == 1  # logged in: wraith has no shell
    assert "Permanently added" not in done.err


def test_an_unknown_key_is_exit_code_6_when_only_known_ones_are_accepted(server: WraithServer, tmp_path: Path) -> None:
    for check in ("strict", "ask"):
        refused = refusal(6, *to(server, "--host-key-check", check), folder=tmp_path)
        assert f"--host-key {server.host_key}" in refused.line
        assert refused.log == ()
        assert not (tmp_path / "known_hosts").exists()


@pytest.mark.parametrize("answer", ["yes", "the fingerprint"])
def test_a_key_that_is_trusted_at_the_terminal_is_recorded(answer: str, server: WraithServer, tmp_path: Path) -> None:
    with terminal(AT_A_TERMINAL, *to(server), env=environment(tmp_path)) as person:
        person.wait_for("(yes, no, or the fingerprint): ")
        assert f"[127.0.0.1]:{server.port}" in person.shown
        assert server.host_key in person.shown
        assert not (tmp_path / "known_hosts").exists()
        person.type(f"{server.host_key if answer == 'the fingerprint' else answer}\n")
        person.wait_for("Ctrl-C ends it.")
        person.type("\x03")
        assert person.end() == 0
    assert connects(to(server, "--host-key-check", "strict"), tmp_path) == ""


@pytest.mark.parametrize("answer", ["no", "", "SHA256:" + "A" * 43])
def test_a_key_that_is_not_trusted_at_the_terminal_is_exit_code_6(
    answer: str, server: WraithServer, tmp_path: Path
) -> None:
    with terminal(AT_A_TERMINAL, *to(server), env=environment(tmp_path)) as person:
        person.wait_for("(yes, no, or the fingerprint): ")
        person.type(answer + "\n")
        assert person.end() == 6
    assert person.shown.splitlines()[-1].startswith("wraith: ")
    assert person.shown.count("wraith: ") == 1
    assert not (tmp_path / "known_hosts").exists()


def test_a_question_that_is_interrupted_trusts_nobody_and_is_no_failure(server: WraithServer, tmp_path: Path) -> None:
    with terminal(AT_A_TERMINAL, *to(server), env=environment(tmp_path)) as person:
        person.wait_for("(yes, no, or the fingerprint): ")
        person.type("\x03")
        assert person.end() == 0
    assert "wraith: " not in person.shown
    assert "Traceback" not in person.shown
    assert not (tmp_path / "known_hosts").exists()


# Pinned, changed, revoked


def test_another_key_than_the_pinned_is_exit_code_6(server: WraithServer, tmp_path: Path) -> None:
    wrong = "SHA256:" + "A" * 43
    refused = refusal(6, *to(server, "--host-key", wrong), folder=tmp_path)
    assert server.host_key in refused.line
    assert wrong in refused.line
    assert refused.log == ()
    assert connects(to(server, "--host-key", wrong, "--host-key", server.host_key), tmp_path) == ""


def test_a_pin_counts_more_than_a_record_of_another_key(server: WraithServer, tmp_path: Path) -> None:
    record(tmp_path / "known_hosts", f"[127.0.0.1]:{server.port}", make_key(tmp_path / "other"))
    assert connects(to(server, "--host-key", server.host_key), tmp_path) == ""


@pytest.mark.parametrize("check", ["ask", "accept-new", "strict"])
def test_a_changed_key_is_exit_code_6_and_the_line_it_names_forgets_the_old(
    check: str, server: WraithServer, tmp_path: Path
) -> None:
    known_hosts = tmp_path / "known hosts"
    record(known_hosts, f"[127.0.0.1]:{server.port}", make_key(tmp_path / "other"))
    before = known_hosts.read_text()
    flags = to(server, "--known-hosts", str(known_hosts), "--host-key-check", check)
    refused = refusal(6, *flags, folder=tmp_path)
    assert server.host_key in refused.line
    assert f"{known_hosts}:1" in refused.line
    assert refused.log == ()
    assert known_hosts.read_text() == before
    command = refused.line[refused.line.index("ssh-keygen -R") :]
    subprocess.run(command, shell=True, check=True, timeout=LIMIT_S, capture_output=True)
    if check == "accept-new":
        assert " WARN " in connects(flags, tmp_path)


def test_a_changed_key_is_not_asked_about_at_the_terminal(server: WraithServer, tmp_path: Path) -> None:
    record(tmp_path / "known_hosts", f"[127.0.0.1]:{server.port}", make_key(tmp_path / "other"))
    with terminal(AT_A_TERMINAL, *to(server), env=environment(tmp_path)) as person:
        assert person.end() == 6
    assert person.shown.startswith("wraith: ")
    assert person.shown.count("\n") == 1


def test_a_revoked_key_is_exit_code_6_even_when_it_is_pinned(server: WraithServer, tmp_path: Path) -> None:
    host_key = server.folder / "host_ed25519"
    (tmp_path / "known_hosts").write_text(f"@revoked * {host_key.with_name('host_ed25519.pub').read_text()}")
    for flags in ((), ("--host-key", server.host_key)):
        assert "revoked" in refusal(6, *to(server, *flags), folder=tmp_path).line


# Records as ssh-keygen and sshd have them


def record(known_hosts: Path, host: str, key: Path) -> None:
    with known_hosts.open("a") as file:
        file.write(f"{host} {key.with_name(key.name + '.pub').read_text()}")


def test_hashed_records_are_read(server: WraithServer, tmp_path: Path) -> None:
    known_hosts = tmp_path / "known_hosts"
    connects(to(server), tmp_path)
    keygen("-H", "-f", known_hosts, folder=tmp_path)
    assert "127.0.0.1" not in known_hosts.read_text()
    assert connects(to(server, "--host-key-check", "strict"), tmp_path) == ""
    # And a hashed record of another key contradicts as any does.
    known_hosts.unlink()
    record(known_hosts, f"[127.0.0.1]:{server.port}", make_key(tmp_path / "other"))
    keygen("-H", "-f", known_hosts, folder=tmp_path)
    assert "changed" in refusal(6, *to(server), folder=tmp_path).line


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_the_key_that_is_recorded_is_asked_for_where_a_server_has_several(kind: str, tmp_path: Path) -> None:
    size = ("-b", "3072") if kind == "rsa" else ()
    other = make_key(tmp_path / kind, "-t", kind, *size)
    with Sshd(tmp_path, f"HostKey {other}") as sshd:  # which has an Ed25519 key as well
        record(tmp_path / "known_hosts", f"[127.0.0.1]:{sshd.port}", other)
        assert connects(to_sshd(sshd, "--host-key-check", "strict"), tmp_path) == ""


def test_a_host_certificate_is_trusted_for_its_authority(tmp_path: Path) -> None:
    authority, stranger = make_key(tmp_path / "authority"), make_key(tmp_path / "stranger")
    certified = make_key(tmp_path / "certified")
    public = certified.with_name("certified.pub")
    keygen("-q", "-s", authority, "-I", "host", "-h", "-n", "127.0.0.1", public, folder=tmp_path)
    with Sshd(tmp_path, f"HostKey {certified}", f"HostCertificate {tmp_path / 'certified-cert.pub'}") as sshd:
        known_hosts = tmp_path / "known_hosts"
        strict = to_sshd(sshd, "--host-key-check", "strict")
        record(known_hosts, "@cert-authority *", authority)
        assert connects(strict, tmp_path) == ""
        known_hosts.unlink()
        record(known_hosts, "@cert-authority *", stranger)
        refusal(6, *strict, folder=tmp_path)


# Records that cannot be written


def test_a_record_that_cannot_be_written_is_exit_code_3_and_the_connection_is_not_used(
    server: WraithServer, tmp_path: Path
) -> None:
    protected = tmp_path / "protected"
    protected.mkdir()
    (protected / "known_hosts").write_text("")
    (protected / "known_hosts").chmod(0o400)
    protected.chmod(0o500)
    try:
        for path in (protected / "known_hosts", protected / "new"):
            seen = len(server.log())
            refused = refusal(
                3, *to(server, "--known-hosts", str(path)), folder=tmp_path, without="-dac_override,-dac_read_search"
            )
            assert str(path) in refused.line
            assert refused.log == ()
            server.eventually_logs("connection closed")
            assert "auth attempt" not in server.log()[seen:]
    finally:
        protected.chmod(0o700)


def test_records_that_cannot_be_read_are_exit_code_3_before_anything_is_dialled(
    server: WraithServer, tmp_path: Path
) -> None:
    unreadable = tmp_path / "unreadable"
    unreadable.write_text("")
    unreadable.chmod(0o000)
    seen = len(server.log())
    for path in (unreadable, tmp_path):
        refused = refusal(
            3, *to(server, "--known-hosts", str(path)), folder=tmp_path, without="-dac_override,-dac_read_search"
        )
        assert str(path) in refused.line
    assert server.log()[seen:] == ""
