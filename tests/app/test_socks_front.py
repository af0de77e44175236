"""The parsers of the SOCKS port: true answers for every client, any split, and no harm from any bytes."""

from __future__ import annotations

import base64
import random
import socket
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wraith.opening import OpenFailure
from wraith.socks import Credentials, Event, Front, FrontProtocol, Refuse, Request, Send, failed, opened

LOGIN = Credentials({b"anna": b"secret", b"ben": b"p:w"})


def talk(data: bytes, *, credentials: Credentials | None = None, cuts: tuple[int, ...] = ()) -> list[Event]:
    """Feed data, cut at the given places, and return every event."""
    front = Front(credentials)
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [event for start, end in pairwise(edges) for event in front.feed(data[start:end])]


def outcome(events: list[Event]) -> Event:
    assert events, "the front wants more bytes"
    assert all(isinstance(event, Send) for event in events[:-1])
    return events[-1]


def refused(data: bytes, *, credentials: Credentials | None = None) -> bytes:
    event = outcome(talk(data, credentials=credentials))
    assert isinstance(event, Refuse), event
    assert event.why
    return event.data


def requested(data: bytes, *, credentials: Credentials | None = None) -> tuple[FrontProtocol, str, int, bytes]:
    event = outcome(talk(data, credentials=credentials))
    assert isinstance(event, Request), event
    return event.protocol, event.host, event.port, event.unread


def status(reply: bytes) -> int:
    """Check that a reply is one whole response that closes, and return its status."""
    head, _, body = reply.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert b"Connection: close" in lines
    assert f"Content-Length: {len(body)}".encode() in lines
    return int(lines[0].split()[1])


def socks5(address: bytes, *, command: int = 1, port: int = 443, version: int = 5) -> bytes:
    return b"\x05\x01\x00" + bytes((version, command, 0)) + address + port.to_bytes(2, "big")


def socks5_name(name: bytes) -> bytes:
    return socks5(bytes((3, len(name))) + name)


def socks5_login(user: bytes, password: bytes, *, version: int = 1) -> bytes:
    return b"\x05\x02\x00\x02" + bytes((version, len(user))) + user + bytes((len(password),)) + password


def socks4(ip: bytes, name: bytes | None = None, *, user: bytes = b"me", command: int = 1, port: int = 80) -> bytes:
    head = bytes((4, command)) + port.to_bytes(2, "big") + ip + user + b"\0"
    return head if name is None else head + name + b"\0"


def connect(
    target: str = "host.example:443", *headers: str, method: str = "CONNECT", version: str = "HTTP/1.1"
) -> bytes:
    return "\r\n".join((f"{method} {target} {version}", "Host: ignored.example:1", *headers, "", "")).encode("latin-1")


def basic(pair: bytes, scheme: str = "Basic") -> str:
    return f"Proxy-Authorization: {scheme} {base64.b64encode(pair).decode()}"


# SOCKS5


@pytest.mark.parametrize(
    ("address", "host"),
    [
        (b"\x01\x7f\x00\x00\x01", "127.0.0.1"),
        (b"\x03\x0chost.example", "host.example"),
        (b"\x03\x03::1", "::1"),
        (b"\x03\x09127.0.0.1", "127.0.0.1"),
        (b"\x04" + socket.inet_pton(socket.AF_INET6, "2001:db8::1"), "2001:db8::1"),
    ],
)
def test_socks5_connects_to_addresses_and_unresolved_names(address: bytes, host: str) -> None:
    assert requested(socks5(address)) == (FrontProtocol.SOCKS5, host, 443, b"")


def test_socks5_answers_the_greeting_before_the_request_comes() -> None:
    assert talk(b"\x05\x02\x00\x02") == [Send(b"\x05\x00")]


def test_bytes_after_a_request_belong_to_the_target() -> None:
    assert requested(socks5_name(b"h") + b"\x05early")[3] == b"\x05early"
    assert requested(socks4(b"\x01\x02\x03\x04") + b"early")[3] == b"early"
    assert requested(connect() + b"GET / HTTP/1.1\r\n\r\n")[3] == b"GET / HTTP/1.1\r\n\r\n"


def test_nothing_is_read_after_the_end() -> None:
    front = Front()
    assert isinstance(front.feed(b"\x16\x03\x01")[0], Refuse)
    assert front.feed(socks5_name(b"h")) == []


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b"\x05\x00", b"\x05\xff"),
        (b"\x05\x02\x01\x02", b"\x05\xff"),  # GSSAPI or password only
        (socks5(b"\x01\1\2\3\4", command=2), b"\x05\x07"),  # BIND
        (socks5(b"\x01\1\2\3\4", command=3), b"\x05\x07"),  # UDP ASSOCIATE
        (socks5(b"\x01\1\2\3\4", version=4), b"\x05\x01"),
        (socks5(b"\x02\1\2\3\4"), b"\x05\x08"),
        (socks5(b"\x01\1\2\3\4", port=0), b"\x05\x01"),
        (socks5_name(b""), b"\x05\x01"),
        (socks5_name(b"a\0b"), b"\x05\x01"),
        (socks5_name(b"a b"), b"\x05\x01"),
        (socks5_name(b"a\r\nb"), b"\x05\x01"),
        (socks5_name("bücher.example".encode()), b"\x05\x01"),
        (socks5_name(b"[::1]"), b"\x05\x01"),
        (socks5_name(b"a..b"), b"\x05\x01"),
    ],
)
def test_socks5_refuses_with_the_true_code(data: bytes, reply: bytes) -> None:
    assert refused(data)[:2] == reply


def test_a_name_of_255_bytes_is_still_a_name() -> None:
    name = ".".join(["x" * 62] * 4) + ".yy"
    assert len(name) == 254
    assert requested(socks5_name(name.encode() + b"."))[1] == name + "."


def test_socks5_with_a_password_offers_nothing_else() -> None:
    assert refused(b"\x05\x01\x00", credentials=LOGIN) == b"\x05\xff"
    assert talk(b"\x05\x02\x00\x02", credentials=LOGIN) == [Send(b"\x05\x02")]


@pytest.mark.parametrize(("user", "password"), [(b"anna", b"secret"), (b"ben", b"p:w")])
def test_the_right_password_opens_the_port(user: bytes, password: bytes) -> None:
    data = socks5_login(user, password) + socks5_name(b"h")[3:]
    assert requested(data, credentials=LOGIN) == (FrontProtocol.SOCKS5, "h", 443, b"")
    assert talk(data, credentials=LOGIN)[:2] == [Send(b"\x05\x02"), Send(b"\x01\x00")]


@pytest.mark.parametrize(
    "login",
    [
        socks5_login(b"anna", b"wrong"),
        socks5_login(b"nobody", b"secret"),
        socks5_login(b"annas", b"ecret"),
        socks5_login(b"anna", b""),
        socks5_login(b"", b"secret"),
        socks5_login(b"", b""),
        socks5_login(b"anna", b"secret", version=5),
    ],
)
def test_any_other_login_is_refused(login: bytes) -> None:
    assert refused(login + socks5_name(b"h")[3:], credentials=LOGIN) == b"\x01\x01"


# SOCKS4


def test_socks4_connects_to_addresses_and_socks4a_to_unresolved_names() -> None:
    assert requested(socks4(b"\x0a\x00\x00\x01")) == (FrontProtocol.SOCKS4, "10.0.0.1", 80, b"")
    assert requested(socks4(b"\0\0\0\x01", b"host.example")) == (FrontProtocol.SOCKS4, "host.example", 80, b"")
    assert requested(socks4(b"\0\0\0\x01", b"h", user=b""))[1] == "h"


@pytest.mark.parametrize(
    "data",
    [
        socks4(b"\1\2\3\4", command=2),
        socks4(b"\1\2\3\4", port=0),
        socks4(b"\0\0\0\1", b""),
        socks4(b"\0\0\0\1", b"a b"),
        socks4(b"\0\0\0\1", b"\xfcber"),
        socks4(b"\1\2\3\4", user=b"u" * 256),
        socks4(b"\0\0\0\1", b"n" * 256),
        b"\x04\x01\0\x50\1\2\3\4" + b"u" * 256,
    ],
)
def test_socks4_refuses_what_it_cannot_do(data: bytes) -> None:
    assert refused(data) == b"\x00\x5b" + bytes(6)


def test_socks4_never_passes_where_a_password_is_required() -> None:
    assert refused(socks4(b"\1\2\3\4"), credentials=LOGIN) == b"\x00\x5b" + bytes(6)


# HTTP


@pytest.mark.parametrize(
    ("target", "host", "port"),
    [
        ("host.example:443", "host.example", 443),
        ("10.0.0.1:80", "10.0.0.1", 80),
        ("[2001:db8::1]:22", "2001:db8::1", 22),
    ],
)
def test_connect_takes_its_target_from_the_request_line_only(target: str, host: str, port: int) -> None:
    assert requested(connect(target)) == (FrontProtocol.HTTP, host, port, b"")
    assert requested(connect(target, version="HTTP/1.0"))[1:3] == (host, port)


def test_a_head_needs_no_headers() -> None:
    assert requested(b"CONNECT h:1 HTTP/1.1\r\n\r\n")[1] == "h"


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD", "PRI", "Connect", "CONNECTX"])
def test_another_method_is_405_and_nothing_after_it_is_read(method: str) -> None:
    smuggled = connect("/", "Content-Length: 100", method=method) + connect("db.internal:5432")
    reply = refused(smuggled)
    assert status(reply) == 405
    assert b"Allow: CONNECT\r\n" in reply


def test_a_request_for_a_url_is_501_and_names_what_to_use() -> None:
    reply = refused(connect("http://host.example/", method="GET"))
    assert status(reply) == 501
    assert b"socks5h://" in reply


@pytest.mark.parametrize(
    "header",
    ["Origin: https://evil.example", "ORIGIN: null", "Sec-Fetch-Mode: cors", "sec-fetch-site: cross-site", "Origin:"],
)
def test_connect_from_a_web_page_is_403(header: str) -> None:
    assert status(refused(connect("h:1", "User-Agent: x", header))) == 403
    # Not even with the right password, which a browser would add by itself.
    assert status(refused(connect("h:1", basic(b"anna:secret"), header), credentials=LOGIN)) == 403


@pytest.mark.parametrize(
    "data",
    [
        b"CONNECT h:1 HTTP/1.1\n\n",
        b"CONNECT h:1 HTTP/1.1\r\nA: b\n\r\n",
        b"CONNECT h:1 HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
        b"CONNECT h:1 HTTP/1.1\r\nA : b\r\n\r\n",
        b"CONNECT h:1 HTTP/1.1\r\n: b\r\n\r\n",
        b"CONNECT h:1 HTTP/1.1\r\nno colon\r\n\r\n",
        b"CONNECT h:1 HTTP/1.1\r\nA: \0\r\n\r\n",
        b"CONNECT h:1 HTTP/1.1\r\nA: b\rc\r\n\r\n",
        b"CONNECT  h:1 HTTP/1.1\r\n\r\n",
        b"CONNECT h:1\r\n\r\n",
        b"CONNECT h:1 HTTP/1.1 \r\n\r\n",
        b"CONNECT h:1 http/1.1\r\n\r\n",
        b"CONNECT\r\n",
        b"A\x01 / HTTP/1.1\r\n",
    ],
)
def test_a_head_that_is_not_exactly_http_is_400(data: bytes) -> None:
    assert status(refused(data)) == 400


@pytest.mark.parametrize(
    "target",
    [
        *("h", "h:", ":443", "h:0", "h:65536", "h:http", "h:+1", "::1:443", "[::1]", "[h]:1", "[]:1", "/", "*"),
        *("user@h:1", "h:1/", "h\x00:1", "b\xfccher:1", "h:1:2", "[::1]x:1", "h:\xb2"),
    ],
)
def test_a_target_that_is_not_host_and_port_is_400(target: str) -> None:
    assert status(refused(connect(target))) == 400


def test_another_version_of_http_is_505() -> None:
    assert status(refused(connect(version="HTTP/2.0"))) == 505


@pytest.mark.parametrize("data", [b"A" * 8193, connect("h:1", "A: " + "b" * 8192), connect("h:1", *["A: b"] * 2000)])
def test_a_head_of_more_than_8_kib_is_431(data: bytes) -> None:
    assert status(refused(data)) == 431


def test_a_head_of_exactly_8_kib_is_read() -> None:
    filler = 8192 - len(connect("h:1", "A: "))
    assert requested(connect("h:1", "A: " + "b" * filler) + b"x" * 9000)[3] == b"x" * 9000


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC"])
def test_http_with_a_password_needs_basic_authorization(scheme: str) -> None:
    assert requested(connect("h:1", basic(b"ben:p:w", scheme)), credentials=LOGIN)[1] == "h"


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (basic(b"anna:wrong"),),
        (basic(b"nobody:secret"),),
        (basic(b"anna"),),
        (basic(b"anna:secret", "Bearer"),),
        ("Proxy-Authorization: Basic",),
        ("Proxy-Authorization: Basic !!!!",),
        ("Proxy-Authorization: Basic YW5uYTpzZWNyZXQ=\xff",),
        ("Authorization" + basic(b"anna:secret").removeprefix("Proxy-Authorization"),),
    ],
)
def test_any_other_authorization_is_407(headers: tuple[str, ...]) -> None:
    reply = refused(connect("h:1", *headers), credentials=LOGIN)
    assert status(reply) == 407
    assert b'\r\nProxy-Authenticate: Basic realm="wraith"' in reply


def test_two_authorizations_are_400() -> None:
    header = basic(b"anna:secret")
    assert status(refused(connect("h:1", header, header), credentials=LOGIN)) == 400


# Replies


def test_socks5_replies_tell_the_reason() -> None:
    codes = {reason: failed(FrontProtocol.SOCKS5, reason)[1] for reason in OpenFailure}
    assert codes == {
        OpenFailure.REFUSED: 5,
        OpenFailure.HOST_UNREACHABLE: 4,
        OpenFailure.NOT_FOUND: 4,
        OpenFailure.TIMED_OUT: 4,
        OpenFailure.NETWORK_UNREACHABLE: 3,
        OpenFailure.NOT_ALLOWED: 2,
        OpenFailure.SESSION_DOWN: 1,
        OpenFailure.OTHER: 1,
    }
    assert opened(FrontProtocol.SOCKS5) == b"\x05\x00\x00\x01" + bytes(6)


def test_http_replies_tell_the_reason_in_status_and_body() -> None:
    replies = {reason: failed(FrontProtocol.HTTP, reason) for reason in OpenFailure}
    statuses = {reason: status(reply) for reason, reply in replies.items()}
    assert statuses.pop(OpenFailure.TIMED_OUT) == 504
    assert statuses.pop(OpenFailure.NOT_ALLOWED) == 403
    assert statuses.pop(OpenFailure.SESSION_DOWN) == 503
    assert set(statuses.values()) == {502}
    assert all(reason.value.encode() in reply.partition(b"\r\n\r\n")[2] for reason, reply in replies.items())
    assert opened(FrontProtocol.HTTP).startswith(b"HTTP/1.1 200 ")
    assert b"Content-Length" not in opened(FrontProtocol.HTTP)


def test_socks4_replies_say_granted_or_not() -> None:
    assert {failed(FrontProtocol.SOCKS4, reason) for reason in OpenFailure} == {b"\x00\x5b" + bytes(6)}
    assert opened(FrontProtocol.SOCKS4) == b"\x00\x5a" + bytes(6)


# Any bytes

SEEDS = [
    socks5_name(b"host.example") + b"GET / HTTP/1.0\r\n\r\n",
    socks5(b"\x04" + bytes(15) + b"\x01"),
    socks5_login(b"anna", b"secret") + socks5_name(b"h")[3:],
    socks4(b"\0\0\0\1", b"host.example") + b"tail",
    connect("h:1", basic(b"anna:secret"), "User-Agent: x") + b"tail",
    connect("[::1]:443", "Sec-Fetch-Mode: cors"),
    connect("/", "Content-Length: 9", method="POST") + connect(),
]

alike = st.one_of(
    st.sampled_from(SEEDS),
    st.binary(max_size=600),
    st.builds(lambda first, rest: bytes((first,)) + rest, st.sampled_from(b"\x04\x05CGP"), st.binary(max_size=300)),
    st.builds(
        lambda seed, at, byte: seed[: at % len(seed)] + bytes((byte,)) + seed[at % len(seed) + 1 :],
        st.sampled_from(SEEDS),
        st.integers(0, 1000),
        st.integers(0, 255),
    ),
)


def whole(events: list[Event]) -> tuple[list[Event], bytes]:
    """Return the events with `unread` apart: how much of it has come depends on the split."""
    last = events[-1] if events else None
    if isinstance(last, Request):
        return [*events[:-1], Request(last.protocol, last.host, last.port)], last.unread
    return events, b""


@given(alike, st.lists(st.integers(0, 2000), max_size=6), st.booleans())
def test_any_split_gives_the_same_events(data: bytes, cuts: list[int], login: bool) -> None:
    credentials = LOGIN if login else None
    events, unread = whole(talk(data, credentials=credentials))
    cut_events, cut_unread = whole(talk(data, credentials=credentials, cuts=tuple(cuts)))
    assert cut_events == events
    assert unread.startswith(cut_unread)


@pytest.mark.parametrize("data", SEEDS)
@pytest.mark.parametrize("credentials", [None, LOGIN])
def test_every_split_into_two_and_byte_by_byte_gives_the_same_events(
    data: bytes, credentials: Credentials | None
) -> None:
    expected = whole(talk(data, credentials=credentials))[0]
    assert whole(talk(data, credentials=credentials, cuts=tuple(range(len(data)))))[0] == expected
    for cut in range(len(data) + 1):
        assert whole(talk(data, credentials=credentials, cuts=(cut,)))[0] == expected


def test_100_000_random_inputs_raise_nothing_and_never_hang() -> None:
    chance = random.Random(20)
    began = time.monotonic()
    ends = dict.fromkeys(("more", "Request", "Refuse"), 0)
    for number in range(100_000):
        seed = chance.choice(SEEDS)
        match number % 4:
            case 0:
                data = chance.randbytes(chance.randrange(1, 64))
            case 1:
                data = bytes((chance.choice(b"\x04\x05CGAZ"),)) + chance.randbytes(chance.randrange(64))
            case 2:
                at = chance.randrange(len(seed))
                data = seed[:at] + bytes((chance.randrange(256),)) + seed[at + 1 :]
            case _:
                data = seed[: chance.randrange(len(seed))] + chance.randbytes(chance.randrange(16))
        front = Front(LOGIN if number % 3 == 0 else None)
        cut = chance.randrange(len(data) + 1)
        events = front.feed(data[:cut]) + front.feed(data[cut:])
        last = events[-1] if events else None
        ends["more" if last is None or isinstance(last, Send) else type(last).__name__] += 1
    assert all(ends.values()), ends
    assert time.monotonic() - began < 20


def test_an_endless_head_costs_no_more_than_its_limit() -> None:
    front = Front()
    began = time.monotonic()
    events: list[Event] = []
    fed = 0
    while not events:
        events = front.feed(b"A")
        fed += 1
    assert (fed, status(events[0].data if isinstance(events[0], Refuse) else b"")) == (8193, 431)
    assert time.monotonic() - began < 5
