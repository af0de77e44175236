"""Claims about how a peer that is gone is noticed: by a question when it matters, and by what goes unacknowledged."""

from __future__ import annotations

import asyncio
import socket

import asyncssh
import pytest

import wraith
from tests.conftest import Run
from tests.support.ssh_peers import turns, until
from tests.support.ssh_rogues import MSG_GLOBAL_REQUEST, Message, rogue_serving
from wraith.opening import OpenFailed
from wraith.options import ConnectOptions, ServeOptions
from wraith.specs import ListenSpec
from wraith.ssh import channel
from wraith.ssh.channel import open_direct_tcpip
from wraith_transports import DuplexStream
from wraith_transports.tcp import DirectDialer, TcpAcceptor
from wraith_transports.tcp.user_timeout import USER_TIMEOUT_MS

ORIGIN = ("127.0.0.1", 1)

needs_option = pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no TCP_USER_TIMEOUT")


def is_keepalive(message: Message) -> bool:
    return message.kind == MSG_GLOBAL_REQUEST and b"keepalive@openssh.com" in message.body


def test_opens_that_are_not_answered_send_one_keepalive(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "OPEN_PROBE_S", 0.01)

    async def scenario() -> None:
        async with rogue_serving() as (client, rogue):
            opens = [asyncio.create_task(open_direct_tcpip(client, "target", 80, ORIGIN)) for _ in range(5)]
            await rogue.hear(is_keepalive)
            await asyncio.sleep(0.05)
            assert sum(map(is_keepalive, rogue.messages)) == 1
            # Answered, it makes room for the next question.
            rogue.send(82)
            opens.append(asyncio.create_task(open_direct_tcpip(client, "target", 80, ORIGIN)))
            await until(lambda: sum(map(is_keepalive, rogue.messages)) == 2)
            rogue.abort()
            for each in opens:
                with pytest.raises(OpenFailed):
                    await each

    run(scenario())


def test_an_open_that_is_answered_in_time_asks_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "OPEN_PROBE_S", 0.05)

    async def scenario() -> None:
        async with rogue_serving() as (client, rogue):
            opening = asyncio.create_task(open_direct_tcpip(client, "target", 80, ORIGIN))
            await rogue.hear(lambda each: each.kind == 90)
            opening.cancel()
            await asyncio.wait([opening])
            await asyncio.sleep(0.1)
            assert not any(map(is_keepalive, rogue.messages))
            await turns()

    run(scenario())


def user_timeout(stream: DuplexStream) -> int:
    return int(stream.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))


@needs_option
@pytest.mark.parametrize("always_reads", [True, False])
def test_only_a_peer_that_always_reads_must_acknowledge_in_time(run: Run, always_reads: bool) -> None:
    async def scenario() -> None:
        acceptor = TcpAcceptor("127.0.0.1", 0, peer_always_reads=always_reads)
        await acceptor.start()
        port = int(acceptor.addresses()[0].rpartition(":")[2])
        near = await DirectDialer(peer_always_reads=always_reads).dial("127.0.0.1", port)
        far, _ = await acceptor.accept()
        try:
            assert [user_timeout(each) for each in (near, far)] == [USER_TIMEOUT_MS if always_reads else 0] * 2
        finally:
            near.abort()
            far.abort()
            await acceptor.aclose()

    run(scenario())


@needs_option
def test_both_ends_of_a_session_must_acknowledge_in_time(run: Run) -> None:
    key, host_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    serving = ServeOptions(
        key=bytes(host_key.export_private_key()),
        authorized_keys=key.export_public_key(),
        listen=(ListenSpec("127.0.0.1", 0),),
    )

    async def scenario() -> None:
        async with wraith.serve(serving) as server:
            options = ConnectOptions(
                host="127.0.0.1",
                port=int(server.addresses[0].rpartition(":")[2]),
                identities=(bytes(key.export_private_key()),),
                host_keys=(host_key.get_fingerprint(),),
            )
            async with wraith.connect(options) as session:
                assert session._session is not None
                links = [session._session._link, *(link for _, link in server._connections.values())]
                assert [user_timeout(each._stream) for each in links] == [USER_TIMEOUT_MS] * 2

    run(scenario())
