"""Claims about how `wraith serve` and `wraith connect` live as services: what they tell, reload and outlive."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import Issued, issue
from tests.support.loops import LOOPS
from tests.support.polling import LIMIT_S, eventually
from tests.support.processes import (
    WRAITH,
    Process,
    WraithClient,
    WraithServer,
    authorize,
    environment,
    make_key,
    wraith,
)
from tests.support.service_manager import ManagerSocket
from tests.support.tools import need
from wraith.errors import ExitCode
from wraith_transports.tls import spki_pin

WATCHDOG_USEC = 100_000


@pytest.fixture
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManagerSocket]:
    # A short path: that of a unix socket has at most 107 bytes.
    with ManagerSocket(tmp_path_factory.mktemp("n")) as heard:
        yield heard


# The service manager


@pytest.mark.parametrize("loop", LOOPS)
def test_a_server_tells_when_it_listens_reloads_and_stops(loop: str, manager: ManagerSocket, tmp_path: Path) -> None:
    with WraithServer(tmp_path, loop=loop, NOTIFY_SOCKET=manager.address) as server:
        assert manager.next() == ["READY=1", f"STATUS=0 sessions on tcp://127.0.0.1:{server.port}"]
        server.popen.send_signal(signal.SIGHUP)
        reloading, since = manager.next()
        assert reloading == "RELOADING=1"
        assert since.startswith("MONOTONIC_USEC=")
        assert manager.next() == ["READY=1"]
        assert server.stop() == ExitCode.DONE
    assert manager.rest() == [["STOPPING=1", "STATUS=stopping"]]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_is_ready_when_its_listeners_are_and_says_when_its_session_is(
    loop: str, manager: ManagerSocket, tmp_path: Path
) -> None:
    with WraithServer(tmp_path) as server:
        with WraithClient(server, loop=loop, NOTIFY_SOCKET=manager.address) as client:
            where = f"connected to tcp://127.0.0.1:{server.port}"
            assert manager.next() == ["READY=1", f"STATUS=not {where}"]
            assert manager.next() == [f"STATUS={where}"]
            assert client.stop() == ExitCode.DONE
        assert manager.rest() == [["STOPPING=1", "STATUS=stopping"]]


def test_a_client_that_cannot_listen_was_never_ready(manager: ManagerSocket, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        flags = ("-i", make_key(tmp_path / "key"), "-D", f"127.0.0.1:{busy.getsockname()[1]}")
        done = wraith("connect", "127.0.0.1:1", *flags, folder=tmp_path, NOTIFY_SOCKET=manager.address)
    assert done.code == ExitCode.ADDRESS_UNAVAILABLE
    assert not [line for lines in manager.rest() for line in lines if line == "READY=1"]


def test_the_watchdog_is_fed_from_the_event_loop(manager: ManagerSocket, tmp_path: Path) -> None:
    variables = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": str(WATCHDOG_USEC)}
    with WraithServer(tmp_path, **variables):
        for _ in range(3):
            manager.wait_for("WATCHDOG=1")


def test_the_status_counts_sessions(manager: ManagerSocket, tmp_path: Path) -> None:
    variables = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": str(WATCHDOG_USEC)}
    with WraithServer(tmp_path, **variables) as server:
        with WraithClient(server):
            manager.wait_for("STATUS=1 session on ")
        manager.wait_for("STATUS=0 sessions on ")


# SIGHUP on a server


def test_a_hangup_lets_the_server_read_its_files_again(tmp_path: Path) -> None:
    with WraithServer(tmp_path) as server:
        with WraithClient(server) as before:
            other = make_key(server.folder / "other_key")
            authorize(server.authorized_keys, server.client_key, other)
            server.popen.send_signal(signal.SIGHUP)
            server.eventually_logs(r"authorized_keys read again .*entries=2")
            assert before.running
        server.client_key = other
        with WraithClient(server):
            pass


def test_a_hangup_brings_a_new_host_key_into_use_and_a_bad_one_not(tmp_path: Path) -> None:
    with WraithServer(tmp_path) as server:
        key = server.folder / "host_ed25519"
        old = server.host_key
        replacement = make_key(tmp_path / "replacement")
        key.write_text("no key")
        server.popen.send_signal(signal.SIGHUP)
        server.eventually_logs("ERROR the new host key cannot be used, the old one stays")
        with WraithClient(server):
            pass
        shutil.copy(replacement, key)
        key.chmod(0o600)
        server.popen.send_signal(signal.SIGHUP)
        server.host_key = server.eventually_logs(r"the host key is another one now key_fingerprint=(\S+)")[1]
        assert server.host_key != old
        with WraithClient(server):
            pass


def test_hangups_in_a_row_end_nothing(tmp_path: Path) -> None:
    with WraithServer(tmp_path) as server, WraithClient(server) as client:
        for _ in range(20):
            server.popen.send_signal(signal.SIGHUP)
        server.eventually_logs("authorized_keys read again")
        assert client.running
        with WraithClient(server):
            pass
        assert server.stop() == ExitCode.DONE


class TlsServer(WraithServer):
    """A server with a certificate of ours."""

    def __init__(self, tmp_path: Path, issued: Issued) -> None:
        self.certificate, self.certificate_key = tmp_path / "chain.pem", tmp_path / "key.pem"
        self.install(issued)
        flags = ("--tls-cert", str(self.certificate), "--tls-key", str(self.certificate_key))
        super().__init__(tmp_path, *flags, transport="tls")

    def install(self, issued: Issued) -> None:
        self.certificate.write_bytes(issued.chain_pem)
        self.certificate_key.touch(0o600)
        self.certificate_key.write_bytes(issued.key_pem)

    def shown_pin(self) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", self.port), 10) as plain,
            context.wrap_socket(plain) as connection,
        ):
            return spki_pin(connection.getpeercert(binary_form=True) or b"")


def test_a_renewed_certificate_is_shown_without_a_signal_and_a_bad_one_never(tmp_path: Path) -> None:
    first, second = issue(), issue()
    with TlsServer(tmp_path, first) as server:
        assert server.shown_pin() == first.pin
        server.install(second)
        assert server.shown_pin() == second.pin
        server.eventually_logs("TLS certificate read again path=")
        server.certificate.write_bytes(first.chain_pem)  # which is not the key's
        for _ in range(3):
            assert server.shown_pin() == second.pin
        server.popen.send_signal(signal.SIGHUP)
        eventually(lambda: server.log().count("the new TLS certificate cannot be used") == 2, "one line for each try")
        assert server.shown_pin() == second.pin
        server.install(first)
        assert server.shown_pin() == first.pin


# SIGHUP on a client


def unix_client(server: WraithServer, path: Path) -> WraithClient:
    return WraithClient(server, "-D", str(path))


def test_a_hangup_ends_a_client_in_order(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("s") / "socks.sock"
    with WraithServer(tmp_path) as server, unix_client(server, path) as client:
        assert path.is_socket()
        assert client.stop(signal.SIGHUP) == ExitCode.DONE
        assert not path.exists()
        server.eventually_logs("connection closed")


def test_a_client_under_nohup_outlives_the_terminal(tmp_path: Path) -> None:
    (nohup,) = need("nohup")
    with WraithServer(tmp_path) as server:
        argv: list[str | Path] = [nohup, *WRAITH, "connect", *server.reached_by, "-D", "127.0.0.1:0"]
        with Process(argv, tmp_path / "client", name="connect") as client:
            client.eventually_logs("Ctrl-C ends it")
            client.popen.send_signal(signal.SIGHUP)
            assert int(_status_field(client.pid, "SigIgn"), 16) & (1 << (signal.SIGHUP - 1))
            assert client.stop() == ExitCode.DONE


def test_a_reader_of_its_log_that_leaves_does_not_end_a_server(tmp_path: Path) -> None:
    argv = [*WRAITH, "serve", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(argv, env=environment(tmp_path), stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            port = next(int(line.rpartition(":")[2]) for line in server.stderr if "listening on" in line)
            server.stderr.close()
            server.send_signal(signal.SIGPIPE)
            for _ in range(3):  # each of which it logs
                with socket.create_connection(("127.0.0.1", port), 10) as connection:
                    assert connection.recv(8) == b"SSH-2.0-"
            server.terminate()
            assert server.wait(LIMIT_S) == ExitCode.DONE
        finally:
            server.kill()


def _status_field(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


# The JSON log


def test_a_server_whose_log_is_json_says_nothing_else(tmp_path: Path) -> None:
    with JsonServer(tmp_path) as server:
        with WraithClient(server):
            pass
        server.eventually_logs('"connection closed"')
        stranger = make_key(tmp_path / "stranger")
        refused = wraith(
            "connect", *server.reached_by[:3], "-i", stranger, "--exit-on-failure", folder=tmp_path / "refused"
        )
        assert refused.code == ExitCode.AUTHENTICATION_REFUSED
        server.eventually_logs('"result": "reject"')
        assert server.stop() == ExitCode.DONE
        told = [json.loads(line) for line in server.log().splitlines()]
    assert [each["message"] for each in told[:2]] == ["listening", "serving"]
    attempts = [each for each in told if each["message"] == "auth attempt"]
    assert [each["result"] for each in attempts] == ["accept", "reject"]
    assert all(each["remote_addr"] == "127.0.0.1" for each in attempts)


class JsonServer(WraithServer):
    """A server that logs JSON, and so prints no summary."""

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path, "--log-format", "json")

    def wait_ready(self) -> None:
        self.host_key = self.eventually_logs(r'"serving", "host_key": "(SHA256:[^"]+)"')[1]
        self.port = int(self.eventually_logs(r'"listening", "address": "tcp://127.0.0.1:(\d+)"')[1])


# The shell and the terminal


def test_completion_works_in_a_real_shell(tmp_path: Path) -> None:
    (bash,) = need("bash")
    command = tmp_path / "wraith"
    command.write_text(f'#!/bin/sh\nexec {" ".join(WRAITH)} "$@"\n')
    command.chmod(0o755)
    script = """
        eval "$(_WRAITH_COMPLETE=source_bash "$1")"
        COMP_WORDS=(wraith connect --host-key-check s) COMP_CWORD=3
        _wraith_completion "$1"
        echo "${COMPREPLY[*]}"
    """
    with Process([bash, "-c", script, "bash", command], tmp_path) as shell:
        done = shell.finished()
    assert (done.out, done.err) == ("strict\n", "")
