"""Claims about a client whose sessions come and go, against a real server on loopback."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import wraith
from tests.conftest import Run
from tests.support.kept_sessions import (
    HOST_KEY,
    OTHER_HOST_KEY,
    STRANGER,
    USER_KEY,
    cut_sessions,
    kept,
    options_for,
    port_of,
    private,
    remote,
    server_on,
)
from tests.support.openers import target, until
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
from wraith.opening import OpenFailed, OpenFailure
from wraith.options import HostKeyCheck
from wraith.specs import RemoteForwardSpec, TcpBind, TcpTarget
from wraith.ssh import ForwardRefused

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
