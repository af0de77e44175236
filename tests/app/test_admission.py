"""Claims about admission: what a crowd of strangers can take, and what it cannot."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from wraith.admission import MAX_UNAUTHENTICATED, Admission, NoRoom
from wraith_transports import site_of

HONEST = "198.51.100.7"
ADDRESSES = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"]


class Strangers(RuleBasedStateMachine):
    """Whatever comes, logs in and leaves, held against a list of what there should be."""

    PER_ADDRESS = 0
    SESSIONS = 4
    UNAUTHENTICATED = 6

    connections: Bundle[str] = Bundle("connections")

    def __init__(self) -> None:
        super().__init__()
        self.admission = Admission(
            max_per_address=self.PER_ADDRESS,
            max_sessions=self.SESSIONS,
            max_unauthenticated=self.UNAUTHENTICATED,
        )
        self.waiting: dict[str, str] = {}  # site by name, in order of arrival
        self.sessions: dict[str, str] = {}
        self.exchanged: set[str] = set()
        self.number = 0

    @rule(target=connections, address=st.sampled_from(ADDRESSES))
    def arrive(self, address: str) -> str:
        self.number += 1
        name, site = str(self.number), site_of(address)
        answer = self.admission.arrive(name, address)
        everyone = Counter([*self.waiting.values(), *self.sessions.values()])
        if self.PER_ADDRESS and everyone[site] >= self.PER_ADDRESS:
            assert answer is NoRoom.ADDRESS
        elif len(self.sessions) == self.SESSIONS:
            assert answer is NoRoom.SESSIONS
        else:
            assert isinstance(answer, list), "nothing else refuses anybody"
            assert answer == self._who_goes(site)
            for each in answer:
                del self.waiting[each]
            self.waiting[name] = site
        return name

    def _who_goes(self, site: str) -> list[str]:
        own = [name for name, other in self.waiting.items() if other == site]
        if len(own) >= self.UNAUTHENTICATED // 2:
            among = own
        elif len(self.waiting) >= self.UNAUTHENTICATED:
            among = list(self.waiting)
        else:
            return []
        unfinished = [name for name in among if name not in self.exchanged]
        if unfinished:
            return unfinished[:1]
        sites = Counter(self.waiting[name] for name in among)
        most = max(sites.values())
        return [next(name for name in among if sites[self.waiting[name]] == most)]

    @rule(name=connections)
    def exchange(self, name: str) -> None:
        self.admission.exchanged(name)
        self.exchanged.add(name)

    @rule(name=connections)
    def log_in(self, name: str) -> None:
        may = name in self.waiting and len(self.sessions) < self.SESSIONS
        assert self.admission.log_in(name) is may
        if may:
            self.sessions[name] = self.waiting.pop(name)

    @rule(name=consumes(connections))
    def leave(self, name: str) -> None:
        self.admission.leave(name)
        self.waiting.pop(name, None)
        self.sessions.pop(name, None)

    @invariant()
    def no_limit_is_exceeded(self) -> None:
        # The lists above are what the admission says: these are what it promises.
        assert len(self.sessions) <= self.SESSIONS
        assert len(self.waiting) <= self.UNAUTHENTICATED
        assert max(Counter(self.waiting.values()).values(), default=0) <= self.UNAUTHENTICATED // 2
        if self.PER_ADDRESS:
            everyone = Counter([*self.waiting.values(), *self.sessions.values()])
            assert max(everyone.values(), default=0) <= self.PER_ADDRESS

    def teardown(self) -> None:
        for name in [*self.waiting, *self.sessions]:
            self.admission.leave(name)
        # Nothing is remembered: there is as much room as at the start.
        for index in range(min(self.UNAUTHENTICATED, self.SESSIONS)):
            assert self.admission.arrive(f"late{index}", f"203.0.113.{index}") == []
            assert self.admission.log_in(f"late{index}")


class StrangersWithALimitEach(Strangers):
    PER_ADDRESS = 2


class StrangersFewSessions(Strangers):
    SESSIONS = 1
    UNAUTHENTICATED = 3


Strangers.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
StrangersWithALimitEach.TestCase.settings = Strangers.TestCase.settings
StrangersFewSessions.TestCase.settings = Strangers.TestCase.settings

TestStrangers = Strangers.TestCase
TestStrangersWithALimitEach = StrangersWithALimitEach.TestCase
TestStrangersFewSessions = StrangersFewSessions.TestCase


def crowd(admission: Admission, addresses: list[str], prefix: str = "stranger") -> list[str]:
    """Let one arrive from each address; who had to go."""
    gone: list[str] = []
    for number, address in enumerate(addresses):
        leaving = admission.arrive(f"{prefix}{number}", address)
        assert isinstance(leaving, list)
        gone += leaving
    return gone


floods = st.lists(st.integers(0, 400).map(lambda number: f"10.0.{number // 256}.{number % 256}"), max_size=600)


@settings(max_examples=40, deadline=None)
@given(before=floods, meanwhile=floods.map(lambda flood: flood[: MAX_UNAUTHENTICATED // 2 - 1]), after=floods)
def test_no_flood_that_finishes_no_key_exchange_keeps_anybody_out(
    before: list[str], meanwhile: list[str], after: list[str]
) -> None:
    admission = Admission()
    crowd(admission, before, "before")
    assert isinstance(admission.arrive("honest", HONEST), list)
    assert "honest" not in crowd(admission, meanwhile, "meanwhile")  # time for a key exchange
    admission.exchanged("honest")
    assert "honest" not in crowd(admission, after, "after")
    assert admission.log_in("honest")
    assert "honest" not in crowd(admission, before, "later")


def test_one_address_has_at_most_half_however_many_come_from_it() -> None:
    admission = Admission()
    gone = crowd(admission, ["192.0.2.1"] * 2000)
    assert len(gone) == 2000 - MAX_UNAUTHENTICATED // 2
    others = [f"198.51.100.{number}" for number in range(MAX_UNAUTHENTICATED // 2)]
    assert crowd(admission, others, "other") == []


def test_an_ipv6_site_is_one_address() -> None:
    admission = Admission()
    gone = crowd(admission, [f"2001:db8::{number:x}" for number in range(1000)])
    assert len(gone) == 1000 - MAX_UNAUTHENTICATED // 2


def test_an_address_that_has_finished_its_key_exchanges_makes_room_for_its_own_newest() -> None:
    admission = Admission()
    crowd(admission, ["192.0.2.1"] * (MAX_UNAUTHENTICATED // 2))
    for number in range(MAX_UNAUTHENTICATED // 2):
        admission.exchanged(f"stranger{number}")
    assert admission.arrive("neighbour", "192.0.2.1") == ["stranger0"]


def test_where_all_have_finished_the_address_with_most_makes_room() -> None:
    admission = Admission(max_unauthenticated=8)
    crowd(
        admission, [HONEST, "192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.3", "192.0.2.4"]
    )
    for number in range(8):
        admission.exchanged(f"stranger{number}")
    assert admission.arrive("newest", "192.0.2.5") == ["stranger1"]


def test_what_is_logged_in_is_never_asked_to_leave() -> None:
    admission = Admission(max_unauthenticated=4)
    for number in range(100):
        assert admission.arrive(f"session{number}", HONEST) == []
        assert admission.log_in(f"session{number}")
    gone = crowd(admission, [HONEST] * 50 + ["192.0.2.1"] * 50)
    assert len(gone) >= 96
    assert not [name for name in gone if name.startswith("session")]


def test_more_logins_at_once_than_sessions_are_refused() -> None:
    admission = Admission(max_sessions=3)
    crowd(admission, [f"192.0.2.{number}" for number in range(10)])
    assert [admission.log_in(f"stranger{number}") for number in range(10)] == [True] * 3 + [False] * 7
    assert admission.arrive("late", HONEST) is NoRoom.SESSIONS
    admission.leave("stranger0")
    assert admission.log_in("stranger9")


def test_the_limit_of_an_address_counts_sessions_too() -> None:
    admission = Admission(max_per_address=2)
    crowd(admission, [HONEST, HONEST])
    assert admission.log_in("stranger0")
    assert admission.arrive("third", HONEST) is NoRoom.ADDRESS
    assert admission.arrive("other", "192.0.2.1") == []
    admission.leave("stranger1")
    assert admission.arrive("third", HONEST) == []


def test_who_made_room_does_not_log_in_any_more() -> None:
    admission = Admission(max_unauthenticated=2)
    crowd(admission, ["192.0.2.1", "192.0.2.2"])
    assert admission.arrive("newest", HONEST) == ["stranger0"]
    assert not admission.log_in("stranger0")
    admission.leave("stranger0")
    assert admission.log_in("newest")


@pytest.mark.parametrize(
    ("address", "site"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1:2:3:4", "2001:db8::"),
        ("2001:db8:0:1::1", "2001:db8:0:1::"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),  # a unix socket
        ("not an address", "not an address"),
    ],
)
def test_a_site_is_an_ipv4_address_or_an_ipv6_64(address: str, site: str) -> None:
    assert site_of(address) == site
