"""The TLS transport: whom it trusts, and the one line it says when it does not."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import AUTHORITY, DAY, LOCALHOST, Issued, issue
from wraith_transports import DialError, DirectDialer, FailureKind, TcpAcceptor, TransportError, TransportInfo
from wraith_transports.testing.case import comes
from wraith_transports.tls import TlsAcceptor, TlsTransport, Verification, spki_pin
from wraith_transports.tls.trust import checked_name, explain_untrusted

Run = Callable[..., Any]

NOW = datetime.now(UTC)
SELF_SIGNED = issue(["localhost", "127.0.0.1"])
EXPIRED = issue(by=AUTHORITY, starts=NOW - 20 * DAY, ends=NOW - DAY)
FUTURE = issue(by=AUTHORITY, starts=NOW + DAY, ends=NOW + 20 * DAY)
ELSEWHERE = issue(["one.test", "*.two.test", "192.0.2.7"], by=AUTHORITY)
INTERMEDIATE = issue((), by=AUTHORITY, ca=True, common_name="Test Intermediate")
NAMELESS = issue((), by=AUTHORITY, common_name="localhost")
TRUSTING = Verification(ca=AUTHORITY.certificate_pem)


@asynccontextmanager
async def serving(issued: Issued) -> AsyncIterator[tuple[TlsAcceptor, int]]:
    context = issued.server_context()
    acceptor = TlsAcceptor(TcpAcceptor("127.0.0.1", 0), lambda _: context)
    await acceptor.start()
    try:
        yield acceptor, int(acceptor.addresses()[0].rpartition(":")[2])
    finally:
        await acceptor.aclose()


def transport(
    port: int, verification: Verification | None = None, host: str = "localhost", **options: Any
) -> TlsTransport:
    how = () if verification is None else (verification,)
    return TlsTransport(DirectDialer(), host, port, *how, **options)


async def succeeds(issued: Issued, verification: Verification, host: str = "localhost") -> TransportInfo:
    async with serving(issued) as (_, port):
        stream, info = await transport(port, verification, host).connect()
        assert stream.get_extra_info("peername") == info.remote_address
        stream.abort()
        return info


async def refused(issued: Issued, verification: Verification | None, host: str = "localhost") -> str:
    """Return the line of an UNTRUSTED error, without the changing port."""
    async with serving(issued) as (_, port):
        with pytest.raises(TransportError) as caught:
            await transport(port, verification, host).connect()
        assert caught.value.kind is FailureKind.UNTRUSTED
        assert caught.value.permanent
        line = str(caught.value)
        assert "\n" not in line
        return line.replace(f":{port}", ":PORT")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_certificate_of_a_named_authority_is_trusted_by_name_or_address(run: Run, tmp_path: Path, host: str) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes("Autorität\n".encode() + AUTHORITY.certificate_pem)
    assert run(succeeds(LOCALHOST, Verification(ca=ca_file), host)).server_name == host
    assert run(succeeds(LOCALHOST, TRUSTING, host)).server_name == host


def test_an_intermediate_or_the_certificate_itself_may_be_the_root(run: Run) -> None:
    run(succeeds(issue(by=INTERMEDIATE), Verification(ca=INTERMEDIATE.certificate_pem)))
    run(succeeds(SELF_SIGNED, Verification(ca=SELF_SIGNED.certificate_pem)))


def test_a_chain_is_built_from_what_the_server_sends(run: Run) -> None:
    run(succeeds(issue(by=INTERMEDIATE), TRUSTING))


def test_another_server_name_may_be_expected(run: Run) -> None:
    for name in ("one.test", "a.two.test", "ONE.test.", "192.0.2.7"):
        verification = Verification(ca=AUTHORITY.certificate_pem, server_name=name)
        assert run(succeeds(ELSEWHERE, verification)).server_name == name.removesuffix(".")


def test_the_system_roots_do_not_know_our_authority(run: Run) -> None:
    line = run(refused(LOCALHOST, None))
    assert line == (
        "localhost:PORT: the certificate is from a CA that is not trusted here (CN=Test Authority); name a file with"
        f" the CA's certificate with --tls-ca, or use --tls-pin {LOCALHOST.pin} if that is the server's own key"
    )


def test_self_signed_is_said_with_the_pin(run: Run) -> None:
    assert run(refused(SELF_SIGNED, None)) == (
        "localhost:PORT: the certificate is self-signed;"
        f" use --tls-pin {SELF_SIGNED.pin} if that is the server's own key"
    )


def test_a_wrong_name_is_said_with_the_right_ones(run: Run) -> None:
    line = run(refused(ELSEWHERE, TRUSTING))
    assert "is not for localhost but for one.test, *.two.test, 192.0.2.7;" in line
    assert "--tls-server-name" in line
    assert ELSEWHERE.pin in line
    assert "is not for 127.0.0.1 but for one.test" in run(refused(ELSEWHERE, TRUSTING, "127.0.0.1"))


def test_a_common_name_is_no_name(run: Run) -> None:
    assert "is not for localhost but for no name at all" in run(refused(NAMELESS, TRUSTING))


def test_a_certificate_out_of_its_time_is_said_with_the_date(run: Run) -> None:
    assert f"has expired on {NOW - DAY:%Y-%m-%d};" in run(refused(EXPIRED, TRUSTING))
    assert f"is not valid yet, until {NOW + DAY:%Y-%m-%d};" in run(refused(FUTURE, TRUSTING))


@pytest.mark.parametrize("issued", [SELF_SIGNED, EXPIRED, ELSEWHERE, LOCALHOST])
def test_a_pin_replaces_the_checks_of_chain_name_and_time(run: Run, issued: Issued) -> None:
    assert run(succeeds(issued, Verification(pins=(issued.pin,)))).server_name is None
    run(succeeds(issued, Verification(pins=(LOCALHOST.pin, "sha256//" + "A" * 43 + "=", issued.pin))))


def test_another_key_than_the_pinned_one_is_refused_and_named(run: Run) -> None:
    line = run(refused(LOCALHOST, Verification(pins=(SELF_SIGNED.pin, EXPIRED.pin))))
    assert LOCALHOST.pin in line
    assert SELF_SIGNED.pin not in line


def test_a_pin_outlives_the_certificate(run: Run) -> None:
    renewed = issue(key=SELF_SIGNED.key)
    run(succeeds(renewed, Verification(pins=(SELF_SIGNED.pin,))))


@pytest.mark.parametrize("issued", [SELF_SIGNED, EXPIRED, ELSEWHERE])
def test_insecure_takes_any_certificate(run: Run, issued: Issued) -> None:
    assert run(succeeds(issued, Verification(insecure=True))).server_name is None


def test_nothing_reaches_a_server_that_is_not_trusted(run: Run) -> None:
    async def check() -> None:
        async with serving(SELF_SIGNED) as (acceptor, port):
            for verification in (TRUSTING, Verification(pins=(LOCALHOST.pin,))):
                with pytest.raises(TransportError):
                    await transport(port, verification).connect()
            assert await comes(lambda: not acceptor._slots)

    run(check())


def test_a_ca_file_that_cannot_be_used_is_a_configuration_error(run: Run, tmp_path: Path) -> None:
    async def attempt(ca: Path | bytes) -> str:
        with pytest.raises(TransportError) as caught:
            await transport(1, Verification(ca=ca)).connect()
        assert caught.value.kind is FailureKind.CONFIGURATION
        return str(caught.value)

    assert run(attempt(tmp_path / "none.pem")) == f"--tls-ca {tmp_path}/none.pem: no such file or directory"
    assert "no certificate in PEM" in run(attempt(b"hello"))
    broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    assert "no certificate in PEM" in run(attempt(broken))


async def talking_to(answer: bytes, *, close: bool = True, **options: Any) -> TransportError:
    """Connect to a server that says `answer` whatever it hears."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        if close:
            writer.close()
        else:
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        with pytest.raises(TransportError) as caught:
            await transport(port, host="127.0.0.1", **options).connect()
    finally:
        server.close()
        await server.wait_closed()
    caught.value.args = (str(caught.value).replace(f":{port}", ":PORT"),)
    return caught.value


def test_an_ssh_server_is_told_from_a_tls_server(run: Run) -> None:
    error = run(talking_to(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", close=False))
    assert error.kind is FailureKind.NOT_THIS_PROTOCOL
    assert not error.permanent
    assert str(error) == ("127.0.0.1:PORT does not speak TLS (it answered like an SSH server): try --transport tcp")


def test_an_http_server_is_told_from_a_tls_server(run: Run) -> None:
    error = run(talking_to(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"))
    assert error.kind is FailureKind.NOT_THIS_PROTOCOL
    assert str(error) == "127.0.0.1:PORT does not speak TLS (it answered like an HTTP server)"


@pytest.mark.parametrize("answer", [b"\x00\x00\x00\x00\x00\x00", b"220 mail.test ESMTP\r\n", b"hi"])
def test_any_other_protocol_is_no_tls_either(run: Run, answer: bytes) -> None:
    error = run(talking_to(answer))
    assert error.kind is FailureKind.NOT_THIS_PROTOCOL
    assert str(error) == "127.0.0.1:PORT does not speak TLS"


def test_an_alert_is_repeated_in_words(run: Run) -> None:
    error = run(talking_to(b"\x15\x03\x03\x00\x02\x02\x28"))
    assert error.kind is FailureKind.NOT_THIS_PROTOCOL
    assert re.fullmatch(r"127\.0\.0\.1:PORT: TLS handshake failed: .*alert handshake failure", str(error))


def test_a_server_that_hangs_up_is_unreachable(run: Run) -> None:
    error = run(talking_to(b""))
    assert error.kind is FailureKind.UNREACHABLE
    assert re.fullmatch(
        r"127\.0\.0\.1:PORT: (the peer closed the connection .*|connection reset by peer)", str(error), re.IGNORECASE
    )


def test_a_silent_server_is_given_up(run: Run) -> None:
    error = run(talking_to(b"", close=False, handshake_timeout_s=0.1))
    assert error.kind is FailureKind.UNREACHABLE
    assert str(error) == "127.0.0.1:PORT: no answer to the TLS handshake within 0.1 s"


def test_a_dial_that_fails_is_told_as_it_is(run: Run) -> None:
    async def check() -> None:
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        with pytest.raises(DialError):
            await transport(port, host="127.0.0.1").connect()

    run(check())


def test_a_cancelled_connect_leaves_nothing_open(run: Run) -> None:
    async def check() -> None:
        left = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            connecting.cancel()
            try:
                while await reader.read(65536):
                    pass
            except ConnectionResetError:
                pass
            left.set()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        connecting = asyncio.create_task(transport(port).connect())
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await asyncio.wait_for(left.wait(), 5)
        server.close()
        await server.wait_closed()

    run(check())


@pytest.mark.parametrize("name", [".example.org", "a" * 70 + ".test"])
def test_an_impossible_name_is_a_configuration_error(run: Run, name: str) -> None:
    async def check() -> None:
        async with serving(LOCALHOST) as (_, port):
            with pytest.raises(TransportError) as caught:
                await transport(port, Verification(insecure=True, server_name=name)).connect()
            assert caught.value.kind is FailureKind.CONFIGURATION

    run(check())


def test_describe_names_the_server() -> None:
    assert transport(443, host="example.org").describe() == "tls://example.org:443"
    assert transport(443, host="2001:db8::1").describe() == "tls://[2001:db8::1]:443"


def test_names_are_checked_without_zone_or_trailing_dot() -> None:
    assert checked_name("fe80::1%eth0") == "fe80::1"
    assert checked_name("2001:DB8:0::1") == "2001:db8::1"
    assert checked_name("example.org.") == "example.org"


def test_what_a_certificate_says_cannot_reach_the_terminal_raw() -> None:
    evil = issue(["x.test"], common_name="\x1b[2Jowned\nnext line")
    der = ssl.PEM_cert_to_DER_cert(evil.certificate_pem.decode())
    line = explain_untrusted("h:1", "h", 20, "unable to get issuer", der, now=NOW)
    assert line.isprintable()
    assert "owned" in line


def test_an_unreadable_certificate_still_gives_a_line() -> None:
    for certificate in (None, b"", b"\x30\x00"):
        line = explain_untrusted("h:1", "h", 62, "Hostname mismatch", certificate, now=NOW)
        assert line.startswith("h:1: the certificate is not for h; ")
    assert "(odd)" in explain_untrusted("h:1", "h", 999, "odd", None, now=NOW + timedelta(0))


def test_many_names_are_cut() -> None:
    der = ssl.PEM_cert_to_DER_cert(issue([f"n{i}.test" for i in range(100)]).certificate_pem.decode())
    assert "n5.test and 94 more;" in explain_untrusted("h:1", "h", 62, "", der, now=NOW)


def test_the_pin_is_curls_pin() -> None:
    import base64
    import hashlib

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    spki = LOCALHOST.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    expected = "sha256//" + base64.b64encode(hashlib.sha256(spki).digest()).decode()
    assert spki_pin(LOCALHOST.certificate.public_bytes(Encoding.DER)) == expected
    with pytest.raises(ValueError):  # noqa: PT011 - any text will do
        spki_pin(b"not a certificate")
