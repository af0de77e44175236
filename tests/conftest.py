"""What every test can ask for: an event loop by name, a way to run on it, and no silent skips in CI."""

from __future__ import annotations

import os
from collections.abc import Generator
from functools import partial
from typing import Any, Protocol, TypeVar

import pytest

from tests.support import loops

# CI installs every tool first (`make test-deps`), so a skip there means that something is not tested.
NO_SKIP = "WRAITH_TEST_NO_SKIP"

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


class Run(Protocol):
    """`loops.run` with the loop already chosen."""

    def __call__(self, coro: Any, *, timeout_s: float = 60) -> Any: ...


@pytest.fixture(params=loops.LOOPS)
def loop_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def run(loop_name: str) -> Run:
    return partial(loops.run, loop=loop_name)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the tests marked `long`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long") or "long" in config.getoption("markexpr"):
        return
    chosen = [item for item in items if item.get_closest_marker("long") is None]
    if len(chosen) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long") is not None])
        items[:] = chosen


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _without_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _without_skip((yield))


def _without_skip(report: Report) -> Report:
    # An expected failure is reported as a skip too, but there something was tested.
    if os.environ.get(NO_SKIP) == "1" and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} may not be skipped ({NO_SKIP}=1): {reason}"
    return report
