"""Claims about a client whose sessions come and go, against a real server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import asyncssh
import pytest

import wraith
from tests.conftest import Run
from tests.support.openers import Client, target, until
from wraith.backoff import Backoff
from wraith.errors import (
    AuthenticationRefused,
    ConnectFailed,
    SessionLost,
    UnusableFile,
    UsageError,
    WraithError,
    WrongPeer,
)
from wraith.forward import LocalForward
from wraith.logs import MAX_VALUE
from wraith.opening import DialingOpener, OpenFailed, OpenFailure
from wraith.options import ConnectOptions, HostKeyCheck, ServeOptions
from wraith.remote_forwards import RemoteForwards
from wraith.session_keeper import SessionKeeper
from wraith.specs import ListenSpec, RemoteForwardSpec, TcpBind, TcpTarget, parse_local_forward, parse_remote_forward
from wraith.ssh import ForwardRefused
from wraith_transports.tcp import DirectDialer

USER_KEY = asyncssh.generate_private_key("ssh-ed25519")
STRANGER = asyncssh.generate_private_key("ssh-ed25519")
HOST_KEY = asyncssh.generate_private_key("ssh-ed25519")
OTHER_HOST_KEY = asyncssh.generate_private_key("ssh-ed25519")
QUICK = {"first_s": 0.01, "longest_s": 0.02, "refused_first_s": 0.01, "refused_longest_s": 0.02}
MEMORY_GROWTH = 6 << 20  # bytes that the allocator may take for what 50 sessions have left in it


def private(key: asyncssh.SSHKey) -> bytes:
    return bytes(key.export_private_key())


def server_on(port: int, *, host_key: asyncssh.SSHKey = HOST_KEY, user: asyncssh.SSHKey = USER_KEY) -> wraith.Server:
    return wraith.serve(
        ServeOptions(
            key=private(host_key),
            authorized_keys=user.export_public_key(),
            listen=(ListenSpec("127.0.0.1", port),),
        )
    )


def port_of(server: wraith.Server) -> int:
    return int(server.addresses[0].rpartition(":")[2])


def cut_sessions(server: wraith.Server) -> None:
    """Reset every connection, as a network does that forgets."""
    for _, link in list(server._connections.values()):
        link.reset()


def options_for(port: int, **more: Any) -> ConnectOptions:
    given: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": port,
        "identities": (private(USER_KEY),),
        "host_keys": (HOST_KEY.get_fingerprint(),),
    }
    return ConnectOptions(**(given | more))


@dataclass
class Kept:
    """A keeper that runs, and what it said of itself."""

    keeper: SessionKeeper
    running: asyncio.Task[None]
    ups: list[bool] = field(default_factory=list)

    async def up(self, times: int = 1) -> None:
        await until(lambda: len(self.ups) >= times or self.running.done())
        assert len(self.ups) >= times, self.running.exception()

    async def ended(self) -> BaseException | None:
        async with asyncio.timeout(10):
            await asyncio.wait([self.running])
        return self.running.exception()

    async def echoes(self, port: int, what: bytes = b"hello") -> None:
        """See that a connection is carried."""
        forward = LocalForward(parse_local_forward(f"127.0.0.1:0:127.0.0.1:{port}"), self.keeper)
        await forward.start()
        try:
            async with Client(forward.addresses()[0]) as client:
                client.send(what)
                assert await client.receive(len(what)) == what
        finally:
            await forward.aclose()


@contextlib.asynccontextmanager
async def kept(
    options: ConnectOptions, *, forwards: RemoteForwards | None = None, backoff: Backoff | None = None, **more: Any
) -> AsyncIterator[Kept]:
    ups: list[bool] = []
    keeper = SessionKeeper(options, forwards=forwards, up=ups.append, backoff=backoff or Backoff(**QUICK), **more)
    here = Kept(keeper, asyncio.create_task(keeper.run()), ups)
    try:
        yield here
    finally:
        here.running.cancel()
        await asyncio.wait([here.running])
        if forwards is not None:
            await forwards.aclose()


def remote(spec: RemoteForwardSpec, told: list[int], **more: Any) -> RemoteForwards:
    return RemoteForwards((spec,), DialingOpener(DirectDialer()), lambda _spec, port: told.append(port), **more)


def fill(port: int) -> RemoteForwardSpec:
    return RemoteForwardSpec(TcpBind("localhost", 0), TcpTarget("127.0.0.1", port))


# Lost and found


def test_a_lost_session_is_followed_by_another(run: Run) -> None:
    async def scenario() -> None:
        async with target() as port, server_on(0) as server, kept(options_for(port_of(server))) as here:
            for times in range(1, 4):
                await here.up(times)
                await here.echoes(port)
                cut_sessions(server)
            await here.up(4)
            assert here.ups == [True, False, False, False]

    run(scenario())


def test_a_server_that_comes_later_and_goes_and_comes_back_is_found(run: Run) -> None:
    async def scenario() -> None:
        async with target() as port:
            async with server_on(0) as server:
                address = port_of(server)
            async with kept(options_for(address)) as here:
                await asyncio.sleep(0.05)
                assert not here.keeper.has_session
                for times in (1, 2):
                    async with server_on(address):
                        await here.up(times)
                        await here.echoes(port)
                    await until(lambda: not here.keeper.has_session)

    run(scenario())


def test_a_connection_that_comes_meanwhile_waits_for_the_session(run: Run) -> None:
    async def scenario() -> None:
        async with target() as port:
            async with server_on(0) as server:
                address = port_of(server)
            async with kept(options_for(address)) as here:
                early = asyncio.create_task(here.echoes(port))
                await asyncio.sleep(0.05)
                assert not early.done()
                async with server_on(address):
                    async with asyncio.timeout(10):
                        await early

    run(scenario())


def test_a_connection_that_has_waited_long_enough_is_told_why(run: Run) -> None:
    async def scenario() -> None:
        async with server_on(0) as server:
            address = port_of(server)
        async with kept(options_for(address), wait_s=0.1) as here:
            with pytest.raises(OpenFailed, match="connection refused") as caught:
                await here.keeper.open_connection("h", 1)
            assert caught.value.reason is OpenFailure.SESSION_DOWN
            with pytest.raises(OpenFailed) as again:
                await here.keeper.open_unix_connection("/x")
            assert again.value is not caught.value

    run(scenario())


def test_a_request_that_a_session_took_to_its_grave_is_made_of_the_next(run: Run) -> None:
    async def scenario() -> None:
        async with target() as port, server_on(0) as server, kept(options_for(port_of(server))) as here:
            await here.up()
            stopped = next(iter(server._connections.values()))[1]
            stopped.pause_reading("test")  # a server that is cut off answers nothing
            opening = asyncio.create_task(here.keeper.open_connection("127.0.0.1", port))
            await asyncio.sleep(0.05)
            assert not opening.done()
            stopped.reset()
            stream = await opening
            assert here.keeper.has_session
            stream.abort()

    run(scenario())


def test_a_refused_target_is_not_asked_for_twice(run: Run) -> None:
    async def scenario() -> None:
        async with server_on(0) as server, kept(options_for(port_of(server))) as here:
            with pytest.raises(OpenFailed) as caught:
                await here.keeper.open_connection("wraith-control", 1)
            assert caught.value.reason is OpenFailure.NOT_ALLOWED

    run(scenario())


# The end


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"identities": (private(STRANGER),)}, AuthenticationRefused),
        ({"host_keys": (OTHER_HOST_KEY.get_fingerprint(),)}, WrongPeer),
        ({"identities": (b"no key",)}, UnusableFile),
        ({"known_hosts": Path("/")}, UnusableFile),
        ({"user": "a\u05d0"}, UsageError),  # RFC 4013, 3: no mixture of directions
    ],
    ids=["key refused", "host key", "identity", "known_hosts", "user name"],
)
def test_what_trying_again_cannot_mend_ends_it_before_the_first_login(
    run: Run, more: dict[str, Any], expected: type[WraithError]
) -> None:
    async def scenario() -> None:
        async with server_on(0) as server, kept(options_for(port_of(server), **more)) as here:
            assert isinstance(await here.ended(), expected)

    run(scenario())


def stranger_door(port: int) -> wraith.Server:
    return server_on(port, user=STRANGER)


def other_host(port: int) -> wraith.Server:
    return server_on(port, host_key=OTHER_HOST_KEY)


@pytest.mark.parametrize("door", [stranger_door, other_host], ids=["key refused", "host key"])
def test_a_refusal_after_a_login_is_an_error_once_and_then_tried_again(
    run: Run, door: Callable[[int], wraith.Server], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "wraith.session_keeper")

    async def scenario() -> None:
        async with server_on(0) as server, kept(options_for(port_of(server))) as here:
            await here.up()
            address = port_of(server)
            await server.aclose()
            async with door(address):
                await until(lambda: len(of_keeper(caplog, "not connected", since="session lost")) >= 5)
                levels = [each.levelno for each in of_keeper(caplog, "not connected") if refused(each)]
                assert levels[0] == logging.ERROR
                assert set(levels[1:]) == {logging.INFO}
                assert not here.running.done()
            async with server_on(address):
                await here.up(2)

    run(scenario())


def of_keeper(caplog: pytest.LogCaptureFixture, message: str, since: str = "") -> list[logging.LogRecord]:
    records = [each for each in caplog.records if each.name == "wraith.session_keeper"]
    started = [number for number, each in enumerate(records) if each.getMessage() == since]
    return [each for each in records[started[0] if started else 0 :] if each.getMessage() == message]


def refused(record: logging.LogRecord) -> bool:
    return isinstance(record.__dict__["fields"]["reason"], AuthenticationRefused | WrongPeer)


def test_a_file_that_is_spoilt_after_a_login_is_no_end(run: Run, tmp_path: Path) -> None:
    known_hosts = tmp_path / "known_hosts"

    async def scenario() -> None:
        async with server_on(0) as server:
            public = HOST_KEY.export_public_key().decode().strip()
            known_hosts.write_text(f"[127.0.0.1]:{port_of(server)} {public}\n")
            options = options_for(
                port_of(server), host_keys=(), known_hosts=known_hosts, host_key_check=HostKeyCheck.STRICT
            )
            async with kept(options, wait_s=0.2) as here:
                await here.up()
                good = known_hosts.read_bytes()
                known_hosts.unlink()
                known_hosts.mkdir()
                cut_sessions(server)
                await until(lambda: not here.keeper.has_session)
                with pytest.raises(OpenFailed, match="known_hosts"):
                    await here.keeper.open_connection("h", 1)
                known_hosts.rmdir()
                known_hosts.write_bytes(good)
                await here.up(2)

    run(scenario())


def test_a_fault_of_ours_is_no_end_after_a_login(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with server_on(0) as server, kept(options_for(port_of(server))) as here:
            await here.up()
            with monkeypatch.context() as patch:
                patch.setattr(wraith.Session, "open", None)
                cut_sessions(server)
                await until(lambda: "internal error" in caplog.text)
            await here.up(2)

    run(scenario())


@pytest.mark.parametrize("which", ["first connection", "lost"])
def test_exit_on_failure_ends_at_the_first_failure(run: Run, which: str) -> None:
    async def scenario() -> None:
        async with server_on(0) as server:
            address = port_of(server)
            if which == "first connection":
                await server.aclose()
            async with kept(options_for(address, exit_on_failure=True)) as here:
                if which == "lost":
                    await here.up()
                    cut_sessions(server)
                error = await here.ended()
        assert isinstance(error, ConnectFailed if which == "first connection" else SessionLost)

    run(scenario())


def test_exit_on_failure_ends_when_a_remote_forward_is_refused(run: Run) -> None:
    async def scenario() -> None:
        forwards = remote(RemoteForwardSpec(TcpBind("localhost", 80), TcpTarget("127.0.0.1", 1)), [])
        async with server_on(0) as server:
            options = options_for(port_of(server), exit_on_failure=True)
            async with kept(options, forwards=forwards) as here:
                assert isinstance(await here.ended(), ForwardRefused)
                assert here.ups == []

    run(scenario())


def test_cancelling_ends_a_keeper_that_waits_to_try_again(run: Run) -> None:
    async def scenario() -> None:
        async with server_on(0) as server:
            address = port_of(server)
        async with kept(options_for(address), backoff=Backoff(first_s=3600)) as here:
            await asyncio.sleep(0.1)
            here.running.cancel()
            async with asyncio.timeout(1):
                await asyncio.wait([here.running])

    run(scenario())


# Questions


def test_nobody_is_asked_for_a_passphrase_twice(run: Run, tmp_path: Path) -> None:
    asked: list[str] = []
    key = tmp_path / "key"
    key.write_bytes(USER_KEY.export_private_key(passphrase="sesame"))
    key.chmod(0o600)

    def ask(name: str) -> str:
        asked.append(name)
        return "sesame"

    async def scenario() -> None:
        async with server_on(0) as server:
            options = options_for(port_of(server), identities=(key,), ask_passphrase=ask)
            async with kept(options) as here:
                for times in (1, 2, 3):
                    await here.up(times)
                    cut_sessions(server)
                await here.up(4)
        assert asked == [str(key)]

    run(scenario())


def test_nobody_is_asked_about_a_host_key_after_the_first_login(run: Run, tmp_path: Path) -> None:
    asked: list[str] = []

    def confirm(host: str, fingerprint: str) -> bool:
        asked.append(fingerprint)
        return True

    async def scenario() -> None:
        async with server_on(0) as server:
            options = options_for(
                port_of(server),
                host_keys=(),
                known_hosts=tmp_path / "known_hosts",
                host_key_check=HostKeyCheck.ASK,
                confirm_host_key=confirm,
            )
            async with kept(options, wait_s=0.2) as here:
                await here.up()
                (tmp_path / "known_hosts").unlink()
                cut_sessions(server)
                await until(lambda: not here.keeper.has_session)
                with pytest.raises(OpenFailed, match="was not accepted"):
                    await here.keeper.open_connection("h", 1)
        assert len(asked) == 1

    run(scenario())


# Remote forwards


async def through(port: int, what: bytes = b"back") -> None:
    async with Client(f"127.0.0.1:{port}") as client:
        client.send(what)
        assert await client.receive(len(what)) == what


def test_a_remote_port_comes_back_with_its_number_while_the_server_still_has_the_old_session(run: Run) -> None:
    async def scenario() -> None:
        told: list[int] = []
        async with target() as port, server_on(0) as server:
            options, forwards = options_for(port_of(server)), remote(fill(port), told)
            async with kept(options, forwards=forwards) as here:
                await here.up()
                await through(told[0])
                # The client sees the connection end; the server, cut off, does not.
                stopped = next(iter(server._connections.values()))[1]
                stopped.pause_reading("test")
                assert here.keeper._session is not None
                assert here.keeper._session._session is not None
                here.keeper._session._session._link.reset()
                await here.up(2)  # at once: it is the same process
                await through(told[1])
                assert told == [told[0]] * 2
                await until(lambda: len(server._connections) == 1)  # the old session was ended whole

    run(scenario())


def test_a_remote_port_comes_back_with_its_number_after_the_server_was_started_anew(run: Run) -> None:
    async def scenario() -> None:
        told: list[int] = []
        async with target() as port, server_on(0) as server:
            address = port_of(server)
            async with kept(options_for(address), forwards=remote(fill(port), told)) as here:
                await here.up()
                await server.aclose()
                async with server_on(address):
                    await here.up(2)
                    await through(told[0])
        assert told == [told[0]] * 2

    run(scenario())


def test_a_remote_forward_that_was_refused_is_asked_for_until_it_is_had(run: Run) -> None:
    async def scenario() -> None:
        told: list[int] = []
        async with target() as port, server_on(0) as server:
            taken = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
            number = taken.sockets[0].getsockname()[1]
            spec = parse_remote_forward(f"{number}:127.0.0.1:{port}")
            forwards = remote(spec, told, first_retry_s=0.02)
            async with kept(options_for(port_of(server)), forwards=forwards) as here:
                await here.up()
                await here.echoes(port)  # which does not hinder the rest
                assert told == []
                taken.close()
                await taken.wait_closed()
                await until(lambda: told)
                await through(number)

    run(scenario())


def test_another_process_of_the_same_key_is_told_who_holds_the_port_while_the_holder_lives(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        told: list[int] = []
        async with target() as port, server_on(0) as server:
            options = options_for(port_of(server))
            async with kept(options, forwards=remote(fill(port), told)) as first:
                await first.up()
                again = parse_remote_forward(f"localhost:{told[0]}:127.0.0.1:{port}")
                theirs: list[int] = []
                async with kept(options, forwards=remote(again, theirs)) as second:
                    await second.up()
                    assert theirs == []
                    (record,) = [each for each in caplog.records if each.getMessage() == "remote forward refused"]
                    reason = str(record.__dict__["fields"]["reason"])
                    assert "held by another session of this key since 2" in reason
                    assert len(reason) <= MAX_VALUE  # so that a log line shows since when
                    await through(told[0])
                assert first.ups == [True]

    run(scenario())


@pytest.mark.parametrize("same_key", [True, False])
def test_a_port_of_a_dead_session_goes_to_the_same_key_and_to_no_other(run: Run, same_key: bool) -> None:
    async def scenario() -> None:
        told: list[int] = []
        both = USER_KEY.export_public_key() + STRANGER.export_public_key()
        serving = ServeOptions(key=private(HOST_KEY), authorized_keys=both, listen=(ListenSpec("127.0.0.1", 0),))
        async with target() as port, wraith.serve(serving) as server:
            options = options_for(port_of(server))
            async with kept(options, forwards=remote(fill(port), told)) as first:
                await first.up()
                # Its side is not read any more: no answer to a probe arrives.
                next(iter(server._connections.values()))[1].pause_reading("test")
                mine = replace(options, identities=(private(USER_KEY if same_key else STRANGER),))
                theirs: list[int] = []
                again = parse_remote_forward(f"localhost:{told[0]}:127.0.0.1:{port}")
                async with kept(mine, forwards=remote(again, theirs)) as second:
                    await second.up()
                    assert theirs == ([told[0]] if same_key else [])
                    if same_key:
                        await through(told[0])

    run(scenario())


# Nothing is left


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_fifty_sessions_leave_no_task_descriptor_or_memory_behind(run: Run) -> None:
    async def scenario() -> tuple[list[int], list[int]]:
        told: list[int] = []
        counts: list[int] = []
        sizes: list[int] = []
        async with target() as port, server_on(0) as server:
            options, forwards = options_for(port_of(server)), remote(fill(port), told)
            async with kept(options, forwards=forwards) as here:
                for times in range(1, 61):
                    await here.up(times)
                    await here.echoes(port)
                    await through(told[0])
                    await until(lambda: len(server._connections) == 1 and not server._cleanups)
                    if times in (10, 60):
                        gc.collect()
                        counts += [len(asyncio.all_tasks()), len(list(Path("/proc/self/fd").iterdir()))]
                        sizes.append(resident())
                    cut_sessions(server)
        assert set(told) == {told[0]}
        return counts, sizes

    counts, sizes = run(scenario())
    print(f"tasks and descriptors {counts}, memory {[size >> 20 for size in sizes]} MiB")
    assert counts[:2] == counts[2:]
    assert sizes[1] - sizes[0] < MEMORY_GROWTH
