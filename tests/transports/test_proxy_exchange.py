"""The answer to CONNECT: any split, nothing behind its head touched, and no end to what a proxy may send."""

from __future__ import annotations

import base64
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wraith_transports.proxy import ProxyUrl
from wraith_transports.proxy.connect_exchange import MAX_HEAD, ConnectAnswer, ConnectExchange, NotHttp

PROXY = ProxyUrl.parse("http://proxy:8080")
GRANTED = b"HTTP/1.1 200 Connection established\r\n\r\n"
HEADS = (
    GRANTED,
    b"HTTP/1.0 200\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nVia: 1.1 x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 299 Fine\nServer: y\n\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Wait\r\n\r\n" + GRANTED,
)


def asked(url: str, host: str, port: int) -> bytes:
    return ConnectExchange(ProxyUrl.parse(url), host, port).request


def read(data: bytes, cuts: list[int]) -> tuple[ConnectAnswer, int] | None:
    """Read as `read_head` does: each time everything so far."""
    exchange = ConnectExchange(PROXY, "target", 443)
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    for _, end in pairwise(edges):
        found = exchange.read(data[:end])
        if found is not None:
            return found
    return None


@pytest.mark.parametrize(("host", "written"), [("target", "target"), ("10.0.0.1", "10.0.0.1"), ("::1", "[::1]")])
def test_the_request_names_the_target_as_it_was_asked_for(host: str, written: str) -> None:
    line = f"{written}:443"
    assert asked("http://proxy", host, 443) == f"CONNECT {line} HTTP/1.1\r\nHost: {line}\r\n\r\n".encode()


def test_credentials_are_sent_as_basic_in_utf_8() -> None:
    head = asked("http://z%C3%BC:p%3Aw@proxy", "target", 22)
    assert b"\r\nProxy-Authorization: Basic " + base64.b64encode("zü:p:w".encode()) + b"\r\n" in head


@pytest.mark.parametrize("head", HEADS)
def test_a_reply_is_the_same_split_at_every_byte(head: bytes) -> None:
    whole = read(head, [])
    assert whole is not None
    assert whole[0].granted
    assert whole[1] == len(head)
    assert read(head, list(range(len(head)))) == whole


@given(st.sampled_from(HEADS), st.binary(max_size=60), st.lists(st.integers(0, 200), max_size=8))
def test_what_the_target_says_is_no_part_of_the_head(head: bytes, banner: bytes, cuts: list[int]) -> None:
    found = read(head + banner, cuts)
    assert found is not None
    assert found[1] == len(head)


@pytest.mark.parametrize("line", ["403 Forbidden", "407 Who", "502", "301 Moved", "999 Odd"])
def test_another_status_is_the_answer_too(line: str) -> None:
    found = read(f"HTTP/1.1 {line}\r\nContent-Length: 3\r\n\r\nno\n".encode(), [5, 12])
    assert found is not None
    assert f"{found[0].status} {found[0].reason}".strip() == line
    assert not found[0].granted


@pytest.mark.parametrize(
    "data",
    [
        b"\x05\x00\x00\x01\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nNo colon\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"\r\n\r\n\r\n\r\n\x00",
        b"<html>" * 100 + b"\r\n\r\n",
    ],
)
def test_what_is_no_response_is_an_error(data: bytes) -> None:
    with pytest.raises(NotHttp):
        read(data, [])


@pytest.mark.parametrize("step", [1, 1000, 1 << 20])
def test_a_head_of_64_kib_is_refused_however_it_comes(step: int) -> None:
    data = b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * (64 << 10) + b"\r\n\r\n"
    exchange = ConnectExchange(PROXY, "target", 443)
    for end in range(step, MAX_HEAD, step):
        assert exchange.read(data[:end]) is None
    with pytest.raises(NotHttp):
        exchange.read(data[: MAX_HEAD + step])


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=8))
def test_any_bytes_are_an_answer_an_error_or_not_enough(data: bytes, cuts: list[int]) -> None:
    try:
        found = read(data, cuts)
    except NotHttp:
        return
    assert found is None or 0 < found[1] <= len(data)
