"""Claims about who gets in, put to wraith and to sshd alike, by stock ssh and by wraith's own client."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.doors import (
    OPENED,
    PROHIBITED,
    REFUSED,
    USER,
    Doors,
    KeyCabinet,
    Outcome,
    Rules,
    authorities_file,
    revoked_file,
)
from tests.support.processes import WraithServer
from tests.support.stock_servers import Sshd
from tests.support.targets import Target, echo


@dataclass(frozen=True, slots=True)
class Case:
    """One row. `sshd` is its outcome where it differs: wraith is the stricter one."""

    name: str
    rules: Rules
    expected: Outcome
    reason: str = ""  # in wraith's log
    kind: str = "ed25519"
    certificate: tuple[str, ...] = ()  # flags of ssh-keygen
    authority: str = "ca"
    sshd: Outcome | None = None
    host: str = "127.0.0.1"  # as it is asked for
    source: str = ""  # the client's address


def line(
    options: str,
    expected: Outcome,
    reason: str = "",
    *,
    kind: str = "ed25519",
    sshd: Outcome | None = None,
    host: str = "127.0.0.1",
    source: str = "",
    name: str = "",
) -> Case:
    """A line of authorized_keys with these options."""
    blank = " " if options and options[-1] not in " \t" else ""
    rules = Rules(f"{options}{blank}{{key}}")
    return Case(
        name or f"{options.strip()} {kind}".strip(), rules, expected, reason, kind, sshd=sshd, host=host, source=source
    )


def certified(
    flags: str,
    expected: Outcome,
    reason: str = "",
    *,
    options: str = "cert-authority",
    kind: str = "ed25519",
    authority: str = "ca",
    sshd: Outcome | None = None,
    source: str = "",
) -> Case:
    """A certificate, and its authority in a line of authorized_keys."""
    certificate = ("-I", "me", *flags.format(user=USER).split())
    rules = Rules(f"{options} {{{authority}}}")
    name = f"certificate {flags or 'without principals'} {options} {kind} {authority} {source}".strip()
    return Case(name, rules, expected, reason, kind, certificate, authority, sshd, source=source)


def trusted(
    name: str,
    flags: str,
    expected: Outcome,
    reason: str = "",
    *,
    authorities: str = "{ca}",
    lines: str = "",
    revoked: str = "",
    sshd: Outcome | None = None,
) -> Case:
    """A certificate, and its authority in the file of authorities."""
    certificate = ("-I", "me", *flags.format(user=USER).split())
    return Case(name, Rules(lines, authorities, revoked), expected, reason, certificate=certificate, sshd=sshd)


HERE = '"127.0.0.1:{port}"'
BAD = "unknown-key"  # the line is left out

LINES = [
    line("", OPENED),
    line("restrict", PROHIBITED),
    line("RESTRICT", PROHIBITED),
    line("restrict\t", PROHIBITED, name="a tab after the options"),
    line("  restrict   ", PROHIBITED, name="blanks around the options"),
    line("Restrict,Port-Forwarding", OPENED),
    line("port-forwarding,restrict", PROHIBITED),
    line("no-port-forwarding", PROHIBITED),
    line("NO-Port-FORWARDING", PROHIBITED),
    line("no-port-forwarding,port-forwarding", OPENED),
    line("port-forwarding,no-port-forwarding", PROHIBITED),
    line("restrict,pty,user-rc,agent-forwarding,x11-forwarding", PROHIBITED),
    line("no-pty,No-Agent-Forwarding,NO-X11-forwarding,no-user-rc", OPENED),
    line("pty,agent-forwarding,X11-forwarding,user-rc", OPENED),
    line("restrict,", PROHIBITED),
    line(",restrict", PROHIBITED),
    line("restrict no-pty", REFUSED, BAD),
    line("restrict=", REFUSED, BAD),
    line("no-restrict", REFUSED, BAD),
    line("restricted", REFUSED, BAD),
    line("anything", REFUSED, BAD),
    line('anything="{port}"', REFUSED, BAD),
    line('command="true"', REFUSED, BAD, sshd=OPENED),
    line(r'Command="echo \"a b\", no-pty"', REFUSED, BAD, sshd=OPENED),
    line('environment="A=b"', REFUSED, BAD, sshd=OPENED),
    line('tunnel="0"', REFUSED, BAD, sshd=OPENED),
    line("verify-required", REFUSED, BAD, sshd=OPENED),
    line("no-touch-required", REFUSED, BAD, sshd=OPENED),
    line(f"permitopen={HERE}", OPENED),
    line(f"PermitOpen={HERE}", OPENED),
    line('permitopen="127.0.0.1:1"', PROHIBITED),
    line(f'permitopen="127.0.0.1:1",permitopen={HERE}', OPENED),
    line('permitopen="*:{port}"', OPENED),
    line('permitopen="127.0.0.1:*"', OPENED),
    line('permitopen="[127.0.0.1]:{port}"', OPENED),
    line('permitopen="localhost:{port}"', PROHIBITED),
    line('permitopen="localhost:{port}"', OPENED, host="localhost", name="the name as it is asked for"),
    line('permitopen="LOCALHOST:{port}"', PROHIBITED, host="localhost", name="the name letter by letter"),
    line(f"restrict,permitopen={HERE}", PROHIBITED),
    line(f"restrict,port-forwarding,permitopen={HERE}", OPENED),
    line("permitopen=127.0.0.1:{port}", REFUSED, BAD),
    line('permitopen="127.0.0.1"', REFUSED, BAD),
    line('permitopen="127.0.0.1:0"', REFUSED, BAD),
    line('permitopen="127.0.0.1:70000"', REFUSED, BAD),
    line('permitopen="127.0.0.1:{port}', REFUSED, BAD),
    line('permitlisten="8080"', OPENED),
    line('permitlisten="localhost:8080",permitlisten="[::1]:*"', OPENED),
    line('permitlisten="localhost"', REFUSED, BAD),
    line("permitlisten=8080", REFUSED, BAD),
    line('from="127.0.0.1"', OPENED),
    line('FROM="127.0.0.0/8"', OPENED),
    line('from="127.*"', OPENED),
    line('from="127.0.0.?"', OPENED),
    line('from="10.0.0.0/8,127.0.0.1"', OPENED),
    line('from="*"', OPENED),
    line('from="10.0.0.0/8"', REFUSED, "from"),
    line('from="::1,fe80::/10"', REFUSED, "from"),
    line('from="localhost"', REFUSED, "from"),
    line('from="!127.0.0.1,*"', REFUSED, "from"),
    line('from="*,!127.0.0.0/8"', REFUSED, "from"),
    line('from="127.0.0.1,!127.*"', REFUSED, "from"),
    line('from="!10.0.0.0/8"', REFUSED, "from"),
    line('from="!10.0.0.0/8,*"', OPENED),
    line('from="10.0.0.1, 127.0.0.1"', REFUSED, "from"),
    line('from="127.0.0.1/8"', REFUSED, BAD),
    line('from=""', REFUSED, BAD),
    line('from="127.0.0.1,"', REFUSED, BAD),
    line('from="127.0.0.1",from="*"', REFUSED, BAD),
    line("from=127.0.0.1", REFUSED, BAD),
    line('from="127.0.0.2"', OPENED, source="127.0.0.2", name="from the second address"),
    line('from="127.0.0.1"', REFUSED, "from", source="127.0.0.2", name="from the second address, not permitted"),
    line('from="!127.1,*"', REFUSED, BAD),
    line('expiry-time="20370101"', OPENED),
    line('Expiry-Time="203701010000"', OPENED),
    line('expiry-time="20370101000000Z"', OPENED),
    line('expiry-time="20370101utc"', OPENED),
    line('expiry-time="20200101"', REFUSED, "expired"),
    line('expiry-time="202001010000Z"', REFUSED, "expired"),
    line('expiry-time="20370101",expiry-time="20200101"', REFUSED, "expired"),
    line('expiry-time="20200101",expiry-time="20370101"', REFUSED, "expired"),
    line('expiry-time="2037"', REFUSED, BAD),
    line('expiry-time="tomorrow"', REFUSED, BAD),
    line('expiry-time="20371301"', REFUSED, BAD),
    line("expiry-time=20370101", REFUSED, BAD),
    line("cert-authority", REFUSED, BAD),
    line('principals="{user}"', REFUSED, BAD),
    Case("the second line with a key", Rules('from="10.0.0.1" {key}\n{key}'), OPENED),
    Case("the first line that lets a key in", Rules("restrict {key}\n{key}"), PROHIBITED),
    Case("a line that is no key before one that is", Rules("nonsense\n{key}"), OPENED),
    Case("a comment", Rules("#{key}"), REFUSED, BAD),
    Case("a revoked key", Rules("{key}", revoked="# gone\n\n{key}"), REFUSED, "revoked"),
    Case("another revoked key", Rules("{key}", revoked="{other_ca}"), OPENED),
]

KINDS = [
    line("", OPENED, kind="rsa"),
    line("restrict", PROHIBITED, kind="rsa"),
    line("", OPENED, kind="ecdsa"),
    line('From="10.0.0.1"', REFUSED, "from", kind="ecdsa"),
    line("", REFUSED, "bad-key", kind="rsa-1024", sshd=OPENED),
    line("", REFUSED, "bad-key", kind="ecdsa-384", sshd=OPENED),
    line("", OPENED, kind="sk-ed25519"),
    line("RESTRICT", PROHIBITED, kind="sk-ed25519"),
    line('permitopen="127.0.0.1:1"', PROHIBITED, kind="sk-ed25519"),
    line('from="!127.0.0.1,*"', REFUSED, "from", kind="sk-ed25519"),
    line("", OPENED, kind="sk-ecdsa"),
    line("", REFUSED, "bad-signature", kind="sk-ed25519-untouched"),
    line("", REFUSED, "bad-signature", kind="sk-ecdsa-untouched"),
    line("no-touch-required", REFUSED, BAD, kind="sk-ed25519-untouched", sshd=OPENED),
]

CERTIFICATES = [
    certified("-n {user}", OPENED),
    certified("-n {user}", OPENED, options="CERT-Authority"),
    certified("-n somebody,{user}", OPENED),
    certified("-n {user} -O clear", PROHIBITED),
    certified("-n {user} -O no-port-forwarding", PROHIBITED),
    certified("-n {user} -O clear -O permit-port-forwarding", OPENED),
    certified("-n {user}", PROHIBITED, options="cert-authority,restrict"),
    certified("-n {user}", OPENED, options="restrict,cert-authority,port-forwarding"),
    certified("-n {user} -O clear", PROHIBITED, options="cert-authority,port-forwarding"),
    certified("-n {user}", OPENED, options=f"cert-authority,permitopen={HERE}"),
    certified("-n {user}", PROHIBITED, options='cert-authority,permitopen="127.0.0.1:1"'),
    certified("-n {user}", REFUSED, "from", options='cert-authority,from="10.0.0.0/8"'),
    certified("-n {user}", REFUSED, "expired", options='cert-authority,expiry-time="20200101"'),
    certified("-n {user}", REFUSED, "unknown-authority", options="restrict"),
    certified("-n somebody", REFUSED, "principal"),
    certified("", REFUSED, "bad-certificate", sshd=OPENED),
    certified("", REFUSED, "bad-certificate", options='cert-authority,principals="{user}"'),
    certified("-n b", OPENED, options='cert-authority,principals="a,b"'),
    certified("-n b", OPENED, options='cert-authority,Principals="b"'),
    certified("-n {user}", REFUSED, "principal", options='cert-authority,principals="a,b"'),
    certified("-n x", REFUSED, "principal", options='cert-authority,principals="*"'),
    certified("-n b", REFUSED, "principal", options='cert-authority,principals="B"'),
    certified("-n b", REFUSED, "unknown-authority", options='cert-authority,principals="a",principals="b"'),
    certified("-n {user} -V 20200101:20200201", REFUSED, "expired"),
    certified("-n {user} -V 20360101:20370101", REFUSED, "not-yet-valid"),
    certified("-n {user} -V always:forever", OPENED),
    certified("-n {user} -V -1h:+1h", OPENED),
    certified("-n {user} -O source-address=127.0.0.1", OPENED),
    certified("-n {user} -O source-address=10.0.0.0/8,127.0.0.0/8", OPENED),
    certified("-n {user} -O source-address=10.0.0.0/8", REFUSED, "source-address"),
    certified("-n {user} -O source-address=127.0.0.1", REFUSED, "source-address", source="127.0.0.2"),
    certified("-n {user} -O force-command=true", REFUSED, "bad-certificate", sshd=OPENED),
    certified("-n {user} -O verify-required", REFUSED, "bad-certificate", sshd=OPENED),
    certified("-n {user} -O critical:unheard@of", REFUSED, "bad-certificate"),
    certified("-n {user} -O extension:unheard@of", OPENED),
    certified("-n {user} -h", REFUSED, "unknown-key"),  # neither client offers a host's certificate
    certified("-n {user}", OPENED, authority="rsa_ca"),
    certified("-n {user} -t ssh-rsa", REFUSED, "bad-certificate", authority="rsa_ca"),
    certified("-n {user} -t rsa-sha2-256", OPENED, authority="rsa_ca"),
    certified("-n {user}", OPENED, authority="ecdsa_ca"),
    certified("-n {user}", REFUSED, "bad-certificate", authority="p384_ca", sshd=OPENED),
    certified("-n {user}", OPENED, kind="rsa"),
    certified("-n {user}", OPENED, kind="ecdsa"),
    certified("-n {user}", REFUSED, "bad-certificate", kind="rsa-1024", sshd=OPENED),
    certified("-n {user}", OPENED, kind="sk-ed25519"),
    certified("-n {user}", OPENED, kind="sk-ecdsa"),
    certified("-n {user}", REFUSED, "bad-signature", kind="sk-ed25519-untouched"),
    certified("-n {user} -O no-touch-required", REFUSED, "bad-signature", kind="sk-ed25519-untouched"),
    trusted("an authority for everybody", "-n {user}", OPENED),
    trusted("without port forwarding", "-n {user} -O clear", PROHIBITED),
    trusted("the second of two authorities", "-n {user}", OPENED, authorities="# old\n{other_ca}\n\n{ca}"),
    trusted("another authority", "-n {user}", REFUSED, "unknown-authority", authorities="{other_ca}"),
    trusted("an authority, and another's name", "-n somebody", REFUSED, "principal"),
    trusted("an authority, and no name", "", REFUSED, "bad-certificate"),
    trusted("an authority's line decides first", "-n {user}", PROHIBITED, lines="cert-authority,restrict {ca}"),
    trusted("an authority where the line refuses", "-n {user}", OPENED, lines='cert-authority,from="10.0.0.1" {ca}'),
    trusted("an authority that is a key too", "-n {user}", OPENED, lines="{ca}"),
    trusted("a certificate with a revoked key", "-n {user}", REFUSED, "revoked", revoked="{key}"),
    trusted("a certificate of a revoked authority", "-n {user}", REFUSED, "revoked", revoked="{ca}"),
]

CASES = [*LINES, *KINDS, *CERTIFICATES]
WEAK = ("rsa-1024", "ecdsa-384")
OWN = [case for case in CERTIFICATES if not case.source and case.kind not in WEAK]  # wraith's client has no -b


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    folder = tmp_path_factory.mktemp("doors")
    authorities, revoked = authorities_file(folder), revoked_file(folder)
    authorities.touch(0o600)
    revoked.touch(0o600)
    cabinet = KeyCabinet(folder)
    flags = ("--cert-authority", str(authorities), "--revoked-keys", str(revoked))
    with (
        cabinet.agent,
        WraithServer(folder, *flags) as wraith,
        Sshd(folder, f"TrustedUserCAKeys {authorities}", f"RevokedKeys {revoked}", "MaxStartups 100") as sshd,
        Target(echo) as target,
    ):
        yield Doors(folder, wraith, sshd, cabinet, target.port)
        assert "internal task failed" not in wraith.log()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_wraith_and_sshd_let_in_the_same(
    case: Case, doors: Doors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    doors.set_rules(case.rules, case.kind)
    key = doors.cabinet.hand_out(case.kind, tmp_path, case.certificate, case.authority)
    at_wraith, at_sshd = doors.openssh_at_both(key, case.host, case.source)
    assert at_wraith is case.expected
    assert at_sshd is (case.sshd or case.expected)
    if case.expected is REFUSED:
        assert doors.reason() == case.reason
    # Of lines with a plain Ed25519 key one in eight: the server does not know the clients apart.
    chosen = case not in LINES or LINES.index(case) % 8 == 0 or request.config.getoption("--long")
    if chosen and not case.source and case.kind not in WEAK:  # which wraith's client does not offer
        monkeypatch.setenv("SSH_AUTH_SOCK", str(doors.cabinet.agent.socket))
        assert doors.own(doors.wraith.port, key, case.host) is case.expected


def test_there_are_enough_cases_and_none_twice() -> None:
    assert len(CASES) >= 80
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.long
@pytest.mark.parametrize("case", OWN, ids=[case.name for case in OWN])
def test_wraith_offers_sshd_the_certificates_that_ssh_does(
    case: Case, doors: Doors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doors.set_rules(case.rules, case.kind)
    key = doors.cabinet.hand_out(case.kind, tmp_path, case.certificate, case.authority)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(doors.cabinet.agent.socket))
    assert doors.own(doors.sshd.port, key) is (case.sshd or case.expected)
