"""Claims about flags: the ones there are, what each comes to, and its variable in the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from wraith.cli import connecting, main, serving
from wraith.cli.app import app
from wraith.errors import ExitCode
from wraith.options import AddressFamily, ConnectOptions, HostKeyCheck, ServeOptions
from wraith.specs import ListenSpec, Scheme, SocksSpec, TcpBind, UnixBind
from wraith_transports.proxy import ProxyScheme, ProxyUrl

PIN = "sha256//" + "A" * 43 + "="
FINGERPRINT = "SHA256:" + "a" * 43
OTHER_FINGERPRINT = "SHA256:" + "b" * 43

FLAGS = {
    "serve": "--key --host-certificate --authorized-keys --cert-authority --principal --revoked-keys "
    "--transport --listen --tls-cert --tls-key --permit-open --permit-listen --gateway-ports --deny-private --proxy "
    "--max-connections-per-ip --max-auth-attempts --max-sessions --max-channels "
    "--log-format --log-level -q -v",
    "connect": "--server --transport -i --identity --certificate "
    "-l --user --known-hosts --host-key-check --host-key -D --socks5 "
    "--no-socks5 --socks5-auth-file --socks5-open -L --forward -R --remote-forward -W --stdio -4 -6 --proxy "
    "--tls-server-name --tls-ca --tls-pin --insecure --exit-on-failure "
    "--log-format --log-level -q -v",
    "keygen": "-f --file --force -C --comment -N --passphrase",
    "id": "",
    "demo": "--keep",
}


class Captured:
    """Stands where a command would start to run, and keeps what it was told."""

    def __init__(self) -> None:
        self.options: Any = None
        self.verbosity: Any = None

    def __call__(self, options: ServeOptions | ConnectOptions, *rest: object) -> ExitCode:
        self.options, self.verbosity = options, rest[-1]
        return ExitCode.DONE


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WRAITH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WRAITH_DIR", str(tmp_path))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Captured:
    captured = Captured()
    monkeypatch.setattr(connecting, "_run", captured)
    monkeypatch.setattr(serving, "_run", captured)
    monkeypatch.setattr(connecting, "has_terminal", lambda: False)
    return captured


@pytest.mark.parametrize("command", FLAGS)
def test_help_lists_exactly_the_flags_there_are(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    options = capsys.readouterr().out.partition("Options:")[2]
    listed: set[str] = set()
    for line in re.findall(r"^  (-.*)$", options, re.MULTILINE):
        listed |= set(re.findall(r"(?:^|, )(-[-\w]+)", line))
    assert listed == {*FLAGS[command].split(), "--help"}


def test_the_commands_are_these(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^  ([a-z]+)  ", shown.partition("Commands:")[2], re.MULTILINE) == list(FLAGS)


@pytest.mark.parametrize("command", FLAGS)
def test_every_flag_has_a_variable_named_after_it(command: str) -> None:
    parameters = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    for parameter in parameters:
        if parameter.param_type_name == "option":
            longest = max(parameter.opts, key=len)
            assert parameter.envvar == "WRAITH_" + longest.lstrip("-").replace("-", "_").upper()


CONNECT_CASES: list[tuple[str, list[str], dict[str, str], Callable[[ConnectOptions], object], object]] = [
    ("server", ["--server", "h:1"], {"WRAITH_SERVER": "h:1"}, lambda o: (o.host, o.port), ("h", 1)),
    ("transport", ["h", "--transport", "tls"], {"WRAITH_TRANSPORT": "tls"}, lambda o: o.transport, Scheme.TLS),
    (
        "identity",
        ["h", "-i", "a", "--identity", "b c"],
        {"WRAITH_IDENTITY": f"a{os.pathsep}{os.pathsep}b c"},
        lambda o: o.identities,
        (Path("a"), Path("b c")),
    ),
    ("certificate", ["h", "--certificate", "c"], {"WRAITH_CERTIFICATE": "c"}, lambda o: o.certificate, Path("c")),
    ("user", ["h", "-l", "me"], {"WRAITH_USER": "me"}, lambda o: o.user, "me"),
    ("known-hosts", ["h", "--known-hosts", "k"], {"WRAITH_KNOWN_HOSTS": "k"}, lambda o: o.known_hosts, Path("k")),
    (
        "host-key-check",
        ["h", "--host-key-check", "strict"],
        {"WRAITH_HOST_KEY_CHECK": "strict"},
        lambda o: o.host_key_check,
        HostKeyCheck.STRICT,
    ),
    (
        "host-key",
        ["h", "--host-key", FINGERPRINT, "--host-key", OTHER_FINGERPRINT],
        {"WRAITH_HOST_KEY": f" {FINGERPRINT}\t{OTHER_FINGERPRINT} "},
        lambda o: o.host_keys,
        (FINGERPRINT, OTHER_FINGERPRINT),
    ),
    (
        "socks5",
        ["h", "-D", "1", "--socks5", "/a.sock"],
        {"WRAITH_SOCKS5": "1 /a.sock"},
        lambda o: o.socks,
        (SocksSpec(TcpBind("127.0.0.1", 1)), SocksSpec(UnixBind("/a.sock"))),
    ),
    ("no-socks5", ["h", "--no-socks5"], {"WRAITH_NO_SOCKS5": "1"}, lambda o: o.socks, ()),
    (
        "socks5-auth-file",
        ["h", "--socks5-auth-file", "u"],
        {"WRAITH_SOCKS5_AUTH_FILE": "u"},
        lambda o: o.socks_auth,
        Path("u"),
    ),
    ("socks5-open", ["h", "--socks5-open"], {"WRAITH_SOCKS5_OPEN": "1"}, lambda o: o.socks_open, True),
    ("4", ["h", "-4"], {"WRAITH_4": "true"}, lambda o: o.family, AddressFamily.IPV4),
    ("6", ["h", "-6"], {"WRAITH_6": "yes"}, lambda o: o.family, AddressFamily.IPV6),
    (
        "proxy",
        ["h", "--proxy", "socks5h://me:p%40w@p"],
        {"WRAITH_PROXY": "socks5h://me:p%40w@p"},
        lambda o: o.proxy,
        ProxyUrl(ProxyScheme.SOCKS5H, "p", 1080, "me", "p@w"),
    ),
    (
        "tls-server-name",
        ["tls://h", "--tls-server-name", "n"],
        {"WRAITH_TLS_SERVER_NAME": "n"},
        lambda o: o.tls.server_name,
        "n",
    ),
    ("tls-ca", ["tls://h", "--tls-ca", "c"], {"WRAITH_TLS_CA": "c"}, lambda o: o.tls.ca, Path("c")),
    ("tls-pin", ["tls://h", "--tls-pin", PIN], {"WRAITH_TLS_PIN": PIN}, lambda o: o.tls.pins, (PIN,)),
    ("insecure", ["tls://h", "--insecure"], {"WRAITH_INSECURE": "1"}, lambda o: o.tls.insecure, True),
    (
        "exit-on-failure",
        ["h", "--exit-on-failure"],
        {"WRAITH_EXIT_ON_FAILURE": "1"},
        lambda o: o.exit_on_failure,
        True,
    ),
]


@pytest.mark.parametrize(
    ("arguments", "environment", "get", "expected"),
    [case[1:] for case in CONNECT_CASES],
    ids=[case[0] for case in CONNECT_CASES],
)
def test_connect_takes_each_flag_from_the_command_line_or_the_environment(
    *,
    arguments: list[str],
    environment: dict[str, str],
    get: Callable[[ConnectOptions], object],
    expected: object,
    told: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["connect", *arguments]) == 0
    assert get(told.options) == expected
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    target = [] if "WRAITH_SERVER" in environment else arguments[:1]
    assert main(["connect", *target]) == 0
    assert get(told.options) == expected


PERMISSIONS = ("permit-open", "permit-listen", "gateway-ports", "deny-private")
LIMITS = ("connections-per-ip", "auth-attempts", "sessions", "channels")
SERVE_CASES: list[tuple[str, list[str], dict[str, str], Callable[[ServeOptions], object], object]] = [
    ("key", ["--key", "k"], {"WRAITH_KEY": "k"}, lambda o: o.key, Path("k")),
    (
        "authorized-keys",
        ["--authorized-keys", "a"],
        {"WRAITH_AUTHORIZED_KEYS": "a"},
        lambda o: o.authorized_keys,
        Path("a"),
    ),
    (
        "host-certificate",
        ["--host-certificate", "c"],
        {"WRAITH_HOST_CERTIFICATE": "c"},
        lambda o: o.host_certificate,
        Path("c"),
    ),
    (
        "certificates",
        ["--cert-authority", "a", "--cert-authority", "b c", "--principal", "p", "--principal", "q"],
        {"WRAITH_CERT_AUTHORITY": f"a{os.pathsep}{os.pathsep}b c", "WRAITH_PRINCIPAL": "p q"},
        lambda o: (o.cert_authorities, o.principals),
        ((Path("a"), Path("b c")), ("p", "q")),
    ),
    ("revoked-keys", ["--revoked-keys", "r"], {"WRAITH_REVOKED_KEYS": "r"}, lambda o: o.revoked_keys, Path("r")),
    ("transport", ["--transport", "tls"], {"WRAITH_TRANSPORT": "tls"}, lambda o: o.transport, Scheme.TLS),
    (
        "listen",
        ["--listen", "[::1]:1", "--listen", "tls://*:2"],
        {"WRAITH_LISTEN": "[::1]:1 tls://*:2"},
        lambda o: o.listen,
        (ListenSpec("::1", 1), ListenSpec("::", 2, Scheme.TLS)),
    ),
    (
        "tls",
        ["--transport", "tls", "--tls-cert", "c", "--tls-key", "k"],
        {"WRAITH_TRANSPORT": "tls", "WRAITH_TLS_CERT": "c", "WRAITH_TLS_KEY": "k"},
        lambda o: (o.tls.certificate, o.tls.key),
        (Path("c"), Path("k")),
    ),
    (
        "limits",
        [each for name in LIMITS for each in (f"--max-{name}", "7")],
        {f"WRAITH_MAX_{name.upper().replace('-', '_')}": "7" for name in LIMITS},
        lambda o: {o.max_connections_per_ip, o.max_auth_attempts, o.max_sessions, o.max_channels},
        {7},
    ),
    (
        "proxy",
        ["--proxy", "http://[::1]:3128"],
        {"WRAITH_PROXY": "http://[::1]:3128"},
        lambda o: o.proxy,
        ProxyUrl(ProxyScheme.HTTP, "::1", 3128),
    ),
]


@pytest.mark.parametrize(
    ("arguments", "environment", "get", "expected"),
    [case[1:] for case in SERVE_CASES],
    ids=[case[0] for case in SERVE_CASES],
)
def test_serve_takes_each_flag_from_the_command_line_or_the_environment(
    *,
    arguments: list[str],
    environment: dict[str, str],
    get: Callable[[ServeOptions], object],
    expected: object,
    told: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["serve", *arguments]) == 0
    assert get(told.options) == expected
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["serve"]) == 0
    assert get(told.options) == expected


def test_every_flag_of_both_commands_is_tried_above() -> None:
    tried = {case[0] for case in CONNECT_CASES} | {"log-format", "log-level", "q", "v"}
    tried |= {case[0] for case in SERVE_CASES} - {"tls", "certificates", "limits"}
    tried |= {f"max-{name}" for name in LIMITS}
    tried |= {"tls-cert", "tls-key", "cert-authority", "principal", "forward", "remote-forward", "stdio", *PERMISSIONS}
    aliases = {"i", "l", "D", "L", "R", "W"}
    flags = {flag.lstrip("-") for command in ("serve", "connect") for flag in FLAGS[command].split()}
    assert flags - aliases == tried


@pytest.mark.parametrize(
    ("arguments", "environment", "get", "expected"),
    [
        (["h"], {"WRAITH_SERVER": "other"}, lambda o: o.host, "h"),
        (["h", "-4"], {"WRAITH_6": "1"}, lambda o: o.family, AddressFamily.IPV4),
        (["h", "-D", "1"], {"WRAITH_NO_SOCKS5": "1"}, lambda o: len(o.socks), 1),
        (["h", "--no-socks5"], {"WRAITH_SOCKS5": "1"}, lambda o: o.socks, ()),
        (["tls://h"], {"WRAITH_TRANSPORT": "tcp"}, lambda o: o.transport, Scheme.TLS),
        (["me@h"], {"WRAITH_USER": "you"}, lambda o: o.user, "me"),
        (["h"], {"WRAITH_TLS_PIN": PIN, "WRAITH_INSECURE": "1"}, lambda o: o.tls.pins, ()),
        (["h"], {"WRAITH_4": "0", "WRAITH_6": "1"}, lambda o: o.family, AddressFamily.IPV6),
        (["h"], {"WRAITH_TRANSPORT": ""}, lambda o: o.transport, Scheme.TCP),
    ],
)
def test_the_command_line_outranks_the_environment(
    *,
    arguments: list[str],
    environment: dict[str, str],
    get: Callable[[ConnectOptions], object],
    expected: object,
    told: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["connect", *arguments]) == 0
    assert get(told.options) == expected


def test_defaults_of_connect(told: Captured, tmp_path: Path) -> None:
    assert main(["connect", "h"]) == 0
    assert told.options == ConnectOptions(
        "h", None, "wraith", known_hosts=tmp_path / "known_hosts", socks=(SocksSpec(TcpBind("127.0.0.1", 1080)),)
    )


def test_an_unknown_host_key_is_asked_about_only_where_there_is_a_terminal(
    told: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    for terminal, expected in ((False, HostKeyCheck.ACCEPT_NEW), (True, HostKeyCheck.ASK)):
        monkeypatch.setattr(connecting, "has_terminal", lambda terminal=terminal: terminal)
        assert main(["connect", "h"]) == 0
        assert told.options.host_key_check is expected


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--bogus"], "no such option"),
        (["conect"], "Did you mean 'connect'"),
        (["connect"], "no server was named"),
        (["connect", ""], "no server was named"),
        (["connect", "h", "extra"], "unexpected extra argument"),
        (["connect", "h", "--tls-pinn", PIN], "no such option: --tls-pinn"),
        (["connect", "h", "-L"], "requires an argument"),
        (["connect", "h", "-D", "x"], "-D x"),
        (["connect", "h:0"], "h:0"),
        (["connect", "ssh://h"], "ssh://"),
        (["connect", "h", "--server", "i"], "TARGET and --server exclude each other"),
        (["connect", "--server", "me@h"], "--server is HOST[:PORT]"),
        (["connect", "--server", "tls://h"], "--server is HOST[:PORT]"),
        (["connect", "tls://h", "--transport", "tcp"], "contradict"),
        (["connect", "me@h", "-l", "you"], "contradict"),
        (["connect", "h", "-4", "-6"], "-4 and -6 exclude each other"),
        (["connect", "h", "-D", "1", "--no-socks5"], "exclude each other"),
        (["connect", "h", "-q", "-v"], "-q and -v exclude each other"),
        (["connect", "h", "--tls-pin", PIN], "--tls-pin has no use without TLS"),
        (["connect", "h", "--insecure"], "--insecure has no use without TLS"),
        (["connect", "tls://h", "--insecure", "--tls-pin", PIN], "contradict"),
        (["connect", "h", "--host-key", "x"], "--host-key"),
        (["connect", "h", "--transport", "quic"], "'quic' is not one of 'tcp', 'tls'"),
        (["connect", "h", "--host-key-check", "no"], "'no' is not one of"),
        (["connect", "h", "--proxy", "p:1080"], "--proxy: the proxy needs a scheme"),
        (["connect", "h", "--proxy", "https://p"], "--proxy: https:// is no proxy that can be used"),
        (["serve", "--proxy", "socks5://p:x"], "--proxy: the proxy's port"),
        (["connect", "h", "--log-level", "loud"], "'loud' is not one of"),
        (["connect", "h", "--log-format", "xml"], "'xml' is not one of"),
        (["serve", "extra"], "unexpected extra argument"),
        (["serve", "--listen", "1"], "--listen 1"),
        (["serve", "--principal", "me"], "--principal is about certificates: it needs --cert-authority"),
        (["serve", "--tls-cert", "c", "--transport", "tls"], "--tls-key"),
        (["serve", "--tls-cert", "c", "--tls-key", "k"], "--tls-cert has no use without a tls address"),
        (["serve", "--log-level", "loud"], "'loud' is not one of"),
    ],
)
def test_a_wrong_flag_is_one_line_with_a_hint_and_exit_code_2(
    arguments: list[str], says: str, told: Captured, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("wraith: ")
    assert says in err
    command = " ".join(["wraith", *[word for word in arguments[:1] if word in FLAGS]])
    assert err.endswith(f"(see `{command} --help`)\n")
    assert told.options is None


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"WRAITH_TRANSPORT": "quic"}, "'quic'"),
        ({"WRAITH_4": "perhaps"}, "'-4'"),
        ({"WRAITH_4": "1", "WRAITH_6": "1"}, "-4 and -6"),
        ({"WRAITH_PROXY": "p:1080"}, "--proxy: the proxy needs a scheme"),
    ],
)
def test_a_wrong_variable_is_a_usage_error_too(
    environment: dict[str, str],
    says: str,
    told: Captured,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["connect", "h"]) == ExitCode.USAGE
    assert says in capsys.readouterr().err
