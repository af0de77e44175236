"""Cases about an orderly end: half-close, close, and what is dropped after them."""

# ruff: noqa: D401 - a case is documented by the claim it tries

from __future__ import annotations

import asyncio

from ..stream import DuplexStream
from .case import (
    Ends,
    Patience,
    StreamCase,
    StreamSetup,
    arrives,
    eventually,
    expect,
    expect_pattern,
    hears_end,
    hears_loss,
    hears_orderly_loss,
    quiet,
    settle,
    stream_case,
)
from .recorder import BufferedRecorder, Heard, Notes, Recorder, pattern

CASES: list[StreamCase] = []

_TAIL = 4 << 20  # more than any default kernel buffer takes at once


def _half_closes(setup: StreamSetup) -> bool:
    return setup.half_close


def _cannot_half_close(setup: StreamSetup) -> bool:
    return not setup.half_close


@stream_case(CASES, needs=_half_closes)
async def either_half_can_end_first(ends: Ends) -> None:
    """After write_eof the other direction goes on, from either end; what eof_received returns changes nothing.

    asyncio's own transports close themselves when it returns a false value. These never do: who
    holds a stream ends it.
    """
    near = ends.attach(ends.near, Recorder(eof_answer=False))
    far = ends.attach(ends.far, Recorder(eof_answer=None))
    near.stream.write(pattern(0, 1000))
    near.stream.write_eof()
    await eventually(lambda: Heard.EOF in far.heard, "eof_received at the far end", far.heard)
    expect_pattern(far.received, 1000)
    await settle()
    expect(not far.losses and not far.stream.is_closing(), "the far end to stay open", far.heard)
    expect(not near.losses and not near.stream.is_closing(), "the near end to stay open", near.heard)
    far.stream.write(pattern(0, _TAIL))
    far.stream.write_eof()
    await eventually(lambda: Heard.EOF in near.heard, "eof_received at the near end", near.heard)
    expect_pattern(near.received, _TAIL)
    await _both_end_in_order(near, far)


@stream_case(CASES, needs=_half_closes)
async def an_answered_eof_keeps_the_stream_open(ends: Ends) -> None:
    """With eof_received returning True the other direction goes on as well."""
    near = ends.attach(ends.near, Recorder())
    far = ends.attach(ends.far, Recorder(eof_answer=True))
    near.stream.write_eof()
    await eventually(lambda: Heard.EOF in far.heard, "eof_received", far.heard)
    far.stream.write(pattern(0, 1000))
    await arrives(near, 1000)
    expect_pattern(near.received, 1000)
    await _both_end_in_order(near, far)


@stream_case(CASES, needs=_half_closes)
async def write_eof_flushes_first(ends: Ends) -> None:
    """Everything written before write_eof arrives, even to a reader that had stopped; then eof_received."""
    near = ends.attach(ends.near, Recorder())
    far = ends.attach(ends.far, Recorder(on_made=_pause))
    near.stream.write(pattern(0, _TAIL))
    near.stream.write_eof()
    near.stream.write(b"too late")
    near.stream.writelines([b"too", b"late"])
    near.stream.write_eof()
    await settle()
    far.stream.resume_reading()
    await hears_end(far)
    expect_pattern(far.received, _TAIL)
    expect(not far.losses, "eof_received and not the end of the stream", far.heard)
    await settle()


@stream_case(CASES, needs=_half_closes)
async def an_immediate_eof_is_heard(ends: Ends) -> None:
    """A half that ends before a byte was written, or anybody attached, is heard as eof_received."""
    ends.near.write_eof()
    await settle()
    far = ends.attach(ends.far, BufferedRecorder())
    near = ends.attach(ends.near, Recorder())
    await eventually(lambda: Heard.EOF in far.heard, "eof_received", far.heard)
    far.stream.write(pattern(0, 1000))
    await arrives(near, 1000)


@stream_case(CASES, needs=_cannot_half_close)
async def write_eof_is_nothing_where_it_cannot(ends: Ends) -> None:
    """On a carrier without half-close write_eof changes nothing: both directions go on."""
    near, far = ends.attach_both()
    near.stream.write(pattern(0, 1000))
    near.stream.write_eof()
    near.stream.write_eof()
    near.stream.write(pattern(1000, 1000))
    far.stream.write(pattern(0, 1000))
    await arrives(far, 2000)
    await arrives(near, 1000)
    expect_pattern(far.received, 2000)
    expect(not far.ended, "no end", far.heard)


@stream_case(CASES)
async def close_flushes(ends: Ends) -> None:
    """4 MiB written and closed at once all arrive, then the end; both sides hear connection_lost(None)."""
    near, far = ends.attach_both()
    near.stream.write(pattern(0, _TAIL))
    near.close()
    expect(not near.losses, "connection_lost not from inside close", near.heard)
    await hears_end(far)
    expect_pattern(far.received, _TAIL)
    await _both_end_in_order(near, far)


@stream_case(CASES)
async def close_flushes_to_a_slow_reader(ends: Ends) -> None:
    """The same to a reader that had stopped when close was called."""
    near = ends.attach(ends.near, Recorder())
    far = ends.attach(ends.far, Recorder(on_made=_pause))
    near.stream.write(pattern(0, _TAIL))
    near.close()
    await quiet(near.stream.get_write_buffer_size)
    expect(not far.losses, "no end while bytes are unread", far.heard)
    far.stream.resume_reading()
    await hears_end(far)
    expect_pattern(far.received, _TAIL)
    await _both_end_in_order(near, far)


@stream_case(CASES)
async def close_with_unread_input_keeps_the_tail(ends: Ends) -> None:
    """A stream that closes with input nobody read still delivers its own last bytes."""
    near = ends.attach(ends.near, Recorder(on_made=_pause))
    far = ends.attach(ends.far, Recorder(on_made=_pause))
    far.stream.write(pattern(0, 256 << 10))
    await quiet(far.stream.get_write_buffer_size)
    near.stream.write(pattern(0, _TAIL))
    near.close()
    await settle()
    far.stream.write(pattern(0, 64 << 10))
    far.stream.resume_reading()
    await hears_end(far)
    expect_pattern(far.received, _TAIL)
    await _both_end_in_order(near, far)


@stream_case(CASES)
async def closing_twice_is_closing_once(ends: Ends) -> None:
    """close, close and abort after the end, in any number, are one end."""
    near, far = ends.attach_both()
    near.stream.write(pattern(0, 1000))
    near.close()
    near.close()
    await hears_end(far)
    expect_pattern(far.received, 1000)
    await _both_end_in_order(near, far)
    for notes in (near, far):
        notes.close()
        notes.abort()
        notes.close()
    await settle()
    expect(len(near.losses) == 1, "connection_lost once", near.heard)


@stream_case(CASES)
async def both_ends_can_close_at_once(ends: Ends) -> None:
    """Two ends that close in the same turn, with bytes both ways, both hear connection_lost(None)."""
    near, far = ends.attach_both()
    near.stream.write(pattern(0, 100_000))
    far.stream.write(pattern(0, 100_000))
    near.close()
    far.close()
    for notes in (near, far):
        await hears_loss(notes)
        expect(notes.losses == [None], "connection_lost(None)", notes.losses)


@stream_case(CASES)
async def close_works_unattached(ends: Ends) -> None:
    """A stream nobody attached to can be closed: what it wrote arrives, and the peer hears the end."""
    ends.far.write(pattern(0, 1000))
    ends.far.close()
    near = ends.attach(ends.near, Recorder())
    await hears_end(near)
    expect_pattern(near.received, 1000)
    near.close()
    await hears_orderly_loss(near)


@stream_case(CASES)
async def writes_after_close_are_dropped(ends: Ends) -> None:
    """What is written after close never arrives and disturbs nothing."""
    near, far = ends.attach_both()
    near.stream.write(pattern(0, 1000))
    near.close()
    for _ in range(10):
        near.stream.write(b"too late")
        near.stream.writelines([b"too", b"late"])
    near.stream.write_eof()
    await hears_end(far)
    await settle()
    expect_pattern(far.received, 1000)
    await _both_end_in_order(near, far)


@stream_case(CASES)
async def close_inside_a_delivery_ends_delivery(ends: Ends) -> None:
    """A protocol that closes from inside data_received gets no more data; its peer hears the end."""
    near = ends.attach(ends.near, Recorder())
    far = Recorder(on_data=lambda _: far.close())
    ends.attach(ends.far, far)
    near.stream.write(pattern(0, _TAIL))
    await hears_end(near)
    near.close()
    await hears_loss(far)
    await hears_loss(near)


@stream_case(CASES)
async def close_inside_connection_made_is_honoured(ends: Ends) -> None:
    """A protocol that closes at once gets no data, held or unread, and hears the end."""
    ends.far.write(pattern(0, 1000))
    await settle()
    near = Recorder(on_made=lambda _: near.close())
    ends.attach(ends.near, near, unread=pattern(0, 100))
    far = ends.attach(ends.far, Recorder())
    await hears_end(far)
    far.close()
    await hears_orderly_loss(near)


@stream_case(CASES)
async def a_close_that_waits_for_its_peer_drops_what_comes(ends: Ends) -> None:
    """After close the protocol gets nothing of what the peer still sends, and the peer is not reset for it."""
    near, far = ends.attach_both()
    near.close()
    await hears_end(far)
    for _ in range(16):
        far.stream.write(pattern(0, 64 << 10))
        await asyncio.sleep(0)
    await settle()
    await _both_end_in_order(near, far)


@stream_case(CASES, patience=Patience(drain_s=0.05))
async def a_peer_that_never_ends_is_not_waited_for(ends: Ends) -> None:
    """Flushed and closed, a stream whose peer keeps its half open ends by itself, with connection_lost(None)."""
    near, far = ends.attach_both()
    near.stream.write(pattern(0, 1000))
    near.close()
    await hears_orderly_loss(near)
    await hears_end(far)
    expect_pattern(far.received, 1000)


def _pause(stream: DuplexStream) -> None:
    stream.pause_reading()


async def _both_end_in_order(near: Notes, far: Notes) -> None:
    near.close()
    far.close()
    for notes in (near, far):
        await hears_loss(notes)
        expect(notes.losses == [None], "connection_lost(None) after an orderly end", notes.losses)
