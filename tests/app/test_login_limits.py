"""Claims about the limits of those who are logging in, on a server in this process whose tasks can be counted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.packet import Boolean, String

import wraith
from tests.support.ssh_peers import AUTHORIZED, USER_KEY, Lines, log_in, logged, serving, until
from tests.support.ssh_rogues import rogue_at_login, rogue_client
from wraith.errors import ConnectFailed
from wraith.options import HostKeyCheck
from wraith.specs import parse_listen
from wraith.ssh.grant import Grant
from wraith.ssh.key_files import public_line
from wraith.ssh.key_ring import KeyRing
from wraith.ssh.login import REQUESTS_A_KEY
from wraith.ssh.offer import read_offer
from wraith_transports import DirectDialer

Run = Callable[..., Any]

MSG_USERAUTH_REQUEST = 50
MSG_USERAUTH_FAILURE = 51
ASKED = 1000


@pytest.mark.parametrize("names", ["one name", "ever new names"])
@pytest.mark.parametrize("method", ["none", "password", "publickey"])
def test_requests_to_log_in_are_counted_whatever_they_offer(run: Run, method: str, names: str) -> None:
    async def scenario() -> None:
        async with serving(max_auth_attempts=3) as service, rogue_at_login(service) as (rogue, served):
            threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - names alone are counted
            tail = {
                "none": b"",
                "password": Boolean(False) + String("secret"),
                "publickey": Boolean(False) + String("ssh-ed25519") + String(b"no key"),
            }[method]
            for number in range(ASKED):
                user = f"user{number}" if names == "ever new names" else "wraith"
                rogue.send(MSG_USERAUTH_REQUEST, String(user), String("ssh-connection"), String(method), tail)
            await until(lambda: served.over, "end of the connection")
            await until(lambda: rogue.lost)
            assert rogue.count(MSG_USERAUTH_FAILURE) <= 3 * REQUESTS_A_KEY
            assert rogue.disconnect_reason is not None
            assert rogue.disconnect_reason.startswith("Too many authentication")
            assert len(os.listdir("/proc/self/task")) == threads  # noqa: PTH208

    run(scenario())


@pytest.mark.parametrize(("asked", "refused"), [(["none"], False), (["none", "password"], True)])
def test_a_scanner_of_passwords_is_a_reject_and_a_visitor_without_a_key_is_none(
    run: Run, asked: list[str], refused: bool
) -> None:
    async def scenario() -> None:
        async with logged() as lines, serving() as service, rogue_at_login(service) as (rogue, served):
            for method in asked:
                tail = Boolean(False) + String("secret") if method == "password" else b""
                rogue.send(MSG_USERAUTH_REQUEST, String("root"), String("ssh-connection"), String(method), tail)
            await until(lambda: rogue.count(MSG_USERAUTH_FAILURE) == len(asked))
            rogue.abort()
            await until(lambda: served.over, "end of the connection")
        attempts = lines.of("auth attempt")
        assert len(attempts) == refused
        if refused:
            assert "user=root result=reject keys_tried=0 reason=no-key" in attempts[0]
            assert "secret" not in attempts[0]

    run(scenario())


@asynccontextmanager
async def server(**options: Any) -> AsyncIterator[tuple[wraith.Server, int, Lines]]:
    """Serve on loopback; the port, and what is logged."""
    listen = parse_listen("tcp://127.0.0.1:0")
    key = asyncssh.generate_private_key("ssh-ed25519").export_private_key()
    given = wraith.ServeOptions(key=key, authorized_keys=AUTHORIZED, listen=(listen,), **options)
    async with logged() as lines, wraith.serve(given) as running:
        yield running, int(running.addresses[0].rpartition(":")[2]), lines


async def connected(port: int) -> wraith.Session:
    """Log in as wraith's own client does."""
    options = wraith.ConnectOptions(
        "127.0.0.1",
        port,
        identities=(USER_KEY.export_private_key(),),
        host_key_check=HostKeyCheck.ACCEPT_NEW,
        known_hosts=Path(os.devnull),
    )
    session = wraith.connect(options)
    await session.open()
    return session


def test_logins_that_race_do_not_exceed_the_sessions_there_may_be(run: Run) -> None:
    async def scenario() -> None:
        async with server(max_sessions=2) as (running, port, lines):
            streams = [await DirectDialer().dial("127.0.0.1", port) for _ in range(6)]
            await until(lambda: running.sessions == 6, "arrival of all")
            results = await asyncio.gather(*map(log_in, streams), return_exceptions=True)
            refused = [each for each in results if isinstance(each, BaseException)]
            assert len(refused) == 4
            assert all(str(each).startswith("too many sessions") for each in refused), refused
            assert len(lines.of("result=accept")) == 2
            assert len(lines.of("connection refused")) == 4
            assert not lines.of("result=reject"), "nobody is to be banned for it"
            with pytest.raises(ConnectFailed):
                await connected(port)  # not even let in
            for stream in streams:
                stream.abort()
            await until(lambda: running.sessions == 0, "end of all")
            await (await connected(port)).aclose()

    run(scenario())


def test_whoever_makes_room_is_reset_and_the_newest_logs_in(run: Run) -> None:
    async def scenario() -> None:
        async with server() as (running, port, _):
            with contextlib.ExitStack() as stack:
                silent = [stack.enter_context(connection(port, f"127.0.0.{2 + number % 4}")) for number in range(260)]
                await until(lambda: running.sessions == 256, "the most there may be")
                session = await connected(port)
                await until(lambda: running.sessions == 256, "255, and a session")
                assert sum(is_reset(each) for each in silent) == 5
                stream = await DirectDialer().dial("127.0.0.1", port)
                stranger = await rogue_client(stream)
                more = [stack.enter_context(connection(port, "127.0.0.9")) for _ in range(300)]
                await until(lambda: sum(map(is_reset, more)) == 300 - 128, "half of the room for one address")
                await until(lambda: running.sessions == 256 + 2, "the most there may be, and two sessions")
                assert not stranger.lost
                stream.abort()
                await session.aclose()
            await until(lambda: running.sessions == 0, "end of all")

    run(scenario())


def test_a_crowd_leaves_no_task_descriptor_or_credit(run: Run) -> None:
    async def scenario() -> None:
        async with server(max_auth_attempts=2) as (running, port, _):
            await crowd(port, 20)
            await until(lambda: running.sessions == 0)
            before = await counted()
            await crowd(port, 200)
            await until(lambda: running.sessions == 0)
            assert await counted(before) == before
            assert running._credit.granted == 0
            assert not running._sessions
            assert not running._admission._waiting
            assert not running._admission._sessions

    run(scenario())


async def crowd(port: int, size: int) -> None:
    """Come in many ways, and leave in as many."""
    strangers = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(4)]
    with contextlib.ExitStack() as stack:
        for number in range(size):
            greeting = (b"", b"SSH-2.0-x\r\n", b"GET / HTTP/1.0\r\n\r\n", b"SSH-2.0-x\r\n" + bytes(range(256)))[
                number % 4
            ]
            each = stack.enter_context(connection(port, f"127.0.0.{2 + number % 5}"))
            with contextlib.suppress(OSError):
                each.send(greeting)
            if number % 20 == 0:
                with pytest.raises((asyncssh.Error, OSError)):
                    await log_in(await DirectDialer().dial("127.0.0.1", port), keys=strangers)
        (await log_in(await DirectDialer().dial("127.0.0.1", port))).abort()


@contextlib.contextmanager
def connection(port: int, source: str) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), 10, (source, 0)) as each:
        each.setblocking(False)
        yield each


def is_reset(each: socket.socket) -> bool:
    try:
        while each.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


async def counted(wanted: tuple[int, int] | None = None) -> tuple[int, int]:
    """Count tasks and descriptors; wait a while for them to be as wanted."""
    for _ in range(200):
        await asyncio.sleep(0.01)
        found = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names alone are counted
        if wanted is not None and found == wanted:
            break
    return found


def test_keys_that_could_not_be_read_for_want_of_a_descriptor_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "authorized_keys"
    path.write_text("")
    path.chmod(0o600)
    ring = KeyRing(path)
    path.write_text(public_line(USER_KEY) + "\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))  # every number below it is taken
    try:
        ring.refresh()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    ring.refresh()
    verdict = ring.judge(read_offer(USER_KEY.public_data), "wraith", "192.0.2.1", 0.0)
    assert isinstance(verdict, Grant)
