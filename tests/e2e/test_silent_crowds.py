"""Claims about crowds that come and do not log in: who is let in works on, and of the crowd nothing stays."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.crowds import MIB, Crowd, Footprint, Wellbehaved, client_hello, many_descriptors
from tests.support.polling import eventually
from tests.support.processes import WraithClient, WraithServer
from tests.support.tunnel import TRANSPORTS

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads /proc")

Record = Callable[[str, object], None]

EIGHT = [f"127.0.0.{number}" for number in range(11, 19)]
LOGIN_S = 15.0  # for a new client's process to start and log in, the machine being busy


VERSION = b"SSH-2.0-half\r\n"
KEXINIT = struct.pack("!IB", 1004, 8) + b"\x14" + bytes(994)  # of 1008 bytes; the last ones never come


class Slow:
    """A crowd whose members go on a byte each second, until the server has ended them all."""

    def __init__(self, crowd: Crowd, limit_s: float, trickle: bytes) -> None:
        self.crowd = crowd
        self.limit_s = limit_s
        self._trickle = trickle
        self._said = 0
        self.ended_after: float | None = None

    def go_on(self, elapsed: float) -> None:
        if self._said < min(elapsed, len(self._trickle)):
            self.crowd.say(self._trickle[self._said : self._said + 1])
            self._said += 1
        if self.ended_after is None and self.crowd.left() == 0:
            self.ended_after = round(elapsed, 1)


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    with many_descriptors(4096):
        yield


def log_in_anew(server: WraithServer, record: Record, what: str) -> None:
    """See that somebody new gets in now."""
    began = time.monotonic()
    with WraithClient(server, "--no-socks5"):
        took = time.monotonic() - began
    record(f"{what} login s", round(took, 2))
    print(f"{what}: a new login took {took:.2f} s, the start of its process included")
    assert took < LOGIN_S


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_2000_connections_that_say_nothing(tmp_path: Path, transport: str, record_property: Record) -> None:
    with (
        WraithServer(tmp_path, transport=transport) as server,
        WraithClient(server) as client,
        Wellbehaved(client) as good,
    ):
        before = Footprint(server)
        good.keeps_working(record_property, "alone")
        with Crowd(server.port, EIGHT) as crowd:
            crowd.join(2000)
            with crowd.keeps_coming(100):
                log_in_anew(server, record_property, "2,000 silent")
            assert crowd.left() <= 256
            good.keeps_working(record_property, "2,000 silent")
            if transport == "tcp":  # where it takes 5 s, and not 10
                eventually(lambda: crowd.left() == 0, "all are dropped")
        good.keeps_working(record_property, "afterwards")
        before.grew_by_less_than(64 * MIB, record_property, "2,000 silent")
        before.is_released()
        assert live_connections(server) == 1  # the good one


def test_half_a_handshake_and_a_byte_a_second(tmp_path: Path, record_property: Record) -> None:
    hello = client_hello()
    with (
        WraithServer(tmp_path) as plain,
        WraithServer(tmp_path, transport="tls") as tls,
        WraithClient(plain) as plain_client,
        WraithClient(tls) as tls_client,
        Wellbehaved(plain_client) as good,
        Wellbehaved(tls_client) as good_tls,
        contextlib.ExitStack() as stack,
    ):
        before = [Footprint(each) for each in (plain, tls)]
        crowds: dict[str, Slow] = {}

        def come(what: str, server: WraithServer, limit_s: float, greeting: bytes, trickle: bytes = b"") -> None:
            source = f"127.0.0.{20 + len(crowds)}"
            crowds[what] = Slow(stack.enter_context(Crowd(server.port, [source])), limit_s, trickle)
            crowds[what].crowd.join(60, greeting)

        come("a version line by the byte", plain, 5, b"", b"SSH-2.0-" + b"s" * 60)
        come("half a KEXINIT", plain, 20, VERSION + KEXINIT[: len(KEXINIT) // 2])
        come("a KEXINIT by the byte", plain, 20, VERSION, KEXINIT)
        come("half a ClientHello", tls, 10, hello[: len(hello) // 2])
        come("a ClientHello by the byte", tls, 10, b"", hello)
        began = time.monotonic()
        while any(each.ended_after is None for each in crowds.values()):
            elapsed = time.monotonic() - began
            assert elapsed < 35, [what for what, each in crowds.items() if each.ended_after is None]
            for each in crowds.values():
                each.go_on(elapsed)
            time.sleep(0.1)
        for what, each in crowds.items():
            record_property(f"{what} ended after s", each.ended_after)
            print(f"{what}: all were ended after {each.ended_after:.1f} s")
            assert each.ended_after is not None
            assert each.limit_s - 1 < each.ended_after < each.limit_s + 8
        good.keeps_working(record_property, "slow ones at tcp")
        good_tls.keeps_working(record_property, "slow ones at tls")
        for footprint in before:
            footprint.grew_by_less_than(48 * MIB, record_property, "slow ones")
            footprint.is_released()
        assert [live_connections(each) for each in (plain, tls)] == [1, 1]


def live_connections(server: WraithServer) -> int:
    """Count those whose opening was logged and whose end was not."""
    opened, closed = (server.log().count(f" INFO connection {what} ") for what in ("opened", "closed"))
    return opened - closed
