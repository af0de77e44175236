"""Claims about remote forwards over many sessions, and about what fifty sessions leave behind."""

from __future__ import annotations

import asyncio
import gc
import os
from dataclasses import replace
from pathlib import Path

import pytest

import wraith
from tests.conftest import Run
from tests.support.kept_sessions import (
    HOST_KEY,
    MEMORY_GROWTH,
    STRANGER,
    USER_KEY,
    cut_sessions,
    fill,
    kept,
    options_for,
    port_of,
    private,
    remote,
    server_on,
)
from tests.support.openers import Client, target, until
from wraith.logs import MAX_VALUE
from wraith.options import ServeOptions
from wraith.specs import ListenSpec, parse_remote_forward

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
