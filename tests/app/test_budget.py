"""The credit of SSH channels: what is granted stays within its limit, and all of it comes back."""

from __future__ import annotations

import heapq
import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from wraith.ssh.budget import (
    ADJUST_STEP,
    FIRST_WINDOW,
    IDLE_S,
    LARGEST_WINDOW,
    SESSION_CREDIT,
    SMALLEST_WINDOW,
    CreditBudget,
    ReceiveWindow,
)

MIB = 1 << 20
PACKET = 32 << 10


class Sender:
    """The peer of a window: it sends no more than it has credit for, and knows what it has."""

    def __init__(self, budget: CreditBudget, now: float = 0.0) -> None:
        self.window = ReceiveWindow(budget, now)
        self.credit = self.window.remaining
        self.held = 0  # received, and not passed on

    def send(self, count: int, *, keeping_up: bool, now: float = 0.0) -> int:
        """Send up to `count`; how much it was."""
        count = min(count, self.credit)
        assert self.window.receive(count, keeping_up=keeping_up, now=now)
        self.credit -= count
        self.held += count
        return count

    def read(self, count: int, now: float = 0.0) -> int:
        """Let the reader take up to `count`; the credit that gave."""
        count = min(count, self.held)
        self.held -= count
        credit = self.window.consume(count, now)
        self.credit += credit
        return credit


class Path:
    """A sender, a path with a rate and a round trip, and a reader that takes what came at once or at its own rate."""

    def __init__(self, budget: CreditBudget, *, rtt_s: float, rate: float, reader: float = float("inf")) -> None:
        self.sender = Sender(budget)
        self.now = 0.0
        self._half = rtt_s / 2
        self._packet_s = PACKET / rate
        self._read_s = PACKET / reader
        self._in_flight = 0  # bytes on their way
        self._credit = self.sender.credit  # as the sender knows it
        self._events: list[tuple[float, int, str, int]] = []
        self._order = itertools.count()
        self._send_at = 0.0
        self._read_at = 0.0

    def _later(self, at: float, what: str, count: int) -> None:
        heapq.heappush(self._events, (at, next(self._order), what, count))

    def carry(self, total: int) -> None:
        """Send that much, as fast as path, window and reader allow."""
        window = self.sender.window
        sent = taken = 0
        while taken < total:
            while sent < total and self._credit >= PACKET:
                self._send_at = max(self._send_at, self.now) + self._packet_s
                self._credit -= PACKET
                sent += PACKET
                self._later(self._send_at + self._half, "arrives", PACKET)
            assert self._events, "the sender has stalled"
            self.now, _, what, count = heapq.heappop(self._events)
            if what == "arrives":
                self.sender.send(count, keeping_up=not self.sender.held, now=self.now)
                self._read_at = max(self._read_at, self.now) + self._read_s
                self._later(self._read_at, "read", count)
            elif what == "read":
                taken += count
                credit = self.sender.read(count, self.now)
                if credit:
                    self._later(self.now + self._half, "credit", credit)
            else:
                self._credit += count
        assert window.size <= LARGEST_WINDOW

    def idle(self, seconds: float) -> None:
        self.now += seconds


class Credit(RuleBasedStateMachine):
    """Two sessions of one server, any number of channels, any order of events."""

    senders: Bundle[Sender] = Bundle("senders")

    @initialize(limit=st.integers(64 << 10, 256 * MIB), total=st.integers(64 << 10, 256 * MIB))
    def begin(self, limit: int, total: int) -> None:
        self.now = 0.0
        self.limit, self.total_limit = limit, total
        self.total = CreditBudget(total)
        self.budgets = [CreditBudget(limit, self.total), CreditBudget(limit, self.total)]
        self.open: list[tuple[Sender, CreditBudget]] = []

    @rule(target=senders, which=st.integers(0, 1))
    def opens(self, which: int) -> Sender:
        sender = Sender(self.budgets[which], self.now)
        assert SMALLEST_WINDOW <= sender.window.size <= FIRST_WINDOW
        self.open.append((sender, self.budgets[which]))
        return sender

    @rule(sender=senders, count=st.integers(1, 4 * MIB), keeping_up=st.booleans())
    def sends(self, sender: Sender, count: int, keeping_up: bool) -> None:
        sender.send(count, keeping_up=keeping_up and not sender.held, now=self.now)

    @rule(sender=senders, count=st.integers(1, 4 * MIB))
    def reads(self, sender: Sender, count: int) -> None:
        before = sender.window.size
        credit = sender.read(count, self.now)
        assert 0 <= credit <= sender.window.size
        assert sender.window.size <= max(before * 2, before)

    @rule(sender=senders, packets=st.integers(1, 200))
    def reads_all_at_once(self, sender: Sender, packets: int) -> None:
        for _ in range(packets):
            sender.read(sender.held, self.now)
            sender.send(PACKET, keeping_up=True, now=self.now)

    @rule(seconds=st.floats(0, 3 * IDLE_S))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(sender=senders)
    def sends_too_much(self, sender: Sender) -> None:
        assert not sender.window.receive(sender.window.remaining + 1, keeping_up=True, now=self.now)

    @precondition(lambda self: self.open)
    @rule(sender=consumes(senders), twice=st.booleans())
    def closes(self, sender: Sender, twice: bool) -> None:
        self.open = [(each, budget) for each, budget in self.open if each is not sender]
        sender.window.release()
        if twice:
            sender.window.release()

    @invariant()
    def credit_is_what_the_windows_say(self) -> None:
        if not hasattr(self, "open"):
            return
        for budget in self.budgets:
            assert budget.granted == sum(each.window.size for each, own in self.open if own is budget)
        assert self.total.granted == sum(budget.granted for budget in self.budgets)
        for sender, _ in self.open:
            window = sender.window
            assert 0 <= window.remaining <= window.size <= LARGEST_WINDOW
            # What the peer may still send and what we hold for it is never more than what is accounted for.
            assert sender.credit == window.remaining
            assert sender.credit + sender.held <= window.size

    @invariant()
    def limits_hold(self) -> None:
        if not hasattr(self, "open"):
            return
        for budget in [*self.budgets, self.total]:
            limit = self.total_limit if budget is self.total else self.limit
            count = len(self.open) if budget is self.total else sum(own is budget for _, own in self.open)
            assert 0 <= budget.granted <= limit + count * SMALLEST_WINDOW
            assert 0 <= budget._grown <= limit // 2
            assert 0 <= budget.free <= limit

    def teardown(self) -> None:
        if not hasattr(self, "open"):
            return
        for sender, _ in self.open:
            sender.window.release()
        for budget in [*self.budgets, self.total]:
            assert (budget.granted, budget._grown) == (0, 0)


TestCredit = Credit.TestCase
TestCredit.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


@given(st.integers(1, 3000))
@settings(max_examples=20, deadline=None)
def test_first_windows_alone_stay_near_the_limit_however_many(channels: int) -> None:
    budget = CreditBudget(SESSION_CREDIT)
    windows = [ReceiveWindow(budget, 0.0) for _ in range(channels)]
    assert windows[0].size == FIRST_WINDOW
    assert sorted((each.size for each in windows), reverse=True) == [each.size for each in windows]
    assert budget.granted <= SESSION_CREDIT + channels * SMALLEST_WINDOW
    for window in windows:
        window.release()
    assert budget.granted == 0


def test_a_reader_that_keeps_up_over_a_long_path_grows_to_the_largest_window_and_no_further() -> None:
    budget = CreditBudget(SESSION_CREDIT)
    path = Path(budget, rtt_s=0.1, rate=1000 * MIB)
    path.carry(512 * MIB)
    assert path.sender.window.size == LARGEST_WINDOW
    assert budget.granted == LARGEST_WINDOW


@pytest.mark.parametrize("rate", [10 * MIB, 100 * MIB, 400 * MIB])
def test_a_window_grows_to_what_the_path_needs_and_then_fills_it(rate: int) -> None:
    path = Path(CreditBudget(SESSION_CREDIT), rtt_s=0.06, rate=rate)
    path.carry(256 * MIB)
    began = path.now
    path.carry(256 * MIB)
    assert 256 * MIB / (path.now - began) > 0.85 * rate


def test_a_short_path_needs_one_doubling_at_most() -> None:
    path = Path(CreditBudget(SESSION_CREDIT), rtt_s=0.0005, rate=200 * MIB)
    path.carry(256 * MIB)
    assert path.sender.window.size <= 2 * FIRST_WINDOW


@given(st.floats(0.0005, 0.3), st.floats(0.02, 0.8))
@settings(max_examples=20, deadline=None)
def test_a_reader_slower_than_the_path_holds_no_more_than_its_window(rtt_s: float, share: float) -> None:
    path = Path(CreditBudget(SESSION_CREDIT), rtt_s=rtt_s, rate=100 * MIB, reader=share * 100 * MIB)
    path.carry(64 * MIB)
    assert path.sender.window.size <= LARGEST_WINDOW


@given(st.lists(st.integers(1, PACKET), max_size=200))
@settings(max_examples=50, deadline=None)
def test_a_stopped_reader_never_grows(pieces: list[int]) -> None:
    budget = CreditBudget(SESSION_CREDIT)
    sender = Sender(budget)
    for piece in pieces:
        sender.send(piece, keeping_up=False)
    assert budget.granted == sender.window.size == FIRST_WINDOW


@given(st.lists(st.tuples(st.integers(1, PACKET), st.integers(1, PACKET)), min_size=1, max_size=300))
@settings(max_examples=50, deadline=None)
def test_a_reader_that_lags_never_grows(steps: list[tuple[int, int]]) -> None:
    sender = Sender(CreditBudget(SESSION_CREDIT))
    sender.send(1, keeping_up=False)
    for count, taken in steps:
        sender.send(count, keeping_up=False)
        sender.read(taken)
    assert sender.window.size == FIRST_WINDOW


def test_a_sender_that_never_nears_its_limit_does_not_grow() -> None:
    sender = Sender(CreditBudget(SESSION_CREDIT))
    for _ in range(10_000):
        sender.send(PACKET, keeping_up=True)
        sender.read(PACKET)
    assert sender.window.size == FIRST_WINDOW


def test_growth_leaves_half_for_the_first_windows_of_new_channels() -> None:
    budget = CreditBudget(SESSION_CREDIT)
    paths = [Path(budget, rtt_s=0.1, rate=1000 * MIB) for _ in range(4)]
    for _ in range(4):
        for path in paths:
            path.carry(128 * MIB)
    grown = sum(path.sender.window.size - FIRST_WINDOW for path in paths)
    assert 0 < grown <= SESSION_CREDIT // 2
    assert ReceiveWindow(budget, 0.0).size == FIRST_WINDOW


def test_half_of_the_total_is_kept_from_growth_across_sessions() -> None:
    total = CreditBudget(64 * MIB)
    sessions = [CreditBudget(SESSION_CREDIT, total) for _ in range(3)]
    paths = [Path(each, rtt_s=0.1, rate=1000 * MIB) for each in sessions]
    for _ in range(4):
        for path in paths:
            path.carry(128 * MIB)
    assert 0 < sum(path.sender.window.size - FIRST_WINDOW for path in paths) <= 32 * MIB
    assert ReceiveWindow(sessions[0], 0.0).size == FIRST_WINDOW


def test_a_window_that_is_idle_shrinks_back_by_credit_withheld_and_can_grow_again() -> None:
    budget = CreditBudget(SESSION_CREDIT)
    path = Path(budget, rtt_s=0.1, rate=1000 * MIB)
    path.carry(512 * MIB)
    assert path.sender.window.size == LARGEST_WINDOW
    spent = 0
    while path.sender.window.size > FIRST_WINDOW:  # a trickle: nowhere near its limit
        path.idle(IDLE_S / 8)
        path.carry(PACKET)
        spent += PACKET
        assert spent <= 2 * LARGEST_WINDOW, "it does not shrink"
    assert (budget.granted, budget._grown) == (FIRST_WINDOW, 0)
    path.carry(512 * MIB)
    assert path.sender.window.size == LARGEST_WINDOW


def test_credit_goes_back_in_steps_and_at_once_when_the_window_is_small() -> None:
    sender = Sender(CreditBudget(SESSION_CREDIT))
    sender.send(FIRST_WINDOW, keeping_up=False)
    returned = [sender.read(PACKET) for _ in range(FIRST_WINDOW // PACKET)]
    given_back = [credit for credit in returned if credit]
    assert given_back == [ADJUST_STEP] * 4
    spent = CreditBudget(0)
    small = Sender(spent)
    assert small.window.size == SMALLEST_WINDOW
    small.send(SMALLEST_WINDOW, keeping_up=False)
    assert small.read(SMALLEST_WINDOW // 4) == SMALLEST_WINDOW // 4


def test_a_spent_budget_still_lets_every_channel_move() -> None:
    path = Path(CreditBudget(0), rtt_s=0.01, rate=100 * MIB)
    path.carry(10 * MIB)
    assert path.sender.window.size == SMALLEST_WINDOW


def test_a_released_window_gives_no_credit_and_grants_nothing() -> None:
    budget = CreditBudget(SESSION_CREDIT)
    sender = Sender(budget)
    sender.send(FIRST_WINDOW, keeping_up=True)
    sender.window.release()
    assert sender.read(FIRST_WINDOW) == 0
    sender.window.release()
    assert budget.granted == 0
