"""The ClientHello reader: every split gives one verdict, and no input raises."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.tools import need
from wraith_transports.tls.hello import (
    MAX_HELLO,
    ClientHello,
    Hello,
    HelloProgress,
    HelloReader,
    Malformed,
    NotTls,
    TooLong,
)


def python_hello(
    name: str | None = "Example.org",
    alpn: Sequence[str] = ("h2", "http/1.1"),
    maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.maximum_version = maximum
    if alpn:
        context.set_alpn_protocols(alpn)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


HELLO = python_hello()


def feed_all(pieces: Iterable[bytes]) -> Hello | HelloProgress:
    reader = HelloReader()
    verdict: Hello | HelloProgress = HelloProgress.NEED_MORE
    for piece in pieces:
        verdict = reader.feed(piece)
        if verdict is not HelloProgress.NEED_MORE:
            return verdict
    return verdict


def cut(data: bytes, at: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(at), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def refragment(hello: bytes, sizes: Iterable[int]) -> bytes:
    """Spread the hello of one record over records of the given sizes."""
    message, out = hello[5:], b""
    for size in sizes:
        if not message:
            break
        part, message = message[:size], message[size:]
        out += b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part
    if message:
        out += b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message
    return out


def client_hello(extensions: bytes, *, legacy: int = 0x0303) -> bytes:
    body = (
        legacy.to_bytes(2, "big") + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
        + len(extensions).to_bytes(2, "big") + extensions
    )  # fmt: skip
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


def extension(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data


def server_name(name: bytes) -> bytes:
    entry = b"\x00" + len(name).to_bytes(2, "big") + name
    return extension(0, len(entry).to_bytes(2, "big") + entry)


def test_a_hello_from_python_is_read() -> None:
    hello = feed_all([HELLO])
    assert isinstance(hello, ClientHello)
    assert hello.server_name == "example.org"
    assert hello.alpn == (b"h2", b"http/1.1")
    assert 0x0304 in hello.versions
    assert 0x0303 in hello.versions
    assert hello.raw == HELLO


def test_a_tls_1_2_hello_without_name_or_alpn_is_read() -> None:
    hello = feed_all([python_hello(None, (), ssl.TLSVersion.TLSv1_2)])
    assert isinstance(hello, ClientHello)
    assert (hello.server_name, hello.alpn, hello.versions) == (None, (), (0x0303,))


def test_bytes_after_the_hello_stay_in_raw() -> None:
    hello = feed_all([HELLO + b"more"])
    assert isinstance(hello, ClientHello)
    assert hello.raw == HELLO + b"more"


def test_every_single_cut_gives_the_same_hello() -> None:
    whole = feed_all([HELLO])
    for at in range(len(HELLO) + 1):
        assert feed_all(cut(HELLO, [at])) == whole


def test_one_byte_at_a_time_gives_the_same_hello_at_the_last_byte() -> None:
    reader = HelloReader()
    verdicts = [reader.feed(HELLO[at : at + 1]) for at in range(len(HELLO))]
    assert set(verdicts[:-1]) == {HelloProgress.NEED_MORE}
    assert verdicts[-1] == feed_all([HELLO])


@given(st.lists(st.integers(0, 300), max_size=40), st.lists(st.integers(0, 2000), max_size=10))
def test_records_and_reads_may_cut_the_hello_anywhere(sizes: list[int], cuts: list[int]) -> None:
    wire = refragment(HELLO, sizes)
    whole, hello = feed_all([HELLO]), feed_all(cut(wire, [min(at, len(wire)) for at in cuts]))
    assert isinstance(whole, ClientHello)
    assert isinstance(hello, ClientHello)
    assert (hello.server_name, hello.alpn, hello.versions) == (whole.server_name, whole.alpn, whole.versions)
    assert hello.raw == wire


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_random_bytes_never_raise(pieces: list[bytes]) -> None:
    feed_all(pieces)


@given(st.binary(max_size=600))
@settings(max_examples=300)
def test_random_extensions_never_raise_and_verdict_does_not_depend_on_the_split(extensions: bytes) -> None:
    wire = client_hello(extensions)
    whole = feed_all([wire])
    assert isinstance(whole, ClientHello | Malformed)
    assert feed_all([wire[at : at + 7] for at in range(0, len(wire), 7)]) == whole


@given(st.integers(0, len(HELLO) - 1), st.integers(0, 255))
@settings(max_examples=400)
def test_a_changed_byte_never_raises(at: int, value: int) -> None:
    changed = HELLO[:at] + bytes([value]) + HELLO[at + 1 :]
    verdict = feed_all([changed])
    if at == 0:
        assert isinstance(verdict, NotTls) or value & 0x80 or value == 0x16


@pytest.mark.parametrize(
    "first", [b"GET / HTTP/1.1\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"\x00\x00", b"\x15\x03\x01", b"\n"]
)
def test_what_does_not_begin_as_a_record_is_not_tls(first: bytes) -> None:
    assert feed_all([first]) == NotTls(first)
    assert feed_all([first[:1]]) == NotTls(first[:1])


def test_nothing_yet_is_no_verdict() -> None:
    assert feed_all([b""]) is HelloProgress.NEED_MORE


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"\x80\x2e\x01\x00\x02", "SSLv2"),
        (b"\x16\x02\x00\x00\x01\x01", "record version"),
        (b"\x16\x03\x01\x00\x01\x02", "handshake message"),
        (HELLO[:5][:3] + b"\x00\x01\x01" + b"\x17\x03\x01\x00\x01\x00", "type 23"),
        (client_hello(server_name(b"a") + server_name(b"b")), "twice"),
        (client_hello(extension(0, b"\x00\x00")), "wrong length"),
        (client_hello(extension(0, b"\x00\x04\x01\x00\x01a")), "not one host name"),
        (client_hello(extension(16, b"\x00\x00")), "wrong length"),
        (client_hello(extension(16, b"\x00\x01\x00")), "empty protocol"),
        (client_hello(extension(16, b"\x00\x03\x02h2x")), "wrong length"),
        (client_hello(extension(43, b"\x03\x03\x04\x03")), "past its end"),
        (client_hello(b"\x00"), "past its end"),
    ],
)
def test_a_bad_hello_is_malformed_whatever_the_split(wire: bytes, reason: str) -> None:
    whole = feed_all([wire])
    assert isinstance(whole, Malformed)
    assert reason in whole.reason
    piecewise = feed_all([wire[at : at + 1] for at in range(len(wire))])
    assert isinstance(piecewise, Malformed)
    assert piecewise.reason == whole.reason


@pytest.mark.parametrize("name", [b"a b", b"x\x00y", b"evil\nline", b"\xff\xfe", b"-a", b"a" * 300, b".", b"a."])
def test_a_server_name_that_is_no_host_name_is_not_told(name: bytes) -> None:
    hello = feed_all([client_hello(server_name(name))])
    assert isinstance(hello, ClientHello)
    assert hello.server_name is None


def test_a_hello_that_never_ends_is_refused_at_the_limit() -> None:
    endless = (
        b"\x16\x03\x01\x00\x01\x01" + b"\x16\x03\x01\x00\x03\x00\x3f\x00" + b"\x16\x03\x01\x00\x01\x00" * MAX_HELLO
    )
    reader, fed = HelloReader(), 0
    for at in range(0, len(endless), 100):
        verdict = reader.feed(endless[at : at + 100])
        fed += 100
        if verdict is not HelloProgress.NEED_MORE:
            break
    assert verdict == TooLong()
    assert fed <= MAX_HELLO + 200


@pytest.mark.parametrize("wire", [b"\x16\x03\x01\xff\xff", b"\x16\x03\x01\x00\x04\x01\x01\x00\x00"])
def test_a_length_beyond_the_limit_is_refused_at_once(wire: bytes) -> None:
    assert feed_all([wire]) == TooLong()
    assert feed_all([wire[at : at + 1] for at in range(len(wire))]) == TooLong()


def hello_of_program(arguments: Sequence[str], listener: socket.socket) -> ClientHello:
    program = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        listener.settimeout(20)
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(20)
            reader = HelloReader()
            verdict: Hello | HelloProgress = HelloProgress.NEED_MORE
            while verdict is HelloProgress.NEED_MORE:
                verdict = reader.feed(connection.recv(300))
        assert isinstance(verdict, ClientHello)
        return verdict
    finally:
        program.kill()
        program.communicate()


def test_a_hello_from_openssl_s_client_is_read() -> None:
    (openssl,) = need("openssl")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        hello = hello_of_program(
            [str(openssl), "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "one.test", "-alpn", "h2,foo"],
            listener,
        )
    assert (hello.server_name, hello.alpn) == ("one.test", (b"h2", b"foo"))


def test_a_hello_from_curl_is_read() -> None:
    (curl,) = need("curl")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        hello = hello_of_program(
            [str(curl), "-s", "--resolve", f"two.test:{port}:127.0.0.1", f"https://two.test:{port}/"], listener
        )
    assert hello.server_name == "two.test"
    assert b"http/1.1" in hello.alpn
