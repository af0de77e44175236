"""A certificate and key the user gives: accepted when usable, else one line that says why not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from tests.support.certificates import DAY, Issued, issue
from wraith_acme import CertificateError, load_manual
from wraith_transports.tls import server_context

NOW = datetime.now(UTC)
ROOT = issue((), ca=True, common_name="Root")
INTERMEDIATE = issue((), ca=True, common_name="Intermediate", by=ROOT)
LEAF = issue(["example.org", "192.0.2.1"], by=INTERMEDIATE)


def key_with(leaf: Issued, password: bytes) -> bytes:
    return leaf.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password))


def put(folder: Path, name: str, content: bytes, mode: int = 0o600) -> Path:
    path = folder / name
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_chain_and_its_key_are_read_from_files(tmp_path: Path) -> None:
    certificate, key = put(tmp_path, "c.pem", LEAF.chain_pem, 0o644), put(tmp_path, "k.pem", LEAF.key_pem)
    loaded = load_manual(certificate, key, now=NOW)
    assert loaded.names == ("example.org", "192.0.2.1")
    assert loaded.pin == LEAF.pin
    assert loaded.chain_pem.count(b"BEGIN CERTIFICATE") == 3
    server_context(loaded.chain_pem, loaded.key_pem)


def test_both_may_be_bytes_or_one_file(tmp_path: Path) -> None:
    both = put(tmp_path, "both.pem", b"some text\n" + LEAF.key_pem + LEAF.chain_pem)
    assert load_manual(both, both, now=NOW) == load_manual(LEAF.chain_pem, LEAF.key_pem, now=NOW)


def test_a_group_may_read_the_key(tmp_path: Path) -> None:
    load_manual(LEAF.chain_pem, put(tmp_path, "k.pem", LEAF.key_pem, 0o640), now=NOW)


def test_an_ec_key_behind_its_parameters_is_found() -> None:
    traditional = LEAF.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    loaded = load_manual(LEAF.chain_pem, parameters + traditional, now=NOW)
    server_context(loaded.chain_pem, loaded.key_pem)


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o620, 0o602])
def test_a_key_that_others_can_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    key = put(tmp_path, "k.pem", LEAF.key_pem, mode)
    with pytest.raises(CertificateError, match=f"mode {mode:04o}.*chmod 600"):
        load_manual(LEAF.chain_pem, key, now=NOW)


def refusal(certificate: Path | bytes, key: Path | bytes, *, now: datetime = NOW) -> str:
    with pytest.raises(CertificateError) as caught:
        load_manual(certificate, key, now=now)
    line = str(caught.value)
    assert "\n" not in line
    assert "PRIVATE" not in line
    return line


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.pem", LEAF.key_pem) == f"--tls-cert {tmp_path}/no.pem: no such file or directory"
    assert "is a directory" in refusal(LEAF.chain_pem, tmp_path)


def test_a_file_that_is_something_else_is_refused(tmp_path: Path) -> None:
    assert "too large" in refusal(put(tmp_path, "big", bytes(2 << 20)), LEAF.key_pem)
    assert "is not a file" in refusal(Path("/dev/zero"), LEAF.key_pem)
    assert "no certificate in PEM" in refusal(b"hello", LEAF.key_pem)
    assert "no private key in PEM" in refusal(LEAF.chain_pem, b"hello")
    assert "cannot be read" in refusal(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", LEAF.key_pem)
    assert "cannot be read" in refusal(LEAF.chain_pem, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----")


def test_files_given_the_wrong_way_round_are_told_apart() -> None:
    assert "holds a key and no certificate" in refusal(LEAF.key_pem, LEAF.key_pem)
    assert "holds a certificate and no private key" in refusal(LEAF.chain_pem, LEAF.chain_pem)


def test_an_encrypted_key_is_refused_with_the_way_to_decrypt_it() -> None:
    assert "openssl pkey" in refusal(LEAF.chain_pem, key_with(LEAF, b"secret"))
    traditional = LEAF.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"x"))
    assert "encrypted" in refusal(LEAF.chain_pem, traditional)


def test_an_ssh_key_is_refused() -> None:
    ssh = LEAF.key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    assert "is an SSH key" in refusal(LEAF.chain_pem, ssh)


def test_another_key_is_refused() -> None:
    assert "is not the key of the certificate" in refusal(LEAF.chain_pem, issue().key_pem)
    other = rsa.generate_private_key(65537, 2048).private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    )
    assert "is not the key of the certificate" in refusal(LEAF.chain_pem, other)


def test_a_chain_in_the_wrong_order_is_refused() -> None:
    root_first = INTERMEDIATE.certificate_pem + LEAF.certificate_pem
    assert "must come first" in refusal(root_first, LEAF.key_pem)
    shuffled = LEAF.certificate_pem + ROOT.certificate_pem + INTERMEDIATE.certificate_pem
    assert "out of order" in refusal(shuffled, LEAF.key_pem)


def test_a_certificate_out_of_its_time_is_refused() -> None:
    assert "has expired on" in refusal(LEAF.chain_pem, LEAF.key_pem, now=NOW + 31 * DAY)
    assert "is not valid before" in refusal(LEAF.chain_pem, LEAF.key_pem, now=NOW - timedelta(days=2))
