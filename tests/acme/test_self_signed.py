"""The self-signed certificate: made once, kept, made anew with its key, and set aside when unreadable."""

from __future__ import annotations

import logging
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from wraith_acme import CertificateError, load_or_make_self_signed
from wraith_acme.self_signed import CERTIFICATE_FILE, KEY_FILE, LIFETIME, RENEW_BEFORE
from wraith_transports.tls import server_context, spki_pin

NOW = datetime(2026, 6, 2, tzinfo=UTC)


def test_it_is_made_once_and_then_read(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "tls"
    first = load_or_make_self_signed(folder, names=["example.org", "192.0.2.1"], now=NOW)
    second = load_or_make_self_signed(folder, names=["example.org", "192.0.2.1"], now=NOW + timedelta(days=400))
    assert second == first
    assert first.names == ("example.org", "192.0.2.1")
    assert first.not_before < NOW < first.not_after


def test_what_is_made_can_be_served_and_its_pin_is_the_pin_of_the_certificate(tmp_path: Path) -> None:
    import ssl

    made = load_or_make_self_signed(tmp_path, now=NOW)
    server_context(made.chain_pem, made.key_pem)
    assert made.pin == spki_pin(ssl.PEM_cert_to_DER_cert(made.chain_pem.decode()))


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    load_or_make_self_signed(folder, now=NOW)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert {path.name for path in folder.iterdir()} == {CERTIFICATE_FILE, KEY_FILE}


def test_the_key_does_not_show_in_the_representation(tmp_path: Path) -> None:
    assert "PRIVATE" not in repr(load_or_make_self_signed(tmp_path, now=NOW))


@pytest.mark.parametrize("left", [RENEW_BEFORE - timedelta(seconds=1), timedelta(0), -timedelta(days=100)])
def test_near_its_end_it_is_made_anew_with_the_same_pin(tmp_path: Path, left: timedelta) -> None:
    first = load_or_make_self_signed(tmp_path, now=NOW)
    later = first.not_after - left
    second = load_or_make_self_signed(tmp_path, now=later)
    assert second.pin == first.pin
    assert second.not_after == later + LIFETIME
    assert load_or_make_self_signed(tmp_path, now=later) == second


def test_a_certificate_from_the_future_is_made_anew(tmp_path: Path) -> None:
    first = load_or_make_self_signed(tmp_path, now=NOW)
    second = load_or_make_self_signed(tmp_path, now=NOW - timedelta(days=10))
    assert second.not_before < first.not_before
    assert second.pin == first.pin


def test_other_names_make_it_anew_with_the_same_pin(tmp_path: Path) -> None:
    first = load_or_make_self_signed(tmp_path, names=["one.example"], now=NOW)
    second = load_or_make_self_signed(tmp_path, names=["two.example", "2001:DB8::1"], now=NOW)
    assert second.names == ("two.example", "2001:db8::1")
    assert second.pin == first.pin
    assert load_or_make_self_signed(tmp_path, names=["2001:db8:0::1"], now=NOW) == second


@pytest.mark.parametrize("damage", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_corrupt_certificate_is_set_aside_and_the_key_kept(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    first = load_or_make_self_signed(tmp_path, now=NOW)
    (tmp_path / CERTIFICATE_FILE).write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        second = load_or_make_self_signed(tmp_path, now=NOW)
    assert second.pin == first.pin
    assert (tmp_path / f"{CERTIFICATE_FILE}.unusable").read_bytes() == damage
    assert "same key" in caplog.text


def test_a_corrupt_key_is_set_aside_and_the_new_pin_announced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = load_or_make_self_signed(tmp_path, now=NOW)
    (tmp_path / KEY_FILE).write_bytes(b"half a k")
    with caplog.at_level(logging.WARNING):
        second = load_or_make_self_signed(tmp_path, now=NOW)
    assert second.pin != first.pin
    assert (tmp_path / f"{KEY_FILE}.unusable").read_bytes() == b"half a k"
    assert "new pin" in caplog.text
    assert load_or_make_self_signed(tmp_path, now=NOW) == second


def test_a_key_without_its_certificate_is_used_again(tmp_path: Path) -> None:
    first = load_or_make_self_signed(tmp_path, now=NOW)
    (tmp_path / CERTIFICATE_FILE).unlink()
    assert load_or_make_self_signed(tmp_path, now=NOW).pin == first.pin


def test_a_certificate_of_another_key_is_replaced(tmp_path: Path) -> None:
    first = load_or_make_self_signed(tmp_path / "a", now=NOW)
    other = load_or_make_self_signed(tmp_path / "b", now=NOW)
    (tmp_path / "a" / CERTIFICATE_FILE).write_bytes(other.chain_pem)
    assert load_or_make_self_signed(tmp_path / "a", now=NOW).pin == first.pin


def test_a_stored_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    load_or_make_self_signed(tmp_path, now=NOW)
    (tmp_path / KEY_FILE).chmod(0o644)
    with pytest.raises(CertificateError, match="chmod 600"):
        load_or_make_self_signed(tmp_path, now=NOW)


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CertificateError, match=r"cannot write .*self-signed\.key: not a directory"):
        load_or_make_self_signed(tmp_path / "file" / "tls", now=NOW)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wraith_acme.store import Store

    store = Store(tmp_path)
    store.write("name", b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CertificateError, match="no space left"):
        store.write("name", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["name"]
    assert store.read("name") == b"old"
