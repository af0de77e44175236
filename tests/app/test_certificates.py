"""Claims about certificates: what is in them, and what makes one nobody's."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.certified import HOST, Draft, public_line, string
from tests.support.security_keys import SecurityKey
from wraith.errors import UnusableFile
from wraith.ssh.certificates import (
    BadCertificate,
    Holder,
    is_certificate,
    parse_certificate,
    read_host_certificate,
    read_user_certificate,
)
from wraith.ssh.offer import BadOffer, Credential, read_offer

ED25519 = asyncssh.generate_private_key("ssh-ed25519")
ECDSA = asyncssh.generate_private_key("ecdsa-sha2-nistp256")
RSA = asyncssh.generate_private_key("ssh-rsa", key_size=2048)
AUTHORITY = asyncssh.generate_private_key("ssh-ed25519")


def refusal(draft: Draft, key: asyncssh.SSHKey = ED25519, authority: asyncssh.SSHKey = AUTHORITY) -> str:
    with pytest.raises(BadCertificate) as refused:
        parse_certificate(draft.signed(key, authority))
    return str(refused.value)


@pytest.mark.parametrize("key", [ED25519, ECDSA, RSA], ids=["ed25519", "ecdsa", "rsa"])
@pytest.mark.parametrize("authority", [AUTHORITY, ECDSA, RSA], ids=["ed25519", "ecdsa", "rsa"])
def test_a_certificate_says_what_was_written_into_it(key: asyncssh.SSHKey, authority: asyncssh.SSHKey) -> None:
    draft = Draft(
        serial=2**64 - 1,
        key_id=b"me@here",
        principals=(b"a", b"b"),
        valid_after=10,
        valid_before=20,
        critical=((b"source-address", string(b"10.0.0.0/8,::1")),),
    )
    blob = draft.signed(key, authority)
    assert is_certificate(blob)
    certificate = parse_certificate(blob)
    assert certificate.holder is Holder.USER
    assert certificate.key_blob == key.public_data
    assert certificate.authority_blob == authority.public_data
    assert certificate.authority == authority.get_fingerprint()
    assert (certificate.serial, certificate.key_id) == (2**64 - 1, "me@here")
    assert certificate.principals == frozenset({"a", "b"})
    assert (certificate.valid_after, certificate.valid_before) == (10, 20)
    assert certificate.source_addresses is not None
    assert certificate.source_addresses.matches("10.1.1.1")
    assert certificate.port_forwarding


def test_port_forwarding_is_an_extension_among_others() -> None:
    for extensions, expected in (
        ((), False),
        (((b"permit-pty", b""),), False),
        (((b"unheard@of", b"value"), (b"permit-port-forwarding", b"")), True),
    ):
        blob = Draft(extensions=extensions).signed(ED25519, AUTHORITY)
        assert parse_certificate(blob).port_forwarding is expected


@pytest.mark.parametrize(
    ("draft", "said"),
    [
        (Draft(holder=0), "is neither for a user nor for a host"),
        (Draft(holder=3), "is neither for a user nor for a host"),
        (Draft(tail=b"x"), "has more in it than there should be"),
        (Draft(principals=tuple(b"%d" % each for each in range(257))), "has more than 256 principals"),
        (Draft(critical=((b"force-command", string(b"true")),)), "'force-command', which is not supported"),
        (Draft(critical=((b"verify-required", b""),)), "'verify-required', which is not supported"),
        (Draft(critical=((b"a\nb", b""),)), r"'a\nb', which is not supported"),
        (Draft(critical=((b"Source-Address", string(b"::1")),)), "not supported"),
        (Draft(critical=((b"source-address", string(b"::1")),) * 2), "has two lists of source addresses"),
        (Draft(critical=((b"source-address", string(b"")),)), "has a bad list of source addresses"),
        (Draft(critical=((b"source-address", string(b"10.0.0.1/8")),)), "has a bad list of source addresses"),
        (Draft(critical=((b"source-address", string(b"!10.0.0.1")),)), "has a bad list of source addresses"),
        (Draft(critical=((b"source-address", b"10.0.0.1"),)), "is cut short"),
        (Draft(critical=((b"source-address", string(b"::1") + b"x"),)), "has more in it"),
        (Draft(extensions=((b"permit-pty", b"x"),)), "has a value where permit-pty has none"),
        (Draft(extensions=((b"permit-port-forwarding", string(b"")),)), "has a value where permit-port-forwarding"),
    ],
)
def test_what_nobody_may_use(draft: Draft, said: str) -> None:
    assert said in refusal(draft)


def test_a_certificate_signed_by_another_key_than_it_names_is_refused() -> None:
    blob = Draft().signed(ED25519, AUTHORITY)
    other = asyncssh.generate_private_key("ssh-ed25519")
    forged = blob.replace(AUTHORITY.public_data, other.public_data)
    with pytest.raises(BadCertificate, match="is not signed by the authority it names"):
        parse_certificate(forged)


@given(st.data())
def test_a_certificate_with_any_byte_changed_is_refused(data: st.DataObject) -> None:
    blob = bytearray(Draft().signed(ED25519, AUTHORITY))
    at = data.draw(st.integers(0, len(blob) - 1))
    blob[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadCertificate):
        parse_certificate(bytes(blob))


def test_a_certificate_cut_anywhere_is_refused() -> None:
    blob = Draft().signed(ECDSA, AUTHORITY)
    for end in range(len(blob)):
        with pytest.raises(BadCertificate):
            parse_certificate(blob[:end])


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    for start in (b"", string(b"ssh-ed25519-cert-v01@openssh.com")):
        with contextlib.suppress(BadOffer):
            read_offer(start + data)
        with pytest.raises(BadCertificate):
            parse_certificate(start + data)


def test_sha1_signs_nothing() -> None:
    with pytest.raises(BadCertificate, match="by an algorithm that is not accepted"):
        parse_certificate(Draft().signed(ED25519, RSA, b"ssh-rsa"))
    for algorithm in (b"rsa-sha2-256", b"rsa-sha2-512"):
        parse_certificate(Draft().signed(ED25519, RSA, algorithm))


def test_weak_keys_neither_sign_nor_log_in() -> None:
    small = asyncssh.generate_private_key("ssh-rsa", key_size=1024)
    curve = asyncssh.generate_private_key("ecdsa-sha2-nistp384")
    assert "has a bad authority: it is an RSA key of 1024 bits" in refusal(Draft(), authority=small)
    assert "has a bad authority: it has the type 'ecdsa-sha2-nistp384'" in refusal(Draft(), authority=curve)
    assert "has a bad key: it is an RSA key of 1024 bits" in refusal(Draft(), key=small)
    assert "of a type that is accepted" in refusal(Draft(), key=curve)


def test_an_authority_is_no_certificate_itself() -> None:
    blob = Draft().signed(ED25519, AUTHORITY)
    chained = Draft().signed(ECDSA, AUTHORITY).replace(string(AUTHORITY.public_data), string(blob))
    with pytest.raises(BadCertificate, match="has a bad authority"):
        parse_certificate(chained)


# Offers


def test_an_offer_is_a_key_or_a_certificate() -> None:
    plain = read_offer(ED25519.public_data)
    assert plain.certificate is None
    assert plain.fingerprint == ED25519.get_fingerprint()
    certified = read_offer(Draft().signed(ED25519, AUTHORITY))
    assert certified.certificate is not None
    assert certified.key_blob == plain.key_blob


def test_a_credential_is_the_key_or_authority_serial_and_name() -> None:
    assert read_offer(ED25519.public_data).credential == Credential(ED25519.get_fingerprint())

    def credential(draft: Draft, key: asyncssh.SSHKey = ED25519, authority: asyncssh.SSHKey = AUTHORITY) -> Credential:
        return read_offer(draft.signed(key, authority)).credential

    first = credential(Draft())
    assert first == Credential(AUTHORITY.get_fingerprint(), 7, "me")
    assert first == credential(Draft(principals=(b"other",)), ECDSA)  # renewed, for a new key
    assert first != credential(Draft(serial=8))
    assert first != credential(Draft(key_id=b"you"))
    assert first != credential(Draft(), authority=ECDSA)
    assert credential(Draft(key_id=b"\xff")) != credential(Draft(key_id=b"\xfe"))


def test_a_host_certificate_is_no_offer() -> None:
    with pytest.raises(BadOffer, match="is a host's certificate") as refused:
        read_offer(Draft(holder=HOST).signed(ED25519, AUTHORITY))
    assert refused.value.certificate


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        string(b"ssh-ed25519"),
        string(b"ssh-ed25519") + string(bytes(31)),
        string(b"ecdsa-sha2-nistp256") + string(b"nistp256") + string(bytes(65)),
        string(b"ssh-dss") + string(b"x"),
        string(b"ssh-rsa") + string(b"\x03") + string(b""),
    ],
)
def test_a_damaged_key_is_no_offer(blob: bytes) -> None:
    with pytest.raises(BadOffer) as refused:
        read_offer(blob)
    assert not refused.value.certificate


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
@pytest.mark.parametrize(("flags", "right"), [(1, True), (5, True), (0, False), (4, False)])
def test_a_security_key_has_to_be_touched(kind: str, flags: int, right: bool) -> None:
    token = SecurityKey(kind, flags=flags)
    key = read_offer(token.public_blob).verifying_key()
    assert key.verify(b"data", token.sign(b"data")) is right
    assert not key.verify(b"other data", token.sign(b"data"))


def test_a_touch_cannot_be_added_to_a_signature() -> None:
    token = SecurityKey(flags=0)
    signature = bytearray(token.sign(b"data"))
    signature[-5] |= 1  # the flags stand before the counter
    assert not read_offer(token.public_blob).verifying_key().verify(b"data", bytes(signature))


# Files


def test_a_host_certificate_belongs_to_its_key(tmp_path: Path) -> None:
    path = tmp_path / "host-cert.pub"
    draft = Draft(holder=HOST, principals=(b"server.example",), extensions=())
    path.write_bytes(public_line(draft.signed(ED25519, AUTHORITY)))
    blob, certificate = read_host_certificate(path, ED25519)
    assert certificate.principals == frozenset({"server.example"})
    assert read_host_certificate(path.read_bytes(), ED25519)[0] == blob
    with pytest.raises(UnusableFile, match=r"host-cert\.pub is for another key"):
        read_host_certificate(path, ECDSA)
    path.write_bytes(public_line(dataclasses.replace(draft, holder=1).signed(ED25519, AUTHORITY)))
    with pytest.raises(UnusableFile, match="is for a user; a host's is made with: ssh-keygen -s CA -h"):
        read_host_certificate(path, ED25519)


@pytest.mark.parametrize("content", [b"", b"x", b"ssh-ed25519 AAAA", b"ssh-ed25519-cert-v01@openssh.com !", b"\xff\0"])
def test_another_file_is_no_certificate(content: bytes) -> None:
    for read in (lambda: read_host_certificate(content, ED25519), lambda: read_user_certificate(content)):
        with pytest.raises(UnusableFile, match="is not an OpenSSH certificate"):
            read()


def test_a_client_leaves_the_judgement_of_its_certificate_to_the_server() -> None:
    draft = Draft(critical=((b"force-command", string(b"true")), (b"verify-required", b"")))
    _, certificate = read_user_certificate(public_line(draft.signed(ED25519, AUTHORITY)))
    assert certificate.key.public_data == ED25519.public_data
    with pytest.raises(UnusableFile, match="is for a host"):
        read_user_certificate(public_line(Draft(holder=HOST).signed(ED25519, AUTHORITY)))
