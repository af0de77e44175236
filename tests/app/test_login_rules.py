"""Claims about who may log in: lines, authorities and revocations taken together."""

from __future__ import annotations

from pathlib import Path

import asyncssh
import pytest

from tests.support.certified import Draft
from wraith.errors import UnusableFile
from wraith.ssh.authorized_keys import parse_authority_line, parse_line
from wraith.ssh.grant import Grant
from wraith.ssh.key_files import fingerprint
from wraith.ssh.key_ring import KeyRing
from wraith.ssh.login import REQUESTS_A_KEY, Login
from wraith.ssh.login_rules import LoginRules, Refusal
from wraith.ssh.offer import read_offer
from wraith.ssh.revoked_keys import parse_revoked_line
from wraith.ssh.watched_file import parse_lines

NOW = 1_800_000_000.0  # in January 2027
KEY = asyncssh.generate_private_key("ssh-ed25519")
OTHER = asyncssh.generate_private_key("ssh-ed25519")
AUTHORITY = asyncssh.generate_private_key("ssh-ed25519")


def line_of(key: asyncssh.SSHKey) -> str:
    return key.export_public_key().decode().strip()


def rules(lines: str = "", authorities: str = "", revoked: str = "", principals: str = "") -> LoginRules:
    return LoginRules(
        parse_lines(lines, "keys", parse_line),
        parse_lines(authorities, "cas", parse_authority_line),
        frozenset(principals.split()),
        frozenset(parse_lines(revoked, "revoked", parse_revoked_line)),
    )


def judge(
    rules: LoginRules,
    blob: bytes = KEY.public_data,
    *,
    user: str = "wraith",
    address: str = "10.0.0.1",
    now: float = NOW,
) -> Grant | Refusal:
    return rules.judge(read_offer(blob), user, address, now)


def granted(verdict: Grant | Refusal) -> Grant:
    assert isinstance(verdict, Grant)
    return verdict


CERTIFIED = Draft().signed(KEY, AUTHORITY)


def test_a_key_in_no_line_is_unknown() -> None:
    assert judge(rules(line_of(OTHER))) is Refusal.UNKNOWN_KEY
    assert judge(rules(), CERTIFIED) is Refusal.UNKNOWN_AUTHORITY


def test_a_grant_says_what_the_line_does() -> None:
    options = 'permitopen="db:5432",permitopen="*:80",permitlisten="8080",from="10.0.0.0/8"'
    grant = granted(judge(rules(f"# one\n{options} {line_of(KEY)}")))
    assert grant.ground == "keys:2"
    assert grant.credential.fingerprint == fingerprint(KEY)
    assert grant.permits_open("db", 5432)
    assert grant.permits_open("other", 80)
    assert not grant.permits_open("other", 5432)
    assert grant.permits_listen("localhost", 8080)
    assert not grant.permits_listen("localhost", 8081)
    assert not grant.permits_open_path
    assert not grant.permits_listen_path


def test_a_line_without_options_permits_all() -> None:
    grant = granted(judge(rules(line_of(KEY))))
    assert grant.permits_open("anything", 1)
    assert grant.permits_listen("", 0)
    assert grant.permits_open_path
    assert grant.permits_listen_path


def test_without_port_forwarding_nothing_is_permitted() -> None:
    grant = granted(judge(rules(f'restrict,permitopen="db:1",permitlisten="1" {line_of(KEY)}')))
    assert not grant.permits_open("db", 1)
    assert not grant.permits_listen("", 1)
    assert not grant.permits_open_path
    assert not grant.permits_listen_path


def test_the_first_line_that_lets_the_key_in_decides() -> None:
    both = rules(f'from="10.0.0.2" {line_of(KEY)}\nrestrict {line_of(KEY)}\n{line_of(KEY)}')
    assert granted(judge(both)).ground == "keys:2"
    assert granted(judge(both, address="10.0.0.2")).ground == "keys:1"


def test_of_several_reasons_the_first_lines_is_told() -> None:
    both = rules(f'expiry-time="20200101" {line_of(KEY)}\nfrom="10.0.0.2" {line_of(KEY)}')
    assert judge(both) is Refusal.EXPIRED


def test_a_line_holds_through_its_last_second() -> None:
    line = rules(f'expiry-time="20270115080000Z" {line_of(KEY)}')  # NOW
    assert isinstance(judge(line, now=NOW), Grant)
    assert isinstance(judge(line, now=NOW + 0.9), Grant)
    assert judge(line, now=NOW + 1) is Refusal.EXPIRED


def test_a_certificate_holds_from_its_first_second_and_until_its_last() -> None:
    trusted = rules(authorities=line_of(AUTHORITY))
    blob = Draft(valid_after=100, valid_before=200).signed(KEY, AUTHORITY)
    assert judge(trusted, blob, now=99.9) is Refusal.NOT_YET_VALID
    assert isinstance(judge(trusted, blob, now=100), Grant)
    assert isinstance(judge(trusted, blob, now=199.9), Grant)
    assert judge(trusted, blob, now=200) is Refusal.EXPIRED


def test_a_certificate_needs_the_users_name_or_one_of_the_principals() -> None:
    blob = Draft(principals=(b"ops", b"admin")).signed(KEY, AUTHORITY)
    authority = line_of(AUTHORITY)
    assert judge(rules(authorities=authority), blob) is Refusal.PRINCIPAL
    assert isinstance(judge(rules(authorities=authority), blob, user="ops"), Grant)
    named = rules(authorities=authority, principals="admin staff")
    assert isinstance(judge(named, blob, user="anybody"), Grant)
    assert judge(named, Draft(principals=(b"wraith",)).signed(KEY, AUTHORITY)) is Refusal.PRINCIPAL


def test_a_lines_principals_replace_the_users_name_and_are_exact() -> None:
    blob = Draft(principals=(b"ops",)).signed(KEY, AUTHORITY)
    authority = line_of(AUTHORITY)
    assert isinstance(judge(rules(f'cert-authority,principals="x,ops" {authority}'), blob), Grant)
    for principals in ("OPS", "o*", "*", "op", "wraith"):
        line = rules(f'cert-authority,principals="{principals}" {authority}')
        assert judge(line, blob, user="ops") is Refusal.PRINCIPAL
    commas = Draft(principals=(b"a,ops",)).signed(KEY, AUTHORITY)
    assert judge(rules(f'cert-authority,principals="ops" {authority}'), commas) is Refusal.PRINCIPAL


def test_a_certificate_without_principals_is_nobodys() -> None:
    blob = Draft(principals=()).signed(KEY, AUTHORITY)
    for trusted in (rules(f"cert-authority {line_of(AUTHORITY)}"), rules(authorities=line_of(AUTHORITY))):
        assert judge(trusted, blob, user="") is Refusal.BAD_CERTIFICATE


def test_an_authority_in_a_line_lets_its_own_key_in_nowhere() -> None:
    assert judge(rules(f"cert-authority {line_of(KEY)}")) is Refusal.UNKNOWN_KEY
    assert judge(rules(authorities=line_of(KEY))) is Refusal.UNKNOWN_KEY
    assert judge(rules(line_of(AUTHORITY)), CERTIFIED) is Refusal.UNKNOWN_AUTHORITY


def test_a_plain_key_and_its_certificate_are_two_things() -> None:
    trusted = rules(line_of(OTHER), line_of(AUTHORITY))
    assert judge(trusted) is Refusal.UNKNOWN_KEY
    assert isinstance(judge(trusted, CERTIFIED), Grant)


def test_line_and_certificate_both_have_to_permit_forwarding() -> None:
    without = Draft(extensions=()).signed(KEY, AUTHORITY)
    for options, blob, expected in (
        ("cert-authority", CERTIFIED, True),
        ("cert-authority,restrict", CERTIFIED, False),
        ("cert-authority", without, False),
        ("cert-authority,port-forwarding", without, False),
    ):
        assert granted(judge(rules(f"{options} {line_of(AUTHORITY)}"), blob)).port_forwarding is expected


@pytest.mark.parametrize(
    "revoked", [line_of(KEY), fingerprint(KEY), f"{fingerprint(KEY)}= gone", f"#x\n{line_of(KEY)}"]
)
def test_a_revoked_key_is_refused_plain_and_certified(revoked: str) -> None:
    both = rules(line_of(KEY), line_of(AUTHORITY), revoked)
    assert judge(both) is Refusal.REVOKED
    assert judge(both, CERTIFIED) is Refusal.REVOKED
    assert judge(both, OTHER.public_data) is Refusal.UNKNOWN_KEY


@pytest.mark.parametrize("revoked", [line_of(AUTHORITY), fingerprint(AUTHORITY)])
def test_a_revoked_authority_takes_its_certificates_along(revoked: str) -> None:
    both = rules(line_of(KEY), line_of(AUTHORITY), revoked)
    assert judge(both, CERTIFIED) is Refusal.REVOKED
    assert isinstance(judge(both), Grant)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("SSHKRL\n\x00\x00", "a binary list (KRL) is not read here"),
        ("SHA256:abc", "'SHA256:abc' is not a fingerprint"),
        ("MD5:aa:bb", "neither a public key nor a fingerprint"),
        ("ssh-ed25519", "neither a public key nor a fingerprint"),
        ("ssh-ed25519 AAAA", "neither a public key nor a fingerprint"),
        ("ssh-ed25519-cert-v01@openssh.com AAAA", "a certificate is revoked by its key or by its authority"),
        ("id: me", "neither a public key nor a fingerprint"),
    ],
)
def test_a_list_of_revoked_keys_has_nothing_else_in_it(line: str, said: str) -> None:
    with pytest.raises(UnusableFile) as refused:
        parse_lines(f"\n{line}", "revoked", parse_revoked_line)
    assert str(refused.value).startswith("revoked:2: ")
    assert said in str(refused.value)


def test_keys_that_nobody_could_log_in_with_may_be_listed_as_revoked() -> None:
    for kind in ("ecdsa-sha2-nistp521", "ssh-dss"):
        key = asyncssh.generate_private_key(kind)
        assert parse_lines(line_of(key), "revoked", parse_revoked_line) == (fingerprint(key),)


# The files


def write(path: Path, text: str, mode: int = 0o600) -> None:
    draft = path.with_name("draft")
    draft.write_text(text)
    draft.chmod(mode)
    draft.replace(path)


class Files:
    """The three kinds of file, and a ring over them."""

    def __init__(self, folder: Path) -> None:
        self.keys, self.cas, self.revoked = folder / "keys", folder / "cas", folder / "revoked"
        write(self.keys, line_of(KEY))
        write(self.cas, line_of(AUTHORITY))
        write(self.revoked, "")

    def ring(self) -> KeyRing:
        return KeyRing(self.keys, authorities=(self.cas,), revoked_keys=self.revoked)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def verdict(ring: KeyRing, blob: bytes = KEY.public_data) -> Grant | Refusal:
    return ring.judge(read_offer(blob), "wraith", "10.0.0.1", NOW)


def test_each_file_counts_as_it_is_now(files: Files) -> None:
    ring = files.ring()
    assert isinstance(verdict(ring), Grant)
    assert isinstance(verdict(ring, CERTIFIED), Grant)
    write(files.revoked, fingerprint(AUTHORITY))
    assert verdict(ring, CERTIFIED) is Refusal.REVOKED
    write(files.revoked, "")
    write(files.cas, line_of(OTHER))
    assert verdict(ring, CERTIFIED) is Refusal.UNKNOWN_AUTHORITY
    write(files.keys, f'cert-authority,principals="wraith" {line_of(AUTHORITY)}')
    assert isinstance(verdict(ring, CERTIFIED), Grant)
    assert verdict(ring) is Refusal.UNKNOWN_KEY


def test_a_bad_line_is_an_error_at_the_start(files: Files) -> None:
    for path in (files.keys, files.cas, files.revoked):
        before = path.read_text()
        write(path, f"{before}\nnonsense")
        with pytest.raises(UnusableFile, match=f"{path.name}:2: "):
            files.ring()
        write(path, before)
    write(files.keys, f"restrict,command=x {line_of(KEY)}")
    with pytest.raises(UnusableFile, match="keys:1: "):
        files.ring()


@pytest.mark.parametrize("which", ["cas", "revoked"])
def test_only_authorized_keys_may_be_missing(files: Files, which: str) -> None:
    getattr(files, which).unlink()
    with pytest.raises(UnusableFile, match=f"{which}: there is no such file"):
        files.ring()


def test_later_a_bad_line_is_left_out_and_the_rest_of_the_new_file_counts(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    ring = files.ring()
    write(files.keys, f"nonsense\n{line_of(OTHER)}")
    assert isinstance(verdict(ring, OTHER.public_data), Grant)
    assert verdict(ring) is Refusal.UNKNOWN_KEY  # never the old file
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    write(files.revoked, f"nonsense\n{fingerprint(OTHER)}")
    assert verdict(ring, OTHER.public_data) is Refusal.REVOKED


def test_a_file_that_others_may_write_lets_nobody_in(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    ring = files.ring()
    files.keys.chmod(0o620)
    assert verdict(ring) is Refusal.UNKNOWN_KEY
    assert "authorized_keys cannot be used: nobody can log in by it" in caplog.text
    files.keys.chmod(0o600)
    assert isinstance(verdict(ring), Grant)


def test_without_the_revoked_keys_nobody_new_gets_in_and_sessions_go_on(files: Files) -> None:
    write(files.revoked, fingerprint(OTHER))
    ring = files.ring()
    grant = granted(verdict(ring))
    files.revoked.unlink()
    assert verdict(ring) is Refusal.REVOCATIONS_UNREADABLE
    assert isinstance(ring.judge_again(grant, NOW), Grant)
    assert ring.judge_again(Grant(read_offer(OTHER.public_data), "", "10.0.0.1", ""), NOW) is Refusal.REVOKED
    write(files.revoked, "")
    assert isinstance(verdict(ring), Grant)


def test_a_session_is_judged_by_the_files_as_they_are(files: Files) -> None:
    ring = files.ring()
    grant = granted(verdict(ring))
    write(files.keys, f"restrict {line_of(KEY)}")
    assert granted(ring.judge_again(grant, NOW)).port_forwarding  # not read yet
    assert ring.refresh()
    assert not granted(ring.judge_again(grant, NOW)).port_forwarding
    write(files.keys, "")
    ring.refresh()
    assert ring.judge_again(grant, NOW) is Refusal.UNKNOWN_KEY
    assert not ring.refresh()
    assert ring.refresh(always=True)


# One connection


def login(ring: KeyRing, attempts: int = 10) -> Login:
    return Login(ring, "10.0.0.1", attempts, clock=lambda: NOW)


def test_one_line_tells_of_the_key_that_was_meant(files: Files) -> None:
    write(files.keys, f'from="10.9.9.9" {line_of(KEY)}')
    attempt = login(files.ring())
    strangers = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(3)]
    for key in (strangers[0], KEY, *strangers[1:]):
        assert attempt.offered("me", key.public_data)[1] is None
    fields = attempt.fields()
    assert fields["reason"] == "from"
    assert fields["key_fingerprint"] == fingerprint(KEY)
    assert fields["keys_tried"] == 4
    assert fields["result"] == "reject"


def test_a_login_by_certificate_says_whose_it_was(files: Files) -> None:
    attempt = login(files.ring())
    _, key = attempt.offered("wraith", CERTIFIED)
    assert key is not None
    assert attempt.fields()["reason"] == "no-signature"
    attempt.proven(CERTIFIED)
    fields = attempt.fields()
    assert fields["result"] == "accept"
    assert (fields["ca_fingerprint"], fields["serial"], fields["key_id"]) == (fingerprint(AUTHORITY), 7, "me")
    assert "reason" not in fields


def test_a_wrong_signature_is_told(files: Files) -> None:
    attempt = login(files.ring())
    attempt.offered("me", KEY.public_data)
    attempt.not_proven(KEY.public_data)
    assert attempt.fields()["reason"] == "bad-signature"
    assert attempt.grant is None


def test_every_key_and_certificate_counts_as_an_attempt(files: Files) -> None:
    attempt = login(files.ring(), attempts=2)
    attempt.offered("me", OTHER.public_data)
    attempt.offered("me", OTHER.public_data)
    attempt.offered("me", b"nonsense")
    assert attempt.tried == 2
    with pytest.raises(asyncssh.PermissionDenied):
        attempt.offered("me", KEY.public_data)


def test_asking_about_one_key_again_and_again_has_an_end(files: Files) -> None:
    attempt = login(files.ring(), attempts=1)
    for user in range(REQUESTS_A_KEY):
        attempt.asked()
        attempt.offered(str(user), OTHER.public_data)
    with pytest.raises(asyncssh.PermissionDenied):
        attempt.asked()
