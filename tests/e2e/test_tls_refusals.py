"""Claims about TLS: which certificates are accepted, what is said of the others, and strangers at the TLS port."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.certificates import AUTHORITY, DAY, Issued, issue
from tests.support.polling import LIMIT_S, eventually
from tests.support.processes import WRAITH, Process, WraithServer, environment, make_key
from tests.support.refusals import refusal
from tests.support.tools import need

READY = "Ctrl-C ends it"
HELLO_LIMIT_S = 10.0  # that the server gives a TLS handshake
VERSION_LIMIT_S = 5.0  # and then the version line
WRONG_PIN = "sha256//" + "A" * 43 + "="


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WraithServer]:
    """A server with a self-signed certificate that it made itself."""
    with WraithServer(tmp_path_factory.mktemp("server"), transport="tls") as wraith:
        yield wraith


@dataclass(frozen=True, slots=True)
class Files:
    """A certificate with its chain, its key, and the authority's certificate, as files."""

    certificate: Path
    key: Path
    authority: Path

    @classmethod
    def write(cls, folder: Path, issued: Issued) -> Files:
        files = cls(folder / "chain.pem", folder / "key.pem", folder / "authority.pem")
        files.certificate.write_bytes(issued.chain_pem)
        files.key.write_bytes(issued.key_pem)
        files.key.chmod(0o600)
        files.authority.write_bytes(AUTHORITY.certificate_pem)
        return files

    @property
    def flags(self) -> tuple[str, str, str, str]:
        return ("--tls-cert", str(self.certificate), "--tls-key", str(self.key))


def to(server: WraithServer, *flags: str, host: str = "127.0.0.1") -> list[str]:
    """Give the arguments that reach a server, with nothing said about its certificate."""
    pinned = ("--host-key", server.host_key, "--no-socks5", "-i", str(server.client_key))
    return ["connect", f"tls://{host}:{server.port}", *pinned, *flags]


def connects(arguments: list[str], folder: Path) -> None:
    (setsid,) = need("setsid")  # without a terminal to ask on
    with Process([setsid, *WRAITH, *arguments], folder, name="connect", env=environment(folder)) as client:
        client.eventually_logs(READY)
        assert client.stop() == 0
        assert client.log().startswith("wraith is connected")


def serves(server: WraithServer, folder: Path) -> None:
    assert server.tls_pin is not None
    connects(to(server, "--tls-pin", server.tls_pin), folder)


# A self-signed certificate


def test_a_self_signed_certificate_is_exit_code_6_and_names_its_pin(server: WraithServer, tmp_path: Path) -> None:
    refused = refusal(6, *to(server), folder=tmp_path)
    assert "self-signed" in refused.line
    assert f"--tls-pin {server.tls_pin}" in refused.line
    assert refused.log == ()
    serves(server, tmp_path)


def test_another_pin_is_exit_code_6_and_names_the_key_that_was_shown(server: WraithServer, tmp_path: Path) -> None:
    refused = refusal(6, *to(server, "--tls-pin", WRONG_PIN), folder=tmp_path)
    assert str(server.tls_pin) in refused.line
    assert refused.log == ()
    assert server.tls_pin is not None
    connects(to(server, "--tls-pin", WRONG_PIN, "--tls-pin", server.tls_pin), tmp_path)


def test_insecure_accepts_any_certificate_but_no_other_host_key(server: WraithServer, tmp_path: Path) -> None:
    connects(to(server, "--insecure"), tmp_path)
    wrong = to(server, "--insecure", "--host-key", "SHA256:" + "A" * 43)
    at = wrong.index(server.host_key)
    refused = refusal(6, *wrong[: at - 1], *wrong[at + 1 :], folder=tmp_path)
    assert "not the pinned" in refused.line


def test_a_self_signed_certificate_and_its_pin_outlive_a_restart(tmp_path: Path) -> None:
    pins = []
    folder = tmp_path / "same"
    argv = [*WRAITH, "serve", "--listen", "tls://127.0.0.1:0"]
    for _ in range(2):
        with Process(argv, folder, name="serve") as serving:
            pins.append(serving.eventually_logs(r"TLS pin +(sha256//\S+)$")[1])
            assert serving.stop() == 0
    assert pins[0] == pins[1]
    secrets = [path for path in folder.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert secrets
    assert all(path.stat().st_mode & 0o077 == 0 for path in secrets)


# Certificates from an authority


def test_a_certificate_of_ones_own_authority_is_accepted(tmp_path: Path) -> None:
    files = Files.write(tmp_path, issue(("localhost", "127.0.0.1"), by=AUTHORITY))
    with WraithServer(tmp_path, *files.flags, transport="tls") as server:
        assert server.tls_pin is None
        for host in ("127.0.0.1", "localhost"):
            connects(to(server, "--tls-ca", str(files.authority), host=host), tmp_path)
        line = refusal(6, *to(server), folder=tmp_path).line
        assert "--tls-ca" in line
        assert "Test Authority" in line
        # The pin that it names does.
        pin = line[line.index("sha256//") :].split()[0]
        connects(to(server, "--tls-pin", pin), tmp_path)


def test_a_certificate_for_another_name_is_exit_code_6_unless_that_name_is_asked_for(tmp_path: Path) -> None:
    files = Files.write(tmp_path, issue(("tunnel.example",), by=AUTHORITY))
    with WraithServer(tmp_path, *files.flags, transport="tls") as server:
        flags = ("--tls-ca", str(files.authority))
        for host in ("127.0.0.1", "localhost"):
            refused = refusal(6, *to(server, *flags, host=host), folder=tmp_path)
            assert f"is not for {host} but for tunnel.example" in refused.line
            assert "--tls-server-name" in refused.line
            assert refused.log == ()
        connects(to(server, *flags, "--tls-server-name", "tunnel.example"), tmp_path)
        assert refusal(6, *to(server, *flags, "--tls-server-name", "other.example"), folder=tmp_path).log == ()


def test_an_expired_certificate_is_exit_code_6(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    files = Files.write(tmp_path, issue(by=AUTHORITY, starts=now - 3 * DAY, ends=now - DAY))
    with tls_server(files) as port:
        flags = ("--tls-ca", str(files.authority), "-i", str(make_key(tmp_path / "id")), "--no-socks5")
        refused = refusal(6, "connect", f"tls://127.0.0.1:{port}", *flags, folder=tmp_path)
        assert "has expired" in refused.line


@contextlib.contextmanager
def tls_server(files: Files) -> Iterator[int]:
    """A TLS server that shows a certificate and does nothing else: wraith's own may well refuse to show this one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:

        def show() -> None:
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    if not connection.recv(1, socket.MSG_PEEK):
                        return
                    context.wrap_socket(connection, server_side=True).close()

        showing = pool.submit(show)
        try:
            yield listener.getsockname()[1]
        finally:
            socket.create_connection(listener.getsockname()).close()  # ends it
            showing.result(LIMIT_S)


# Files


def test_certificate_files_that_cannot_be_used_are_exit_code_3(tmp_path: Path) -> None:
    files = Files.write(tmp_path, issue())
    other = tmp_path / "other.pem"
    other.write_bytes(issue().key_pem)
    other.chmod(0o600)
    readable = tmp_path / "readable.pem"
    readable.write_bytes(files.key.read_bytes())
    readable.chmod(0o644)
    junk = tmp_path / "junk.pem"
    junk.write_text("junk\n")
    junk.chmod(0o600)
    for certificate, key, named in (
        (tmp_path / "missing", files.key, tmp_path / "missing"),
        (files.certificate, tmp_path / "missing", tmp_path / "missing"),
        (files.certificate, readable, readable),
        (files.certificate, junk, junk),
        (junk, files.key, junk),
        (files.certificate, other, other),
        (tmp_path, files.key, tmp_path),
    ):
        arguments = ("serve", "--listen", "tls://127.0.0.1:0", "--tls-cert", certificate, "--tls-key", key)
        refused = refusal(3, *arguments, folder=tmp_path)
        assert str(named) in refused.line
        assert refused.log == ()


def test_an_authority_file_that_cannot_be_used_is_exit_code_3(server: WraithServer, tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("junk\n")
    for path in (junk, tmp_path / "missing", tmp_path):
        refused = refusal(3, *to(server, "--tls-ca", str(path)), folder=tmp_path)
        assert str(path) in refused.line
        assert refused.log == ()


# The wrong protocol


def test_plain_ssh_to_the_tls_port_suggests_the_right_transport(server: WraithServer, tmp_path: Path) -> None:
    arguments = ("connect", f"127.0.0.1:{server.port}", "-i", str(server.client_key), "--no-socks5")
    refused = refusal(4, *arguments, folder=tmp_path)
    assert "--transport tls" in refused.line
    assert refused.log == ()
    serves(server, tmp_path)


def test_stock_ssh_at_the_tls_port_ends_at_once(server: WraithServer, tmp_path: Path) -> None:
    (ssh,) = need("ssh")
    argv = [str(ssh), "-F", "none", "-oBatchMode=yes", "-p", str(server.port), "127.0.0.1"]
    with Process(argv, tmp_path) as client:
        assert client.wait() == 255
    serves(server, tmp_path)


# Strangers


def stranger(server: WraithServer, sends: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S)
    connection.sendall(sends)
    return connection


def client_hello() -> bytes:
    """Give the first bytes of a TLS client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="tunnel.example").do_handshake()
    return outgoing.read()


def time_to_the_end(connection: socket.socket) -> float:
    began = time.monotonic()
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(65536):
            pass
    return time.monotonic() - began


def test_plain_http_is_answered_as_a_web_server_would(server: WraithServer) -> None:
    with stranger(server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"plain HTTP request was sent to HTTPS port" in answer


@pytest.mark.parametrize(
    "sends",
    [
        hashlib.shake_128(b"garbage").digest(20_000),
        b"SSH-2.0-plain\r\n",
        b"\x16\x03\x01\x40\x00" + b"x" * 16384,
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"\0" * 100,
    ],
    ids=["garbage", "SSH", "broken hello", "alert", "zeros"],
)
def test_what_cannot_be_tls_is_dropped_and_the_server_serves_on(
    sends: bytes, server: WraithServer, tmp_path: Path
) -> None:
    before = server.descriptors()
    with contextlib.suppress(ConnectionError), stranger(server, sends) as connection:
        assert time_to_the_end(connection) < VERSION_LIMIT_S
    eventually(lambda: server.descriptors() <= before, "the server lets go of it")
    serves(server, tmp_path)
    assert "Traceback" not in server.log()
    assert "internal task failed" not in server.log()


def test_strangers_that_do_not_finish_are_dropped_in_time_and_the_server_serves_on(
    server: WraithServer, tmp_path: Path
) -> None:
    serves(server, tmp_path)
    before = server.descriptors()
    hello = client_hello()
    with contextlib.ExitStack() as stack:
        parts = (b"", hello[:1], hello[:50], hello) * 5
        unfinished = [stack.enter_context(stranger(server, each)) for each in parts]
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        # Those who do the handshake and then say nothing, or half a version line.
        silent = [stack.enter_context(context.wrap_socket(stranger(server, b""))) for _ in range(5)]
        silent[0].sendall(b"SSH-2.")
        with ThreadPoolExecutor(len(unfinished) + len(silent)) as pool:
            waits = [pool.submit(time_to_the_end, each) for each in (*unfinished, *silent)]
            serves(server, tmp_path)
            took = [each.result() for each in waits]
    assert all(HELLO_LIMIT_S - 3 < each < HELLO_LIMIT_S + 3 for each in took[: len(unfinished)]), took
    assert all(VERSION_LIMIT_S - 3 < each < VERSION_LIMIT_S + 3 for each in took[len(unfinished) :]), took
    eventually(lambda: server.descriptors() <= before, "the server lets go of them")
    serves(server, tmp_path)


def test_strangers_that_leave_at_once_leave_nothing_behind(server: WraithServer, tmp_path: Path) -> None:
    before = server.descriptors()
    for sends in (b"", b"S", client_hello()) * 25:
        stranger(server, sends).close()
    eventually(lambda: server.descriptors() <= before, "the server lets go of them")
    serves(server, tmp_path)
