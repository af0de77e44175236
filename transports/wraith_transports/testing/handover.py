"""Cases about attach: whoever holds the stream gets the bytes, and nobody else hears anything."""

# ruff: noqa: D401 - a case is documented by the claim it tries

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .case import (
    Ends,
    Patience,
    StreamCase,
    arrives,
    comes,
    eventually,
    expect,
    expect_pattern,
    hears_end,
    hears_loss,
    pour,
    quiet,
    settle,
    stream_case,
)
from .recorder import BufferedRecorder, Heard, Notes, Recorder, pattern

CASES: list[StreamCase] = []

_SOON_S = 0.05


@stream_case(CASES)
async def hand_over_inside_a_delivery_loses_nothing(ends: Ends) -> None:
    """Protocol, BufferedProtocol, Protocol, each attached from inside the last one's callback."""
    near = ends.attach(ends.near, Recorder())
    total = 4 << 20
    owners: list[Notes] = []

    def next_owner(_: bytes) -> None:
        if sum(len(owner.received) for owner in owners) < total - (1 << 20):
            owners.append(_fresh(len(owners), next_owner))
            ends.hand_over(owners[-2], owners[-1])

    owners.append(_fresh(0, next_owner))
    ends.attach(ends.far, owners[0])
    await pour(near, total)
    await _all_arrives(owners, total)


@stream_case(CASES)
async def hand_over_between_deliveries_loses_nothing(ends: Ends) -> None:
    """The same, attached from outside while bytes are under way."""
    near = ends.attach(ends.near, Recorder())
    total = 4 << 20
    owners: list[Notes] = [_fresh(0)]
    ends.attach(ends.far, owners[0])
    pouring = asyncio.create_task(pour(near, total))
    try:
        for turn in range(1, 40):
            await asyncio.sleep(0)
            owners.append(_fresh(turn))
            ends.hand_over(owners[-2], owners[-1])
        await pouring
    finally:
        pouring.cancel()
    await _all_arrives(owners, total)


@stream_case(CASES)
async def what_an_owner_did_not_use_goes_to_the_next(ends: Ends) -> None:
    """A protocol that reads a head and hands over with `unread` splits the stream where it likes."""
    near = ends.attach(ends.near, Recorder())
    middle = BufferedRecorder(room=100, on_data=lambda data: split(middle, last, data))
    last = Recorder()
    heads: list[bytes] = []

    def split(owner: Notes, heir: Notes, data: bytes) -> None:
        heads.append(data[:10])
        ends.hand_over(owner, heir, unread=data[10:])

    first = Recorder(on_data=lambda data: split(first, middle, data))
    ends.attach(ends.far, first)
    near.stream.write(pattern(0, 5000))
    await arrives(last, 4980)
    near.stream.write(pattern(5000, 5000))
    await arrives(last, 9980)
    expect_pattern(b"".join(heads) + last.received, 10_000)


@stream_case(CASES)
async def unread_comes_before_held_and_live_bytes(ends: Ends) -> None:
    """attach(protocol, unread) delivers unread, then what was held, then what comes."""
    near = ends.attach(ends.near, Recorder())
    near.stream.write(pattern(1000, 1000))
    await quiet(near.stream.get_write_buffer_size)
    far = ends.attach(ends.far, Recorder(), unread=pattern(0, 1000))
    near.stream.write(pattern(2000, 1000))
    await arrives(far, 3000)
    expect_pattern(far.received, 3000)


@stream_case(CASES)
async def unread_that_waits_is_handed_over_too(ends: Ends) -> None:
    """Unread bytes a paused protocol never got go to the next one, after that one's own."""
    near = ends.attach(ends.near, Recorder())
    near.stream.write(pattern(2000, 1000))
    await quiet(near.stream.get_write_buffer_size)
    first = ends.attach(ends.far, Recorder(on_made=lambda stream: stream.pause_reading()), unread=pattern(1000, 1000))
    await settle()
    expect(not first.received, "nothing while paused", len(first.received))
    second = ends.hand_over(first, BufferedRecorder(room=300), unread=pattern(0, 1000))
    await arrives(second, 3000)
    expect_pattern(second.received, 3000)


@stream_case(CASES)
async def hand_over_lifts_a_pause(ends: Ends) -> None:
    """A pause made by the previous protocol does not bind the next."""
    near = ends.attach(ends.near, Recorder())
    first = ends.attach(ends.far, Recorder(on_made=lambda stream: stream.pause_reading()))
    near.stream.write(pattern(0, 300_000))
    await quiet(near.stream.get_write_buffer_size)
    kept = len(first.received)
    second = ends.hand_over(first, Recorder())
    await arrives(second, 300_000 - kept)
    expect_pattern(first.received + second.received, 300_000)


@stream_case(CASES)
async def a_new_owner_hears_that_writing_is_paused(ends: Ends) -> None:
    """Attached above the high mark, a protocol hears pause_writing at once and resume_writing later."""
    first = ends.attach(ends.near, Recorder())
    far = ends.attach(ends.far, Recorder(on_made=lambda stream: stream.pause_reading()))
    size = ends.setup.carrier_buffer + (4 << 20)
    first.stream.write(pattern(0, size))
    await eventually(lambda: first.writing_paused, "pause_writing", first.heard)
    second = ends.hand_over(first, Recorder())
    await asyncio.sleep(0)
    expect(second.writing_paused, "pause_writing at once after the hand-over", second.heard)
    far.stream.resume_reading()
    await eventually(lambda: not second.writing_paused, "resume_writing", second.heard)
    await arrives(far, size)


@stream_case(CASES)
async def held_bytes_reach_a_late_protocol(ends: Ends) -> None:
    """What came before the first attach is delivered after it, to either kind of protocol."""
    ends.near.write(pattern(0, 50_000))
    ends.far.write(pattern(0, 50_000))
    await settle()
    far = ends.attach(ends.far, BufferedRecorder(room=777))
    near = ends.attach(ends.near, Recorder())
    for notes in (near, far):
        await arrives(notes, 50_000)
        expect_pattern(notes.received, 50_000)


@stream_case(CASES)
async def attach_after_the_peer_closed_gets_everything(ends: Ends) -> None:
    """A stream whose peer wrote and closed before anybody attached delivers the bytes, then the end."""
    near = ends.attach(ends.near, Recorder())
    near.stream.write(pattern(0, 50_000))
    near.close()
    await settle()
    far = ends.attach(ends.far, Recorder())
    await hears_end(far)
    expect_pattern(far.received, 50_000)
    if ends.setup.half_close:
        expect(Heard.EOF in far.heard, "eof_received, as the peer ended its half", far.heard)
    far.close()
    await hears_loss(far)
    await hears_loss(near)


@stream_case(CASES)
async def attach_after_a_reset_gets_the_end(ends: Ends) -> None:
    """A stream that was reset while unattached delivers unread, what it still has, and connection_lost."""
    near = ends.attach(ends.near, Recorder())
    near.stream.write(pattern(100, 1000))
    await settle()
    near.abort()
    await eventually(ends.far.is_closing, "an unattached stream to notice a reset", ends.far.is_closing)
    far = ends.attach(ends.far, Recorder(), unread=pattern(0, 100))
    await hears_loss(far)
    expect(len(far.received) >= 100, "at least the unread bytes", len(far.received))
    expect_pattern(far.received, len(far.received))


@stream_case(CASES)
async def attach_after_connection_lost_hears_it_again(ends: Ends) -> None:
    """After the end every new protocol hears connection_made, its unread bytes, and connection_lost."""
    near, far = ends.attach_both()
    near.abort()
    await hears_loss(far)
    for stream, old in ((ends.near, near), (ends.far, far)):
        for late in (Recorder(), BufferedRecorder(room=7)):
            ends.attach(stream, late, unread=pattern(0, 20))
            await hears_loss(late)
            expect_pattern(late.received, 20)
            expect(late.heard[0] is Heard.MADE, "connection_made first", late.heard)
        expect(len(old.losses) == 1, "the old protocol to hear nothing more", old.heard)


@stream_case(CASES)
async def a_hand_over_hides_the_end_from_the_old_owner(ends: Ends) -> None:
    """Handed over and then ended, the old protocol hears nothing, not even connection_lost."""
    near, far = ends.attach_both()
    new_near = ends.hand_over(near, Recorder())
    new_far = ends.hand_over(far, BufferedRecorder())
    new_near.abort()
    await hears_loss(new_far)
    await hears_loss(new_near)
    await settle()
    expect(not near.losses and not far.losses, "silence for the old protocols", (near.heard, far.heard))


@stream_case(CASES)
async def a_hand_over_after_abort_moves_the_end(ends: Ends) -> None:
    """Between abort() and the next turn a hand-over still decides who hears connection_lost."""
    near, _ = ends.attach_both()
    near.abort()
    new = ends.hand_over(near, Recorder())
    await hears_loss(new)


@stream_case(CASES, patience=Patience(unattached_s=_SOON_S))
async def a_stream_nobody_wants_is_aborted(ends: Ends) -> None:
    """Unattached for its timeout, a stream ends; attached, it lives on past it."""
    near = ends.attach(ends.near, Recorder())
    await hears_end(near)
    await eventually(ends.far.is_closing, "the unattached stream to have ended", ends.far.is_closing)


@stream_case(CASES, patience=Patience(unattached_s=_SOON_S))
async def an_attached_stream_outlives_the_unattached_timeout(ends: Ends) -> None:
    """The clock for unattached streams stops at the first attach, for good."""
    near, far = ends.attach_both()
    expect(not await comes(lambda: near.ended or far.ended, 3 * _SOON_S), "both ends alive", near.heard)
    near.stream.write(pattern(0, 10))
    await arrives(far, 10)


@stream_case(CASES)
async def a_stream_taken_back_holds_for_the_next_owner(ends: Ends) -> None:
    """hold(unread): the old protocol hears nothing more; the next gets unread, then all that came."""
    near, far = ends.attach_both()
    far.stream.pause_reading()
    near.stream.write(pattern(1000, 1000))
    await settle()
    kept = len(far.received)
    expect_pattern(far.received, kept, start=1000)
    _take_back(far, pattern(0, 1000 + kept))
    near.stream.write(pattern(2000, 1000))
    await settle()
    heir = ends.attach(ends.far, BufferedRecorder(room=777))
    await arrives(heir, 3000)
    expect_pattern(heir.received, 3000)
    heir.stream.write(pattern(0, 10))
    await arrives(near, 10)


@stream_case(CASES)
async def a_stream_taken_back_keeps_its_end(ends: Ends) -> None:
    """Reset while nobody holds it, the stream still gives unread and connection_lost to the next owner."""
    near, far = ends.attach_both()
    _take_back(far, pattern(0, 100))
    near.abort()
    await eventually(ends.far.is_closing, "a held stream to notice a reset", ends.far.is_closing)
    heir = ends.attach(ends.far, Recorder())
    await hears_loss(heir)
    expect_pattern(heir.received, 100)


@stream_case(CASES, patience=Patience(unattached_s=_SOON_S))
async def a_stream_taken_back_and_never_wanted_is_aborted(ends: Ends) -> None:
    """After hold() the clock for unattached streams runs again."""
    near, far = ends.attach_both()
    _take_back(far)
    await hears_end(near)
    await eventually(ends.far.is_closing, "the unattached stream to have ended", ends.far.is_closing)


def _fresh(turn: int, on_data: Callable[[bytes], None] | None = None) -> Notes:
    if turn % 2:
        return BufferedRecorder(room=30_000, on_data=on_data)
    return Recorder(on_data=on_data)


async def _all_arrives(owners: list[Notes], total: int) -> None:
    def arrived() -> int:
        return sum(len(owner.received) for owner in owners)

    await eventually(lambda: arrived() >= total, f"{total} bytes over all owners", arrived)
    expect_pattern(b"".join(owner.received for owner in owners), total)


def _take_back(owner: Notes, unread: bytes = b"") -> None:
    owner.retire()
    owner.stream.hold(unread)
