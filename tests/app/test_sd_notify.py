"""Claims about what the service manager is told: to which socket, in which words, and never at our cost."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service_manager import ManagerSocket
from wraith import sd_notify
from wraith.sd_notify import MAX_STATUS, ServiceManager

SOON_S = 10.0


@pytest.fixture(params=["path", "abstract"])
def heard(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManagerSocket]:
    # A short path: that of a unix socket has at most 107 bytes.
    with ManagerSocket(tmp_path_factory.mktemp("n") if request.param == "path" else None) as manager:
        yield manager


def test_a_manager_is_told_in_the_words_of_the_manual(heard: ManagerSocket) -> None:
    manager = ServiceManager(heard.address, clock_ns=lambda: 1_234_567_890)
    manager.ready("3 sessions")
    manager.status("4 sessions")
    manager.reloading()
    manager.ready()
    manager.alive()
    manager.stopping()
    assert heard.rest() == [
        ["READY=1", "STATUS=3 sessions"],
        ["STATUS=4 sessions"],
        ["RELOADING=1", "MONOTONIC_USEC=1234567"],
        ["READY=1"],
        ["WATCHDOG=1"],
        ["STOPPING=1", "STATUS=stopping"],
    ]


def test_the_clock_of_a_reload_is_the_monotonic_one(heard: ManagerSocket) -> None:
    ServiceManager(heard.address).reloading()
    usec = int(heard.next()[1].removeprefix("MONOTONIC_USEC="))
    assert abs(usec / 1e6 - time.clock_gettime(time.CLOCK_MONOTONIC)) < SOON_S


def test_a_status_is_sent_once_and_is_one_short_line(heard: ManagerSocket) -> None:
    manager = ServiceManager(heard.address)
    for text in ("a", "a", "b\nREADY=1\0", "x" * 1000, "\udc80", ""):
        manager.status(text)
    assert heard.rest() == [["STATUS=a"], ["STATUS=b?READY=1?"], ["STATUS=" + "x" * MAX_STATUS], ["STATUS=?"]]


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


def test_a_manager_that_reads_nothing_holds_us_up_only_briefly(
    heard: ManagerSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sd_notify, "SEND_TIMEOUT_S", 0.01)
    address = "\0" + heard.address[1:] if heard.address.startswith("@") else heard.address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.sendto(b"X", address)
    began = time.monotonic()
    ServiceManager(heard.address).alive()
    assert time.monotonic() - began < SOON_S
    assert ["WATCHDOG=1"] not in heard.rest()


def test_telling_leaves_no_descriptor_open(heard: ManagerSocket) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    ServiceManager(heard.address).ready()
    assert set(Path("/proc/self/fd").iterdir()) == before
    assert heard.rest() == [["READY=1"]]
