"""Cases about a sudden end: abort, the reset its peer hears, and the silence after it."""

# ruff: noqa: D401, D403 - a case is documented by the claim it tries

from __future__ import annotations

import asyncio

from ..stream import DuplexStream
from .case import (
    Ends,
    Patience,
    StreamCase,
    StreamSetup,
    arrives,
    expect,
    expect_pattern,
    hears_end,
    hears_loss,
    quiet,
    settle,
    stream_case,
)
from .recorder import BufferedRecorder, Heard, Recorder, pattern

CASES: list[StreamCase] = []

_TAIL = 4 << 20  # more than any default kernel buffer takes at once


def _carries_reset(setup: StreamSetup) -> bool:
    return setup.carries_reset


@stream_case(CASES)
async def abort_works_unattached(ends: Ends) -> None:
    """A stream nobody attached to can be aborted: the peer hears the end."""
    ends.far.abort()
    near = ends.attach(ends.near, Recorder())
    await hears_end(near)


@stream_case(CASES)
async def abort_ends_on_the_next_turn(ends: Ends) -> None:
    """abort drops what is buffered; connection_lost comes on the loop's next turn, once; the peer hears the end."""
    near = ends.attach(ends.near, Recorder())
    far = ends.attach(ends.far, Recorder(on_made=_pause))
    near.stream.write(pattern(0, ends.setup.carrier_buffer + _TAIL))
    await settle()
    near.abort()
    expect(not near.losses, "connection_lost not from inside abort", near.heard)
    expect(near.stream.is_closing(), "is_closing() after abort", near.stream.is_closing())
    await asyncio.sleep(0)
    expect(len(near.losses) == 1, "connection_lost on the next turn", near.heard)
    held = near.stream.get_write_buffer_size()
    expect(held == 0, "nothing buffered after abort", held)
    far.stream.resume_reading()
    await hears_end(far)
    expect_pattern(far.received, len(far.received))


@stream_case(CASES, needs=_carries_reset)
async def a_reset_is_not_an_orderly_end(ends: Ends) -> None:
    """The peer of an abort hears connection_lost with an OSError, and no eof_received."""
    near, far = ends.attach_both()
    near.stream.write(pattern(0, 1000))
    await arrives(far, 1000)
    near.abort()
    await hears_loss(far)
    expect(isinstance(far.losses[0], OSError), "connection_lost(an OSError)", far.losses)
    expect(Heard.EOF not in far.heard, "no eof_received", far.heard)


@stream_case(CASES)
async def abort_interrupts_a_close(ends: Ends) -> None:
    """A close that cannot flush is cut short by abort."""
    near = ends.attach(ends.near, Recorder())
    ends.attach(ends.far, Recorder(on_made=_pause))
    near.stream.write(pattern(0, ends.setup.carrier_buffer + _TAIL))
    near.close()
    await settle()
    expect(not near.losses, "close to wait for the flush", near.heard)
    near.abort()
    await hears_loss(near)
    near.close()


@stream_case(CASES)
async def a_reset_with_unread_input_ends_both(ends: Ends) -> None:
    """A reset while 64 KiB wait unread, on either side of it, ends both streams quietly."""
    near, far = ends.attach_both()
    far.stream.pause_reading()
    near.stream.write(pattern(0, 64 << 10))
    await quiet(near.stream.get_write_buffer_size)
    far.abort()
    near.stream.write(pattern(0, 1000))
    await hears_loss(near)
    near.stream.write(pattern(0, 1000))
    expect(len(far.losses) == 1, "connection_lost", far.heard)


@stream_case(CASES)
async def a_paused_reader_hears_a_reset_once_it_reads(ends: Ends) -> None:
    """A reader that had stopped gets what is left in order, and then the end."""
    near = ends.attach(ends.near, Recorder())
    far = ends.attach(ends.far, Recorder(on_made=_pause))
    near.stream.write(pattern(0, 64 << 10))
    await quiet(near.stream.get_write_buffer_size)
    near.abort()
    await settle()
    far.stream.resume_reading()
    await hears_end(far)
    expect_pattern(far.received, len(far.received))
    far.stream.write(b"to nobody")


@stream_case(CASES)
async def a_reset_during_write_eof_is_quiet(ends: Ends) -> None:
    """write_eof with bytes unsent, before and after a reset nobody has told us of, raises nothing."""
    near = ends.attach(ends.near, Recorder())
    far = ends.attach(ends.far, Recorder(on_made=_pause))
    near.stream.write(pattern(0, ends.setup.carrier_buffer + _TAIL))
    near.stream.write_eof()
    await settle()
    far.abort()
    near.stream.write_eof()
    await hears_loss(near)
    near.stream.write_eof()


@stream_case(CASES)
async def write_eof_right_after_a_reset_is_quiet(ends: Ends) -> None:
    """write_eof on an idle stream whose peer has just reset it raises nothing."""
    near, far = ends.attach_both()
    far.abort()
    near.stream.write_eof()
    near.stream.write(b"to nobody")
    await asyncio.sleep(0)
    near.stream.write_eof()
    await settle()
    near.close()
    await hears_loss(near)


@stream_case(CASES)
async def writes_after_abort_are_dropped(ends: Ends) -> None:
    """What is written after abort never arrives, is not kept, and is not even logged."""
    near, far = ends.attach_both()
    near.abort()
    for _ in range(10):
        near.stream.write(b"too late")
        near.stream.writelines([b"too", b"late"])
        await asyncio.sleep(0)
    near.stream.write_eof()
    await hears_end(far)
    expect(not far.received, "no bytes", far.received)
    expect(near.stream.get_write_buffer_size() == 0, "nothing kept", near.stream.get_write_buffer_size())


@stream_case(CASES)
async def nothing_raises_after_the_end(ends: Ends) -> None:
    """Every call is still answered, quietly, on both ends of a stream that is gone."""
    near, far = ends.attach_both()
    near.abort()
    await hears_loss(near)
    for notes in (near, far):
        # The far end is tried before, while and after it learns of the reset.
        for _ in range(8):
            _call_everything(notes.stream)
            await asyncio.sleep(0)
    far.close()
    await hears_loss(far)
    _call_everything(far.stream)
    expect(not far.received, "no bytes", far.received)


@stream_case(CASES)
async def nothing_raises_inside_connection_lost(ends: Ends) -> None:
    """The same calls from inside connection_lost are quiet too."""
    near = ends.attach(ends.near, Recorder(on_lost=lambda: _call_everything(ends.near)))
    far = ends.attach(ends.far, Recorder(on_lost=lambda: _call_everything(ends.far)))
    near.abort()
    await hears_loss(near)
    far.close()
    await hears_loss(far)


@stream_case(CASES)
async def abort_inside_a_delivery_ends_delivery(ends: Ends) -> None:
    """A protocol that aborts from inside buffer_updated gets no more data."""
    near = ends.attach(ends.near, Recorder())
    far = BufferedRecorder(room=1000, on_data=lambda _: far.abort())
    ends.attach(ends.far, far)
    near.stream.write(pattern(0, _TAIL))
    await hears_loss(far)
    await hears_end(near)
    expect(len(far.received) <= 1000, "one delivery", len(far.received))


@stream_case(CASES, patience=Patience(flush_s=0.05))
async def a_peer_that_never_reads_is_not_waited_for(ends: Ends) -> None:
    """Closed with bytes that cannot be flushed, a stream gives up without progress."""
    near = ends.attach(ends.near, Recorder())
    ends.attach(ends.far, Recorder(on_made=_pause))
    near.stream.write(pattern(0, ends.setup.carrier_buffer + _TAIL))
    near.close()
    await hears_loss(near)
    held = near.stream.get_write_buffer_size()
    expect(held == 0, "nothing buffered after the end", held)


def _pause(stream: DuplexStream) -> None:
    stream.pause_reading()


def _call_everything(stream: DuplexStream) -> None:
    stream.write(b"to nobody")
    stream.writelines([b"to ", b"nobody"])
    stream.pause_reading()
    stream.pause_reading()
    stream.resume_reading()
    stream.set_write_buffer_limits(1000, 100)
    stream.get_write_buffer_size()
    stream.can_write_eof()
    stream.write_eof()
    stream.is_closing()
    stream.get_extra_info("peername")
