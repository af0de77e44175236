"""Claims about `wraith serve` and `wraith connect` as two processes."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.consoles import LIMIT_S, environment, wraith
from wraith.cli.demo_client import Fetched, fetch
from wraith.cli.demo_target import DemoTarget
from wraith.errors import ExitCode

Start = Callable[..., "Command"]
LOOPBACK = ("--listen", "127.0.0.1:0")


class Command:
    """A `wraith` command that runs until it is told to stop; all it says is in a file."""

    def __init__(self, log: Path, env: dict[str, str], *arguments: str) -> None:
        self._log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "wraith", *arguments],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # and so without a terminal to ask on
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait_for(self, pattern: str) -> str:
        """Wait until it has said what the pattern matches, and give the first group."""
        deadline = time.monotonic() + LIMIT_S
        while (match := re.search(pattern, self.said)) is None:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.01)
        return match[1] if match.re.groups else ""

    def end(self, number: signal.Signals | None = signal.SIGTERM) -> int:
        """Send a signal, if any, and give the exit code."""
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(LIMIT_S)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def env(home: Path) -> dict[str, str]:
    made = environment(WRAITH_DIR=str(home / "wraith"), HOME=str(home))
    made.pop("SSH_AUTH_SOCK", None)
    return made


@pytest.fixture
def start(home: Path, env: dict[str, str]) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def begin(*arguments: str) -> Command:
            command = Command(home / f"{len(list(home.iterdir()))}.log", env, *arguments)
            stack.callback(command.process.wait)
            stack.callback(command.process.kill)
            return command

        yield begin


@pytest.fixture
def server(start: Start, home: Path, env: dict[str, str]) -> tuple[Command, str]:
    """A server that lets the client's key in, and its address."""
    assert wraith("keygen", env=env).returncode == 0
    folder = home / "wraith"
    (folder / "authorized_keys").write_text((folder / "id_ed25519.pub").read_text())
    (folder / "authorized_keys").chmod(0o600)
    command = start("serve", *LOOPBACK)
    return command, command.wait_for(r"tcp://(127\.0\.0\.1:\d+)")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_says_what_it_does_and_stops_when_told(number: signal.Signals, start: Start, home: Path) -> None:
    server = start("serve", *LOOPBACK)
    server.wait_for("wraith connect HOST")
    assert "SHA256:" in server.said
    assert "wraith keygen" in server.said  # nobody may log in yet
    assert str(home / "wraith" / "authorized_keys") in server.said
    assert server.end(number) == ExitCode.DONE
    assert "Traceback" not in server.said


def test_a_quiet_server_says_nothing(server: tuple[Command, str], start: Start, env: dict[str, str]) -> None:
    quiet = start("serve", "-q", "--listen", "127.0.0.1:0")
    # What it listens on it does not say; that it does shows in the loop it has entered.
    deadline = time.monotonic() + LIMIT_S
    while not any(line.split()[1].startswith("0100007F") for line in _listening(quiet.process.pid)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert quiet.end() == ExitCode.DONE
    assert quiet.said == ""


def _listening(pid: int) -> list[str]:
    inodes = set()
    with contextlib.suppress(FileNotFoundError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                inodes.update(re.findall(r"socket:\[(\d+)\]", str(entry.readlink())))
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return [line for line in lines if line.split()[3] == "0A" and line.split()[9] in inodes]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_client_offers_a_socks_port_and_forwards_until_it_is_stopped(
    number: signal.Signals, server: tuple[Command, str], start: Start
) -> None:
    async def scenario() -> None:
        async with DemoTarget(1_000_000) as target:
            client = start("connect", server[1], "-D", "0", "-L", f"0:127.0.0.1:{target.port}")
            port = await asyncio.to_thread(client.wait_for, r"SOCKS5 proxy +127\.0\.0\.1:(\d+)\n")
            forwarded = client.wait_for(r"forward +127\.0\.0\.1:(\d+) to")
            assert await fetch(int(port), "127.0.0.1", target.port) == Fetched(1_000_000, target.sha256())
            reader, writer = await asyncio.open_connection("127.0.0.1", int(forwarded))
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()
            assert await asyncio.to_thread(client.end, number) == ExitCode.DONE
            assert "Traceback" not in client.said

    asyncio.run(scenario())


def test_a_lost_session_is_exit_code_1_and_one_line(server: tuple[Command, str], start: Start) -> None:
    client = start("connect", server[1], "--no-socks5", "-q", "--exit-on-failure")
    server[0].wait_for("result=accept")
    assert server[0].end() == ExitCode.DONE
    assert client.end(None) == ExitCode.FAILED
    assert client.said.startswith("wraith: ")
    assert client.said.count("\n") == 1


def test_the_host_key_is_recorded_with_a_warning_and_then_known(server: tuple[Command, str], start: Start) -> None:
    first = start("connect", server[1], "--no-socks5")
    first.wait_for("is connected")
    assert "--host-key SHA256:" in first.said
    assert first.end() == ExitCode.DONE
    second = start("connect", server[1], "--no-socks5", "--host-key-check", "strict")
    second.wait_for("is connected")
    assert "WARN" not in second.said


def test_a_key_that_is_put_in_place_later_is_picked_up(start: Start, home: Path, env: dict[str, str]) -> None:
    server = start("serve", *LOOPBACK)
    address = server.wait_for(r"tcp://(127\.0\.0\.1:\d+)")
    assert wraith("connect", address, env=env).returncode == ExitCode.UNUSABLE_FILE
    assert wraith("keygen", env=env).returncode == 0
    refused = wraith("connect", address, "-D", "0", "-q", env=env)
    assert refused.returncode == ExitCode.AUTHENTICATION_REFUSED
    assert "-l" in refused.stderr
    assert refused.stderr.count("\n") == 1
    (home / "wraith" / "authorized_keys").write_text((home / "wraith" / "id_ed25519.pub").read_text())
    start("connect", address, "-D", "0").wait_for("is connected")


def test_a_wrong_host_key_is_exit_code_6(server: tuple[Command, str], env: dict[str, str]) -> None:
    done = wraith("connect", server[1], "-D", "0", "--host-key", "SHA256:" + "A" * 43, env=env)
    assert done.returncode == ExitCode.WRONG_PEER
    assert done.stderr.count("\n") == 1


def test_a_server_nobody_runs_is_exit_code_4(server: tuple[Command, str], env: dict[str, str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        done = wraith("connect", f"127.0.0.1:{unused.getsockname()[1]}", "-D", "0", "--exit-on-failure", env=env)
    assert done.returncode == ExitCode.NOT_CONNECTED
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("flag", ["-D", "-L"])
def test_a_busy_local_port_is_exit_code_7_before_anything_is_dialled(
    flag: str, server: tuple[Command, str], env: dict[str, str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        done = wraith("connect", server[1], flag, port if flag == "-D" else f"{port}:h:1", env=env)
    assert done.returncode == ExitCode.ADDRESS_UNAVAILABLE
    assert done.stderr.count("\n") == 1
    assert port in done.stderr
    assert "connection opened" not in server[0].said


def test_a_busy_port_of_the_server_is_exit_code_7_and_names_the_flag(env: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        done = wraith("serve", "--listen", f"127.0.0.1:{busy.getsockname()[1]}", env=env)
    assert done.returncode == ExitCode.ADDRESS_UNAVAILABLE
    assert "--listen" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_unusable_file_is_exit_code_3(home: Path, env: dict[str, str]) -> None:
    (home / "key").write_text("no key")
    (home / "key").chmod(0o600)
    for arguments in (("serve", *LOOPBACK, "--key"), ("connect", "127.0.0.1:1", "-D", "0", "-i")):
        done = wraith(*arguments, str(home / "key"), env=env)
        assert done.returncode == ExitCode.UNUSABLE_FILE
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_before_there_is_a_session_is_no_failure(
    number: signal.Signals, server: tuple[Command, str], start: Start
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = start("connect", f"127.0.0.1:{silent.getsockname()[1]}", "-D", "0")
        accepted, _ = silent.accept()
        with accepted:
            assert client.end(number) == ExitCode.DONE
    assert client.said == ""


def test_an_open_socks_port_for_strangers_is_refused(server: tuple[Command, str], env: dict[str, str]) -> None:
    done = wraith("connect", server[1], "-D", "0.0.0.0:0", env=env)
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.count("\n") == 1


def test_two_v_show_where_an_error_came_from_and_less_does_not(env: dict[str, str]) -> None:
    for flags, shown in (([], False), (["-v"], False), (["-vv"], True)):
        done = wraith("connect", "127.0.0.1:1", "-D", "0", "-i", "/nowhere/key", *flags, env=env)
        assert done.returncode == ExitCode.UNUSABLE_FILE
        assert ("Traceback" in done.stderr) is shown
        assert done.stderr.splitlines()[-1].startswith("wraith: ")
