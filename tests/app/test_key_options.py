"""Claims about the options of authorized_keys, measured against what auth-options.c of OpenSSH does."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wraith.ssh.absolute_time import BadTime, parse_absolute_time
from wraith.ssh.authorized_keys import options_end
from wraith.ssh.key_options import NO_OPTIONS, BadOption, KeyOptions, OpenPermission, parse_key_options

KNOWN_FLAGS = ["pty", "agent-forwarding", "X11-forwarding", "user-rc", "port-forwarding"]


def refusal(text: str) -> str:
    with pytest.raises(BadOption) as refused:
        parse_key_options(text)
    assert str(refused.value).isascii() or "…" in str(refused.value)
    return str(refused.value)


def test_no_options_allow_all_that_there_is() -> None:
    assert parse_key_options("") == NO_OPTIONS
    assert NO_OPTIONS.port_forwarding
    assert (NO_OPTIONS.come_from, NO_OPTIONS.expires_at, NO_OPTIONS.principals) == (None, None, None)


@given(st.lists(st.sampled_from(["restrict", *KNOWN_FLAGS, *(f"no-{flag}" for flag in KNOWN_FLAGS)]), max_size=8))
def test_the_last_word_about_port_forwarding_counts(words: list[str]) -> None:
    said = [word for word in words if word in ("restrict", "port-forwarding", "no-port-forwarding")]
    expected = not said or said[-1] == "port-forwarding"
    assert parse_key_options(",".join(words)) == KeyOptions(port_forwarding=expected)


@given(st.data())
def test_names_have_no_case(data: st.DataObject) -> None:
    text = 'restrict,cert-authority,principals="a,B",permitopen="Host:1",permitlisten="2",expiry-time="20370101Z"'
    names = ("restrict", "cert-authority", "principals", "permitopen", "permitlisten", "expiry-time")
    odd = text
    for name in names:
        upper = data.draw(st.lists(st.booleans(), min_size=len(name), max_size=len(name)))
        written = "".join(letter.upper() if up else letter for letter, up in zip(name, upper, strict=True))
        odd = odd.replace(name, written)
    assert parse_key_options(odd) == parse_key_options(text)
    assert parse_key_options(odd).principals == frozenset({"a", "B"})
    assert parse_key_options(odd).permit_open[0].host == "Host"


# What ends in a backslash, or has one before a quote character, cannot be written: \\" is \\ and a quote character.
@given(st.text(alphabet='ab\\", ', max_size=12).filter(lambda each: '\\"' not in each and not each.endswith("\\")))
def test_a_quoted_value_is_what_it_was_before_quoting(value: str) -> None:
    host = f"h{value}"
    text = 'permitopen="' + host.replace('"', '\\"') + ':1"'
    assert options_end(text + " key") == len(text)
    assert parse_key_options(text).permit_open == (OpenPermission(host, 1),)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("Restricted", "the option 'Restricted' is unknown"),
        ("no-restrict", "the option 'no-restrict' is unknown"),
        ("no-cert-authority", "unknown"),
        ("no-no-pty", "unknown"),
        ('x"y"', "unknown"),
        ("pty=", "its value is not in quotes"),
        ('pty="yes"', "the option pty takes no value"),
        ('no-port-forwarding="x"', "the option no-port-forwarding takes no value"),
        ("from", "from needs a value in quotes"),
        ("from=10.0.0.1", "from: its value is not in quotes"),
        ('from="10.0.0.1', "from: a quote is opened and not closed"),
        ('from="10.0.0.1"pty', "from: a comma is missing after its value"),
        ('from="a",from="b"', "from is given twice"),
        ('from=""', "an element of the list is empty"),
        ('from="a,"', "an element of the list is empty"),
        ('from="!"', "an element of the list is empty"),
        ('from="10.0.0.1/8"', "the address and the length of the network do not agree"),
        ('from="10.0.0.0/33"', "the address and the length of the network do not agree"),
        ('from="!127.1,*"', "'127.1' is an address in an unusual form: write it in full"),
        ('from="!0177.0.0.1,*"', "unusual form"),
        ('from="::ffff:10.0.0.1"', "IPv4 peers are matched by IPv4 addresses"),
        ('cert-authority,principals="a",principals="b"', "principals is given twice"),
        ('cert-authority,principals=""', "principals names nobody"),
        ('principals="a"', "principals needs cert-authority"),
        ('expiry-time="2037"', "is not YYYYMMDD"),
        ('expiry-time="20371301"', "is not a date and time"),
        ('expiry-time="19700101Z"', "out of range"),
        ('expiry-time="00000101Z"', "out of range"),
        ('permitopen="host"', "is not HOST:PORT"),
        ('permitopen=":1"', "is not HOST:PORT"),
        ('permitopen="::1:80"', "is not HOST:PORT"),
        ('permitopen="/run/a.sock"', "is not HOST:PORT"),
        ('permitopen="[::1:80"', "is not HOST:PORT"),
        ('permitopen="[::1]80"', "is not HOST:PORT"),
        ('permitopen="a:0"', "'0' is not a port"),
        ('permitopen="a:65536"', "'65536' is not a port"),
        ('permitopen="a:no-such-service"', "is not a port"),
        ('permitlisten="localhost"', "is not a port"),
        ('permitlisten=""', "'' is not a port"),
        ("verify-required", "verify-required is not supported"),
        ("No-Touch-Required", "no-touch-required is not supported: a touch is always required"),
        ('ENVIRONMENT="A=b"', "environment is not supported"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_name(options: str, said: str) -> None:
    assert said in refusal(options)


def test_what_a_stranger_wrote_is_cut() -> None:
    assert len(refusal("x" * 5000)) < 200
    assert len(refusal(f'permitopen="{"x" * 5000}"')) < 200


@pytest.mark.parametrize(
    ("value", "host", "port", "allowed"),
    [
        ("a:1", "a", 1, True),
        ("a:1", "A", 1, False),
        ("a:1", "a.", 1, False),
        ("a:1", "a", 2, False),
        ("*:1", "anything", 1, True),
        ("a:*", "a", 65535, True),
        ("*:*", "b", 3, True),
        ("[::1]:80", "::1", 80, True),
        ("[::1]:80", "0::1", 80, False),
        ("a*:1", "ab", 1, False),
    ],
)
def test_permitopen_compares_what_was_asked_for(value: str, host: str, port: int, allowed: bool) -> None:
    (permission,) = parse_key_options(f'permitopen="{value}"').permit_open
    assert permission.allows(host, port) is allowed


def test_a_port_may_have_a_name() -> None:
    try:
        port = socket.getservbyname("https", "tcp")
    except OSError:  # a system without /etc/services
        assert "is not a port" in refusal('permitopen="a:https"')
        return
    assert parse_key_options('permitopen="a:https"').permit_open == (OpenPermission("a", port),)


@pytest.mark.parametrize(
    ("value", "host", "port", "allowed"),
    [
        ("8080", "anything", 8080, True),
        ("8080", "", 8080, True),
        ("8080", "localhost", 0, False),
        ("*", "localhost", 0, True),
        ("localhost:8080", "localhost", 8080, True),
        ("localhost:8080", "LOCALHOST", 8080, True),
        ("localhost:8080", "127.0.0.1", 8080, False),
        ("127.*:*", "127.0.0.1", 1, True),
        ("[::1]:80", "::1", 80, True),
        ("*:80", "::", 80, True),
    ],
)
def test_permitlisten_compares_what_was_asked_for(value: str, host: str, port: int, allowed: bool) -> None:
    (permission,) = parse_key_options(f'permitlisten="{value}"').permit_listen
    assert permission.allows(host, port) is allowed


def test_permissions_add_up_to_a_limit() -> None:
    two = parse_key_options('permitopen="a:1",permitlisten="2",permitopen="b:3"')
    assert [permission.host for permission in two.permit_open] == ["a", "b"]
    assert len(two.permit_listen) == 1
    refusal(",".join(['permitopen="a:1"'] * 4097))


def test_the_earliest_expiry_counts() -> None:
    for first, second in (("20360101Z", "20370101Z"), ("20370101Z", "20360101Z")):
        both = parse_key_options(f'expiry-time="{first}",expiry-time="{second}"')
        assert both.expires_at == parse_absolute_time("20360101Z")


@given(st.text(alphabet='resticno-pyfmaul=",\\!*:. \t019Z', max_size=40))
def test_random_options_are_read_or_refused(text: str) -> None:
    with contextlib.suppress(BadOption):
        parse_key_options(text)


@given(st.text(max_size=30))
def test_nothing_becomes_no_options_but_commas(text: str) -> None:
    try:
        options = parse_key_options(text)
    except BadOption:
        return
    if options == NO_OPTIONS:
        words = {word.lower().removeprefix("no-") for word in text.split(",")} - {""}
        assert words <= {"pty", "agent-forwarding", "x11-forwarding", "user-rc", "port-forwarding"}


# Moments


@pytest.fixture
def zone() -> Iterator[None]:
    before = os.environ.get("TZ")
    yield
    os.environ.pop("TZ", None)
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20200101Z", 1577836800),
        ("202001010000Z", 1577836800),
        ("20200101000000Z", 1577836800),
        ("20200101000001z", 1577836801),
        ("20200101UTC", 1577836800),
        ("20200101utc", 1577836800),
        ("20200231Z", 1583107200),  # the 2nd of March, as sshd has it
        ("19700101000001Z", 1),
        ("99991231235959Z", 253402300799),
    ],
)
def test_moments_in_utc(text: str, seconds: int) -> None:
    assert parse_absolute_time(text) == seconds


def test_without_a_zone_it_is_local_standard_time(zone: None) -> None:
    os.environ["TZ"] = "CET-1CEST,M3.5.0,M10.5.0/3"
    time.tzset()
    assert parse_absolute_time("20200101") == 1577836800 - 3600
    # sshd asks for standard time in summer too.
    assert parse_absolute_time("20200701") == parse_absolute_time("20200630230000Z")
    assert parse_absolute_time("20200101Z") == 1577836800


@pytest.mark.parametrize(
    "text",
    ["", "Z", "2020", "202001", "2020010100", "2020-01-01", "20200101 ", "20200101ZZ", "+0200101", "2020010\u0661Z"],
)
def test_other_forms_are_no_moments(text: str) -> None:
    with pytest.raises(BadTime):
        parse_absolute_time(text)


@given(st.text(alphabet="0123456789ZUTCz ", max_size=18))
def test_random_text_is_a_moment_or_not(text: str) -> None:
    with contextlib.suppress(BadTime):
        assert parse_absolute_time(text) > 0
