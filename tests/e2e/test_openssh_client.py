"""Claims about stock ssh against `wraith serve`: forwards, refusals, every algorithm, key exchanges in mid-transfer."""

from __future__ import annotations

import hashlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.curl import fetched
from tests.support.early_rekeying import EarlyRekeyingServer
from tests.support.openssh import SshClient, key_exchanges
from tests.support.polling import eventually
from tests.support.processes import WraithServer, authorize, make_key, run_program
from tests.support.stock_servers import Nginx, accepts, free_port
from tests.support.targets import Target, answer_after_end, echo
from tests.support.tools import need
from wraith.ssh.algorithms import CIPHERS, KEY_EXCHANGES, MACS, POST_QUANTUM

MIB = 1 << 20
FILE = "64m"
SHELL_LINE = "wraith: this server forwards connections and has no shell; use ssh -N with -L, -D or -W"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with Nginx(tmp_path_factory.mktemp("site"), {FILE: 64 * MIB}) as nginx:
        yield nginx


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WraithServer]:
    with WraithServer(tmp_path_factory.mktemp("server")) as wraith:
        yield wraith
        assert "internal task failed" not in wraith.log()


@pytest.fixture(scope="module")
def repeater() -> Iterator[Target]:
    with Target(echo) as target:
        yield target


@pytest.fixture
def ssh(server: WraithServer, tmp_path: Path) -> SshClient:
    return SshClient.of(server, tmp_path)


def carries(ssh: SshClient, repeater: Target, *flags: str, size: int = 300_000) -> str:
    """Send bytes to the target and back through `ssh -W`; what ssh said."""
    sent = random.Random(size).randbytes(size)
    done = ssh.run("-v", "-W", f"127.0.0.1:{repeater.port}", *flags, stdin=sent)
    assert done.code == 0, done.err
    assert done.out.encode("latin-1") == sent
    return done.err


# Forwards


def test_a_local_forward_carries_a_file_whole(ssh: SshClient, site: Nginx, tmp_path: Path) -> None:
    port = free_port()
    with ssh.tunnel("-L", f"127.0.0.1:{port}:127.0.0.1:{site.port}"):
        assert fetched(f"http://127.0.0.1:{port}/{FILE}", tmp_path) == site.sha256[FILE]


def test_a_dynamic_forward_carries_a_file_whole(ssh: SshClient, site: Nginx, tmp_path: Path) -> None:
    port = free_port()
    with ssh.tunnel("-D", f"127.0.0.1:{port}"):
        for host in ("127.0.0.1", "localhost"):
            digest = fetched(site.url(FILE, host), tmp_path, "--proxy", f"socks5h://127.0.0.1:{port}")
            assert digest == site.sha256[FILE]


def test_standard_streams_reach_a_target_that_answers_after_the_end(ssh: SshClient) -> None:
    sent = random.Random(1).randbytes(8 * MIB)
    with Target(answer_after_end) as target:
        done = ssh.run("-W", f"127.0.0.1:{target.port}", stdin=sent)
    assert (done.code, done.out) == (0, f"{len(sent)} {hashlib.sha256(sent).hexdigest()}\n")


def test_a_target_that_refuses_is_said_and_the_session_goes_on(
    ssh: SshClient, site: Nginx, server: WraithServer, tmp_path: Path
) -> None:
    nobody, port = free_port(), free_port()
    refused = free_port()
    forwards = ("-L", f"127.0.0.1:{refused}:127.0.0.1:{nobody}", "-L", f"127.0.0.1:{port}:127.0.0.1:{site.port}")
    with ssh.tunnel(*forwards) as tunnel:
        with socket.create_connection(("127.0.0.1", refused), timeout=10) as asking:
            assert asking.recv(1) == b""
        tunnel.eventually_logs(r"open failed: connect failed: Connection refused")
        assert fetched(f"http://127.0.0.1:{port}/{FILE}", tmp_path) == site.sha256[FILE]
    assert str(nobody) not in server.log()  # targets are never logged


def test_reserved_names_are_prohibited(ssh: SshClient) -> None:
    done = ssh.run("-W", "Wraith-control.:1")
    assert done.code == 255
    assert "open failed: administratively prohibited" in done.err


# What there is not


@pytest.mark.parametrize(
    ("flags", "remote"),
    [((), ()), ((), ("id",)), (("-T",), ()), (("-tt",), ()), (("-A", "-Y"), ("id",))],
    ids=["shell", "command", "no terminal", "terminal", "agent and X11"],
)
def test_a_shell_is_one_clear_line_and_status_1(
    ssh: SshClient, flags: tuple[str, ...], remote: tuple[str, ...]
) -> None:
    # A DISPLAY and an agent, so that ssh does ask for the forwarding of both.
    more = {"DISPLAY": "127.0.0.1:99", "SSH_AUTH_SOCK": "/nonexistent"}
    done = ssh.run("-oLogLevel=QUIET", *flags, remote=remote, more=more)
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines() == [SHELL_LINE]


def test_a_subsystem_is_refused_and_the_session_goes_on(ssh: SshClient, site: Nginx, tmp_path: Path) -> None:
    port = free_port()
    control = f"-S{tmp_path / 'control'}"
    with ssh.tunnel("-M", control, "-L", f"127.0.0.1:{port}:127.0.0.1:{site.port}"):
        for subsystem in ("sftp", "wraith-control", "x" * 100):
            done = ssh.run(control, "-s", remote=(subsystem,))
            assert (done.code, done.out) == (255, "")
        assert fetched(f"http://127.0.0.1:{port}/{FILE}", tmp_path) == site.sha256[FILE]


def test_sftp_ends_without_a_session(ssh: SshClient, tmp_path: Path) -> None:
    (sftp,) = need("sftp")
    done = run_program(sftp, *ssh.options("-P"), "somebody@127.0.0.1", folder=tmp_path)
    assert done.code == 255
    assert "subsystem request failed on channel 0" in done.err


def test_a_refused_remote_forward_is_said_and_the_session_goes_on(ssh: SshClient, site: Nginx, tmp_path: Path) -> None:
    port = free_port()
    with ssh.tunnel(
        *("-R", "80:127.0.0.1:1", "-R", f"{tmp_path / 'remote.sock'}:127.0.0.1:1"),
        *("-L", f"127.0.0.1:{port}:127.0.0.1:{site.port}"),
    ) as tunnel:
        tunnel.eventually_logs(r"remote port forwarding failed for listen port|remote forward failure for: listen")
        tunnel.eventually_logs(r"remote port forwarding failed for listen path|remote forward failure for: listen \S*/")
        assert fetched(f"http://127.0.0.1:{port}/{FILE}", tmp_path) == site.sha256[FILE]
        assert not accepts(80)


def test_a_refused_remote_forward_can_end_ssh(ssh: SshClient) -> None:
    done = ssh.run("-N", "-oExitOnForwardFailure=yes", "-R", "80:127.0.0.1:1")
    assert done.code == 255
    assert "remote port forwarding failed" in done.err


def test_unix_sockets_are_refused_and_the_session_goes_on(ssh: SshClient, site: Nginx, tmp_path: Path) -> None:
    port, unix = free_port(), free_port()
    forwards = ("-L", f"127.0.0.1:{unix}:/run/x.sock", "-L", f"127.0.0.1:{port}:127.0.0.1:{site.port}")
    with ssh.tunnel(*forwards) as tunnel:
        with socket.create_connection(("127.0.0.1", unix), timeout=10) as asking:
            assert asking.recv(1) == b""
        tunnel.eventually_logs(r"open failed: administratively prohibited")
        assert fetched(f"http://127.0.0.1:{port}/{FILE}", tmp_path) == site.sha256[FILE]


# Keys and algorithms


def test_keyscan_finds_the_host_key(server: WraithServer, tmp_path: Path) -> None:
    keyscan, keygen = need("ssh-keyscan", "ssh-keygen")
    scan = run_program(keyscan, "-p", str(server.port), "127.0.0.1", folder=tmp_path)
    assert scan.code == 0
    assert scan.out.startswith(f"[127.0.0.1]:{server.port} ssh-ed25519 ")
    assert scan.out.count("\n") == 1
    (tmp_path / "scanned").write_text(scan.out)
    assert server.host_key in run_program(keygen, "-l", "-f", tmp_path / "scanned", folder=tmp_path).out


@pytest.mark.parametrize("name", [name for name in KEY_EXCHANGES if name != POST_QUANTUM])
def test_each_key_exchange_openssh_has_works(name: str, ssh: SshClient, repeater: Target) -> None:
    said = carries(ssh, repeater, f"-oKexAlgorithms={name}")
    assert f"debug1: kex: algorithm: {name}\n" in said.replace("\r", "")


@pytest.mark.parametrize("cipher", CIPHERS)
def test_each_cipher_works(cipher: str, ssh: SshClient, repeater: Target) -> None:
    said = carries(ssh, repeater, f"-oCiphers={cipher}")
    assert said.count(f"cipher: {cipher} MAC: ") == 2


@pytest.mark.parametrize("mac", MACS)
@pytest.mark.parametrize("cipher", [cipher for cipher in CIPHERS if cipher.endswith("-ctr")])
def test_each_mac_works(mac: str, cipher: str, ssh: SshClient, repeater: Target) -> None:
    said = carries(ssh, repeater, f"-oMACs={mac}", f"-oCiphers={cipher}")
    assert said.count(f"cipher: {cipher} MAC: {mac} ") == 2


def test_stock_ssh_and_wraith_agree_on_the_best_they_share(ssh: SshClient, repeater: Target) -> None:
    said = carries(ssh, repeater)
    assert "kex: algorithm: mlkem768x25519-sha256" in said or "kex: algorithm: curve25519-sha256" in said
    assert "host key algorithm: ssh-ed25519" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("-oKexAlgorithms=diffie-hellman-group14-sha1",), "no matching key exchange method"),
        (("-oKexAlgorithms=ecdh-sha2-nistp256,diffie-hellman-group14-sha256",), "no matching key exchange method"),
        (("-oHostKeyAlgorithms=ssh-rsa",), "no matching host key type"),
        (("-oCiphers=aes128-cbc,3des-cbc",), "no matching cipher"),
        (("-oCiphers=aes128-ctr", "-oMACs=hmac-sha1,umac-64@openssh.com"), "no matching MAC"),
    ],
    ids=["SHA-1", "other groups", "ssh-rsa", "CBC", "old MACs"],
)
def test_old_algorithms_are_refused_and_the_server_serves_on(
    flags: tuple[str, ...], said: str, ssh: SshClient, server: WraithServer, repeater: Target
) -> None:
    done = ssh.run("-N", *flags)
    assert done.code == 255
    assert said in done.err
    # Which of the two notices first, when both compare the same lists, is a race.
    server.eventually_logs("reason=(KeyExchangeFailed|ConnectionLost)")
    carries(ssh, repeater, size=10)


def test_every_kind_of_key_logs_in_but_not_with_sha1(server: WraithServer, repeater: Target, tmp_path: Path) -> None:
    kinds = {"ed25519": ("-t", "ed25519"), "ecdsa": ("-t", "ecdsa"), "rsa": ("-t", "rsa", "-b", "3072")}
    keys = {kind: make_key(tmp_path / kind, *flags) for kind, flags in kinds.items()}
    authorize(server.authorized_keys, server.client_key, *keys.values())
    for key in keys.values():
        carries(SshClient(server.port, key, tmp_path), repeater, size=10)
    rsa = SshClient(server.port, keys["rsa"], tmp_path)
    for algorithm in ("rsa-sha2-256", "rsa-sha2-512"):
        carries(rsa, repeater, f"-oPubkeyAcceptedAlgorithms={algorithm}", size=10)
    done = rsa.run("-N", "-oPubkeyAcceptedAlgorithms=ssh-rsa")
    assert done.code == 255
    assert "Permission denied (publickey)" in done.err


@pytest.mark.parametrize("flags", [("-t", "rsa", "-b", "3072"), ("-t", "ecdsa")], ids=["rsa", "ecdsa"])
def test_a_host_key_of_another_kind_is_shown_without_sha1(
    flags: tuple[str, ...], repeater: Target, tmp_path: Path
) -> None:
    with WraithServer(tmp_path, "--key", str(make_key(tmp_path / "host_key", *flags))) as server:
        ssh = SshClient.of(server, tmp_path)
        carries(ssh, repeater, size=10)
        done = ssh.run("-N", "-oHostKeyAlgorithms=ssh-rsa")
        assert "no matching host key type" in done.err
        carries(ssh, repeater, size=10)


def test_a_key_that_is_not_authorized_is_refused(server: WraithServer, tmp_path: Path) -> None:
    stranger = make_key(tmp_path / "stranger")
    done = SshClient(server.port, stranger, tmp_path).run("-N")
    assert done.code == 255
    assert "Permission denied (publickey)" in done.err
    server.eventually_logs("result=reject keys_tried=1 reason=unknown-key")


# Key exchanges in mid-transfer


def test_ssh_exchanges_keys_anew_while_it_receives(ssh: SshClient, site: Nginx, tmp_path: Path) -> None:
    port = free_port()
    with ssh.tunnel("-oRekeyLimit=4M", "-L", f"127.0.0.1:{port}:127.0.0.1:{site.port}") as tunnel:
        assert fetched(f"http://127.0.0.1:{port}/{FILE}", tmp_path) == site.sha256[FILE]
        assert tunnel.key_exchanges() > 8


def test_ssh_exchanges_keys_anew_while_it_sends(ssh: SshClient) -> None:
    sent = random.Random(2).randbytes(64 * MIB)
    with Target(answer_after_end) as target:
        done = ssh.run("-v", "-oRekeyLimit=4M", "-W", f"127.0.0.1:{target.port}", stdin=sent, limit_s=60)
    assert (done.code, done.out) == (0, f"{len(sent)} {hashlib.sha256(sent).hexdigest()}\n")
    assert key_exchanges(done.err) > 8


def test_the_server_exchanges_keys_anew_while_it_sends(site: Nginx, tmp_path: Path) -> None:
    port = free_port()
    forward = ("-L", f"127.0.0.1:{port}:127.0.0.1:{site.port}")
    with EarlyRekeyingServer(tmp_path) as server, SshClient.of(server, tmp_path).tunnel(*forward) as tunnel:
        assert fetched(f"http://127.0.0.1:{port}/{FILE}", tmp_path) == site.sha256[FILE]
        assert tunnel.key_exchanges() > 8


# The ends of sessions


def test_a_killed_ssh_leaves_no_session_behind(ssh: SshClient, server: WraithServer, repeater: Target) -> None:
    before = server.descriptors()
    with ssh.tunnel("-D", f"127.0.0.1:{free_port()}") as tunnel:
        tunnel.popen.kill()
    eventually(lambda: server.descriptors() <= before, "the server lets go of the session")


def test_a_stopped_server_tells_ssh(tmp_path: Path) -> None:
    with WraithServer(tmp_path) as server, SshClient.of(server, tmp_path).tunnel() as tunnel:
        assert server.stop() == 0
        assert tunnel.wait() == 255
        assert "Traceback" not in server.log()
