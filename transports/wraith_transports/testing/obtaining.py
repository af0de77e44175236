"""Cases about obtaining a stream: connect and accept, their cancellation, and the end of an acceptor."""

# ruff: noqa: D401, D403 - a case is documented by the claim it tries

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..errors import AcceptorClosed, AddressUnavailable, TransportError
from ..stream import DuplexStream
from ..transport import TransportInfo
from .case import (
    ConformanceFailure,
    Obtained,
    Route,
    TransportCase,
    arrives,
    comes,
    eventually,
    expect,
    expect_pattern,
    hears_end,
    hears_orderly_loss,
    quiet,
    settle,
    transport_case,
)
from .recorder import Recorder, pattern

CASES: list[TransportCase] = []

T = TypeVar("T")

# How many turns of the loop a connect or accept is given before it is cancelled.
_TURNS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30)


@transport_case(CASES)
async def a_connected_stream_reaches_the_accepted_one(route: Route) -> None:
    """connect and accept yield two ends of one stream, which carries bytes both ways and ends in order."""
    client, server, _, _ = await _join(route)
    near, far = _attached(client), _attached(server)
    near.stream.write(pattern(0, 100_000))
    far.stream.write(pattern(7, 100_000))
    await arrives(far, 100_000)
    await arrives(near, 100_000)
    expect_pattern(far.received, 100_000)
    expect_pattern(near.received, 100_000, start=7)
    near.close()
    far.close()
    await hears_orderly_loss(near)
    await hears_orderly_loss(far)


@transport_case(CASES)
async def what_is_known_of_the_peer_is_told(route: Route) -> None:
    """TransportInfo names a kind and a numeric address, the same as the stream's peername."""
    client, server, connected, accepted = await _join(route)
    expect(bool(connected.kind) and connected.kind == accepted.kind, "one kind", (connected.kind, accepted.kind))
    for stream, info in ((client, connected), (server, accepted)):
        host, port = info.remote_address
        expect(getattr(ip_address(host), "ipv4_mapped", None) is None, "an IPv4 address written as one", host)
        expect(type(port) is int, "a port", port)
        name = stream.get_extra_info("peername")
        expect(name == info.remote_address, f"peername {info.remote_address}", name)
    _discard(client, server)


@transport_case(CASES)
async def describe_and_addresses_are_for_people(route: Route) -> None:
    """describe() is one line; addresses() are scheme://host:port with real ports."""
    text = route.transport.describe()
    expect(bool(text) and text == text.strip() and text.isprintable(), "one line of text", repr(text))
    addresses = route.acceptor.addresses()
    expect(bool(addresses), "at least one address", addresses)
    for address in addresses:
        parts = urlsplit(address)
        expect(bool(parts.scheme and parts.hostname and parts.port), "scheme://host:port", address)


@transport_case(CASES)
async def many_streams_are_kept_apart(route: Route) -> None:
    """Twenty connected at once are twenty streams: what each wrote comes out of one of them."""
    count = 20
    accepting = [asyncio.create_task(route.accept()) for _ in range(count)]
    connected = await _all([route.connect() for _ in range(count)])
    accepted = [await _soon(task) for task in accepting]
    near = [_attached(stream) for stream, _ in connected]
    far = [_attached(stream) for stream, _ in accepted]
    for number, notes in enumerate(near):
        notes.stream.write(bytes([number]) * 1000)
    for notes in far:
        await arrives(notes, 1000)
    seen = sorted(bytes(notes.received) for notes in far)
    expect(seen == [bytes([number]) * 1000 for number in range(count)], "one stream each", [text[:1] for text in seen])
    _discard(*(notes.stream for notes in near + far))


@transport_case(CASES)
async def a_cancelled_connect_leaves_nothing(route: Route) -> None:
    """Cancelled after any number of turns, connect leaves no task and no descriptor behind."""
    await _warm_up(route)
    tasks, sockets = asyncio.all_tasks(), _open_sockets()
    for turns in _TURNS:
        connecting = asyncio.create_task(route.connect())
        await _turns(turns)
        _discard(*_stream_of(await _cancel(connecting)))
    # What got through before it was cancelled is accepted and already ended, or never seen.
    while (accepted := await _within(route.accept(), 0.1)) is not None:
        _discard(accepted[0])
    await _no_more_than(tasks, sockets)


@transport_case(CASES)
async def a_cancelled_accept_loses_no_stream(route: Route) -> None:
    """Cancelled after any number of turns, accept leaves nothing, and the stream goes to the next accept."""
    await _warm_up(route)
    tasks, sockets = asyncio.all_tasks(), _open_sockets()
    for turns in _TURNS:
        first, second = (asyncio.create_task(route.accept()) for _ in range(2))
        client, _ = await _soon(asyncio.create_task(route.connect()))
        await _turns(turns)
        accepted = await _cancel(first)
        if accepted is not None:
            expect(await _cancel(second) is None, "one stream for one connection", "two")
        else:
            accepted = await _soon(second)
        near, far = _attached(client), _attached(accepted[0])
        near.stream.write(pattern(0, 10))
        await arrives(far, 10)
        _discard(client, accepted[0])
    await _no_more_than(tasks, sockets)


@transport_case(CASES)
async def streams_nobody_attached_to_leave_nothing(route: Route) -> None:
    """Connected, accepted, and aborted or closed without ever being attached, a stream is gone."""
    await _warm_up(route)
    tasks, sockets = asyncio.all_tasks(), _open_sockets()
    for end in (DuplexStream.abort, DuplexStream.close):
        client, server, _, _ = await _join(route)
        getattr(client, end.__name__)()
        getattr(server, end.__name__)()
    await _no_more_than(tasks, sockets)


@transport_case(CASES)
async def accept_ends_when_the_acceptor_stops(route: Route) -> None:
    """stop() ends every waiting accept, and all later ones, with AcceptorClosed; stopping again is nothing."""
    waiting = [asyncio.create_task(route.accept()) for _ in range(3)]
    await _turns(3)
    route.acceptor.stop()
    route.acceptor.stop()
    for task in (*waiting, asyncio.create_task(route.accept())):
        await _is_closed(task)
    await route.acceptor.aclose()
    await route.acceptor.aclose()
    route.acceptor.stop()
    await _is_closed(asyncio.create_task(route.accept()))


@transport_case(CASES)
async def streams_handed_out_outlive_their_acceptor(route: Route) -> None:
    """Neither stop nor aclose, of the acceptor or the transport's second time, ends a stream in use."""
    client, server, _, _ = await _join(route)
    near, far = _attached(client), _attached(server)
    route.acceptor.stop()
    await settle()
    near.stream.write(pattern(0, 1000))
    await arrives(far, 1000)
    await route.acceptor.aclose()
    far.stream.write(pattern(0, 1000))
    await arrives(near, 1000)
    _discard(client, server)


@transport_case(CASES)
async def closing_ends_streams_nobody_accepted(route: Route) -> None:
    """aclose ends what was connected and never accepted, and leaves no task and no listening socket."""
    sockets = _open_sockets()
    connecting = [asyncio.create_task(route.connect()) for _ in range(3)]
    await settle()
    await route.acceptor.aclose()
    after = _open_sockets()
    for task in connecting:
        try:
            client, _ = await _soon(task)
        except TransportError:
            continue
        near = _attached(client)
        await hears_end(near)
        _discard(client)
    await eventually(lambda: _open_sockets() <= sockets, f"at most {sockets} sockets", _open_sockets)
    expect(after <= sockets + len(connecting), "no socket of the acceptor after aclose", (sockets, after))


@transport_case(CASES)
async def closing_a_transport_twice_is_nothing(route: Route) -> None:
    """Transport.aclose is idempotent and does not raise, used or not."""
    client, server, _, _ = await _join(route)
    _discard(client, server)
    await route.transport.aclose()
    await route.transport.aclose()


@transport_case(CASES, needs=lambda setup: setup.notices_refusal)
async def connecting_to_nobody_may_be_tried_again(route: Route) -> None:
    """Where nothing listens connect raises a TransportError of one line that is not permanent."""
    await route.acceptor.aclose()
    tasks, sockets = asyncio.all_tasks(), _open_sockets()
    for _ in range(3):
        try:
            client, _ = await _soon(asyncio.create_task(route.connect()))
        except TransportError as error:
            expect(not error.permanent, "a failure that may pass", repr(error))
            expect(bool(str(error)) and "\n" not in str(error), "one line of text", repr(str(error)))
        else:
            _discard(client)
            raise ConformanceFailure("TransportError", "a stream")
    await _no_more_than(tasks, sockets)


@transport_case(CASES, needs=lambda setup: setup.rival is not None)
async def a_taken_address_is_unavailable(route: Route) -> None:
    """A second acceptor on the same address raises AddressUnavailable, binds nothing and harms nobody."""
    assert route.setup.rival is not None
    tasks, sockets = asyncio.all_tasks(), _open_sockets()
    rival = route.setup.rival(route.acceptor)
    try:
        await _soon(asyncio.create_task(rival.start()))
    except AddressUnavailable as error:
        expect(error.permanent, "a failure that stays", repr(error))
        expect(bool(str(error)) and "\n" not in str(error), "one line of text", repr(str(error)))
    else:
        raise ConformanceFailure("AddressUnavailable", "a second acceptor that started")
    finally:
        await rival.aclose()
    await _no_more_than(tasks, sockets)
    client, server, _, _ = await _join(route)
    _discard(client, server)


@transport_case(CASES, needs=lambda setup: bool(setup.spoilers))
async def a_failed_handshake_disturbs_nobody(route: Route) -> None:
    """Handshakes that fail, or never finish, neither end nor delay accept, and leave nothing after aclose."""
    await _warm_up(route)
    tasks, sockets = asyncio.all_tasks(), _open_sockets()
    for spoiler in route.setup.spoilers:
        accepting = asyncio.create_task(route.accept())
        async with AsyncExitStack() as spoiled:
            for _ in range(3):
                await spoiled.enter_async_context(spoiler(route.acceptor))
            await settle()
            expect(not accepting.done(), "accept to go on waiting", accepting)
            client, _ = await _soon(asyncio.create_task(route.connect()))
            server, _ = await _soon(accepting)
            near, far = _attached(client), _attached(server)
            near.stream.write(pattern(0, 10))
            await arrives(far, 10)
            _discard(client, server)
    await _no_more_than(tasks, sockets)


def _attached(stream: DuplexStream) -> Recorder:
    notes = Recorder()
    stream.attach(notes)
    return notes


def _discard(*streams: DuplexStream) -> None:
    for stream in streams:
        stream.abort()


async def _join(
    route: Route,
) -> tuple[DuplexStream, DuplexStream, TransportInfo, TransportInfo]:
    (client, connected), (server, accepted) = await _all([route.connect(), route.accept()])
    return client, server, connected, accepted


async def _warm_up(route: Route) -> None:
    """Let the loop open what it opens once, so that counting before and after compares like with like."""
    client, server, _, _ = await _join(route)
    _discard(client, server)
    if _open_sockets():
        await quiet(_open_sockets)


async def _all(waits: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    return [await _soon(task) for task in [asyncio.create_task(wait) for wait in waits]]


async def _soon(task: asyncio.Task[T]) -> T:
    if not await comes(task.done):
        await _cancel(task)
        raise ConformanceFailure("an answer in time", f"{task} still waiting")
    return task.result()


async def _within(wait: Coroutine[Any, Any, T], limit_s: float) -> T | None:
    task = asyncio.create_task(wait)
    await comes(task.done, limit_s)
    return await _cancel(task)


async def _cancel(task: asyncio.Task[T]) -> T | None:
    """Cancel, and return the result if it was already there."""
    task.cancel()
    await eventually(task.done, "a cancelled call to end", task)
    return None if task.cancelled() else task.result()


async def _is_closed(task: asyncio.Task[Obtained]) -> None:
    try:
        await _soon(task)
    except AcceptorClosed:
        return
    raise ConformanceFailure("AcceptorClosed", "a stream")


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def _stream_of(obtained: Obtained | None) -> Sequence[DuplexStream]:
    return () if obtained is None else (obtained[0],)


async def _no_more_than(tasks: set[asyncio.Task[Any]], sockets: int) -> None:
    await comes(lambda: not asyncio.all_tasks() - tasks and _open_sockets() <= sockets)
    left = asyncio.all_tasks() - tasks
    expect(not left, "no task left", left)
    expect(_open_sockets() <= sockets, f"at most {sockets} open sockets", _open_sockets())


def _open_sockets() -> int:
    """Count this process's sockets; 0 where the system does not tell."""
    count = 0
    try:
        for entry in Path("/proc/self/fd").iterdir():
            try:
                count += str(entry.readlink()).startswith("socket:")
            except OSError:
                continue  # the descriptor of the listing itself
    except OSError:
        return 0
    return count
