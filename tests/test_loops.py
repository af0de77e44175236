"""Claims about the tests' own ground: what leaves something behind fails, and nothing is skipped in CI."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import loops

ROOT = Path(__file__).resolve().parent.parent
NO_SKIP = "WRAITH_TEST_NO_SKIP"


async def fail() -> None:
    raise ValueError("nobody asked")


def test_the_result_comes_back(loop_name: str) -> None:
    async def answer() -> tuple[int, str]:
        await asyncio.sleep(0)
        return 42, type(asyncio.get_running_loop()).__module__

    assert loops.run(answer(), loop_name) == (42, "uvloop" if loop_name == "uvloop" else "asyncio.unix_events")


def test_a_task_left_running_fails(loop_name: str) -> None:
    async def leave() -> None:
        task = asyncio.create_task(asyncio.Event().wait(), name="the one left")
        assert not task.done()

    with pytest.raises(loops.LeftBehind, match="still running: the one left"):
        loops.run(leave(), loop_name)


def test_a_task_that_is_only_finishing_does_not_fail(loop_name: str) -> None:
    async def leave() -> None:
        task = asyncio.create_task(asyncio.Event().wait())
        await asyncio.sleep(0)
        task.cancel()

    loops.run(leave(), loop_name)


def test_an_exception_nobody_retrieved_fails(loop_name: str) -> None:
    async def forget() -> None:
        task = asyncio.create_task(fail())
        await asyncio.sleep(0)
        assert task.done()

    with pytest.raises(loops.LeftBehind, match=r"never retrieved.*nobody asked"):
        loops.run(forget(), loop_name)


def test_an_exception_in_a_callback_fails(loop_name: str) -> None:
    def divide() -> None:
        raise ZeroDivisionError

    async def schedule() -> None:
        asyncio.get_running_loop().call_soon(divide)
        await asyncio.sleep(0)

    with pytest.raises(loops.LeftBehind, match="ZeroDivisionError"):
        loops.run(schedule(), loop_name)


def test_a_failure_is_raised_with_what_it_left_as_notes(loop_name: str) -> None:
    async def leave_and_fail() -> None:
        task = asyncio.create_task(asyncio.Event().wait(), name="the one left")
        assert not task.done()
        await fail()

    with pytest.raises(ValueError, match="nobody asked") as caught:
        loops.run(leave_and_fail(), loop_name)
    assert "still running: the one left" in caught.value.__notes__[0]


def test_time_runs_out(loop_name: str) -> None:
    with pytest.raises(TimeoutError):
        loops.run(asyncio.Event().wait(), loop_name, timeout_s=0.01)


def pytest_on(file: Path, *arguments: str, no_skip: bool = False) -> str:
    """Run pytest, with the conftest of these tests, on a file elsewhere, and return what it printed."""
    inherited = {name: value for name, value in os.environ.items() if name not in (NO_SKIP, "PYTEST_ADDOPTS")}
    environment = {**inherited, NO_SKIP: "1"} if no_skip else inherited
    # The cache stays out of the checkout, where the outer pytest writes its own.
    command = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    command += [*arguments, str(file)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


SKIPPING = """
import pytest
from tests.support.tools import need
def test_tool(): need("sh", "no-such-tool")
@pytest.mark.skipif(True, reason="no such system")
def test_system(): pass
@pytest.fixture
def network(): pytest.skip("no such network")
def test_network(network): pass
@pytest.mark.xfail(strict=True)
def test_known(): assert False
"""


def test_a_skip_is_a_failure_in_ci_and_names_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "test_skipping.py"
    file.write_text(SKIPPING)
    assert "3 skipped, 1 xfailed" in pytest_on(file)
    report = pytest_on(file, no_skip=True)
    assert "1 failed, 1 xfailed, 2 errors" in report
    for reason in ("missing no-such-tool: run `make test-deps`", "no such system", "no such network"):
        assert reason in report


def test_a_module_that_skips_itself_is_a_failure_in_ci(tmp_path: Path) -> None:
    file = tmp_path / "test_skipping_itself.py"
    file.write_text("import pytest\npytest.importorskip('no_such_module')\n")
    assert "1 skipped" in pytest_on(file)
    report = pytest_on(file, no_skip=True)
    assert "1 error" in report
    assert "no_such_module" in report


def test_long_tests_run_only_when_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "test_long_and_short.py"
    file.write_text("import pytest\n@pytest.mark.long\ndef test_long(): pass\ndef test_short(): pass\n")
    assert "1 passed, 1 deselected" in pytest_on(file)
    assert "2 passed" in pytest_on(file, "--long")
    assert "1 passed, 1 deselected" in pytest_on(file, "-m", "long")
