"""Cases about bytes: each arrives once, in order, whatever pieces it was written and read in."""

# ruff: noqa: D401 - a case is documented by the claim it tries

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from ..stream import Buffer
from .case import Ends, StreamCase, arrives, eventually, expect, expect_pattern, pour, settle, stream_case
from .recorder import AmbidextrousRecorder, BufferedRecorder, Notes, Recorder, pattern

CASES: list[StreamCase] = []

# Around the sizes at which streams change their mind: one byte, a TLS record, a read chunk.
_SIZES = (1, 2, 3, 7, 100, 1000, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 200_000)


@stream_case(CASES)
async def bytes_survive_any_split(ends: Ends) -> None:
    """Writes of every size, both ways at once, arrive whole and in order."""
    near, far = ends.attach_both()
    sent = 0
    for turn, size in enumerate(_SIZES * 2):
        near.stream.write(pattern(sent, size))
        far.stream.write(pattern(sent, size))
        sent += size
        if turn % 3 == 0:
            await asyncio.sleep(0)
    for notes in (near, far):
        await arrives(notes, sent)
        expect_pattern(notes.received, sent)


@stream_case(CASES)
async def single_bytes_arrive_in_order(ends: Ends) -> None:
    """A thousand writes of one byte, with and without turns of the loop between them."""
    near, far = ends.attach_both()
    for at in range(1000):
        near.stream.write(pattern(at, 1))
        if at % 2:
            await asyncio.sleep(0)
    await arrives(far, 1000)
    expect_pattern(far.received, 1000)


@stream_case(CASES)
async def empty_writes_are_nothing(ends: Ends) -> None:
    """Writing no bytes delivers nothing and ends nothing."""
    near, far = ends.attach_both()
    near.stream.write(b"")
    near.stream.writelines([])
    near.stream.writelines([b"", bytearray(), memoryview(b"")])
    near.stream.write(pattern(0, 10))
    near.stream.write(b"")
    await arrives(far, 10)
    near.stream.write(b"")
    await settle()
    expect_pattern(far.received, 10)
    expect(not far.ended, "an open stream", far.heard)


@stream_case(CASES)
async def writelines_keeps_the_order(ends: Ends) -> None:
    """The parts, from any iterable and of any buffer type, arrive in order among the writes around them."""
    near, far = ends.attach_both()

    def parts(start: int) -> Iterator[Buffer]:
        yield pattern(start, 100)
        yield bytearray(pattern(start + 100, 1))
        yield b""
        yield memoryview(b"--" + pattern(start + 101, 70_000) + b"--")[2:-2]

    sent = 0
    for _ in range(5):
        near.stream.write(pattern(sent, 10))
        near.stream.writelines(parts(sent + 10))
        sent += 10 + 101 + 70_000
    near.stream.writelines([pattern(sent + i, 1) for i in range(3000)])
    sent += 3000
    await arrives(far, sent)
    expect_pattern(far.received, sent)


@stream_case(CASES)
async def any_buffer_can_be_written(ends: Ends) -> None:
    """bytes, bytearray and a slice of a memoryview are all written as their bytes."""
    near, far = ends.attach_both()
    near.stream.write(pattern(0, 500))
    near.stream.write(bytearray(pattern(500, 500)))
    near.stream.write(memoryview(bytearray(b"x" + pattern(1000, 500) + b"x"))[1:-1])
    await arrives(far, 1500)
    expect_pattern(far.received, 1500)


@stream_case(CASES)
async def a_buffer_may_be_used_again_when_nothing_is_buffered(ends: Ends) -> None:
    """Once get_write_buffer_size() is 0 the writer may change what it wrote, delivered or still held."""
    near = ends.attach(ends.near, Recorder())
    # 16 KiB are held by a stream nobody reads yet, well below HOLD_LIMIT; 16 KiB are delivered.
    for at in range(0, 16 << 10, 4096):
        await _write_and_reuse(near, at)
    far = ends.attach(ends.far, Recorder())
    for at in range(16 << 10, 32 << 10, 4096):
        await _write_and_reuse(near, at)
    await arrives(far, 32 << 10)
    expect_pattern(far.received, 32 << 10)


@stream_case(CASES)
async def a_buffered_protocol_gets_everything(ends: Ends) -> None:
    """A BufferedProtocol is filled through its own buffer."""
    await _through(ends, BufferedRecorder(), 3 << 20)


@stream_case(CASES)
async def a_small_buffer_is_filled_again_and_again(ends: Ends) -> None:
    """A BufferedProtocol whose buffer is smaller than what came loses none of it."""
    await _through(ends, BufferedRecorder(room=100), 100_001)


@stream_case(CASES)
async def a_buffer_of_one_byte_is_enough(ends: Ends) -> None:
    """A BufferedProtocol with room for one byte gets them one by one."""
    await _through(ends, BufferedRecorder(room=1), 3000)


@stream_case(CASES)
async def a_protocol_of_both_kinds_is_a_buffered_one(ends: Ends) -> None:
    """A class that is Protocol and BufferedProtocol is given its data through get_buffer."""
    await _through(ends, AmbidextrousRecorder(), 200_000)


@stream_case(CASES)
async def both_directions_flow_at_once(ends: Ends) -> None:
    """Two writers that obey pause_writing exchange 8 MiB each way and neither starves the other."""
    near, far = ends.attach_both()
    total = 8 << 20
    await asyncio.gather(pour(near, total), pour(far, total), arrives(near, total), arrives(far, total))
    expect_pattern(near.received, total)
    expect_pattern(far.received, total)


async def _through(ends: Ends, reader: Notes, total: int) -> None:
    near = ends.attach(ends.near, Recorder())
    far = ends.attach(ends.far, reader)
    await pour(near, total)
    await arrives(far, total)
    expect_pattern(far.received, total)


async def _write_and_reuse(writer: Notes, at: int) -> None:
    room = bytearray(pattern(at, 4096))
    unsent = writer.stream.get_write_buffer_size
    writer.stream.write(memoryview(room) if at % 8192 else room)
    await eventually(lambda: unsent() == 0, "the write to be taken", unsent)
    room[:] = bytes(4096)
