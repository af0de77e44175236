"""A conformance case: one claim about a stream or transport, and the run that tries it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from ..stream import CLOSE_DRAIN_TIMEOUT_S, CLOSE_FLUSH_TIMEOUT_S, UNATTACHED_TIMEOUT_S, DuplexStream
from ..transport import Transport, TransportAcceptor, TransportInfo
from .recorder import Notes, Recorder, pattern, pattern_fault

WAIT_S = 5.0  # for one thing to happen; on a busy machine a loopback turn takes milliseconds
CASE_LIMIT_S = 30.0  # for a whole case, so that a stream that hangs fails instead
_QUIET_POLLS = 4  # polls in a row that must see no change before something counts as not happening
_POLL_S = 0.004

R = TypeVar("R", bound=Notes)
Pair = tuple[DuplexStream, DuplexStream]
Obtained = tuple[DuplexStream, TransportInfo]


class ConformanceFailure(AssertionError):
    """A stream or transport did not do what the contract says."""

    def __init__(self, expected: str, seen: object) -> None:
        super().__init__(f"expected {expected}; saw {seen}")
        self.expected = expected
        self.seen = str(seen)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the streams under test wait before they abort themselves."""

    unattached_s: float = UNATTACHED_TIMEOUT_S
    flush_s: float = CLOSE_FLUSH_TIMEOUT_S
    drain_s: float = CLOSE_DRAIN_TIMEOUT_S


_PATIENT = Patience()


class PairFactory(Protocol):
    """Opens two connected streams, not attached to anything, and tidies up after them."""

    def __call__(self, patience: Patience) -> AbstractAsyncContextManager[Pair]:
        """Give (near, far), each with that patience if it can be told."""
        ...


@dataclass(frozen=True, slots=True)
class StreamSetup:
    """How to obtain a pair of the streams under test, and what their carrier can do."""

    open: PairFactory
    half_close: bool = True  # one direction can end while the other goes on
    carries_reset: bool = True  # the peer of an abort can tell it from an orderly end
    carrier_buffer: int = 0  # bytes the kernel, or layers below, may hold between the two ends
    patience_can_be_set: bool = True  # `open` obeys its argument


def swapped(setup: StreamSetup) -> StreamSetup:
    """Exchange the ends: for carriers whose two ends differ, as a client and a server do."""

    @asynccontextmanager
    async def open_swapped(patience: Patience) -> AsyncIterator[Pair]:
        async with setup.open(patience) as (near, far):
            yield far, near

    return replace(setup, open=open_swapped)


Spoiler = Callable[[TransportAcceptor], AbstractAsyncContextManager[None]]
"""Connects to an acceptor and spoils the handshake; a context, so that a stalled one can go on."""


@dataclass(frozen=True, slots=True)
class TransportSetup:
    """How to obtain a transport, and the started acceptor it leads to."""

    open: Callable[[], AbstractAsyncContextManager[tuple[Transport, TransportAcceptor]]]
    rival: Callable[[TransportAcceptor], TransportAcceptor] | None = None  # another one for the address in use
    spoilers: Sequence[Spoiler] = ()
    notices_refusal: bool = True  # connecting to where nobody listens fails rather than waits


class Ends:
    """The two ends of a connection under test, with everything that was attached to them."""

    def __init__(self, near: DuplexStream, far: DuplexStream, setup: StreamSetup, told: list[dict[str, Any]]) -> None:
        self.near = near
        self.far = far
        self.setup = setup
        self.told = told  # what the loop's exception handler was called with
        self._notes: list[Notes] = []

    def attach(self, stream: DuplexStream, notes: R, unread: bytes = b"") -> R:
        """Attach a recorder and see that it hears connection_made before attach returns."""
        self._notes.append(notes)
        if unread:
            stream.attach(notes, unread)  # type: ignore[arg-type] # every Notes here is one of the two protocols
        else:
            stream.attach(notes)  # type: ignore[arg-type]
        expect(notes.made_with is stream, "connection_made(stream) before attach returns", f"{notes.made_with!r}")
        return notes

    def attach_both(self) -> tuple[Recorder, Recorder]:
        """Attach a plain recorder to each end: (near, far)."""
        return self.attach(self.near, Recorder()), self.attach(self.far, Recorder())

    def hand_over(self, old: Notes, new: R, unread: bytes = b"") -> R:
        """Attach `new` to the stream of `old`, which must hear nothing from here on."""
        old.retire()
        return self.attach(old.stream, new, unread)

    async def finish(self) -> None:
        """Abort both ends and check what must hold for every protocol, whatever the case did."""
        self.near.abort()
        self.far.abort()
        for notes in self._notes:
            if not notes.retired:
                await hears_loss(notes)
        await settle()
        for notes in self._notes:
            expect(not notes.complaints, "callbacks in the order of the contract", notes.complaints)
            expect(len(notes.losses) <= 1, "connection_lost exactly once", notes.heard)


class Route:
    """A transport under test and the started acceptor it leads to, with the streams it yielded."""

    def __init__(self, setup: TransportSetup, transport: Transport, acceptor: TransportAcceptor) -> None:
        self.setup = setup
        self.transport = transport
        self.acceptor = acceptor
        self.streams: list[DuplexStream] = []

    async def connect(self) -> Obtained:
        """Open a stream, which is aborted when the case is over."""
        return self._keep(await self.transport.connect())

    async def accept(self) -> Obtained:
        """Accept a stream, which is aborted when the case is over."""
        return self._keep(await self.acceptor.accept())

    def _keep(self, obtained: Obtained) -> Obtained:
        self.streams.append(obtained[0])
        return obtained


StreamCheck = Callable[[Ends], Awaitable[None]]
TransportCheck = Callable[[Route], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class StreamCase:
    """One claim about every stream; `claim` says it in words."""

    name: str
    claim: str
    check: StreamCheck
    needs: Callable[[StreamSetup], bool]
    patience: Patience
    tells_loop: bool  # the loop's exception handler is called, on purpose

    def applies_to(self, setup: StreamSetup) -> bool:
        """Whether the carrier has what this case is about."""
        return self.needs(setup) and (setup.patience_can_be_set or self.patience == _PATIENT)

    async def run(self, setup: StreamSetup) -> None:
        """Try it on a fresh pair; raises ConformanceFailure."""
        async with _observed() as told:
            async with setup.open(self.patience) as (near, far):
                ends = Ends(near, far, setup, told)
                try:
                    await self.check(ends)
                    await ends.finish()
                finally:
                    await _abandon([near, far])
            if not self.tells_loop:
                expect(not told, "nothing for the loop's exception handler or asyncio's log", told)


@dataclass(frozen=True, slots=True)
class TransportCase:
    """One claim about every transport and its acceptor; `claim` says it in words."""

    name: str
    claim: str
    check: TransportCheck
    needs: Callable[[TransportSetup], bool]

    def applies_to(self, setup: TransportSetup) -> bool:
        """Whether the transport has what this case is about."""
        return self.needs(setup)

    async def run(self, setup: TransportSetup) -> None:
        """Try it on a fresh acceptor; raises ConformanceFailure."""
        async with _observed() as told:
            async with setup.open() as (transport, acceptor):
                route = Route(setup, transport, acceptor)
                try:
                    await self.check(route)
                finally:
                    await _abandon(route.streams)
            await settle()
            expect(not told, "nothing for the loop's exception handler or asyncio's log", told)


def stream_case(
    book: list[StreamCase],
    *,
    needs: Callable[[StreamSetup], bool] = lambda _: True,
    patience: Patience = _PATIENT,
    tells_loop: bool = False,
) -> Callable[[StreamCheck], StreamCheck]:
    """Enter a function as a case; its name and the first line of its docstring become the case's."""

    def enter(check: StreamCheck) -> StreamCheck:
        book.append(StreamCase(*_title(check), check, needs, patience, tells_loop))
        return check

    return enter


def transport_case(
    book: list[TransportCase], *, needs: Callable[[TransportSetup], bool] = lambda _: True
) -> Callable[[TransportCheck], TransportCheck]:
    """Enter a function as a case about a transport."""

    def enter(check: TransportCheck) -> TransportCheck:
        book.append(TransportCase(*_title(check), check, needs))
        return check

    return enter


def expect(condition: bool, expected: str, seen: object) -> None:
    """Raise ConformanceFailure unless the condition holds."""
    if not condition:
        raise ConformanceFailure(expected, seen)


def expect_pattern(received: bytes | bytearray, length: int, start: int = 0) -> None:
    """Raise ConformanceFailure unless `received` is exactly that part of the pattern."""
    fault = pattern_fault(received, start)
    expect(fault is None, "every byte in its place", f"another byte at {fault} of {len(received)}")
    expect(len(received) == length, f"{length} bytes", len(received))


async def comes(condition: Callable[[], bool], limit_s: float | None = None) -> bool:
    """Wait for a condition, WAIT_S unless told; False when it has not come true in time."""
    deadline = asyncio.get_running_loop().time() + (WAIT_S if limit_s is None else limit_s)
    turns = 0
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            return False
        turns += 1
        await asyncio.sleep(0 if turns < 50 else 0.001)
    return True


async def eventually(condition: Callable[[], bool], expected: str, seen: object) -> None:
    """Wait for a condition; raise ConformanceFailure when it has not come true in time.

    `seen` is turned into text only then: a list or bytearray shows its last state.
    """
    if not await comes(condition):
        raise ConformanceFailure(expected, seen() if callable(seen) else seen)


async def settle() -> None:
    """Give what must not happen a chance to happen.

    Real time, because the kernel's share of a loopback connection has no turn to wait for.
    """
    for _ in range(_QUIET_POLLS):
        await asyncio.sleep(_POLL_S)


async def quiet(sample: Callable[[], int]) -> int:
    """Wait until a number has stopped changing, and return it."""
    deadline = asyncio.get_running_loop().time() + WAIT_S
    last, same = sample(), 0
    while same < _QUIET_POLLS and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(_POLL_S)
        now = sample()
        same = same + 1 if now == last else 0
        last = now
    return last


async def arrives(notes: Notes, length: int) -> None:
    """Wait until that many bytes were received."""
    await eventually(lambda: len(notes.received) >= length, f"{length} bytes", lambda: len(notes.received))


async def hears_end(notes: Notes) -> None:
    """Wait until the peer's end was heard, as eof_received or as connection_lost."""
    await eventually(lambda: notes.ended, "eof_received or connection_lost", notes.heard)


async def hears_loss(notes: Notes) -> None:
    """Wait until connection_lost was heard."""
    await eventually(lambda: bool(notes.losses), "connection_lost", notes.heard)


async def hears_orderly_loss(notes: Notes) -> None:
    """Wait until connection_lost was heard, and see that it came with no error."""
    await hears_loss(notes)
    expect(notes.losses == [None], "connection_lost(None)", notes.losses)


async def pour(notes: Notes, total: int, *, start: int = 0, block: int = 64 << 10) -> None:
    """Write the pattern from `start` to `total`, pausing whenever the protocol was told to."""
    for at in range(start, total, block):
        await eventually(lambda: not notes.writing_paused, "resume_writing", notes.heard)
        notes.stream.write(pattern(at, min(block, total - at)))


@asynccontextmanager
async def _observed() -> AsyncIterator[list[dict[str, Any]]]:
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks()
    with _watch(loop) as told:
        limit = asyncio.timeout(CASE_LIMIT_S)
        try:
            async with limit:
                yield told
        except TimeoutError as error:
            if not limit.expired():
                raise ConformanceFailure("no exception", repr(error)) from error
            raise ConformanceFailure(f"the case to end within {CASE_LIMIT_S} s", "it was still waiting") from error
        except ConformanceFailure:
            raise
        except Exception as error:
            # What a stream raises at its caller is the stream's failure, not the suite's.
            raise ConformanceFailure("no exception", repr(error)) from error
        await eventually(lambda: not asyncio.all_tasks() - before, "no task left", lambda: asyncio.all_tasks() - before)


async def _abandon(streams: Sequence[DuplexStream]) -> None:
    """Abort what a case, failed or not, leaves: an open handle keeps some loops from closing."""
    for stream in streams:
        stream.abort()
    for _ in range(5):
        await asyncio.sleep(0)


@contextmanager
def _watch(loop: asyncio.AbstractEventLoop) -> Iterator[list[dict[str, Any]]]:
    told: list[dict[str, Any]] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            # asyncio's debug mode reports slow callbacks, which say nothing about a stream.
            if not record.getMessage().startswith("Executing"):
                told.append({"message": record.getMessage()})

    listener = Listener(logging.WARNING)
    logger = logging.getLogger("asyncio")
    handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: told.append(context))
    logger.addHandler(listener)
    try:
        yield told
    finally:
        logger.removeHandler(listener)
        loop.set_exception_handler(handler)


def _title(check: Callable[..., Awaitable[None]]) -> tuple[str, str]:
    return check.__name__, (check.__doc__ or "").strip().partition("\n")[0]
