"""Forwards as ssh writes them, and what a server permits: every form, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wraith.errors import UsageError
from wraith.specs import (
    ALL_ADDRESSES,
    LOCALHOST,
    AddressPattern,
    LocalForwardSpec,
    PermitListen,
    PermitOpen,
    RemoteForwardSpec,
    TcpBind,
    TcpTarget,
    UnixBind,
    UnixTarget,
    parse_listen_pattern,
    parse_local_forward,
    parse_permit_listen,
    parse_permit_open,
    parse_remote_forward,
    parse_stdio,
)

PARSERS: list[Callable[[str], object]] = [
    parse_local_forward,
    parse_remote_forward,
    parse_stdio,
    parse_listen_pattern,
    lambda text: parse_permit_open([text]),
    lambda text: parse_permit_listen([text]),
]

labels = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,20}", fullmatch=True)
hosts = st.one_of(
    st.lists(labels, min_size=1, max_size=4).map(".".join), st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)
)
ports = st.integers(1, 65535)
paths = st.lists(st.from_regex(r"[A-Za-z0-9_. é-]{1,12}", fullmatch=True), min_size=1, max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)
tcp_binds = st.builds(
    TcpBind, st.one_of(st.just(ALL_ADDRESSES), hosts.filter(lambda h: h.lower() != LOCALHOST)), st.integers(0, 65535)
)
binds = tcp_binds | st.builds(UnixBind, paths)
targets = st.builds(TcpTarget, hosts, ports) | st.builds(UnixTarget, paths)
# Text that looks enough like a specification to reach every branch.
nearly = st.text(st.sampled_from("ab0159:[]@/*.%-\\ \n\0é٣"), max_size=40)
anything = st.one_of(st.text(max_size=80), nearly)


@given(st.builds(LocalForwardSpec, binds, targets))
def test_a_local_forward_is_read_back_as_it_was_written(spec: LocalForwardSpec) -> None:
    assert parse_local_forward(str(spec)) == spec


@given(st.builds(RemoteForwardSpec, binds, targets) | st.builds(RemoteForwardSpec, tcp_binds, st.none()))
def test_a_remote_forward_is_read_back_as_it_was_written(spec: RemoteForwardSpec) -> None:
    assert parse_remote_forward(str(spec)) == spec


@given(st.builds(TcpTarget, hosts, ports))
def test_a_target_of_stdio_is_read_back_as_it_was_written(target: TcpTarget) -> None:
    assert parse_stdio(str(target)) == target


@given(st.builds(AddressPattern, st.none() | hosts, st.none() | ports))
def test_a_pattern_is_read_back_as_it_was_written(pattern: AddressPattern) -> None:
    assert parse_listen_pattern(str(pattern)) == pattern


@given(anything)
def test_any_text_is_read_or_answered_with_one_printable_line(text: str) -> None:
    for parse in PARSERS:
        try:
            parse(text)
        except UsageError as error:
            complaint = str(error)
            assert complaint.isprintable()
            assert complaint.isascii()
            assert len(complaint) < 1200


BINDS: dict[str, TcpBind | UnixBind] = {
    "8080": TcpBind(LOCALHOST, 8080),
    "0": TcpBind(LOCALHOST, 0),
    "LocalHost:8080": TcpBind(LOCALHOST, 8080),
    "127.0.0.1:8080": TcpBind("127.0.0.1", 8080),
    "[127.0.0.1]:8080": TcpBind("127.0.0.1", 8080),
    "[::1]:8080": TcpBind("::1", 8080),
    "[fe80::1%eth0]:8080": TcpBind("fe80::1%eth0", 8080),
    "*:8080": TcpBind(ALL_ADDRESSES, 8080),
    ":8080": TcpBind(ALL_ADDRESSES, 8080),
    "[]:8080": TcpBind(ALL_ADDRESSES, 8080),
    "gateway.example:8080": TcpBind("gateway.example", 8080),
    "/run/a.sock": UnixBind("/run/a.sock"),
    "[/run/a:b.sock]": UnixBind("/run/a:b.sock"),
}
TARGETS: dict[str, TcpTarget | UnixTarget] = {
    "db:5432": TcpTarget("db", 5432),
    "[db]:5432": TcpTarget("db", 5432),
    "10.0.0.1:80": TcpTarget("10.0.0.1", 80),
    "[2001:db8::1]:80": TcpTarget("2001:db8::1", 80),
    "/run/b.sock": UnixTarget("/run/b.sock"),
    "[/run/b:c.sock]": UnixTarget("/run/b:c.sock"),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bind", BINDS)
def test_every_way_to_listen_goes_with_every_target_on_both_sides(bind: str, target: str) -> None:
    text = f"{bind}:{target}"
    assert parse_local_forward(text) == LocalForwardSpec(BINDS[bind], TARGETS[target])
    assert parse_remote_forward(text) == RemoteForwardSpec(BINDS[bind], TARGETS[target])


@pytest.mark.parametrize("bind", [bind for bind in BINDS if isinstance(BINDS[bind], TcpBind)])
def test_a_remote_forward_without_a_target_speaks_socks_and_a_local_one_is_told_so(bind: str) -> None:
    assert parse_remote_forward(bind) == RemoteForwardSpec(BINDS[bind], None)
    with pytest.raises(UsageError, match="the target is missing"):
        parse_local_forward(bind)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "port is missing"),
        ("8080:db", "not a port"),
        ("8080:db:", "port is missing"),
        ("a:b:c:d:e", "brackets"),
        ("8080::80", "host is missing"),
        ("8080:db:0", "not a port"),
        ("8080:db:http", "not a port"),
        ("8080:db:٨٠", "not a port"),
        ("65536:db:80", "not a port"),
        ("-1:db:80", "not a port"),
        ("::1:8080:db:80", "brackets"),
        ("[::1:8080:db:80", "not closed"),
        ("[::1]8080:db:80", "not closed"),
        ("a b:8080:db:80", "not a host"),
        ("/run/a.sock", "target is missing"),
        ("/run/a.sock:db", "fields"),
        ("/run/a.sock:1:2:3", "fields"),
        ("/run/:db:80", "not the path of a socket"),
        ("8080:/", "not the path of a socket"),
        ("8080:/a\0b", "not the path of a socket"),
        ("8080:/" + "x" * 200, "at most"),
        ("8080:./b.sock", "not a port"),
        ("./a.sock:db:80", "not a port"),
    ],
)
def test_a_malformed_forward_is_told_why(text: str, reason: str) -> None:
    for flag, parse in (("-L", parse_local_forward), ("-R", parse_remote_forward)):
        with pytest.raises(UsageError, match=reason) as caught:
            parse(text)
        assert str(caught.value).startswith(f"{flag} ")


@pytest.mark.parametrize(
    ("text", "target"),
    [("db:22", TcpTarget("db", 22)), ("[::1]:22", TcpTarget("::1", 22)), ("[db]:22", TcpTarget("db", 22))],
)
def test_targets_of_stdio(text: str, target: TcpTarget) -> None:
    assert parse_stdio(text) == target


@pytest.mark.parametrize("text", ["", "db", "db:", ":22", "db:0", "::1:22", "/run/a.sock", "a:b:c", "db:ssh"])
def test_a_malformed_target_of_stdio_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"-W .*write HOST:PORT"):
        parse_stdio(text)


# What is permitted


def test_unix_sockets_are_refused_unless_listed_and_listing_one_does_not_narrow_the_rest() -> None:
    nothing, one = parse_permit_open([]), parse_permit_open(["/run/a.sock"])
    assert (nothing.allows_path("/run/a.sock"), one.allows_path("/run/a.sock")) == (False, True)
    assert not one.allows_path("/run/a.sock2")
    assert not one.allows_path("/run/../run/a.sock")  # as it is asked for, letter by letter
    assert nothing.allows("any", 1)
    assert one.allows("any", 1)
    assert parse_permit_open(["/run/a.sock", "db:1"]) == PermitOpen(
        (AddressPattern("db", 1),), frozenset({"/run/a.sock"})
    )


def test_the_same_goes_for_listening() -> None:
    nothing, one = parse_permit_listen([]), parse_permit_listen(["/run/a.sock"])
    assert (nothing.allows_path("/run/a.sock"), one.allows_path("/run/a.sock")) == (False, True)
    assert one.allows("localhost", 8080)
    assert not one.allows("localhost", 80)


@pytest.mark.parametrize(
    ("patterns", "host", "port", "allowed"),
    [
        ([], "localhost", 1024, True),
        ([], "localhost", 1023, False),
        ([], "localhost", 1, False),
        ([], "localhost", 0, True),  # which is never a privileged one
        ([], "", 65535, True),
        (["8080"], "localhost", 8080, True),
        (["8080"], "", 8080, True),
        (["8080"], "localhost", 8081, False),
        (["8080"], "localhost", 0, False),
        (["80"], "localhost", 80, True),  # who lists it wants it
        (["localhost:8080"], "localhost", 8080, True),
        (["localhost:8080"], "127.0.0.1", 8080, False),  # letter by letter
        (["localhost:*"], "localhost", 0, True),
        (["localhost:*"], "", 8080, False),
        (["[::1]:8080"], "::1", 8080, True),
        (["*:8080"], "anything", 8080, True),
        (["1", "2"], "localhost", 2, True),
    ],
)
def test_what_may_be_listened_on(patterns: list[str], host: str, port: int, allowed: bool) -> None:
    permit = parse_permit_listen(patterns)
    assert isinstance(permit, PermitListen)
    assert permit.allows(host, port) is allowed


@pytest.mark.parametrize(
    "text", ["", "x", "h:x", "h:0", "0", "*.example:80", "::1:80", ":80", "[h:80", "/", "/a/", "/a\0"]
)
def test_a_malformed_permission_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="--permit-listen"):
        parse_permit_listen([text])
