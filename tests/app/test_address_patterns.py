"""Claims about `from=` and `source-address`."""

from __future__ import annotations

import contextlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wraith.ssh.address_patterns import BadAddressList, parse_from, parse_source_addresses, read_address
from wraith.ssh.wildcards import matches_wildcard

MAPPED = ipaddress.ip_network("::ffff:0:0/96")  # a list has no use for them
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).filter(lambda each: each not in MAPPED).map(str)
QUIC = "100::7f3a:9c2"  # how a peer known by its key appears


@pytest.mark.parametrize(
    ("patterns", "address", "matches"),
    [
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("0.0.0.0/0", "11.1.2.3", True),
        ("0.0.0.0/0", "::1", False),
        ("2001:db8::/32", "2001:DB8:0::1", True),
        ("2001:DB8::/32", "2001:db8::1", True),
        ("2001:db8::1", "2001:db8:0:0::1", True),
        ("10.1.*", "10.1.2.3", True),
        ("10.1.*", "10.11.2.3", False),
        ("10.1.2.?", "10.1.2.3", True),
        ("10.1.2.?", "10.1.2.33", False),
        ("FE80:*", "fe80::1", True),
        ("!FE80:*,*", "fe80::1", False),
        ("fe80::/10", "fe80::1%eth0", True),
        ("host.example", "10.1.2.3", False),
        ("*", "10.1.2.3", True),
        ("*,!10.0.0.0/8", "10.1.2.3", False),
        ("!10.0.0.0/8,*", "10.1.2.3", False),
        ("!10.0.0.0/8,*", "11.1.2.3", True),
        ("!10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.1,10.0.0.2", "10.0.0.2", True),
        ("!127.0.0.1,*", "::ffff:127.0.0.1", False),
        ("127.0.0.1", "::ffff:127.0.0.1", True),
        ("*", "memory", False),
        ("*", "", False),
        ("10.0.0.0/", "10.0.0.0", False),
    ],
)
def test_from(patterns: str, address: str, matches: bool) -> None:
    assert parse_from(patterns).matches(address) is matches


@pytest.mark.parametrize("patterns", ["*", "100::/64", "::/0", "100:*", "!10.0.0.1,*", QUIC])
def test_a_peer_known_by_its_key_comes_from_nowhere(patterns: str) -> None:
    assert not parse_from(patterns).matches(QUIC)


def test_nor_does_a_source_address_let_it_in() -> None:
    assert not parse_source_addresses("::/0").matches(QUIC)
    assert parse_source_addresses("::/0").matches("2001:db8::1")


@given(ADDRESSES)
def test_a_refused_address_is_refused_whatever_else_the_list_says(address: str) -> None:
    for others in ("*", "0.0.0.0/0,::/0", address):
        assert not parse_from(f"!{address},{others}").matches(address)
        assert not parse_from(f"{others},!{address}").matches(address)
    assert not parse_from(f"!{address}").matches(address)


@given(ADDRESSES.filter(lambda each: ipaddress.ip_address(each) not in ipaddress.ip_network("100::/64")))
def test_an_address_lets_itself_in(address: str) -> None:
    assert parse_from(address).matches(address)
    assert parse_source_addresses(address).matches(address)


@given(st.text(alphabet="0123456789abcf.:/*?!,x% -", max_size=30), ADDRESSES)
def test_random_lists_are_read_or_refused(text: str, address: str) -> None:
    with contextlib.suppress(BadAddressList):
        parse_from(text).matches(address)
    with contextlib.suppress(BadAddressList):
        parse_source_addresses(text).matches(address)


@pytest.mark.parametrize(
    "text",
    ["", ",", "10.0.0.1,", "*", "!10.0.0.1", "10.0.0.1/8", "10.0.0.0/33", "host", "10.0.0.1 ", "127.1", "a" * 60],
)
def test_source_addresses_are_addresses_and_networks_alone(text: str) -> None:
    with pytest.raises(BadAddressList):
        parse_source_addresses(text)


def test_addresses_are_read_without_zone_and_mapping() -> None:
    assert str(read_address("::ffff:10.0.0.1")) == "10.0.0.1"
    assert str(read_address("fe80::1%3")) == "fe80::1"
    assert read_address("localhost") is None


@given(st.text(alphabet="ab*?", max_size=8), st.text(alphabet="ab", max_size=8))
def test_wildcards_match_as_they_do_one_by_one(pattern: str, text: str) -> None:
    assert matches_wildcard(pattern, text) is slowly(pattern, text)


def slowly(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return slowly(pattern[1:], text) or (bool(text) and slowly(pattern, text[1:]))
    return bool(text) and pattern[0] in ("?", text[0]) and slowly(pattern[1:], text[1:])


def test_wildcards_take_no_exponential_time() -> None:
    assert not matches_wildcard("*a" * 30 + "b", "a" * 10_000)
