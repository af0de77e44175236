"""Decides what becomes of each packet on one direction of an emulated link, and when it arrives."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from tests.lab.network.segments import Shape, cut, shape_of

# A slow link hands large packets over in parts that take no longer than this: their first bytes must not wait for the
# last ones.
PART_S = 0.002


@dataclass(frozen=True, slots=True)
class Conditions:
    """What one direction of a link does: `rate` counts bytes a second of IP packets, None is without limit.

    `queue` bytes wait before the slow part, and what comes on top is dropped. `loss` is the share of packets that get
    lost after it.
    """

    delay_s: float = 0.0
    rate: float | None = None
    loss: float = 0.0
    queue: int = 0


@dataclass(slots=True)
class Counters:
    """What happened to the packets of one direction, counted as they are on the wire."""

    sent: int = 0
    lost: int = 0
    overflowed: int = 0


class PacketPath:
    """One direction of a link: takes packets when they are sent, gives each when it arrives. Time is an argument."""

    def __init__(self, conditions: Conditions, chance: random.Random | None = None) -> None:
        self.counters = Counters()
        self._chance = chance or random.Random()
        self._under_way: deque[tuple[float, bytes]] = deque()  # in the order of arrival
        self._free_at = 0.0  # when the last byte taken so far leaves the queue
        self._arrived_at = 0.0  # of the newest packet, that none overtakes it when the delay becomes less
        self.set(conditions)

    def set(self, conditions: Conditions) -> None:
        """Change what happens to packets from now on."""
        self.conditions = conditions
        self._until_loss = self._next_loss()

    def put(self, packet: bytes, now: float) -> None:
        shape = shape_of(packet)
        self.counters.sent += shape.count
        rate = self.conditions.rate
        begins = max(self._free_at, now)
        taken, part = shape.count, shape.count
        if rate is not None:
            segment = shape.wire_bytes(0, 1)
            room = self.conditions.queue - (begins - now) * rate
            least = 1 if begins <= now else 0  # an idle link takes a packet, however short its queue is
            taken = min(shape.count, max(least, int(room // segment)))
            part = max(1, int(rate * PART_S // segment))
            self.counters.overflowed += shape.count - taken
            self._free_at = begins + shape.wire_bytes(0, taken) / rate if taken else begins
        for first, end in self._survivors(taken, part):
            leaves = begins if rate is None else begins + shape.wire_bytes(0, end) / rate
            self._send(packet, shape, first, end, leaves)

    def next_at(self) -> float | None:
        """Tell when the next packet arrives."""
        return self._under_way[0][0] if self._under_way else None

    def arrived(self, now: float) -> Iterator[bytes]:
        """Give every packet whose time has come, once."""
        while self._under_way and self._under_way[0][0] <= now:
            yield self._under_way.popleft()[1]

    def _send(self, packet: bytes, shape: Shape, first: int, end: int, leaves: float) -> None:
        self._arrived_at = max(self._arrived_at, leaves + self.conditions.delay_s)
        self._under_way.append((self._arrived_at, cut(packet, shape, first, end)))

    def _survivors(self, count: int, part: int) -> Iterator[tuple[int, int]]:
        """Give the runs of segments between the lost ones, each of at most `part`."""
        first = 0
        while first < count:
            if self._until_loss == 0:
                self.counters.lost += 1
                self._until_loss = self._next_loss()
                first += 1
                continue
            run = int(min(count - first, part, self._until_loss))
            yield first, first + run
            self._until_loss -= run
            first += run

    def _next_loss(self) -> float:
        """Draw how many segments pass before one is lost."""
        loss = self.conditions.loss
        if loss <= 0:
            return math.inf
        if loss >= 1:
            return 0
        return math.floor(math.log(1 - self._chance.random()) / math.log(1 - loss))
