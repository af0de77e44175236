"""Claims about when a client tries again: soon, then more seldom, and when it gives up."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wraith.backoff import (
    JITTER,
    LONGEST_DELAY_S,
    REFUSED_FIRST_DELAY_S,
    REFUSED_LONGEST_DELAY_S,
    SETTLED_S,
    Backoff,
    Retry,
)
from wraith.errors import AuthenticationRefused, ConnectFailed, UnusableFile, UsageError, WraithError, WrongPeer

REFUSALS = (AuthenticationRefused("no"), WrongPeer("another key"))
CHANCE = st.floats(0, 1)
EVENTS = st.one_of(
    st.just("connected"),
    st.tuples(st.just("lost"), st.floats(0, 1e9), CHANCE),
    st.tuples(st.sampled_from((*REFUSALS, ConnectFailed("x"), UnusableFile("y"))), CHANCE),
)


def after_a_login() -> Backoff:
    backoff = Backoff()
    backoff.connected()
    return backoff


def retried(retry: Retry | None) -> Retry:
    assert retry is not None
    return retry


@given(st.lists(EVENTS, max_size=40))
def test_a_delay_is_never_negative_and_never_longer_than_the_longest(events: list[object]) -> None:
    backoff = after_a_login()
    for event in events:
        match event:
            case "connected":
                backoff.connected()
            case ("lost", float(lived_s), float(chance)):
                retry = backoff.lost(lived_s, chance)
                assert 1 - JITTER <= retry.delay_s <= LONGEST_DELAY_S
            case (WraithError() as error, float(chance)):
                retry = retried(backoff.failed(error, chance))
                first, longest = (
                    (REFUSED_FIRST_DELAY_S, REFUSED_LONGEST_DELAY_S) if error in REFUSALS else (1, LONGEST_DELAY_S)
                )
                assert first * (1 - JITTER) <= retry.delay_s <= longest
                assert retry.refused is (error in REFUSALS)


@given(CHANCE)
def test_chance_shortens_a_delay_by_a_quarter_at_most(chance: float) -> None:
    assert after_a_login().lost(0, chance).delay_s == pytest.approx(1 - JITTER * chance)


def test_delays_double_to_half_a_minute_and_go_on_for_ever() -> None:
    backoff = Backoff()
    delays = [retried(backoff.failed(ConnectFailed("x"), 0)).delay_s for _ in range(1000)]
    assert delays[:7] == [1, 2, 4, 8, 16, 30, 30]
    assert set(delays[7:]) == {30}


def test_a_session_that_lived_begins_from_the_first_delay_and_one_that_did_not_does_not() -> None:
    backoff = after_a_login()
    for _ in range(10):
        backoff.failed(ConnectFailed("x"), 0)
    backoff.connected()
    assert backoff.lost(SETTLED_S / 2, 0).delay_s == 30
    backoff.connected()
    assert backoff.lost(SETTLED_S, 0).delay_s == 1
    assert backoff.lost(0, 0).delay_s == 2


@pytest.mark.parametrize("error", [*REFUSALS, UnusableFile("x"), UsageError("x")])
def test_what_trying_again_cannot_mend_is_the_end_before_the_first_login_and_never_after(error: WraithError) -> None:
    backoff = Backoff()
    assert backoff.failed(ConnectFailed("x"), 0) is not None
    assert backoff.failed(error, 0) is None
    backoff.connected()
    backoff.lost(0, 0)
    for _ in range(10):
        assert backoff.failed(error, 0) is not None


@pytest.mark.parametrize("error", REFUSALS)
def test_a_refusal_after_a_login_is_tried_each_five_minutes_doubling_to_an_hour(error: WraithError) -> None:
    backoff = after_a_login()
    delays = [retried(backoff.failed(error, 0)).delay_s for _ in range(8)]
    assert delays == [300, 600, 1200, 2400, 3600, 3600, 3600, 3600]
    backoff.connected()
    assert retried(backoff.failed(error, 0)).delay_s == 300


def test_a_refusal_is_news_once_between_two_logins_whatever_comes_between() -> None:
    backoff = after_a_login()
    errors = [REFUSALS[0], ConnectFailed("x"), REFUSALS[1], REFUSALS[0]]
    assert [retried(backoff.failed(error, 0)).news for error in errors] == [True, True, False, False]
    backoff.connected()
    assert retried(backoff.failed(REFUSALS[0], 0)).news


def test_a_failure_is_news_when_it_is_another_one() -> None:
    backoff = Backoff()
    words = ["refused", "refused", "no route", "no route", "refused"]
    assert [retried(backoff.failed(ConnectFailed(each), 0)).news for each in words] == [True, False, True, False, True]
    backoff.connected()
    assert backoff.lost(0, 0).news
    assert retried(backoff.failed(ConnectFailed("refused"), 0)).news


def test_a_thousand_clients_do_not_come_back_together() -> None:
    delays = sorted(after_a_login().lost(0, number / 999).delay_s for number in range(1000))
    assert delays[-1] - delays[0] == pytest.approx(JITTER)
    assert max(later - earlier for earlier, later in itertools.pairwise(delays)) < 0.001
