"""Claims about authentication with real processes: files that change, certificates of hosts, errors at the start."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncssh
import pytest

from tests.support.openssh import SshClient
from tests.support.polling import LIMIT_S
from tests.support.processes import WraithClient, WraithServer, authorize, make_key, wraith
from tests.support.stock_servers import Sshd, free_port
from tests.support.targets import Target, echo
from tests.support.tools import need
from wraith.errors import UnusableFile
from wraith.ssh.authorized_keys import parse_line
from wraith.ssh.grant import Grant
from wraith.ssh.key_options import parse_key_options
from wraith.ssh.login_rules import LoginRules
from wraith.ssh.offer import read_offer

WATCH_S = 40.0  # for a session to be judged again, on a busy machine


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with Target(echo) as listening:
        yield listening


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    return make_key(tmp_path / "ca")


def public(key: Path) -> str:
    return key.with_name(key.name + ".pub").read_text()


def certify(authority: Path, key: Path, *flags: str) -> Path:
    (ssh_keygen,) = need("ssh-keygen")
    command = [str(ssh_keygen), "-q", "-s", str(authority), "-I", "me", *flags, f"{key}.pub"]
    subprocess.run(command, check=True, timeout=LIMIT_S, capture_output=True)
    return key.with_name(key.name + "-cert.pub")


# While it runs


def test_sessions_end_when_their_key_is_taken_out(tmp_path: Path) -> None:
    with WraithServer(tmp_path) as server:
        stays = make_key(tmp_path / "stays")
        authorize(server.authorized_keys, server.client_key, stays)
        with (
            SshClient.of(server, tmp_path).tunnel() as tunnel,
            SshClient(server.port, stays, tmp_path).tunnel() as other,
            WraithClient(server, "--exit-on-failure") as client,
        ):
            authorize(server.authorized_keys, stays)
            assert tunnel.wait(WATCH_S) == 255
            assert client.wait(WATCH_S) != 0
            assert other.running
        server.eventually_logs(r"INFO session ended remote_addr=127\.0\.0\.1 reason=unknown-key")


@pytest.mark.long
def test_a_session_ends_when_its_certificate_does(tmp_path: Path, authority: Path) -> None:
    with WraithServer(tmp_path, "--cert-authority", str(authority) + ".pub") as server:
        key = make_key(tmp_path / "key")
        certify(authority, key, "-n", "somebody", "-V", "-1m:+8s")
        with SshClient(server.port, key, tmp_path).tunnel() as tunnel:
            assert tunnel.wait(WATCH_S) == 255
        server.eventually_logs(r"INFO session ended remote_addr=127\.0\.0\.1 reason=expired")


def test_keys_are_revoked_by_fingerprint_while_the_server_runs(tmp_path: Path, target: Target) -> None:
    revoked = tmp_path / "revoked"
    revoked.touch(0o600)
    with WraithServer(tmp_path, "--revoked-keys", str(revoked)) as server:
        ssh = SshClient.of(server, tmp_path)
        assert ssh.run("-W", f"127.0.0.1:{target.port}").code == 0
        fingerprint = asyncssh.import_public_key(public(server.client_key)).get_fingerprint()
        revoked.write_text(f"{fingerprint} lost\n")
        assert "Permission denied" in ssh.run("-W", f"127.0.0.1:{target.port}").err
        server.eventually_logs("reason=revoked")


def test_principals_replace_the_users_name(tmp_path: Path, authority: Path, target: Target) -> None:
    flags = ("--cert-authority", str(authority) + ".pub", "--principal", "ops", "--principal", "staff")
    with WraithServer(tmp_path, *flags) as server:
        for principal, code in (("staff,x", 0), ("ops", 0), ("somebody", 255), ("op", 255)):
            key = make_key(tmp_path / principal)
            certify(authority, key, "-n", principal)
            assert SshClient(server.port, key, tmp_path).run("-W", f"127.0.0.1:{target.port}").code == code
        server.eventually_logs("result=reject keys_tried=2 reason=principal")
        server.eventually_logs(r"result=accept ca_fingerprint=SHA256:\S+ serial=0 key_id=me ")


def test_wraith_connects_with_a_certificate_from_elsewhere(tmp_path: Path, authority: Path) -> None:
    with WraithServer(tmp_path, "--cert-authority", str(authority) + ".pub") as server:
        key = make_key(tmp_path / "key")
        kept = shutil.copy(certify(authority, key, "-n", "wraith"), tmp_path / "kept")
        key.with_name("key-cert.pub").unlink()
        server.client_key = key
        assert wraith("connect", *server.reached_by, "-D", "127.0.0.1:0", folder=tmp_path / "c").code == 5
        with WraithClient(server, "--certificate", str(kept)) as client:
            assert client.socks_port


def test_six_keys_of_which_one_fits_are_one_login_and_no_reject(tmp_path: Path) -> None:
    with WraithServer(tmp_path) as server:
        keys = [make_key(tmp_path / f"key{number}") for number in range(5)]
        identities = [word for key in keys for word in ("-i", str(key))]
        ssh = SshClient(server.port, keys[0], tmp_path)
        done = ssh.run("-N", *identities, "-i", str(server.client_key), "-oExitOnForwardFailure=yes", "-W", "x:1")
        assert "open failed" in done.err
        server.eventually_logs("result=accept keys_tried=6")
        assert "result=reject" not in server.log()


# Certificates of hosts


def test_a_host_certificate_is_believed_for_its_authority(tmp_path: Path, authority: Path, target: Target) -> None:
    host_key = make_key(tmp_path / "host", "-t", "rsa", "-b", "2048")
    certificate = certify(authority, host_key, "-h", "-n", "127.0.0.1")
    with WraithServer(tmp_path, "--key", str(host_key), "--host-certificate", str(certificate)) as server:
        known = tmp_path / "trusting" / "ssh_known_hosts"
        known.parent.mkdir()
        known.write_text(f"@cert-authority * {public(authority)}")
        ssh = SshClient(server.port, server.client_key, known.parent)
        flags = ("-v", "-oStrictHostKeyChecking=yes", "-W", f"127.0.0.1:{target.port}")
        # The first word counts, and SshClient says accept-new.
        command = [word for word in ssh.command(*flags) if word != "-oStrictHostKeyChecking=accept-new"]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT_S, input="")
        assert done.returncode == 0, done.stderr
        assert "Server host certificate: ssh-rsa-cert-v01@openssh.com" in done.stderr
        assert re.search(r"host key algorithm: rsa-sha2-\d+-cert-v01", done.stderr)
        plain = SshClient(server.port, server.client_key, tmp_path)
        assert plain.run("-oHostKeyAlgorithms=rsa-sha2-512", "-W", f"127.0.0.1:{target.port}").code == 0
        with WraithClient(_Trusting(server, known)) as client:
            assert client.socks_port


class _Trusting:
    """The server, reached by trust in its authority."""

    def __init__(self, server: WraithServer, known_hosts: Path) -> None:
        self.folder = server.folder
        self.reached_by = (
            *(f"127.0.0.1:{server.port}", "-i", str(server.client_key)),
            *("--known-hosts", str(known_hosts), "--host-key-check", "strict"),
        )


# At the start


def _line(text: str) -> Callable[[Path], tuple[str, ...]]:
    def prepare(folder: Path) -> tuple[str, ...]:
        keys = folder / "keys"
        keys.write_text(f"# ours\n{text} {public(folder / 'key')}")
        keys.chmod(0o600)
        return ("--authorized-keys", str(keys))

    return prepare


def _file(flag: str, content: bytes | None, mode: int = 0o600) -> Callable[[Path], tuple[str, ...]]:
    def prepare(folder: Path) -> tuple[str, ...]:
        path = folder / "file"
        if content is not None:
            path.write_bytes(content or public(folder / "key").encode())
            path.chmod(mode)
        return (flag, str(path))

    return prepare


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (_line('restrict,command="x"'), r"keys:2: the option command is not supported: there are no commands to run"),
        (_line("Verify-Required"), r"keys:2: the option verify-required is not supported: it cannot be enforced"),
        (_line("anything"), r"keys:2: the option 'anything' is unknown"),
        (_line('from="10.0.0.1/8"'), r"keys:2: from: '10\.0\.0\.1/8': the address and the length"),
        (_line('principals="a"'), r"keys:2: principals needs cert-authority"),
        (_file("--cert-authority", None), r"certificate authority .*/file: there is no such file"),
        (_file("--cert-authority", b"", 0o622), r"certificate authority .*/file can be written by others"),
        (_file("--cert-authority", b"restrict ssh-ed25519 AAAA"), r"file:1: the ssh-ed25519 key is damaged"),
        (_file("--revoked-keys", None), r"revoked keys .*/file: there is no such file"),
        (_file("--revoked-keys", b"", 0o666), r"revoked keys .*/file can be written by others"),
        (_file("--revoked-keys", b"SSHKRL\n\0\0\0\0\1"), r"file:1: a binary list \(KRL\) is not read here"),
        (_file("--revoked-keys", b"\nnonsense"), r"file:2: neither a public key nor a fingerprint"),
        (_file("--host-certificate", b""), r"certificate .*/file is not an OpenSSH certificate"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_code_3(
    prepare: Callable[[Path], tuple[str, ...]], said: str, tmp_path: Path
) -> None:
    make_key(tmp_path / "key")
    done = wraith("serve", "--listen", "127.0.0.1:0", *prepare(tmp_path), folder=tmp_path / "server")
    assert done.code == 3
    assert re.search(said, done.one_line())


# What sshd says of the options


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("sshd"), "MaxAuthTries 1000", "MaxStartups 100") as server:
        yield server


@pytest.mark.parametrize(
    ("options", "host", "allowed"),
    [
        ('permitlisten="{port}"', "localhost", True),
        ('permitlisten="{port}"', "127.0.0.1", True),
        ('permitlisten="{port}"', "", True),
        ('permitlisten="localhost:{port}"', "LOCALHOST", True),
        ('permitlisten="localhost:{port}"', "127.0.0.1", False),
        ('permitlisten="127.*:{port}"', "127.0.0.1", True),
        ('permitlisten="localhost:1"', "localhost", False),
        ('permitlisten="localhost:1",PermitListen="*:*"', "localhost", True),
        ('permitlisten="localhost:*"', "localhost", True),
        ('restrict,permitlisten="{port}"', "localhost", False),
        ('restrict,port-forwarding,permitlisten="{port}"', "localhost", True),
    ],
)
def test_permitlisten_is_judged_as_sshd_does(
    options: str, host: str, allowed: bool, sshd: Sshd, tmp_path: Path
) -> None:
    port = free_port()
    written = options.format(port=port)
    sshd.authorized_keys.write_text(f"{written} {public(sshd.client_key)}")
    client = SshClient(sshd.port, sshd.client_key, tmp_path, user=sshd.user)
    with client.tunnel("-R", f"{host}:{port}:127.0.0.1:1") as tunnel:
        answer = tunnel.eventually_logs(r"remote (?:forward|port forwarding) (success|fail)")
    assert (answer[1] == "success") is allowed
    parsed = parse_key_options(written)
    grant = Grant(
        read_offer(asyncssh.import_public_key(public(sshd.client_key)).public_data),
        *("me", "127.0.0.1", "here"),
        port_forwarding=parsed.port_forwarding,
        permit_listen=parsed.permit_listen,
    )
    assert grant.permits_listen(host, port) is allowed


WORDS = [
    *(
        "restrict",
        "port-forwarding",
        "no-port-forwarding",
        "no-pty",
        "PTY",
        "no-x11-forwarding",
        "user-rc",
        "No-User-RC",
    ),
    *('from="127.0.0.1"', 'FROM="127.0.0.0/8"', 'from="10.0.0.0/8"', 'from="!127.0.0.1,*"', 'from="!10.0.0.1"'),
    *('from="127.0.0.1/8"', 'from="127.0.0.1,,"', 'from="*,!10.0.0.0/8"', r'from="\"127.0.0.1\",127.*"', "from"),
    *('permitopen="a:1"', 'PermitOpen="[::1]:*"', 'permitopen="a"', 'permitopen="a:0"', 'permitopen="\\"'),
    *('permitlisten="1"', 'permitlisten="a:1"', 'permitlisten="a"', "permitlisten"),
    *('expiry-time="20370101"', 'expiry-time="20200101"', 'expiry-time="2037010100"', 'Expiry-Time="203701010000z"'),
    *(
        'principals="a"',
        "cert-authority",
        "",
        "",
        "anything",
        "restrict=",
        "no-restrict",
        'pty"x"',
        "\\",
        '\\"',
        '"',
        " ",
    ),
]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(12))
def test_random_options_let_in_whom_sshd_lets_in(seed: int, sshd: Sshd, tmp_path: Path) -> None:
    chance = random.Random(seed)
    lines: list[tuple[str, asyncssh.SSHKey, Path]] = []
    for number in range(90):  # ssh takes 100 identities
        key = asyncssh.generate_private_key("ssh-ed25519")
        path = tmp_path / f"{number}.pub"
        path.write_bytes(key.export_public_key())
        options = ",".join(chance.choice(WORDS) for _ in range(chance.randint(1, 3)))
        lines.append((f"{options} {key.export_public_key().decode().strip()}", key, path))
    sshd.authorized_keys.write_text("\n".join(line for line, _, _ in lines) + "\n" + public(sshd.client_key))
    # With the public halves alone ssh asks about each, and cannot log in with any.
    identities = [word for _, _, path in lines for word in ("-i", str(path))]
    done = SshClient(sshd.port, lines[0][2], tmp_path, user=sshd.user).run("-v", *identities, remote=("true",))
    accepted = set(re.findall(r"Server accepts key: (\S+)", done.err))
    assert len(re.findall(r"Offering public key: ", done.err)) >= len(lines)
    assert 10 < len(accepted) < 80  # both answers are among them
    differing = []
    for line, key, path in lines:
        ours = _lets_in(line, key)
        if ours is not (str(path) in accepted):
            differing.append((line.rsplit(" ssh-ed25519", 1)[0], ours))
    assert differing == []


def _lets_in(line: str, key: asyncssh.SSHKey) -> bool:
    try:
        parsed = parse_line(line, 1, "keys")
    except UnusableFile:
        return False
    rules = LoginRules((parsed,) if parsed is not None else ())
    return isinstance(rules.judge(read_offer(key.public_data), "root", "127.0.0.1", 1_790_000_000), Grant)
