"""Decides how much a peer may send before we have passed on what it sent: the credit of SSH channels.

Every byte of window we grant is a byte the peer may make us hold. A budget bounds the sum; a
ReceiveWindow decides, for one channel, when to give credit back, when to grow and when to shrink.
Both are plain arithmetic: no I/O and no clock of their own.
"""

from __future__ import annotations

SESSION_CREDIT = 64 << 20  # bytes all channels of a session may have been granted
TOTAL_CREDIT = 512 << 20  # bytes all sessions of one server or client may have been granted

FIRST_WINDOW = 2 << 20  # as OpenSSH: 2 MiB fill a LAN, and one round trip later it may grow
SMALLEST_WINDOW = 32 << 10  # one packet; granted even when the budget is spent, or nothing would ever move
LARGEST_WINDOW = 32 << 20  # 2.5 Gbit/s at 100 ms
ADJUST_STEP = 512 << 10  # credit is given back in steps of at most this
IDLE_S = 5.0  # a grown window that was not used once in so long shrinks back
ROUND_TRIP_MEMORY_S = 60.0  # then a longer one counts too: the path may have changed


class CreditBudget:
    """A bound on granted credit, optionally within a wider one.

    Half of it is kept for the first windows of channels, so that grown ones cannot starve new ones.
    """

    def __init__(self, limit: int, parent: CreditBudget | None = None) -> None:
        self._limit = limit
        self._parent = parent
        self._granted = 0
        self._grown = 0

    @property
    def granted(self) -> int:
        """Bytes of credit that are out."""
        return self._granted

    @property
    def free(self) -> int:
        """Bytes that may still be granted here and above."""
        own = max(0, self._limit - self._granted)
        return own if self._parent is None else min(own, self._parent.free)

    def first_window(self) -> int:
        """Grant a new channel its first window: a quarter of what is free, within bounds."""
        size = max(SMALLEST_WINDOW, min(FIRST_WINDOW, self.free // 4))
        self.grant(size)
        return size

    def grow(self, size: int) -> bool:
        """Grant `size` more to a channel that needs it, if the half for growth allows it."""
        if size > self.free or not self.may_grow(size):
            return False
        self.grant(size, grown=size)
        return True

    def shrink(self, size: int) -> None:
        """Take back growth."""
        self.release(size, grown=size)

    def release(self, size: int, *, grown: int) -> None:
        """Take back a window, of which `grown` bytes were growth."""
        self._granted -= size
        self._grown -= grown
        if self._parent is not None:
            self._parent.release(size, grown=grown)

    def may_grow(self, size: int) -> bool:
        """Whether the half for growth has room for `size` more, here and above."""
        if self._grown + size > self._limit // 2:
            return False
        return self._parent is None or self._parent.may_grow(size)

    def grant(self, size: int, *, grown: int = 0) -> None:
        """Count a window, of which `grown` bytes are growth, here and above."""
        self._granted += size
        self._grown += grown
        if self._parent is not None:
            self._parent.grant(size, grown=grown)


class ReceiveWindow:
    """The window of one channel, as the receiver sees it.

    `size` is what is out: bytes the peer may still send (`remaining`), bytes we hold, and bytes
    passed on whose credit was not given back yet. It doubles while a whole window arrives in less
    than two round trips, which means that the window and not the path is the limit, and the reader
    keeps up. The round trip is seen from the credit itself: from giving some until the first byte
    that needed it; at its smallest that is one round trip.
    """

    def __init__(self, budget: CreditBudget, now: float) -> None:
        self._budget = budget
        self.size = self._first = budget.first_window()
        self.remaining = self.size
        self._received = 0
        self._owed = 0
        self._released = False
        self._fell_behind = False  # the reader did, since this window began
        self._began_at = now  # when the first byte of this window was received
        self._begins_from = 0  # and which one it was
        self._round_trip: float | None = None
        self._round_trip_seen_at = now
        self._credit_given_at: float | None = None
        self._credit_begins_from = 0  # the first byte that needs the credit given then

    def receive(self, count: int, *, keeping_up: bool, now: float) -> bool:
        """Count bytes that arrived; False if the peer had no credit for them.

        `keeping_up` says that nothing received earlier still waits for the reader.
        """
        if count > self.remaining:
            return False
        self.remaining -= count
        self._received += count
        if not keeping_up:
            self._fell_behind = True
        if self._credit_given_at is not None and self._received > self._credit_begins_from:
            self._see_round_trip(now - self._credit_given_at, now)
            self._credit_given_at = None
        return True

    def consume(self, count: int, now: float) -> int:
        """Count bytes the reader took; return the credit to send now, 0 for none."""
        self._owed += count
        if self._released or self._owed < min(self.size // 4, ADJUST_STEP):
            return 0
        if self._received - self._begins_from >= self.size:
            if self._is_limit(now):
                self._grow()
            self._begin(now)
        elif self.size > self._first and now - self._began_at >= IDLE_S:
            self._shrink()
        if self._credit_given_at is None:
            self._credit_given_at = now
            self._credit_begins_from = self._received + self.remaining
        credit, self._owed = self._owed, 0
        self.remaining += credit
        return credit

    def release(self) -> None:
        """Give everything back to the budget; idempotent."""
        if not self._released:
            self._released = True
            self._budget.release(self.size, grown=self.size - self._first)

    def _is_limit(self, now: float) -> bool:
        if self._round_trip is None or self._fell_behind:
            return False
        return now - self._began_at < 2 * self._round_trip

    def _begin(self, now: float) -> None:
        self._began_at = now
        self._begins_from = self._received
        self._fell_behind = False

    def _see_round_trip(self, seen: float, now: float) -> None:
        if self._round_trip is None or seen < self._round_trip or now - self._round_trip_seen_at > ROUND_TRIP_MEMORY_S:
            self._round_trip = seen
            self._round_trip_seen_at = now

    def _grow(self) -> None:
        extra = min(self.size, LARGEST_WINDOW - self.size)
        if extra > 0 and self._budget.grow(extra):
            self.size += extra
            self._owed += extra

    def _shrink(self) -> None:
        """Withhold credit: the window is larger than what is used of it."""
        withheld = min(self._owed, self.size - self._first)
        self._budget.shrink(withheld)
        self.size -= withheld
        self._owed -= withheld
