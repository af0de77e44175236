"""Cases about flow control: who may still send or receive, and how much is held meanwhile."""

# ruff: noqa: D401 - a case is documented by the claim it tries

from __future__ import annotations

from ..stream import DEFAULT_HIGH_WATER, HOLD_LIMIT, DuplexStream
from .case import Ends, StreamCase, arrives, comes, eventually, expect, expect_pattern, pour, quiet, settle, stream_case
from .recorder import BufferedRecorder, Heard, Notes, Recorder, pattern

CASES: list[StreamCase] = []

_OFFERED = 1 << 30
_DRAINED = 64 << 20
_BLOCK = 64 << 10
_STALLED_S = 0.1  # a pause_writing that lasts this long on an idle loopback will last


@stream_case(CASES)
async def a_stopped_reader_stops_the_writer(ends: Ends) -> None:
    """Of 1 GiB offered to a reader that stopped, at most the high-water mark is held; then all flows."""
    near = ends.attach(ends.near, Recorder())
    far = ends.attach(ends.far, Recorder(on_made=_pause))
    taken = await _offer(ends, near)
    far.stream.resume_reading()
    total = max(_DRAINED, taken)
    await pour(near, total, start=taken)
    await arrives(far, total)
    expect_pattern(far.received, total)
    await eventually(lambda: not near.writing_paused, "resume_writing after the drain", near.heard)


@stream_case(CASES)
async def an_unattached_stream_holds_little(ends: Ends) -> None:
    """Before the first attach at most HOLD_LIMIT is held and the writer is stopped; then all arrives."""
    near = ends.attach(ends.near, Recorder())
    taken = await _offer(ends, near)
    far = ends.attach(ends.far, Recorder())
    await arrives(far, taken)
    expect_pattern(far.received, taken)


@stream_case(CASES)
async def one_large_block_is_taken_whole(ends: Ends) -> None:
    """A single write above the high mark is taken, tells the writer to pause, and arrives."""
    near = ends.attach(ends.near, Recorder())
    far = ends.attach(ends.far, Recorder(on_made=_pause))
    size = ends.setup.carrier_buffer + (4 << 20)
    near.stream.write(pattern(0, size))
    await eventually(lambda: near.writing_paused, "pause_writing", near.heard)
    far.stream.resume_reading()
    await arrives(far, size)
    expect_pattern(far.received, size)
    await eventually(lambda: not near.writing_paused, "resume_writing", near.heard)


@stream_case(CASES)
async def limits_of_zero_pause_on_any_residue(ends: Ends) -> None:
    """With set_write_buffer_limits(0, 0) one unsent byte pauses the writer, and none resumes it."""
    near = ends.attach(ends.near, Recorder())
    far = ends.attach(ends.far, Recorder(on_made=_pause))
    near.stream.set_write_buffer_limits(0, 0)
    sent = 0
    most = ends.setup.carrier_buffer + 2 * HOLD_LIMIT + (1 << 20)
    while sent <= most and not near.writing_paused:
        near.stream.write(pattern(sent, _BLOCK))
        sent += _BLOCK
        if near.stream.get_write_buffer_size():
            await comes(lambda: near.writing_paused or not near.stream.get_write_buffer_size())
            expect(
                near.writing_paused or not near.stream.get_write_buffer_size(),
                "pause_writing while anything is unsent",
                f"{near.stream.get_write_buffer_size()} bytes unsent and {near.heard}",
            )
    expect(near.writing_paused, f"pause_writing within {most} bytes to a stopped reader", near.heard)
    far.stream.resume_reading()
    await eventually(lambda: not near.writing_paused, "resume_writing", near.heard)
    expect(near.stream.get_write_buffer_size() == 0, "resume_writing at 0", near.stream.get_write_buffer_size())
    await arrives(far, sent)
    expect_pattern(far.received, sent)


@stream_case(CASES)
async def lowered_limits_are_obeyed(ends: Ends) -> None:
    """A writer with limits of 16 and 4 KiB is paused above the one and resumed at the other."""
    near = ends.attach(ends.near, Recorder())
    ends.attach(ends.far, Recorder(on_made=_pause))
    near.stream.set_write_buffer_limits(16 << 10, 4 << 10)
    await _offer(ends, near, high=16 << 10, block=1 << 10)
    ends.far.resume_reading()
    await eventually(lambda: not near.writing_paused, "resume_writing", near.heard)
    seen = near.stream.get_write_buffer_size()
    expect(seen <= 4 << 10, "resume_writing at or below the low mark", seen)


@stream_case(CASES)
async def a_pause_made_inside_connection_made_is_honoured(ends: Ends) -> None:
    """A protocol that pauses at once gets neither held nor unread bytes before it resumes."""
    near = ends.attach(ends.near, Recorder())
    near.stream.write(pattern(100, 300_000))
    await quiet(near.stream.get_write_buffer_size)
    far = ends.attach(ends.far, Recorder(on_made=_pause), unread=pattern(0, 100))
    await settle()
    expect(not far.received, "nothing while paused", f"{len(far.received)} bytes")
    far.stream.resume_reading()
    await arrives(far, 300_100)
    expect_pattern(far.received, 300_100)


@stream_case(CASES)
async def a_pause_inside_data_received_is_honoured(ends: Ends) -> None:
    """After a pause made while data is delivered at most HOLD_LIMIT more arrives; resuming loses none."""
    await _pauses_on_data(ends, Recorder(on_data=lambda _: ends.far.pause_reading()))


@stream_case(CASES)
async def a_pause_inside_buffer_updated_is_honoured(ends: Ends) -> None:
    """The same for a BufferedProtocol, whose held bytes must also wait."""
    await _pauses_on_data(ends, BufferedRecorder(room=8000, on_data=lambda _: ends.far.pause_reading()))


@stream_case(CASES)
async def reading_in_single_steps_loses_nothing(ends: Ends) -> None:
    """A protocol that pauses on every delivery and is resumed from outside gets every byte."""
    near = ends.attach(ends.near, Recorder())
    far = ends.attach(ends.far, Recorder(on_data=lambda _: ends.far.pause_reading()))
    near.stream.write(pattern(0, 1 << 20))
    near.stream.close()
    await eventually(lambda: _step(far), "1 MiB and its end", far.heard)
    expect_pattern(far.received, 1 << 20)


@stream_case(CASES)
async def pausing_and_resuming_twice_is_once(ends: Ends) -> None:
    """pause_reading and resume_reading are idempotent: they do not count."""
    near, far = ends.attach_both()
    for _ in range(3):
        far.stream.pause_reading()
    far.stream.resume_reading()
    near.stream.write(pattern(0, 1000))
    await arrives(far, 1000)
    for _ in range(3):
        far.stream.resume_reading()
    far.stream.pause_reading()
    total = 1000 + 4 * HOLD_LIMIT
    near.stream.write(pattern(1000, 4 * HOLD_LIMIT))
    await settle()
    expect(len(far.received) <= 1000 + HOLD_LIMIT, f"at most {HOLD_LIMIT} bytes while paused", len(far.received))
    far.stream.resume_reading()
    await arrives(far, total)
    expect_pattern(far.received, total)


@stream_case(CASES)
async def one_direction_paused_leaves_the_other_alone(ends: Ends) -> None:
    """A reader that stopped still sends."""
    near = ends.attach(ends.near, Recorder())
    far = ends.attach(ends.far, Recorder(on_made=_pause))
    await _offer(ends, near)
    await pour(far, 2 << 20)
    await arrives(near, 2 << 20)
    expect_pattern(near.received, 2 << 20)


def _pause(stream: DuplexStream) -> None:
    stream.pause_reading()


def _step(notes: Notes) -> bool:
    notes.stream.resume_reading()
    return Heard.EOF in notes.heard or bool(notes.losses)


async def _pauses_on_data(ends: Ends, reader: Notes) -> None:
    near = ends.attach(ends.near, Recorder())
    far = ends.attach(ends.far, reader)
    total = 16 * HOLD_LIMIT
    near.stream.write(pattern(0, total))
    await eventually(lambda: bool(far.received), "the first bytes", far.heard)
    arrived = await quiet(lambda: len(far.received))
    expect(arrived <= 2 * HOLD_LIMIT, f"at most {HOLD_LIMIT} bytes after the first delivery", arrived)
    await eventually(lambda: _step(far) or len(far.received) >= total, f"{total} bytes", lambda: len(far.received))
    expect_pattern(far.received, total)


async def _offer(ends: Ends, writer: Notes, high: int = DEFAULT_HIGH_WATER, block: int = _BLOCK) -> int:
    """Offer 1 GiB to a reader that does not read; return what was taken when the writer stays paused."""
    taken = 0
    while taken < _OFFERED:
        if writer.writing_paused:
            if not await comes(lambda: not writer.writing_paused, _STALLED_S):
                break
            continue
        writer.stream.write(pattern(taken, block))
        taken += block
        held = writer.stream.get_write_buffer_size()
        expect(held <= high + block, f"pause_writing above {high} bytes", f"{held} bytes held and {writer.heard}")
    most = high + block + 2 * HOLD_LIMIT + ends.setup.carrier_buffer
    expect(taken <= most, f"a stopped reader to stop the writer within {most} bytes", taken)
    return taken
