"""Specifications: what the command line's forms mean, and that nothing else gets through."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wraith.errors import UsageError
from wraith.specs import (
    ALL_ADDRESSES,
    LOCALHOST,
    AddressPattern,
    ListenSpec,
    PermitOpen,
    Scheme,
    SocksSpec,
    Target,
    TcpBind,
    UnixBind,
    parse_listen,
    parse_open_pattern,
    parse_permit_open,
    parse_socks,
    parse_target,
)

PARSERS: list[Callable[[str], object]] = [
    parse_target,
    parse_listen,
    parse_socks,
    parse_open_pattern,
]

labels = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,20}", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6).map(str)
zoned = st.builds("fe80::{:x}%{}".format, st.integers(0, 0xFFFF), st.sampled_from(["eth0", "1", "br-lan.7"]))
hosts = st.one_of(names, ipv4, ipv6, zoned)
ports = st.integers(1, 65535)
binds = st.builds(
    TcpBind, st.one_of(st.just(ALL_ADDRESSES), hosts.filter(lambda h: h.lower() != LOCALHOST)), st.integers(0, 65535)
)
users = st.text(st.characters(min_codepoint=33, max_codepoint=0x24F), min_size=1, max_size=30).filter(str.isprintable)
# Text that looks enough like a specification to reach every branch.
nearly = st.text(st.sampled_from("ab0159:[]@/*.%-\\ \n\0é٣"), max_size=40)
anything = st.one_of(st.text(max_size=80), nearly)


def complaint_about(parse: Callable[[str], object], text: str) -> str:
    """Return what the UsageError says, or nothing when the text could be read."""
    try:
        parse(text)
    except UsageError as error:
        return str(error)
    return ""


@given(st.builds(Target, hosts, st.none() | ports, st.none() | users, st.sampled_from(Scheme)))
def test_a_target_is_read_back_as_it_was_written(target: Target) -> None:
    assert parse_target(str(target)) == target


@given(st.builds(ListenSpec, hosts, st.integers(0, 65535), st.none() | st.sampled_from(Scheme)))
def test_a_listening_address_is_read_back_as_it_was_written(spec: ListenSpec) -> None:
    assert parse_listen(str(spec)) == spec


@given(st.builds(SocksSpec, binds))
def test_a_socks_address_is_read_back_as_it_was_written(spec: SocksSpec) -> None:
    assert parse_socks(str(spec)) == spec


@given(st.builds(AddressPattern, st.none() | hosts, st.none() | ports))
def test_a_pattern_is_read_back_as_it_was_written(pattern: AddressPattern) -> None:
    assert parse_open_pattern(str(pattern)) == pattern


@given(anything)
def test_any_text_is_read_or_answered_with_one_printable_line(text: str) -> None:
    for parse in PARSERS:
        complaint = complaint_about(parse, text)
        assert complaint.isprintable()
        assert complaint.isascii()
        assert len(complaint) < 1200


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("host", Target("host")),
        ("host.example:2222", Target("host.example", 2222)),
        ("me@host", Target("host", user="me")),
        ("me@corp@host:22", Target("host", 22, user="me@corp")),
        ("tls://host", Target("host", scheme=Scheme.TLS)),
        ("TLS://me@host:8443", Target("host", 8443, "me", Scheme.TLS)),
        ("tcp://[2001:db8::1]:22", Target("2001:db8::1", 22, scheme=Scheme.TCP)),
        ("2001:db8::1", Target("2001:db8::1")),
        ("me@fe80::1%eth0", Target("fe80::1%eth0", user="me")),
        ("[::1]", Target("::1")),
        ("A" * 39, Target("A" * 39)),
        ("a" * 30 + "." + "b" * 15, Target("a" * 30 + "." + "b" * 15)),
    ],
)
def test_targets(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize("length", [40, 43, 50])
def test_an_endpoint_id_is_never_taken_for_a_host_name(length: int) -> None:
    with pytest.raises(UsageError, match="endpoint ID"):
        parse_target(("a1B2" * 13)[:length])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "host is missing"),
        ("host:", "port is missing"),
        ("host:0", "not a port"),
        ("host:65536", "not a port"),
        ("host:٢٢", "not a port"),
        ("host:ssh", "not a port"),
        ("@host", "user name"),
        ("a b@host", "not a user name"),
        ("2001:db8::1:2:3:4:5:6:7", "brackets"),
        ("[::1", "not closed"),
        ("[::1]x", "not closed"),
        ("[host]:22", "not an IPv6 address"),
        ("wraith://ticket", "only tcp:// and tls://"),
        ("https://host", "only tcp:// and tls://"),
        ("tls://host/path", "not a host"),
        ("bücher.example", "xn--"),
        ("a..b", "not a host"),
        ("a\nb", "not a host"),
        ("x" * 64, "not a host"),
        ("h" * 2000, "too long"),
    ],
)
def test_a_malformed_target_is_told_why(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_target(text)


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("1080", TcpBind("127.0.0.1", 1080)),
        ("0", TcpBind("127.0.0.1", 0)),
        ("localhost:1080", TcpBind(LOCALHOST, 1080)),
        ("[::1]:1080", TcpBind("::1", 1080)),
        ("*:1080", TcpBind(ALL_ADDRESSES, 1080)),
        (":1080", TcpBind(ALL_ADDRESSES, 1080)),
        ("/run/user/1000/w:1.sock", UnixBind("/run/user/1000/w:1.sock")),
    ],
)
def test_socks_addresses(text: str, bind: TcpBind | UnixBind) -> None:
    assert parse_socks(text) == SocksSpec(bind)


@pytest.mark.parametrize("text", ["", "x", "./w.sock", "/", "/tmp/", "/tmp/a\0b", "/" + "x" * 200, "::1:1080", "a:b:c"])
def test_a_malformed_socks_address_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"\[ADDR:\]PORT"):
        parse_socks(text)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("[::]:22", ListenSpec("::", 22)),
        ("*:22", ListenSpec("::", 22)),
        (":22", ListenSpec("::", 22)),
        ("127.0.0.1:0", ListenSpec("127.0.0.1", 0)),
        ("tls://[::1]:443", ListenSpec("::1", 443, Scheme.TLS)),
    ],
)
def test_listening_addresses(text: str, spec: ListenSpec) -> None:
    assert parse_listen(text) == spec


@pytest.mark.parametrize("text", ["22", "::1:22", "::1", "quic://[::]:443", "host:", "a:b:22", "tls://"])
def test_a_malformed_listening_address_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"write \[SCHEME://\]ADDR:PORT"):
        parse_listen(text)


def test_without_patterns_everything_may_be_opened() -> None:
    assert parse_permit_open([]).allows("anything", 1)


@pytest.mark.parametrize(
    ("pattern", "host", "port", "allowed"),
    [
        ("db:5432", "db", 5432, True),
        ("db:5432", "db", 5433, False),
        ("db:5432", "DB", 5432, False),  # sshd compares letter by letter
        ("db:5432", "db.", 5432, False),
        ("db:*", "db", 1, True),
        ("*:80", "any.example", 80, True),
        ("*:80", "any.example", 81, False),
        ("*:*", "x", 1, True),
        ("[::1]:80", "::1", 80, True),
        ("[::1]:80", "0:0::1", 80, False),  # the name as asked
        ("[::1]:*", "::1", 9, True),
    ],
)
def test_a_pattern_is_compared_as_sshd_does(pattern: str, host: str, port: int, allowed: bool) -> None:
    assert parse_permit_open([pattern]).allows(host, port) is allowed


def test_one_of_several_patterns_is_enough() -> None:
    permit = PermitOpen((AddressPattern("a", 1), AddressPattern("b", 2)))
    assert (permit.allows("b", 2), permit.allows("a", 2)) == (True, False)


@pytest.mark.parametrize("text", ["db", "db:", ":80", "*.example:80", "::1:80", "db:0", "db:x", "[db:80", ""])
def test_a_malformed_pattern_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="--permit-open"):
        parse_open_pattern(text)


@given(ipv6, ports)
def test_a_bare_ipv6_address_is_a_host_without_a_port(address: str, port: int) -> None:
    assert parse_target(address) == Target(address)
    assert parse_target(f"[{address}]:{port}") == Target(address, port)
    assert ipaddress.ip_address(parse_target(address).host)
