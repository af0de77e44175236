"""Bytes that wait keep their order and cost their length."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from wraith_transports.held import HeldBytes
from wraith_transports.stream import READ_CHUNK

pieces = st.binary(max_size=300) | st.integers(0, 3 * READ_CHUNK).map(lambda size: b"." * size)
steps = st.lists(st.tuples(st.sampled_from(["append", "put_back", "take"]), pieces), max_size=60)


@given(steps)
def test_it_is_a_string_with_two_ends(steps: list[tuple[str, bytes]]) -> None:
    held, model = HeldBytes(), b""
    for what, data in steps:
        if what == "append":
            held.append(data)
            model += data
        elif what == "put_back":
            held.put_back(data)
            model = data + model
        elif model:
            taken = held.take()
            assert 0 < len(taken) <= READ_CHUNK
            assert model.startswith(taken)
            model = model[len(taken) :]
        assert len(held) == len(model)
    while held:
        taken = held.take()
        assert model.startswith(taken)
        model = model[len(taken) :]
    assert not model


def peak_of(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_single_bytes_cost_about_a_byte() -> None:
    held = HeldBytes()

    def fill() -> None:
        for _ in range(200_000):
            held.append(b"x")

    assert peak_of(fill) < 400_000


def test_what_is_taken_from_the_front_is_not_copied_when_more_arrives() -> None:
    held, packet = HeldBytes(), b"x" * (32 << 10)

    def fill() -> None:
        for number in range(512):  # 16 MiB in all
            held.append(packet)
            if number % 8 == 7:
                held.take()

    assert peak_of(fill) < 20 << 20
