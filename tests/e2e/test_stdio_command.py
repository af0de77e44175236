"""`wraith connect -W`: nothing but the stream, and what git, rsync, scp and ssh make of it as a ProxyCommand."""

from __future__ import annotations

import hashlib
import os
import random
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.openssh import SshClient
from tests.support.polling import LIMIT_S, eventually
from tests.support.processes import WRAITH, Process, WraithServer, environment, run_program
from tests.support.stock_servers import Sshd, free_port
from tests.support.targets import Target, answer_after_end, echo, end_first, set_to_reset
from tests.support.tools import need

MIB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WraithServer]:
    with WraithServer(tmp_path_factory.mktemp("server")) as wraith:
        yield wraith
        assert "Traceback" not in wraith.log()


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WraithServer]:
    with WraithServer(tmp_path_factory.mktemp("server"), transport="tls") as wraith:
        yield wraith
        assert "Traceback" not in wraith.log()


@pytest.fixture(params=["tcp", "tls"])
def either(request: pytest.FixtureRequest, server: WraithServer, tls_server: WraithServer) -> WraithServer:
    return server if request.param == "tcp" else tls_server


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("sshd"), "Subsystem sftp internal-sftp") as server:
        yield server


def command(server: WraithServer, target: str, *flags: str) -> list[str]:
    return [*WRAITH, "connect", *server.reached_by, "-W", target, *flags]


def joined(server: WraithServer, target: str, stdin: bytes = b"", *flags: str) -> subprocess.CompletedProcess[bytes]:
    """Run it to its end with this on its standard input."""
    return subprocess.run(
        command(server, target, *flags),
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
        env=environment(server.folder),
    )


# The stream


def test_nothing_but_the_stream_is_on_stdout(server: WraithServer) -> None:
    with Target(echo) as target:
        for flags in ((), ("-vv",), ("--log-format", "json", "-v")):
            done = joined(server, f"127.0.0.1:{target.port}", bytes(range(256)), *flags)
            assert (done.returncode, done.stdout) == (0, bytes(range(256)))
        assert joined(server, f"127.0.0.1:{target.port}").stderr == b""


def test_64_mib_go_there_and_come_back_whole(either: WraithServer) -> None:
    sent = random.Random(5).randbytes(64 * MIB)
    with Target(echo) as target:
        done = joined(either, f"127.0.0.1:{target.port}", sent)
    assert done.returncode == 0
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(sent).digest()


def test_the_end_of_stdin_reaches_the_target_and_its_answer_comes(either: WraithServer) -> None:
    sent = random.Random(6).randbytes(MIB)
    with Target(answer_after_end) as target:
        done = joined(either, f"127.0.0.1:{target.port}", sent)
    assert (done.returncode, done.stdout) == (0, f"{len(sent)} {hashlib.sha256(sent).hexdigest()}\n".encode())


def test_a_target_that_ends_first_ends_stdout_and_still_hears_the_rest(either: WraithServer) -> None:
    with (
        Target(end_first) as target,
        subprocess.Popen(
            command(either, f"127.0.0.1:{target.port}"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(either.folder),
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.read() == b"goodbye\n"
        assert process.poll() is None
        process.stdin.write(bytes(MIB))
        process.stdin.close()
        assert process.wait(LIMIT_S) == 0


def test_files_are_as_good_as_pipes(server: WraithServer, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"x" * MIB)
    with Target(echo) as target, (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as sink:
        done = subprocess.run(
            command(server, f"127.0.0.1:{target.port}"),
            stdin=source,
            stdout=sink,
            timeout=LIMIT_S,
            check=False,
            env=environment(server.folder),
        )
    assert done.returncode == 0
    assert (tmp_path / "out").read_bytes() == b"x" * MIB


@pytest.mark.parametrize("redirection", ["<&- >&-", "<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_empty_ones(redirection: str, server: WraithServer) -> None:
    with Target(answer_after_end) as target:
        line = shlex.join(command(server, f"127.0.0.1:{target.port}"))
        done = run_program("sh", "-c", f"{line} {redirection}", folder=server.folder)
    assert done.code == 0
    assert done.err == ""


# Failures


def test_a_target_that_refuses_is_exit_code_1_and_one_line(server: WraithServer) -> None:
    for target, says in ((f"127.0.0.1:{free_port()}", b"refused"), ("wraith-control:1", b"prohibited")):
        done = joined(server, target)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.count(b"\n") == 1
        assert done.stderr.startswith(b"wraith: ")
        assert says in done.stderr or b"not allowed" in done.stderr


def answer_half(connection: socket.socket) -> None:
    connection.sendall(b"half")
    connection.recv(1)
    set_to_reset(connection)


def test_a_target_that_resets_is_exit_code_1(server: WraithServer) -> None:
    with Target(answer_half) as target:
        done = joined(server, f"127.0.0.1:{target.port}", b"x")
    assert done.returncode == 1
    assert b"broke off" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_no_server_is_exit_code_4_and_tried_once(server: WraithServer) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    done = run_program(*WRAITH, "connect", nobody, "-i", server.client_key, "-W", "h:1", folder=server.folder)
    assert (done.code, done.out) == (4, "")
    done.one_line()


def test_a_session_that_is_lost_is_exit_code_1_and_not_tried_again(tmp_path: Path) -> None:
    with (
        Target(echo) as target,
        WraithServer(tmp_path) as server,
        subprocess.Popen(
            command(server, f"127.0.0.1:{target.port}"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(server.folder),
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"x")
        process.stdin.flush()
        assert process.stdout.read(1) == b"x"
        server.popen.kill()
        assert process.wait(LIMIT_S) == 1
        said = process.stderr.read()
    assert said.count(b"\n") == 1
    assert b"broke off: the session ended" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_although_nothing_else_would(number: signal.Signals, server: WraithServer) -> None:
    with Target(echo) as target:
        read, write = os.pipe()
        process = Process(
            command(server, f"127.0.0.1:{target.port}"), server.folder, env=environment(server.folder), stdin=read
        )
        try:
            with process:
                eventually(lambda: target.open_connections, "the connection to the target")
                assert process.stop(number) == 0
        finally:
            os.close(read)
            os.close(write)


# As a ProxyCommand


def reached_through(server: WraithServer) -> str:
    return "-oProxyCommand=" + shlex.join(command(server, "%h:%p"))


def ssh_options(sshd: Sshd, server: WraithServer, folder: Path, port_flag: str = "-p") -> Sequence[str]:
    client = SshClient(sshd.port, sshd.client_key, folder, user=sshd.user)
    return (*client.options(port_flag), reached_through(server))


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    folder = tmp_path / "payload"
    folder.mkdir()
    (folder / "big").write_bytes(random.Random(7).randbytes(8 * MIB))
    (folder / "empty").touch()
    return folder


def same(one: Path, other: Path) -> bool:
    return {each.name: each.read_bytes() for each in one.iterdir()} == {
        each.name: each.read_bytes() for each in other.iterdir()
    }


def test_ssh_runs_a_command(server: WraithServer, sshd: Sshd, tmp_path: Path) -> None:
    (ssh,) = need("ssh")
    options = ssh_options(sshd, server, tmp_path)
    done = run_program(ssh, *options, f"{sshd.user}@127.0.0.1", "echo out; echo err >&2; exit 3", folder=tmp_path)
    assert (done.code, done.out) == (3, "out\n")
    assert "err\n" in done.err


def test_git_clones_and_pushes(either: WraithServer, sshd: Sshd, payload: Path, tmp_path: Path) -> None:
    (git,) = need("git")
    who = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "safe.directory=*")
    environment_of_git = environment(
        tmp_path, GIT_SSH_COMMAND=shlex.join(["ssh", *ssh_options(sshd, either, tmp_path)]), GIT_CONFIG_NOSYSTEM="1"
    )

    def run(*arguments: str | Path, folder: Path) -> None:
        done = run_program(git, *who, *arguments, folder=folder, env=environment_of_git)
        assert done.code == 0, done.err

    run("init", "-q", "-b", "main", payload, folder=tmp_path)
    run("add", "-A", folder=payload)
    run("commit", "-q", "-m", "one", folder=payload)
    run("clone", "-q", "--bare", payload, tmp_path / "bare.git", folder=tmp_path)
    run("clone", "-q", f"{sshd.user}@127.0.0.1:{tmp_path / 'bare.git'}", tmp_path / "clone", folder=tmp_path)
    assert (tmp_path / "clone" / "big").read_bytes() == (payload / "big").read_bytes()
    (tmp_path / "clone" / "new").write_text("new")
    run("add", "-A", folder=tmp_path / "clone")
    run("commit", "-q", "-m", "two", folder=tmp_path / "clone")
    run("push", "-q", "origin", "main", folder=tmp_path / "clone")
    run("pull", "-q", tmp_path / "bare.git", "main", folder=payload)
    assert (payload / "new").read_text() == "new"


def test_scp_copies_both_ways(server: WraithServer, sshd: Sshd, payload: Path, tmp_path: Path) -> None:
    (scp,) = need("scp")
    options = ssh_options(sshd, server, tmp_path, "-P")
    there, back = tmp_path / "there", tmp_path / "back"
    for source, destination in (
        (payload, f"{sshd.user}@127.0.0.1:{there}"),
        (f"{sshd.user}@127.0.0.1:{there}", back),
    ):
        done = run_program(scp, "-q", "-r", *options, source, destination, folder=tmp_path)
        assert done.code == 0, done.err
    assert same(payload, there)
    assert same(payload, back)


def test_rsync_copies_both_ways(server: WraithServer, sshd: Sshd, payload: Path, tmp_path: Path) -> None:
    (rsync,) = need("rsync")
    shell = shlex.join(["ssh", *ssh_options(sshd, server, tmp_path)])
    there, back = tmp_path / "there", tmp_path / "back"
    for source, destination in (
        (f"{payload}/", f"{sshd.user}@127.0.0.1:{there}/"),
        (f"{sshd.user}@127.0.0.1:{there}/", f"{back}/"),
    ):
        done = run_program(rsync, "-a", "-e", shell, source, destination, folder=tmp_path)
        assert done.code == 0, done.err
    assert same(payload, there)
    assert same(payload, back)
