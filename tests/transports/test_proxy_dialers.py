"""Dialling through proxies that split, glue, refuse, stall and vanish; what is left behind; and who hears why."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.conftest import Run
from tests.support.openers import target, until
from tests.support.proxies import FakeProxy, Kind, Reader, Step, Writer, hang_up, reset, silence
from tests.support.targets import never_answering, refusing
from wraith_transports import DialError, DialFailure, DirectDialer, DuplexStream, ProxyFailed, ProxyFailure
from wraith_transports.proxy import HttpConnectDialer, ProxyUrl, SocksDialer, dialer_for

SECRET = "s3cr3t"
BANNER = b"SSH-2.0-target\r\n"

kinds = pytest.mark.parametrize("kind", Kind)


class Collector(asyncio.Protocol):
    """Keeps what a stream brings."""

    def __init__(self) -> None:
        self.data = b""
        self.ended = False
        self.lost = False

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.ended = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


@asynccontextmanager
async def proxied(
    fake: FakeProxy, credentials: str = "", timeout_s: float = 10
) -> AsyncIterator[HttpConnectDialer | SocksDialer]:
    """Run the proxy; its dialer."""
    async with target(fake.talk) as port:
        at = f"{credentials}@" if credentials else ""
        url = ProxyUrl.parse(f"{fake.kind.value}://{at}127.0.0.1:{port}")
        if fake.kind is Kind.HTTP:
            yield HttpConnectDialer(DirectDialer(), url, timeout_s=timeout_s)
        else:
            yield SocksDialer(DirectDialer(), url, timeout_s=timeout_s)


async def attached(stream: DuplexStream) -> Collector:
    collector = Collector()
    stream.attach(collector)
    return collector


async def failure_of(
    fake: FakeProxy, credentials: str = "", timeout_s: float = 10, host: str = "target.example"
) -> ProxyFailed:
    async with proxied(fake, credentials, timeout_s) as dialer:
        before = _descriptors()
        with pytest.raises(ProxyFailed) as caught:
            await dialer.dial(host, 443)
        await until(lambda: fake.gone == fake.accepted)
        await until(lambda: _descriptors() <= before)
    return caught.value


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names alone are counted


@kinds
@pytest.mark.parametrize("piece", [0, 1, 7])
@pytest.mark.parametrize("credentials", ["", f"me:{SECRET}"])
def test_a_reply_works_in_any_pieces_and_the_banner_behind_it_is_kept(
    run: Run, kind: Kind, piece: int, credentials: str
) -> None:
    wanted = (b"me", SECRET.encode()) if credentials else None

    async def main() -> None:
        fake = FakeProxy(kind, banner=BANNER, piece=piece, credentials=wanted)
        async with proxied(fake, credentials) as dialer:
            stream = await dialer.dial("target.example", 443)
            collector = await attached(stream)
            stream.write(b"hello")
            stream.write_eof()
            await until(lambda: collector.ended)
            assert collector.data == BANNER + b"hello"
            assert fake.asked[0].credentials == wanted
            stream.close()
            await until(lambda: collector.lost)

    run(main())


@kinds
def test_a_banner_and_an_end_that_come_with_the_reply_wait_for_a_late_reader(run: Run, kind: Kind) -> None:
    async def say_and_leave(reader: Reader, writer: Writer) -> None:
        writer.write_eof()
        await reader.read()

    async def main() -> None:
        fake = FakeProxy(kind, banner=BANNER * 3000, then=say_and_leave)
        async with proxied(fake) as dialer:
            stream = await dialer.dial("target.example", 443)
            await asyncio.sleep(0.02)
            collector = await attached(stream)
            await until(lambda: collector.ended)
            assert collector.data == BANNER * 3000
            stream.close()
            await until(lambda: collector.lost)

    run(main())


@kinds
def test_a_proxy_that_vanishes_behind_its_reply_is_noticed_by_the_next_reader(run: Run, kind: Kind) -> None:
    async def main() -> None:
        fake = FakeProxy(kind, then=reset)
        async with proxied(fake) as dialer:
            stream = await dialer.dial("target.example", 443)
            await asyncio.sleep(0.02)
            collector = await attached(stream)
            await until(lambda: collector.lost)

    run(main())


@kinds
@pytest.mark.parametrize(
    ("host", "address_type"),
    [("target.example", 3), ("Under_score.Example.", 3), ("10.1.2.3", 1), ("2001:db8::5", 4), ("localhost", 3)],
)
def test_the_proxy_is_asked_for_the_name_itself(run: Run, kind: Kind, host: str, address_type: int) -> None:
    async def main() -> None:
        fake = FakeProxy(kind)
        async with proxied(fake) as dialer:
            (await dialer.dial(host, 65535)).abort()
        (asked,) = fake.asked
        assert (asked.host.strip("[]"), asked.port) == (host, 65535)
        assert kind is Kind.HTTP or asked.kind == address_type

    run(main())


@kinds
@pytest.mark.parametrize(
    ("host", "port", "reason"),
    [
        ("", 1, DialFailure.NOT_FOUND),
        ("a b", 1, DialFailure.NOT_FOUND),
        ("a\r\nX-Evil: 1", 1, DialFailure.NOT_FOUND),
        ("a\0b", 1, DialFailure.NOT_FOUND),
        ("evil@target", 1, DialFailure.NOT_FOUND),
        ("target/path", 1, DialFailure.NOT_FOUND),
        ("a..b", 1, DialFailure.NOT_FOUND),
        ("a" * 64, 1, DialFailure.NOT_FOUND),
        ("a." * 128, 1, DialFailure.NOT_FOUND),
        ("zürich.example", 1, DialFailure.NOT_FOUND),
        ("fe80::1%eth0", 1, DialFailure.NOT_FOUND),
        ("target", 0, DialFailure.REFUSED),
        ("target", 65536, DialFailure.REFUSED),
    ],
)
def test_what_is_no_target_never_reaches_the_proxy(
    run: Run, kind: Kind, host: str, port: int, reason: DialFailure
) -> None:
    async def main() -> None:
        fake = FakeProxy(kind)
        async with proxied(fake) as dialer:
            with pytest.raises(DialError) as caught:
                await dialer.dial(host, port)
        assert not isinstance(caught.value, ProxyFailed)
        assert caught.value.reason is reason
        assert str(caught.value).isprintable()
        assert fake.accepted == 0

    run(main())


def test_an_address_that_only_looks_like_one_is_no_target_for_socks(run: Run) -> None:
    async def main() -> None:
        async with proxied(FakeProxy(Kind.SOCKS)) as dialer:
            with pytest.raises(DialError) as caught:
                await dialer.dial("1.2.3.04", 1)
            assert caught.value.reason is DialFailure.NOT_FOUND

    run(main())


@kinds
def test_a_proxy_that_refuses_connections_is_unreachable(run: Run, kind: Kind) -> None:
    async def main() -> None:
        with refusing() as port:
            url = ProxyUrl.parse(f"{kind.value}://me:{SECRET}@127.0.0.1:{port}")
            with pytest.raises(ProxyFailed) as caught:
                await dialer_for(url).dial("target.example", 443)
            assert caught.value.failure is ProxyFailure.UNREACHABLE
            assert caught.value.reason is DialFailure.OTHER  # the target itself refused nothing
            assert str(caught.value) == f"the proxy {url} cannot be reached: connection refused"

    run(main())


@kinds
def test_a_proxy_whose_machine_is_silent_is_unreachable(run: Run, kind: Kind) -> None:
    async def main() -> None:
        with never_answering() as port:
            url = ProxyUrl.parse(f"{kind.value}://127.0.0.1:{port}")
            dialer = (HttpConnectDialer if kind is Kind.HTTP else SocksDialer)(DirectDialer(), url, timeout_s=0.05)
            with pytest.raises(ProxyFailed, match=r"cannot be reached: no answer within 0\.05 s") as caught:
                await dialer.dial("target.example", 443)
            assert caught.value.failure is ProxyFailure.UNREACHABLE

    run(main())


@kinds
@pytest.mark.parametrize("step", Step)
def test_a_proxy_that_stalls_is_given_up(run: Run, kind: Kind, step: Step) -> None:
    error = run(failure_of(FakeProxy(kind, stop_at=step, stopping=silence), timeout_s=0.1))
    assert error.failure is ProxyFailure.NO_ANSWER
    assert error.reason is DialFailure.TIMED_OUT
    assert str(error).endswith("did not connect to target.example:443 within 0.1 s")


@kinds
@pytest.mark.parametrize("step", Step)
@pytest.mark.parametrize("stopping", [hang_up, reset])
def test_a_proxy_that_goes_away_is_not_one(
    run: Run, kind: Kind, step: Step, stopping: Callable[[Reader, Writer], Awaitable[None]]
) -> None:
    error = run(failure_of(FakeProxy(kind, stop_at=step, stopping=stopping)))
    assert error.failure is ProxyFailure.BAD_ANSWER
    assert error.reason is DialFailure.OTHER


@kinds
@pytest.mark.parametrize(
    "answer", [b"\x04\x5a" + bytes(60), b"SSH-2.0-x\r\n\r\n", b"<html>\r\n\r\n" * 9, b"\x05\x63" * 40]
)
def test_what_another_service_answers_is_no_proxys(run: Run, kind: Kind, answer: bytes) -> None:
    async def other(reader: Reader, writer: Writer) -> None:
        writer.write(answer)
        await reader.read()

    error = run(failure_of(FakeProxy(kind, stop_at=Step.GREETED, stopping=other)))
    assert error.failure is ProxyFailure.BAD_ANSWER
    assert str(error).isprintable()


def test_an_http_proxy_asked_by_socks_and_the_other_way_round(run: Run) -> None:
    async def http(reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async def socks(reader: Reader, writer: Writer) -> None:
        await reader.read(100)
        writer.write(b"\x05\xff")

    for kind, answer in ((Kind.SOCKS, http), (Kind.HTTP, socks)):
        error = run(failure_of(FakeProxy(kind, stop_at=Step.ACCEPTED, stopping=answer)))
        assert error.failure is ProxyFailure.BAD_ANSWER


@pytest.mark.parametrize("piece", [0, 997])
def test_a_header_of_64_kib_is_an_error(run: Run, piece: int) -> None:
    reply = b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * (64 << 10) + b"\r\n\r\n"

    async def flood(reader: Reader, writer: Writer) -> None:
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(reply), piece or len(reply)):
                writer.write(reply[start : start + (piece or len(reply))])
                await writer.drain()
            await reader.read()

    error = run(failure_of(FakeProxy(Kind.HTTP, stop_at=Step.GREETED, stopping=flood)))
    assert error.failure is ProxyFailure.BAD_ANSWER
    assert len(str(error)) < 200


def test_a_header_that_never_ends_is_an_error(run: Run) -> None:
    async def for_ever(reader: Reader, writer: Writer) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
                await writer.drain()

    error = run(failure_of(FakeProxy(Kind.HTTP, stop_at=Step.GREETED, stopping=for_ever)))
    assert error.failure is ProxyFailure.BAD_ANSWER


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1, DialFailure.OTHER),
        (2, DialFailure.NOT_ALLOWED),
        (3, DialFailure.NETWORK_UNREACHABLE),
        (4, DialFailure.HOST_UNREACHABLE),
        (5, DialFailure.REFUSED),
        (6, DialFailure.TIMED_OUT),
        (7, DialFailure.OTHER),
        (8, DialFailure.OTHER),
    ],
)
def test_a_socks_reply_tells_the_targets_reason(run: Run, code: int, reason: DialFailure) -> None:
    error = run(failure_of(FakeProxy(Kind.SOCKS, reply=bytes((5, code, 0, 1)) + bytes(6))))
    assert error.failure is ProxyFailure.REFUSED
    assert error.reason is reason
    assert "did not connect to target.example:443: " in str(error)
    assert f"(SOCKS reply {code})" in str(error)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("403 Forbidden", DialFailure.NOT_ALLOWED),
        ("504 Gateway Timeout", DialFailure.TIMED_OUT),
        ("502 Bad Gateway", DialFailure.OTHER),
        ("500 Unable to connect", DialFailure.OTHER),
        ("302 Found", DialFailure.OTHER),
        ("599", DialFailure.OTHER),
    ],
)
def test_an_http_refusal_is_shown_with_its_status_line(run: Run, line: str, reason: DialFailure) -> None:
    reply = f"HTTP/1.1 {line}\r\nContent-Length: 3\r\n\r\nno\n".encode()
    error = run(failure_of(FakeProxy(Kind.HTTP, reply=reply)))
    assert error.failure is ProxyFailure.REFUSED
    assert error.reason is reason
    assert str(error).endswith(f"did not connect to target.example:443: {line}")


def test_a_proxys_own_words_are_one_short_printable_line(run: Run) -> None:
    words = "No\t\x80\xff\xc3\xbc " + "x" * 5000
    error = run(failure_of(FakeProxy(Kind.HTTP, reply=b"HTTP/1.1 500 " + words.encode("latin-1") + b"\r\n\r\n")))
    assert error.failure is ProxyFailure.REFUSED
    assert str(error).isascii()
    assert str(error).isprintable()
    assert len(str(error)) < 250


@kinds
@pytest.mark.parametrize("given", ["", "me:wrong", f"you:{SECRET}"])
def test_missing_and_wrong_credentials_are_an_error_of_their_own(run: Run, kind: Kind, given: str) -> None:
    error = run(failure_of(FakeProxy(kind, credentials=(b"me", SECRET.encode())), given))
    assert error.failure is ProxyFailure.BAD_CREDENTIALS
    assert error.reason is DialFailure.OTHER
    assert ("does not accept" if given else "wants a user and password") in str(error)


def test_401_is_about_credentials_too_as_tinyproxy_has_it(run: Run) -> None:
    error = run(failure_of(FakeProxy(Kind.HTTP, reply=b"HTTP/1.1 401 Unauthorized\r\n\r\n"), "me:wrong"))
    assert error.failure is ProxyFailure.BAD_CREDENTIALS


@kinds
def test_the_password_is_in_no_error_name_or_log_line(run: Run, kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = f"{SECRET}user:{SECRET}"
    fakes = [
        FakeProxy(kind, credentials=(b"me", b"other")),
        FakeProxy(kind, reply=b"\x05\x05\x00" if kind is Kind.SOCKS else b"HTTP/1.1 403 No\r\n\r\n"),
        FakeProxy(kind, stop_at=Step.ASKED, stopping=hang_up),
    ]
    for fake in fakes:
        error: BaseException | None = run(failure_of(fake, wrong))
        while error is not None:
            assert SECRET not in f"{error} {error!r}"
            error = error.__cause__ or error.__context__
    assert SECRET not in caplog.text
    url = ProxyUrl.parse(f"{kind.value}://{wrong}@proxy.example:3128")
    assert dialer_for(url).describe() == f"through {kind.value}://proxy.example:3128"


@kinds
@pytest.mark.parametrize("step", Step)
def test_cancelling_at_any_step_leaves_nothing_open(run: Run, kind: Kind, step: Step) -> None:
    async def main() -> None:
        reached = asyncio.Event()

        async def wait(reader: Reader, writer: Writer) -> None:
            reached.set()
            await reader.read()

        fake = FakeProxy(kind, stop_at=step, stopping=wait)
        async with proxied(fake) as dialer:
            before = _descriptors()
            for _ in range(3):
                reached.clear()
                task = asyncio.create_task(dialer.dial("target.example", 443))
                await reached.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await until(lambda: fake.gone == 3)
            await until(lambda: _descriptors() <= before)

    run(main())


@kinds
def test_cancelling_after_any_number_of_turns_leaves_nothing_open(run: Run, kind: Kind) -> None:
    async def main() -> None:
        fake = FakeProxy(kind, banner=BANNER, then=silence)
        async with proxied(fake) as dialer:
            before = _descriptors()
            for turns in range(40):
                task = asyncio.create_task(dialer.dial("127.0.0.1", 443))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    (await task).abort()
            await until(lambda: fake.gone == fake.accepted)
            await until(lambda: _descriptors() <= before)

    run(main())


def test_without_a_proxy_the_way_is_direct() -> None:
    assert dialer_for(None).describe() == "direct"
