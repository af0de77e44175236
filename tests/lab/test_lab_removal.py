"""Claims about what is left of a lab once it is over: nothing, however it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.lab.network.host import FILES, command
from tests.lab.network.lab import Lab, leftovers, namespaces_of, sweep
from tests.support.polling import eventually

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 20.0
ONE_LAB = """
from tests.lab.network.lab import Lab
with Lab() as lab:
    a, b = lab.host("a"), lab.host("b")
    lab.link(a, b)
    link, emulated = lab.emulated_link(a, b, round_trip_ms=5)
    a.knows({"b.test": [link.b.ipv4]})
    sleeping = a.popen("sleep", "1000")
    print(emulated.pid, sleeping.pid, flush=True)
    input()
"""


class Boom(BaseException):
    """Like KeyboardInterrupt: not an Exception."""


def devices() -> set[str]:
    return {line.split(":")[1].strip() for line in command("ip", "-o", "link").splitlines()}


def is_over(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture(autouse=True)
def nothing_left(may_build: None) -> Iterator[None]:
    before = devices()
    descriptors = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names alone are compared
    yield
    assert not namespaces_of(os.getpid())
    assert not leftovers()
    assert not leftovers(FILES)
    assert devices() == before
    assert len(os.listdir("/proc/self/fd")) <= len(descriptors)  # noqa: PTH208


@pytest.mark.parametrize("error", [None, ValueError, Boom, KeyboardInterrupt])
def test_a_lab_leaves_nothing_however_its_block_ends(error: type[BaseException] | None) -> None:
    pids = []

    def build_and_end() -> None:
        with Lab() as lab:
            a, b = lab.host("a"), lab.host("b")
            lab.link(a, b)
            _, emulated = lab.emulated_link(a, b, round_trip_ms=5)
            a.knows({"b.test": ["198.18.1.2"]})
            pids.extend([emulated.pid, a.popen("sleep", "1000", stdout=subprocess.PIPE).pid])
            with b.inside():  # one that the lab did not start itself
                stray = ["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]
                pids.append(int(subprocess.run(stray, capture_output=True, check=True, timeout=LIMIT_S).stdout))
            assert len(namespaces_of(os.getpid())) == 2
            if error is not None:
                raise error

    if error is None:
        build_and_end()
    else:
        with pytest.raises(error):
            build_and_end()
    for pid in pids:
        eventually(lambda: is_over(pid), f"process {pid} is over")  # noqa: B023 - called at once


def test_what_was_made_before_a_failure_is_removed() -> None:
    lab = Lab()

    def build() -> None:
        with lab:
            host = lab.host("a")
            lab.link(host, host)  # both ends with one name

    with pytest.raises(RuntimeError, match="File exists"):
        build()


def test_a_program_that_ignores_signals_ends_with_its_host() -> None:
    with Lab() as lab:
        stubborn = lab.host("a").popen("sh", "-c", "trap '' TERM INT HUP; echo; while :; do sleep 1000; done")
    assert stubborn.returncode == -signal.SIGKILL


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_what_a_killed_run_leaves_is_swept(end: signal.Signals) -> None:
    arguments = [sys.executable, "-c", ONE_LAB]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        arguments, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=pipe, stdout=pipe, stderr=pipe
    ) as run:
        assert run.stdout is not None
        pids = [int(each) for each in run.stdout.readline().split()]
        assert len(pids) == 2
        assert len(namespaces_of(run.pid)) == 2
        sweep()
        assert len(namespaces_of(run.pid)) == 2, "a lab in use is left alone"
        run.send_signal(end)
        run.communicate(timeout=LIMIT_S)
    with Lab():
        assert not namespaces_of(run.pid)
    for pid in pids:
        eventually(lambda: is_over(pid), f"process {pid} is over")  # noqa: B023 - called at once


def test_two_labs_at_once_do_not_meet() -> None:
    with Lab() as first, Lab() as second:
        hosts = [lab.host("a") for lab in (first, second)]
        assert hosts[0].namespace != hosts[1].namespace
        assert len(namespaces_of(os.getpid())) == 2
    assert hosts[0] is not hosts[1]
