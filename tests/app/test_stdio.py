"""Standard input and output as a stream: pipes, files, ends in either order, and readers that stop or leave."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.support.consoles import LIMIT_S, environment
from tests.support.openers import until
from wraith.splice import splice
from wraith.stdio import StdioStream
from wraith_transports import DuplexStream, memory_pair

MIB = 1 << 20


class Pipes:
    """What stands for the program on the other ends of our standard input and output."""

    def __init__(self) -> None:
        self.ours_in, self.feeding = os.pipe()
        self.reading, self.ours_out = os.pipe()

    def stream(self) -> StdioStream:
        return StdioStream(self.ours_in, self.ours_out)

    def close(self) -> None:
        for descriptor in (self.ours_in, self.feeding, self.reading, self.ours_out):
            with contextlib.suppress(OSError):
                os.close(descriptor)


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    made = Pipes()
    yield made
    made.close()


class Far(asyncio.Protocol):
    """The target's end: keeps what comes."""

    def __init__(self, stream: DuplexStream) -> None:
        self.stream = stream
        self.came = bytearray()
        self.ended = False
        self.lost: list[Exception | None] = []
        self.paused = False
        stream.attach(self)

    def data_received(self, data: bytes) -> None:
        self.came += data

    def eof_received(self) -> bool:
        self.ended = True
        return True

    def pause_writing(self) -> None:
        self.paused = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


@contextlib.asynccontextmanager
async def joined(stdio: StdioStream) -> AsyncIterator[tuple[Far, asyncio.Task[Exception | None]]]:
    """Join the descriptors to a target over memory; the target's end, and the task that joins."""
    near, far = memory_pair()
    task = asyncio.create_task(splice(stdio, near))
    try:
        yield Far(far), task
    finally:
        far.abort()
        async with asyncio.timeout(LIMIT_S):
            await asyncio.wait([task])


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.close(descriptor)


def read_all(descriptor: int) -> bytes:
    chunks = []
    while chunk := os.read(descriptor, 1 << 16):
        chunks.append(chunk)
    return b"".join(chunks)


def test_input_ends_first_and_the_answer_still_comes(run: Run, pipes: Pipes) -> None:
    async def scenario() -> None:
        async with joined(pipes.stream()) as (far, task):
            os.write(pipes.feeding, b"question")
            os.close(pipes.feeding)
            await until(lambda: far.ended)
            assert far.came == b"question"
            far.stream.write(b"answer")
            far.stream.write_eof()
            assert await asyncio.to_thread(read_all, pipes.reading) == b"answer"
            assert await task is None

    run(scenario())


def test_output_ends_first_and_the_rest_of_the_input_still_goes(run: Run, pipes: Pipes) -> None:
    async def scenario() -> None:
        async with joined(pipes.stream()) as (far, task):
            far.stream.write(b"bye")
            far.stream.write_eof()
            # Whoever reads our output sees its end although our input is still open.
            assert await asyncio.to_thread(read_all, pipes.reading) == b"bye"
            os.write(pipes.feeding, b"late")
            await until(lambda: far.came == b"late")
            assert not task.done()
            os.close(pipes.feeding)
            assert await task is None
            assert far.ended

    run(scenario())


def test_a_target_that_closes_is_not_kept_waiting_for_our_input(run: Run, pipes: Pipes) -> None:
    async def scenario() -> None:
        async with joined(pipes.stream()) as (far, task):
            far.stream.abort()
            async with asyncio.timeout(2):
                assert isinstance(await task, ConnectionError)

    run(scenario())


@pytest.mark.parametrize("size", [0, 1, 65536, 64 * MIB])
def test_every_byte_goes_both_ways(run: Run, pipes: Pipes, size: int) -> None:
    sent = hashlib.shake_128(b"there and back").digest(min(size, MIB)) * (max(size, 1) // MIB or 1)

    async def scenario() -> bytes:
        async with joined(pipes.stream()) as (far, task):
            far.stream.attach(_Echo(far.stream))
            writing = threading.Thread(target=write_all, args=(pipes.feeding, sent))
            writing.start()
            came = await asyncio.to_thread(read_all, pipes.reading)
            writing.join(LIMIT_S)
            assert await task is None
            return came

    assert hashlib.sha256(run(scenario())).digest() == hashlib.sha256(sent).digest()


class _Echo(asyncio.Protocol):
    def __init__(self, stream: DuplexStream) -> None:
        self.stream = stream

    def data_received(self, data: bytes) -> None:
        self.stream.write(data)

    def eof_received(self) -> bool:
        self.stream.write_eof()
        return True

    def pause_writing(self) -> None:
        self.stream.pause_reading()

    def resume_writing(self) -> None:
        self.stream.resume_reading()


def test_a_reader_that_stops_holds_the_target_back(run: Run, pipes: Pipes) -> None:
    async def scenario() -> None:
        async with joined(pipes.stream()) as (far, _task):
            sent = 0
            for _ in range(2000):
                if far.paused:
                    break
                far.stream.write(bytes(65536))
                sent += 65536
                await asyncio.sleep(0.001)
            # A pipe, a chunk that waits in the thread, one behind it, and the stream's own marks.
            assert far.paused
            assert sent < 4 * MIB

    run(scenario())


def test_a_target_that_stops_holds_the_input_back(run: Run, pipes: Pipes) -> None:
    async def scenario() -> int:
        async with joined(pipes.stream()) as (far, _task):
            far.stream.pause_reading()
            os.set_blocking(pipes.feeding, False)
            taken = idle = 0
            while idle < 100 and taken < 64 * MIB:
                try:
                    taken += os.write(pipes.feeding, bytes(65536))
                    idle = 0
                except BlockingIOError:
                    idle += 1
                await asyncio.sleep(0.001)
            return taken

    assert run(scenario()) < 4 * MIB


def test_a_reader_that_left_cuts_the_target_off(run: Run, pipes: Pipes) -> None:
    async def scenario() -> None:
        async with joined(pipes.stream()) as (far, task):
            os.close(pipes.reading)
            far.stream.write(b"for nobody")
            assert isinstance(await task, BrokenPipeError)
            await until(lambda: far.lost)
            assert far.lost[0] is not None

    run(scenario())


def test_input_and_output_may_be_files(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"x" * 300_000)

    async def scenario() -> None:
        with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as sink:
            async with joined(StdioStream(source.fileno(), sink.fileno())) as (far, task):
                await until(lambda: far.ended)
                assert len(far.came) == 300_000
                far.stream.write(b"y" * 300_000)
                far.stream.write_eof()
                assert await task is None

    run(scenario())
    assert (tmp_path / "out").read_bytes() == b"y" * 300_000


def test_the_null_device_is_an_empty_input(run: Run) -> None:
    async def scenario() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        try:
            async with joined(StdioStream(null, null)) as (far, task):
                await until(lambda: far.ended)
                far.stream.write(b"dropped")
                far.stream.write_eof()
                assert await task is None
                assert far.came == b""
        finally:
            os.close(null)

    run(scenario())


def test_an_input_that_cannot_be_read_is_an_empty_one(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        unreadable = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
        try:
            async with joined(StdioStream(unreadable, unreadable)) as (far, task):
                await until(lambda: far.ended)
                far.stream.write_eof()
                assert await task is None
        finally:
            os.close(unreadable)

    run(scenario())


def test_the_number_of_an_ended_output_is_not_given_to_the_next_file(run: Run, pipes: Pipes) -> None:
    async def scenario() -> None:
        async with joined(pipes.stream()) as (far, task):
            far.stream.write_eof()
            assert await asyncio.to_thread(read_all, pipes.reading) == b""
            other = os.open(os.devnull, os.O_RDONLY)
            os.close(other)
            assert other != pipes.ours_out
            os.close(pipes.feeding)
            await task

    run(scenario())


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_standard_descriptors_are_occupied_before_a_socket_can_take_them(closed: tuple[int, ...]) -> None:
    program = (
        "import os, sys\n"
        f"for each in {closed!r}: os.close(each)\n"
        "from wraith.stdio import occupy_standard_descriptors\n"
        "occupy_standard_descriptors()\n"
        f"same = [os.path.samestat(os.fstat(each), os.stat(os.devnull)) for each in {closed!r}]\n"
        "os._exit(0 if all(same) and os.open(os.devnull, os.O_RDONLY) > 2 else 1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), timeout=LIMIT_S, check=False, stdin=subprocess.PIPE
    )
    assert done.returncode == 0
