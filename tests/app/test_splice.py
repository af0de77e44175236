"""Two streams joined into one: ends, resets, back pressure and cancellation pass from one side to the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.ssh_peers import turns, until
from wraith.splice import Splice, splice
from wraith_transports import READ_CHUNK, memory_pair
from wraith_transports.testing.recorder import Heard, Recorder, pattern, pattern_fault

Run = Callable[..., Any]
MIB = 1 << 20


class Joined:
    """Two memory pairs with a splice in between; a recorder at each outer end."""

    def __init__(self, *, unread: bytes = b"", far_paused: bool = False) -> None:
        near, one = memory_pair()
        far, other = memory_pair()
        self.done: list[bool] = []
        self.near, self.far = Recorder(), Recorder()
        near.attach(self.near)
        far.attach(self.far)
        if far_paused:
            far.pause_reading()
        self.one, self.other = one, other
        self.splice = Splice(one, other, unread=unread, done=lambda: self.done.append(True))

    @property
    def ends(self) -> list[Recorder]:
        return [self.near, self.far]

    async def is_done(self) -> None:
        await until(lambda: self.done, "done")
        await turns()
        assert self.done == [True], "done is called once"
        for notes in self.ends:
            assert not notes.complaints


def test_bytes_cross_both_ways(run: Run) -> None:
    async def scenario() -> None:
        joined = Joined()
        for at in range(0, 3 * MIB, 100_000):
            joined.near.stream.write(pattern(at, 100_000))
            joined.far.stream.write(pattern(at, 100_000))
            await asyncio.sleep(0)
        await until(lambda: len(joined.near.received) == len(joined.far.received) >= 3 * MIB)
        assert pattern_fault(joined.near.received) is None
        assert pattern_fault(joined.far.received) is None
        joined.splice.abort()
        await joined.is_done()

    run(scenario())


@pytest.mark.parametrize("near_first", [True, False])
def test_a_half_close_passes_through_and_the_other_half_goes_on(run: Run, near_first: bool) -> None:
    async def scenario() -> None:
        joined = Joined()
        first, second = joined.ends if near_first else reversed(joined.ends)
        first.stream.write(pattern(0, 200_000))
        first.stream.write_eof()
        await until(lambda: Heard.EOF in second.heard)
        assert len(second.received) == 200_000
        second.stream.write(pattern(0, MIB))
        second.stream.write_eof()
        await until(lambda: Heard.EOF in first.heard)
        assert len(first.received) == MIB
        assert pattern_fault(first.received) is None
        await joined.is_done()
        for notes in joined.ends:
            notes.stream.close()
            await until(lambda notes=notes: notes.losses)
            assert notes.losses == [None]

    run(scenario())


def test_a_close_passes_as_an_end_and_a_late_answer_still_arrives_nowhere(run: Run) -> None:
    async def scenario() -> None:
        joined = Joined()
        joined.near.stream.write(b"last words")
        joined.near.stream.close()
        await until(lambda: Heard.EOF in joined.far.heard)
        assert joined.far.received == b"last words"
        joined.far.stream.write(b"answer")
        joined.far.stream.close()
        await joined.is_done()
        assert joined.near.losses == [None]
        assert not joined.near.received

    run(scenario())


@pytest.mark.parametrize("near_resets", [True, False])
def test_a_reset_passes_as_a_reset(run: Run, near_resets: bool) -> None:
    async def scenario() -> None:
        joined = Joined()
        first, second = joined.ends if near_resets else reversed(joined.ends)
        first.stream.write(b"some")
        await until(lambda: second.received)
        first.stream.abort()
        await until(lambda: second.losses)
        assert isinstance(second.losses[0], OSError)
        assert Heard.EOF not in second.heard
        await joined.is_done()

    run(scenario())


def test_a_reset_after_a_half_close_passes_as_a_reset(run: Run) -> None:
    async def scenario() -> None:
        joined = Joined()
        joined.near.stream.write_eof()
        await until(lambda: Heard.EOF in joined.far.heard)
        joined.near.stream.abort()
        await until(lambda: joined.far.losses)
        assert isinstance(joined.far.losses[0], OSError)
        await joined.is_done()

    run(scenario())


def test_unread_bytes_come_first(run: Run) -> None:
    async def scenario() -> None:
        near, one = memory_pair()
        far, other = memory_pair()
        here, there = Recorder(), Recorder()
        near.attach(here)
        far.attach(there)
        near.write(pattern(1000, 1000))
        await turns()
        joined = Splice(one, other, unread=pattern(0, 1000))
        await until(lambda: len(there.received) == 2000)
        assert pattern_fault(there.received) is None
        joined.abort()

    run(scenario())


def test_unread_bytes_for_a_stopped_reader_stop_the_source(run: Run) -> None:
    async def scenario() -> None:
        joined = Joined(unread=pattern(0, READ_CHUNK), far_paused=True)
        await turns()
        joined.near.stream.write(pattern(READ_CHUNK, MIB))
        await turns()
        assert joined.near.stream.get_write_buffer_size() >= MIB - READ_CHUNK
        joined.far.stream.resume_reading()
        await until(lambda: len(joined.far.received) == READ_CHUNK + MIB)
        assert pattern_fault(joined.far.received) is None
        joined.splice.abort()
        await joined.is_done()

    run(scenario())


def test_a_sink_that_is_full_at_the_start_stops_the_source(run: Run) -> None:
    """What the streams held before the splice counts: attaching lifts pauses, and this one must come back."""

    async def scenario() -> None:
        near, one = memory_pair()
        far, other = memory_pair()
        here, there = Recorder(), Recorder()
        near.attach(here)
        far.attach(there)
        far.pause_reading()
        other.write(pattern(0, 300_000))
        near.write(pattern(300_000, MIB))
        await turns()
        joined = Splice(one, other)
        await turns()
        assert other.get_write_buffer_size() <= 300_000 + READ_CHUNK
        assert near.get_write_buffer_size() >= MIB - 2 * READ_CHUNK
        far.resume_reading()
        await until(lambda: len(there.received) == 300_000 + MIB)
        assert pattern_fault(there.received) is None
        joined.abort()

    run(scenario())


@pytest.mark.parametrize("near_sends", [True, False])
def test_a_stopped_reader_stops_the_source_at_one_read(run: Run, near_sends: bool) -> None:
    async def scenario() -> None:
        joined = Joined()
        source, sink = joined.ends if near_sends else reversed(joined.ends)
        between = joined.other if near_sends else joined.one
        sink.stream.pause_reading()
        source.stream.write(pattern(0, 8 * MIB))
        await turns(500)
        assert between.get_write_buffer_size() <= READ_CHUNK
        assert source.stream.get_write_buffer_size() >= 8 * MIB - 4 * READ_CHUNK
        # The other direction goes on.
        sink.stream.write(pattern(0, MIB))
        await until(lambda: len(source.received) == MIB)
        sink.stream.resume_reading()
        await until(lambda: len(sink.received) == 8 * MIB)
        assert pattern_fault(sink.received) is None
        joined.splice.abort()
        await joined.is_done()

    run(scenario())


def test_abort_resets_both_and_is_done_once(run: Run) -> None:
    async def scenario() -> None:
        joined = Joined()
        joined.splice.abort()
        joined.splice.abort()
        await joined.is_done()
        for notes in joined.ends:
            await until(lambda notes=notes: notes.losses)
            assert isinstance(notes.losses[0], OSError)

    run(scenario())


def test_a_stream_that_ended_before_the_splice_ends_the_other(run: Run) -> None:
    async def scenario() -> None:
        near, one = memory_pair()
        far, other = memory_pair()
        there = Recorder()
        far.attach(there)
        near.write(b"left behind")
        await turns()
        near.close()
        await turns()
        joined = asyncio.ensure_future(splice(one, other))
        await until(lambda: Heard.EOF in there.heard)
        assert there.received == b"left behind"
        far.close()
        await joined

    run(scenario())


def test_splice_returns_when_both_are_gone(run: Run) -> None:
    async def scenario() -> None:
        near, one = memory_pair()
        far, other = memory_pair()
        here, there = Recorder(), Recorder()
        near.attach(here)
        far.attach(there)
        joined = asyncio.ensure_future(splice(one, other, unread=b"first "))
        near.write(b"second")
        near.write_eof()
        await until(lambda: Heard.EOF in there.heard)
        assert not joined.done()
        far.write_eof()
        await joined
        assert there.received == b"first second"

    run(scenario())


def test_cancelling_resets_both(run: Run) -> None:
    async def scenario() -> None:
        near, one = memory_pair()
        far, other = memory_pair()
        here, there = Recorder(), Recorder()
        near.attach(here)
        far.attach(there)
        joined = asyncio.ensure_future(splice(one, other))
        await turns()
        joined.cancel()
        with pytest.raises(asyncio.CancelledError):
            await joined
        await until(lambda: here.losses and there.losses)
        assert isinstance(here.losses[0], OSError)
        assert isinstance(there.losses[0], OSError)

    run(scenario())


def test_a_splice_is_done_although_a_reader_never_took_what_was_held(run: Run) -> None:
    """The source has ended with bytes unread, and then the sink is reset: nobody waits for those bytes."""

    async def scenario() -> None:
        joined = Joined(unread=pattern(0, READ_CHUNK), far_paused=True)
        await turns()
        joined.one._inbox.feed(pattern(READ_CHUNK, READ_CHUNK))
        assert joined.one._inbox.held
        joined.near.stream.abort()
        await turns()
        joined.far.stream.abort()
        await joined.is_done()

    run(scenario())
