"""Cases about what a stream says of itself, and about protocols that fail."""

# ruff: noqa: D401 - a case is documented by the claim it tries

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from .case import (
    Ends,
    StreamCase,
    arrives,
    eventually,
    expect,
    hears_end,
    hears_loss,
    hears_orderly_loss,
    settle,
    stream_case,
)
from .recorder import BufferedRecorder, Notes, Recorder, pattern

CASES: list[StreamCase] = []


class _ProtocolFault(Exception):
    """Raised on purpose by a protocol."""


@stream_case(CASES)
async def peername_is_always_there(ends: Ends) -> None:
    """get_extra_info("peername") is an IP address and a port, before, during and after the connection."""
    _check_peername(ends)
    near, far = ends.attach_both()
    _check_peername(ends)
    near.abort()
    await hears_end(far)
    far.close()
    await hears_loss(far)
    _check_peername(ends)


@stream_case(CASES)
async def unknown_facts_have_the_callers_default(ends: Ends) -> None:
    """get_extra_info of a name nobody knows is the default, and that is None."""
    for stream in (ends.near, ends.far):
        seen = (stream.get_extra_info("wraith-nothing"), stream.get_extra_info("wraith-nothing", 7))
        expect(seen == (None, 7), "the default", seen)


@stream_case(CASES)
async def is_closing_tells_of_the_end_and_not_of_half_an_end(ends: Ends) -> None:
    """is_closing() is false until close, abort or the end; a half-closed stream is open."""
    near, far = ends.attach_both()
    for notes in (near, far):
        expect(not notes.stream.is_closing(), "an open stream", "is_closing()")
    if ends.setup.half_close:
        near.stream.write_eof()
        await hears_end(far)
        for notes in (near, far):
            expect(not notes.stream.is_closing(), "a half-closed stream to be open", "is_closing()")
    near.close()
    expect(near.stream.is_closing(), "is_closing() after close", "false")
    far.abort()
    expect(far.stream.is_closing(), "is_closing() after abort", "false")
    await hears_loss(near)
    await hears_loss(far)
    for notes in (near, far):
        expect(notes.stream.is_closing(), "is_closing() after the end", "false")


@stream_case(CASES)
async def a_stream_the_peer_reset_is_closing(ends: Ends) -> None:
    """Inside and after connection_lost is_closing() is true though nobody here closed."""
    seen: list[bool] = []
    near = ends.attach(ends.near, Recorder())
    far = ends.attach(ends.far, Recorder(on_lost=lambda: seen.append(ends.far.is_closing())))
    near.abort()
    await hears_end(far)
    if not far.losses:
        far.close()
    await hears_loss(far)
    expect(seen == [True] and far.stream.is_closing(), "is_closing()", seen)


@stream_case(CASES)
async def can_write_eof_tells_the_truth(ends: Ends) -> None:
    """can_write_eof() says what the carrier does."""
    for stream in (ends.near, ends.far):
        expect(stream.can_write_eof() is ends.setup.half_close, f"{ends.setup.half_close}", stream.can_write_eof())


@stream_case(CASES)
async def an_idle_stream_buffers_nothing(ends: Ends) -> None:
    """get_write_buffer_size() is 0 before anything is written, and again once it is read."""
    near, far = ends.attach_both()
    expect(near.stream.get_write_buffer_size() == 0, "0", near.stream.get_write_buffer_size())
    near.stream.write(pattern(0, 1 << 20))
    await arrives(far, 1 << 20)
    await eventually(lambda: near.stream.get_write_buffer_size() == 0, "0", near.stream.get_write_buffer_size)


@stream_case(CASES, tells_loop=True)
async def an_error_in_data_received_ends_the_stream(ends: Ends) -> None:
    """A protocol that raises loses its stream: connection_lost(that error); the loop's handler is told."""
    fault = _ProtocolFault("in data_received")
    await _fails(ends, Recorder(on_data=_raiser(fault)), fault)


@stream_case(CASES, tells_loop=True)
async def an_error_in_buffer_updated_ends_the_stream(ends: Ends) -> None:
    """The same for a BufferedProtocol."""
    fault = _ProtocolFault("in buffer_updated")
    await _fails(ends, BufferedRecorder(on_data=_raiser(fault)), fault)


@stream_case(CASES, tells_loop=True)
async def an_error_over_held_bytes_ends_the_stream(ends: Ends) -> None:
    """The same when the bytes were held or unread: attach does not raise for it."""
    fault = _ProtocolFault("over unread bytes")
    near = ends.attach(ends.near, Recorder())
    near.stream.write(pattern(0, 1000))
    await settle()
    far = ends.attach(ends.far, Recorder(on_data=_raiser(fault)), unread=pattern(0, 10))
    await _failed(ends, near, far, fault)


@stream_case(CASES, needs=lambda setup: setup.half_close, tells_loop=True)
async def an_error_in_eof_received_ends_the_stream(ends: Ends) -> None:
    """The same when the protocol fails at the end of the peer's half."""
    fault = _ProtocolFault("in eof_received")
    near = ends.attach(ends.near, Recorder())
    far = ends.attach(ends.far, Recorder(on_eof=_raiser(fault)))
    near.stream.write_eof()
    await _failed(ends, near, far, fault)


@stream_case(CASES, tells_loop=True)
async def an_error_in_connection_lost_is_contained(ends: Ends) -> None:
    """A protocol that raises at the very end is reported, and its peer ends as it would."""
    fault = _ProtocolFault("in connection_lost")
    near = ends.attach(ends.near, Recorder(on_lost=_raiser(fault)))
    far = ends.attach(ends.far, Recorder())
    near.close()
    await hears_end(far)
    far.close()
    await hears_orderly_loss(far)
    await eventually(lambda: _told(ends, fault), "the loop's exception handler to be told", ends.told)


def _check_peername(ends: Ends) -> None:
    for stream in (ends.near, ends.far):
        name = stream.get_extra_info("peername")
        expect(
            isinstance(name, tuple) and [type(part) for part in name] == [str, int],
            "peername as (ip, port)",
            repr(name),
        )
        try:
            address = ip_address(name[0])
        except ValueError:
            address = None
        expect(address is not None, "a numeric address", name)
        expect(getattr(address, "ipv4_mapped", None) is None, "an IPv4 address written as one", name)


def _raiser(fault: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise fault

    return fail


def _told(ends: Ends, fault: Exception) -> bool:
    return any(context.get("exception") is fault for context in ends.told)


async def _fails(ends: Ends, reader: Notes, fault: Exception) -> None:
    near = ends.attach(ends.near, Recorder())
    far = ends.attach(ends.far, reader)
    near.stream.write(pattern(0, 1000))
    await _failed(ends, near, far, fault)


async def _failed(ends: Ends, near: Notes, far: Notes, fault: Exception) -> None:
    await hears_loss(far)
    expect(far.losses == [fault], "connection_lost(the protocol's error)", far.losses)
    await hears_end(near)
    await eventually(lambda: _told(ends, fault), "the loop's exception handler to be told", ends.told)
