"""Claims about what the service manager is told: to which socket, in which words, and never at our cost."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wraith import sd_notify
from wraith.sd_notify import MAX_STATUS, ServiceManager

LIMIT_S = 10.0


@contextlib.contextmanager
def manager_socket(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + address[1:] if address.startswith("@") else address)
        sock.settimeout(LIMIT_S)
        yield sock


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"@wraith-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")


def test_each_kind_of_socket_is_told_in_the_words_of_the_manual(address: str) -> None:
    with manager_socket(address) as heard:
        manager = ServiceManager(address, clock_ns=lambda: 1_234_567_890)
        manager.ready("3 sessions")
        manager.status("4 sessions")
        manager.reloading()
        manager.ready()
        manager.alive()
        manager.stopping()
        told = [heard.recv(4096).decode() for _ in range(6)]
    assert told == [
        "READY=1\nSTATUS=3 sessions",
        "STATUS=4 sessions",
        "RELOADING=1\nMONOTONIC_USEC=1234567",
        "READY=1",
        "WATCHDOG=1",
        "STOPPING=1\nSTATUS=stopping",
    ]


def test_the_clock_of_a_reload_is_the_monotonic_one(tmp_path: Path) -> None:
    with manager_socket(str(tmp_path / "notify")) as heard:
        ServiceManager(str(tmp_path / "notify")).reloading()
        usec = int(heard.recv(4096).decode().rpartition("=")[2])
    assert abs(usec / 1e6 - time.clock_gettime(time.CLOCK_MONOTONIC)) < LIMIT_S


def test_a_status_is_sent_once_and_is_one_short_line(tmp_path: Path) -> None:
    with manager_socket(str(tmp_path / "notify")) as heard:
        manager = ServiceManager(str(tmp_path / "notify"))
        for text in ("a", "a", "b\nREADY=1\0", "x" * 1000, "\udc80", ""):
            manager.status(text)
        heard.setblocking(False)
        told = []
        with contextlib.suppress(BlockingIOError):
            while True:
                told.append(heard.recv(4096).decode())
    assert told == ["STATUS=a", "STATUS=b?READY=1?", "STATUS=" + "x" * MAX_STATUS, "STATUS=?"]


def test_the_environment_is_read_once_and_left_to_no_child() -> None:
    environment = {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7", "HOME": "/"}
    manager = ServiceManager.from_environment(environment, 7)
    assert environment == {"HOME": "/"}
    assert manager.listens
    assert manager.watchdog_interval_s == 15.0


@pytest.mark.parametrize(
    "environment",
    [
        {"WATCHDOG_USEC": "30000000"},
        {"NOTIFY_SOCKET": "/n"},
        {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"},  # another process's
        {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "-5"},
        {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "²"},
    ],
)
def test_without_a_watchdog_of_ours_there_is_no_interval(environment: dict[str, str]) -> None:
    assert ServiceManager.from_environment(environment, 7).watchdog_interval_s is None


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234", "@", "/" + "x" * 200, "/nowhere/notify", "/dev"])
def test_a_manager_that_cannot_be_told_costs_nothing(address: str) -> None:
    manager = ServiceManager.from_environment({"NOTIFY_SOCKET": address}, 1)
    manager.ready("up")
    manager.reloading()
    manager.stopping()


def test_a_manager_that_reads_nothing_holds_us_up_only_briefly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sd_notify, "SEND_TIMEOUT_S", 0.01)
    with manager_socket(str(tmp_path / "notify")) as heard:
        manager = ServiceManager(str(tmp_path / "notify"))
        for _ in range(600):  # more than any queue of datagrams holds
            manager.alive()
            if _queue_is_full(str(tmp_path / "notify")):
                break
        manager.alive()
        assert heard.recv(64) == b"WATCHDOG=1"


def _queue_is_full(address: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        try:
            sock.sendto(b"X", address)
        except BlockingIOError:
            return True
    return False


def test_telling_leaves_no_descriptor_open(tmp_path: Path) -> None:
    with manager_socket(str(tmp_path / "notify")) as heard:
        before = set(Path("/proc/self/fd").iterdir())
        ServiceManager(str(tmp_path / "notify")).ready()
        assert set(Path("/proc/self/fd").iterdir()) == before
        assert heard.recv(64) == b"READY=1"
