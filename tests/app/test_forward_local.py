"""Local forwards and their listeners over real sockets: every byte, both ends, and nothing left behind."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct

import pytest

from tests.conftest import Run
from tests.support.openers import (
    Client,
    DirectOpener,
    FailingOpener,
    HangingOpener,
    answer_at_the_end,
    target,
    until,
)
from wraith.errors import AddressUnavailable, ExitCode
from wraith.forward import LocalForward
from wraith.opening import Opener, OpenFailed, OpenFailure
from wraith.specs import LOCALHOST, LocalForwardSpec, TcpBind, TcpTarget

LINGER_RESET = struct.pack("ii", 1, 0)


def forward(
    opener: Opener, port: int = 80, *, bind: TcpBind | None = None, max_connections: int = 1024
) -> LocalForward:
    spec = LocalForwardSpec(bind or TcpBind("127.0.0.1", 0), TcpTarget("127.0.0.1", port))
    return LocalForward(spec, opener, max_connections=max_connections)


def reset(client: Client) -> None:
    sock = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
    client.reset()


def test_a_forward_carries_both_ways(run: Run) -> None:
    async def scenario() -> None:
        opener = DirectOpener()
        async with target() as port:
            local = forward(opener, port)
            await local.start()
            payload = bytes(range(256)) * 4096
            async with Client(local.addresses()[0]) as client:
                client.send(payload)
                client.writer.write_eof()
                assert await client.rest() == payload
                assert opener.asked == [("127.0.0.1", port, client.writer.get_extra_info("sockname")[:2])]
            await local.aclose()

    run(scenario())


@pytest.mark.parametrize("payload", [b"", b"question"])
def test_a_client_that_ends_its_half_at_once_gets_the_answer(run: Run, payload: bytes) -> None:
    async def scenario() -> None:
        async with target(answer_at_the_end) as port:
            local = forward(DirectOpener(), port)
            await local.start()
            async with Client(local.addresses()[0]) as client:
                client.send(payload)
                client.writer.write_eof()
                assert await client.rest() == b"got %d" % len(payload)
            await local.aclose()

    run(scenario())


def test_a_target_that_cannot_be_reached_resets_the_connection_and_is_logged(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        local = forward(FailingOpener(OpenFailed("no", OpenFailure.TIMED_OUT)))
        await local.start()
        for _ in range(2):
            async with Client(local.addresses()[0]) as client:
                with pytest.raises(ConnectionResetError):
                    await client.rest()
        await local.aclose()

    with caplog.at_level(logging.INFO):
        run(scenario())
    fields = [vars(record)["fields"] for record in caplog.records]
    assert fields == [{"target": TcpTarget("127.0.0.1", 80), "reason": "timed out"}] * 2


def test_an_exception_ends_its_own_connection_only(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        opener = FailingOpener(RuntimeError("a bug"))
        local = forward(opener)
        await local.start()
        for _ in range(2):
            async with Client(local.addresses()[0]) as client:
                with pytest.raises(ConnectionResetError):
                    await client.rest()
        await local.aclose()

    with caplog.at_level(logging.INFO):
        run(scenario())
    assert [record.getMessage() for record in caplog.records] == ["a local connection failed"] * 2


def test_an_open_is_cancelled_when_the_client_is_gone(run: Run) -> None:
    async def scenario() -> None:
        opener = HangingOpener()
        local = forward(opener)
        await local.start()
        async with Client(local.addresses()[0]) as client:
            client.send(b"early")
            await until(lambda: opener.opening == 1)
            assert opener.cancelled == 0
            reset(client)
            await until(lambda: opener.cancelled == 1)
        await local.aclose()

    run(scenario())


def test_a_flood_before_the_target_answers_is_held_back(run: Run) -> None:
    async def scenario() -> None:
        opener = HangingOpener()
        local = forward(opener)
        await local.start()
        async with Client(local.addresses()[0]) as client:
            client.send(bytes(32 << 20))
            await until(lambda: opener.opening == 1)
            # The kernel's buffers and 64 KiB of ours; the rest stays where it came from.
            for _ in range(50):
                await asyncio.sleep(0.001)
            assert client.writer.transport.get_write_buffer_size() > 16 << 20
            client.reset()
        await local.aclose()
        assert opener.cancelled == 1

    run(scenario())


def test_at_the_limit_connections_wait_for_one_to_end(run: Run) -> None:
    async def scenario() -> None:
        async with target() as port:
            opener = DirectOpener()
            local = forward(opener, port, max_connections=1)
            await local.start()
            async with Client(local.addresses()[0]) as first, Client(local.addresses()[0]) as second:
                first.send(b"1")
                assert await first.receive(1) == b"1"
                second.send(b"2")
                assert len(opener.asked) == 1
                first.writer.write_eof()
                assert await first.rest() == b""
                assert await second.receive(1) == b"2"
            await local.aclose()

    run(scenario())


def test_after_stop_connections_live_on_and_none_is_accepted(run: Run) -> None:
    async def scenario() -> None:
        async with target() as port:
            local = forward(DirectOpener(), port)
            await local.start()
            address = local.addresses()[0]
            async with Client(address) as client:
                client.send(b"1")
                assert await client.receive(1) == b"1"
                local.stop()
                local.stop()
                await asyncio.sleep(0.01)
                with pytest.raises(ConnectionRefusedError):
                    await Client(address).__aenter__()
                client.send(b"2")
                assert await client.receive(1) == b"2"
                await local.aclose()
                with pytest.raises(ConnectionResetError):
                    await client.rest()
            await local.aclose()

    run(scenario())


def test_aclose_ends_what_is_being_opened(run: Run) -> None:
    async def scenario() -> None:
        opener = HangingOpener()
        local = forward(opener)
        await local.start()
        async with Client(local.addresses()[0]):
            await until(lambda: opener.opening == 1)
            await local.aclose()
            assert opener.cancelled == 1

    run(scenario())


def test_a_busy_port_is_named_with_its_exit_code(run: Run) -> None:
    async def scenario() -> None:
        first = forward(DirectOpener())
        await first.start()
        port = int(first.addresses()[0].rpartition(":")[2])
        second = forward(DirectOpener(), bind=TcpBind("127.0.0.1", port))
        with pytest.raises(AddressUnavailable, match=rf"-L 127\.0\.0\.1:{port}:.* in use") as caught:
            await second.start()
        assert caught.value.exit_code is ExitCode.ADDRESS_UNAVAILABLE
        await second.aclose()
        await first.aclose()

    run(scenario())


def test_localhost_is_both_loopback_addresses_on_one_port(run: Run) -> None:
    async def scenario() -> None:
        async with target() as port:
            local = forward(DirectOpener(), port, bind=TcpBind(LOCALHOST, 0))
            await local.start()
            addresses = local.addresses()
            assert addresses[0].startswith("127.0.0.1:")
            assert len({address.rpartition(":")[2] for address in addresses}) == 1
            assert [address.rpartition(":")[0] for address in addresses[1:]] in ([], ["[::1]"])
            for address in addresses:
                async with Client(address) as client:
                    client.send(b"x")
                    assert await client.receive(1) == b"x"
            await local.aclose()

    run(scenario())


def test_a_port_busy_on_one_loopback_address_leaves_the_other_free(run: Run) -> None:
    async def scenario() -> None:
        try:
            busy = socket.create_server(("::1", 0), family=socket.AF_INET6)
        except OSError:
            pytest.skip("this machine has no IPv6 loopback address")
        with busy:
            port = busy.getsockname()[1]
            local = forward(DirectOpener(), bind=TcpBind(LOCALHOST, port))
            with pytest.raises(AddressUnavailable, match=r"\[::1\]"):
                await local.start()
            with socket.create_server(("127.0.0.1", port)):
                pass
            await local.aclose()

    run(scenario())
