"""The server's proxy: its own troubles are logged, seldom and without targets; a target's are not."""

from __future__ import annotations

import logging

import pytest

from tests.conftest import Run
from wraith.target_proxy import SAY_AGAIN_S, TargetProxy
from wraith_transports import DialError, DialFailure, DuplexStream, ProxyFailed, ProxyFailure, memory_pair
from wraith_transports.proxy import ProxyUrl

URL = ProxyUrl.parse("socks5://me:s3cr3t@proxy:1080")


class Failing:
    """A dialer that fails as it is told."""

    def __init__(self, error: DialError | None) -> None:
        self.error = error

    def describe(self) -> str:
        return "failing"

    async def dial(self, host: str, port: int) -> DuplexStream:
        if self.error is not None:
            raise self.error
        return memory_pair()[0]


async def dialled(proxy: TargetProxy, times: int = 3) -> None:
    for _ in range(times):
        with pytest.raises(DialError):
            await proxy.dial("target.example", 443)


@pytest.mark.parametrize("failure", [ProxyFailure.UNREACHABLE, ProxyFailure.BAD_CREDENTIALS, ProxyFailure.BAD_ANSWER])
def test_a_broken_proxy_is_logged_once_and_names_no_target(
    run: Run, failure: ProxyFailure, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "wraith")
    run(dialled(TargetProxy(URL, Failing(ProxyFailed("target.example:443 s3cr3t", failure)))))
    (record,) = [each for each in caplog.records if each.name == "wraith.target_proxy"]
    assert record.levelno == logging.WARNING
    assert "target.example" not in caplog.text
    assert "s3cr3t" not in caplog.text + repr(record.__dict__)


def test_a_broken_proxy_is_logged_again_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    proxy = TargetProxy(URL, Failing(None))
    for now in (0, 1, SAY_AGAIN_S - 1, SAY_AGAIN_S, SAY_AGAIN_S + 1):
        proxy._tell(ProxyFailure.UNREACHABLE, now)
    proxy._tell(ProxyFailure.BAD_CREDENTIALS, 2)
    assert len(caplog.records) == 3


@pytest.mark.parametrize(
    "error",
    [
        ProxyFailed("x", ProxyFailure.REFUSED, DialFailure.REFUSED),
        ProxyFailed("x", ProxyFailure.NO_ANSWER, DialFailure.TIMED_OUT),
        DialError("x", DialFailure.NOT_FOUND),
    ],
)
def test_what_the_proxy_says_of_a_target_is_not_logged(
    run: Run, error: DialError, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "wraith")
    run(dialled(TargetProxy(URL, Failing(error))))
    assert not [each for each in caplog.records if each.name.startswith("wraith")]


def test_a_proxy_that_works_passes_the_stream_on(run: Run) -> None:
    async def main() -> None:
        (await TargetProxy(URL, Failing(None)).dial("target.example", 443)).abort()

    run(main())
