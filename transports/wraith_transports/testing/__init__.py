"""The public conformance suite: what every stream and transport must do, to run on your own.

It needs no test framework. Say how to open a pair of your streams, and run every case that applies:

    @asynccontextmanager
    async def open_pair(patience):
        yield my_client_stream, my_server_stream

    setup = StreamSetup(open=open_pair, half_close=False)
    for case in STREAM_CASES:
        if case.applies_to(setup):
            await case.run(setup)  # raises ConformanceFailure

A pair is two connected streams that nobody has attached to; the suite aborts both when it is done
with them. Where the two ends differ, run `swapped(setup)` as well. TRANSPORT_CASES does the same
for a Transport and the started TransportAcceptor it reaches.

A run watches the loop as well: a call of its exception handler, a line in asyncio's log or a task
that is left over is a failure. Run the cases on each event loop you support.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import aborting, carriage, closing, facts, handover, obtaining, pressure
from .case import (
    ConformanceFailure,
    Pair,
    PairFactory,
    Patience,
    Spoiler,
    StreamCase,
    StreamSetup,
    TransportCase,
    TransportSetup,
    swapped,
)

STREAM_CASES: Sequence[StreamCase] = (
    *carriage.CASES,
    *pressure.CASES,
    *handover.CASES,
    *closing.CASES,
    *aborting.CASES,
    *facts.CASES,
)
TRANSPORT_CASES: Sequence[TransportCase] = tuple(obtaining.CASES)

__all__ = [
    "STREAM_CASES",
    "TRANSPORT_CASES",
    "ConformanceFailure",
    "Pair",
    "PairFactory",
    "Patience",
    "Spoiler",
    "StreamCase",
    "StreamSetup",
    "TransportCase",
    "TransportSetup",
    "swapped",
]
