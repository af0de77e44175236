"""Claims about options: what cannot be is refused when it is said, and no secret is shown."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from wraith.errors import UsageError
from wraith.options import (
    ConnectOptions,
    HostKeyCheck,
    ServeOptions,
    TlsClientOptions,
    TlsServerOptions,
    default_directory,
    default_identities,
)
from wraith.specs import ListenSpec, Scheme, parse_proxy

PIN = "sha256//" + base64.b64encode(bytes(32)).decode()
FINGERPRINT = "SHA256:" + "a" * 43


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WRAITH_DIR", str(tmp_path))
    return tmp_path


def test_paths_are_in_the_chosen_directory(directory: Path) -> None:
    assert ServeOptions().authorized_keys == directory / "authorized_keys"
    assert ConnectOptions("h").known_hosts == directory / "known_hosts"
    assert default_identities()[0] == directory / "id_ed25519"


def test_without_a_choice_the_directory_is_the_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WRAITH_DIR")
    assert default_directory().name == "wraith"
    assert default_directory().is_absolute()


def test_options_are_frozen_and_compare_by_value() -> None:
    assert ServeOptions() == ServeOptions()
    with pytest.raises(dataclasses.FrozenInstanceError):
        ConnectOptions("h").host = "other"  # type: ignore[misc]
    assert not hasattr(ConnectOptions("h"), "__dict__")


@pytest.mark.parametrize(
    ("options", "addresses"),
    [
        (ServeOptions(), ["tcp://[::]:22"]),
        (ServeOptions(transport=Scheme.TLS), ["tls://[::]:443"]),
        (
            ServeOptions(transport=Scheme.TLS, listen=(ListenSpec("::1", 1), ListenSpec("::1", 2, Scheme.TCP))),
            ["tls://[::1]:1", "tcp://[::1]:2"],
        ),
        (ServeOptions(listen=(ListenSpec("::1", 1), ListenSpec("::1", 1, Scheme.TCP))), ["tcp://[::1]:1"]),
    ],
)
def test_every_address_gets_a_scheme_and_none_is_twice(options: ServeOptions, addresses: list[str]) -> None:
    assert [str(each) for each in options.listening] == addresses


@pytest.mark.parametrize(
    ("options", "port"),
    [
        (ConnectOptions("h"), 22),
        (ConnectOptions("h", transport=Scheme.TLS), 443),
        (ConnectOptions("h", 2222, transport=Scheme.TLS), 2222),
    ],
)
def test_the_port_is_the_transports_unless_given(options: ConnectOptions, port: int) -> None:
    assert options.server_port == port


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: ConnectOptions(""), "server"),
        (lambda: ConnectOptions("a b"), "server"),
        (lambda: ConnectOptions("h\n"), "server"),
        (lambda: ConnectOptions("h", 0), "port"),
        (lambda: ConnectOptions("h", 65536), "port"),
        (lambda: ConnectOptions("h", user=""), "--user"),
        (lambda: ConnectOptions("h", user="a\nb"), "--user"),
        (lambda: ConnectOptions("h", host_keys=("MD5:00",)), "--host-key"),
        (lambda: ConnectOptions("h", host_keys=(FINGERPRINT[:-1],)), "--host-key"),
        (lambda: ConnectOptions("h", known_hosts=b""), "known_hosts"),
        (lambda: TlsClientOptions(server_name="a b"), "--tls-server-name"),
        (lambda: TlsClientOptions(pins=("x",)), "--tls-pin"),
        (lambda: TlsClientOptions(pins=(PIN.removeprefix("sha256//"),)), "--tls-pin"),
        (lambda: TlsClientOptions(pins=("sha256//####",)), "--tls-pin"),
        (lambda: TlsClientOptions(pins=("sha256//AAAA",)), "--tls-pin"),
        (lambda: TlsClientOptions(pins=(PIN,), insecure=True), "--insecure"),
        (lambda: TlsClientOptions(ca=b"", insecure=True), "--insecure"),
        (lambda: TlsClientOptions(ca=b"", pins=(PIN,)), "--tls-ca"),
        (lambda: TlsServerOptions(certificate=b""), "--tls-key"),
        (lambda: TlsServerOptions(key=b""), "--tls-cert"),
        (lambda: ServeOptions(max_auth_attempts=0), "--max-auth-attempts"),
        (lambda: ServeOptions(max_sessions=0), "--max-sessions"),
        (lambda: ServeOptions(max_channels=-1), "--max-channels"),
    ],
)
def test_what_cannot_be_is_a_usage_error_in_one_line_that_names_it(make: Callable[[], object], names: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert names in str(caught.value)
    assert str(caught.value).isprintable()


def test_good_values_are_taken() -> None:
    TlsClientOptions(server_name="example.com", pins=(PIN,))
    TlsServerOptions(certificate=b"c", key=b"k")
    ConnectOptions("::1", 1, user="x", host_keys=(FINGERPRINT,), known_hosts=b"")
    ConnectOptions("h", known_hosts=b"", host_key_check=HostKeyCheck.STRICT)


def test_no_secret_is_shown() -> None:
    shown = repr(
        (
            ServeOptions(key=b"hunter2", tls=TlsServerOptions(certificate=b"public", key=b"hunter2")),
            ConnectOptions("h", identities=(b"hunter2",), ask_passphrase=lambda _: "hunter2"),
        )
    )
    assert "hunter2" not in shown
    assert "public" in shown


def test_a_proxys_user_and_password_are_not_shown_by_options() -> None:
    proxy = parse_proxy("socks5h://s3cr3tuser:s3cr3t@proxy")
    for options in (ConnectOptions("h", proxy=proxy), ServeOptions(proxy=proxy)):
        assert "proxy" in repr(options)
        assert "s3cr3t" not in f"{options!r} {options}"


def test_a_proxy_that_cannot_be_read_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--proxy: ftp:// is no proxy"):
        parse_proxy("ftp://me:s3cr3t@proxy")
