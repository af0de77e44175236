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
IDLE_S = 5.0  # a grown window whose sender did not come near its limit for so long shrinks back


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
    passed on whose credit was not given back yet.
    """

    def __init__(self, budget: CreditBudget, now: float) -> None:
        self._budget = budget
        self.size = self._first = budget.first_window()
        self.remaining = self.size
        self._owed = 0
        self._limited = False
        self._limited_at = now
        self._released = False

    def receive(self, count: int, *, keeping_up: bool, now: float) -> bool:
        """Count bytes that arrived; False if the peer had no credit for them.

        `keeping_up` says that nothing received earlier still waits for the reader.
        """
        if count > self.remaining:
            return False
        self.remaining -= count
        # Credit goes out at a quarter: a sender that gets below half is ahead of our adjustments
        # by a quarter of a window, so the path holds at least that much and the window limits it.
        if keeping_up and self.remaining < self.size // 2:
            self._limited = True
            self._limited_at = now
        return True

    def consume(self, count: int, now: float) -> int:
        """Count bytes the reader took; return the credit to send now, 0 for none."""
        self._owed += count
        if self._owed < min(self.size // 4, ADJUST_STEP):
            return 0
        if self._released:
            return 0
        if self._limited:
            self._limited = False
            extra = min(self.size, LARGEST_WINDOW - self.size)
            if extra > 0 and self._budget.grow(extra):
                self.size += extra
                self._owed += extra
        elif self.size > self._first and now - self._limited_at >= IDLE_S:
            withheld = min(self._owed, self.size - self._first)
            self._budget.shrink(withheld)
            self.size -= withheld
            self._owed -= withheld
        credit, self._owed = self._owed, 0
        self.remaining += credit
        return credit

    def release(self) -> None:
        """Give everything back to the budget; idempotent."""
        if not self._released:
            self._released = True
            self._budget.release(self.size, grown=self.size - self._first)
