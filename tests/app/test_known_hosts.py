"""known_hosts is read and written in OpenSSH's format."""

from __future__ import annotations

import base64
import fcntl
import logging
import os
import stat
import subprocess
import threading
from pathlib import Path

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.tools import need
from wraith.errors import UnusableFile
from wraith.ssh.known_hosts import (
    HostKey,
    KnownHosts,
    format_record,
    host_name,
    load_known_hosts,
    parse_known_hosts,
    record_host_key,
)


def key_data(kind: str = "ssh-ed25519") -> bytes:
    return asyncssh.generate_private_key(kind).public_data


KEY, OTHER, THIRD = key_data(), key_data(), key_data()
ECDSA = key_data("ecdsa-sha2-nistp256")


def words(key: bytes) -> str:
    kind = key[4 : 4 + int.from_bytes(key[:4], "big")].decode()
    return f"{kind} {base64.b64encode(key).decode()}"


def parse(*lines: str) -> KnownHosts:
    known = parse_known_hosts("\n".join(lines), "known")
    assert not known.problems
    return known


def state(known: KnownHosts, host: str, port: int = 22, key: bytes = KEY, address: str | None = None) -> HostKey:
    return known.judge(host, port, address, key).host_key


def test_a_host_is_known_unknown_or_changed() -> None:
    known = parse("# comment", "", f"example.com {words(KEY)} a comment", f"other.example {words(OTHER)}")
    assert state(known, "example.com") is HostKey.KNOWN
    assert state(known, "example.org") is HostKey.UNKNOWN
    assert state(known, "other.example") is HostKey.CHANGED
    record = known.judge("other.example", 22, None, KEY).record
    assert record is not None
    assert (record.line, record.blob) == (4, OTHER)


def test_names_are_compared_without_case() -> None:
    assert state(parse(f"Example.COM {words(KEY)}"), "eXample.com") is HostKey.KNOWN


def test_one_of_several_keys_is_enough() -> None:
    known = parse(f"a {words(OTHER)}", f"a {words(KEY)}", f"a {words(ECDSA)}")
    assert [state(known, "a", key=key) for key in (KEY, OTHER, ECDSA, THIRD)] == [HostKey.KNOWN] * 3 + [HostKey.CHANGED]


def test_a_key_of_a_type_that_is_not_recorded_is_a_changed_key() -> None:
    assert state(parse(f"a {words(KEY)}"), "a", key=ECDSA) is HostKey.CHANGED


def test_each_port_has_its_own_record() -> None:
    known = parse(f"[a]:2222 {words(KEY)}", f"b {words(KEY)}", f"[b]:2222 {words(OTHER)}")
    assert state(known, "a", 2222) is HostKey.KNOWN
    assert state(known, "a", 22) is HostKey.UNKNOWN
    assert state(known, "a", 2223) is HostKey.UNKNOWN
    assert state(known, "b", 2222) is HostKey.CHANGED


def test_a_bare_record_vouches_for_its_key_on_another_port_and_accuses_nobody() -> None:
    known = parse(f"a {words(KEY)}")
    assert state(known, "a", 2222) is HostKey.KNOWN
    assert state(known, "a", 2222, OTHER) is HostKey.UNKNOWN


def test_ipv6_addresses_have_many_spellings() -> None:
    known = parse(f"2001:db8::1 {words(KEY)}", f"[2001:db8::2]:443 {words(KEY)}")
    assert state(known, "2001:DB8:0::1") is HostKey.KNOWN
    assert state(known, "2001:0db8::2", 443) is HostKey.KNOWN


@pytest.mark.parametrize(
    ("patterns", "host", "matches"),
    [
        ("*.example.com", "a.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com,!bad.example.com", "bad.example.com", False),
        ("!bad.example.com,*.example.com", "bad.example.com", False),
        ("!bad.example.com,*.example.com", "good.example.com", True),
        ("!a", "b", False),
        ("host?", "host1", True),
        ("host?", "host", False),
        ("a,b,c", "b", True),
        ("[ab]", "a", False),
        ("*", "anything", True),
        ("a*b*c", "abxbc", True),
        ("a*b*c", "abxb", False),
        ("", "a", False),
    ],
)
def test_patterns_match_as_in_ssh(patterns: str, host: str, matches: bool) -> None:
    text = f"{patterns} {words(KEY)}"
    assert (parse_known_hosts(text, "known").judge(host, 22, None, KEY).host_key is HostKey.KNOWN) is matches


def test_brackets_in_a_pattern_are_brackets() -> None:
    known = parse(f"[*.example.com]:* {words(KEY)}")
    assert state(known, "a.example.com", 2222) is HostKey.KNOWN
    assert state(known, "a.example.com", 22) is HostKey.UNKNOWN


def test_many_stars_take_no_time() -> None:
    known = parse("*a" * 4000 + f" {words(KEY)}")
    assert state(known, "a" * 250 + "b") is HostKey.UNKNOWN


def test_a_revoked_key_is_refused_whoever_vouches_for_it() -> None:
    known = parse(f"a,b {words(KEY)}", f"@revoked * {words(KEY)}")
    judgement = known.judge("a", 2222, None, KEY)
    assert judgement.host_key is HostKey.REVOKED
    assert judgement.record is not None
    assert judgement.record.line == 2


def test_a_revocation_may_name_the_address() -> None:
    known = parse(f"a {words(KEY)}", f"@revoked 192.0.2.1 {words(KEY)}")
    assert state(known, "a", address="192.0.2.1") is HostKey.REVOKED
    assert state(known, "a", address="192.0.2.2") is HostKey.KNOWN


def test_a_record_of_the_address_neither_vouches_nor_accuses() -> None:
    known = parse(f"192.0.2.1 {words(KEY)}", f"192.0.2.2 {words(OTHER)}")
    assert state(known, "a", address="192.0.2.1") is HostKey.UNKNOWN
    assert state(known, "a", address="192.0.2.2") is HostKey.UNKNOWN


def test_an_authority_is_no_host_key() -> None:
    known = parse(f"@cert-authority *.example.com {words(KEY)}")
    assert state(known, "a.example.com") is HostKey.UNKNOWN
    assert known.authorities("a.example.com", 22) == (KEY,)
    assert known.authorities("example.org", 22) == ()


def test_recorded_key_types_are_told() -> None:
    known = parse(f"a {words(KEY)}", f"a {words(ECDSA)}", f"[a]:2222 {words(KEY)}")
    assert known.key_types("a", 22) == {"ssh-ed25519", "ecdsa-sha2-nistp256"}
    assert known.key_types("a", 2222) == {"ssh-ed25519"}
    assert known.key_types("a", 2223) == {"ssh-ed25519", "ecdsa-sha2-nistp256"}
    assert known.key_types("b", 22) == frozenset()


@pytest.mark.parametrize(
    "line",
    [
        "a",
        "a ssh-ed25519",
        f"@unknown a {words(KEY)}",
        "@revoked",
        f"a ssh-rsa {base64.b64encode(KEY).decode()}",
        f"a ssh-ed25519 {base64.b64encode(KEY).decode()[:-4]}",
        "a ssh-ed25519 not!base64",
        f"|1|x {words(KEY)}",
        f"|1|!|! {words(KEY)}",
        f"|2|AAAA|AAAA {words(KEY)}",
        "x" * 20000,
    ],
)
def test_a_broken_line_is_told_and_matches_nothing(line: str) -> None:
    known = parse_known_hosts(f"b {words(KEY)}\n{line}\nc {words(KEY)}\n", "known")
    assert [problem.line for problem in known.problems] == [2]
    assert state(known, "a") is HostKey.UNKNOWN
    assert state(known, "b") is state(known, "c") is HostKey.KNOWN


def test_broken_lines_are_warned_about_on_loading(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "known"
    path.write_text(f"a {words(KEY)}\n" + "broken\n" * 20)
    with caplog.at_level(logging.WARNING):
        assert state(load_known_hosts(path), "a") is HostKey.KNOWN
    assert len(caplog.records) == 6


def test_keys_of_old_and_unknown_types_are_no_broken_lines() -> None:
    name = base64.b64encode(b"\0\0\0\x09ssh-ed999\0\0\0\x01x").decode()
    assert not parse_known_hosts(f"a 1024 35 1234567\nb ssh-ed999 {name}\n", "known").problems


@given(st.text())
def test_random_text_is_parsed_without_an_exception(text: str) -> None:
    parse_known_hosts(text, "known").judge("host", 22, "192.0.2.1", KEY)


@given(st.text(alphabet="ab*?!,|1@[]:.2 \t\r\n", max_size=20), st.sampled_from(["a", "b", "a.b"]))
def test_random_patterns_are_matched_without_an_exception(patterns: str, host: str) -> None:
    parse_known_hosts(f"{patterns} {words(KEY)}", "known").judge(host, 2222, None, KEY)


@pytest.mark.parametrize("host", ["example.com", "192.0.2.1", "2001:db8::1"])
@pytest.mark.parametrize("port", [22, 2222])
def test_what_ssh_keygen_hashed_is_found(tmp_path: Path, host: str, port: int) -> None:
    [program] = need("ssh-keygen")
    path = tmp_path / "known"
    path.write_text(format_record(host, port, KEY) + "\n" + format_record("elsewhere", 22, OTHER) + "\n")
    subprocess.run([program, "-q", "-H", "-f", path], check=True, capture_output=True, timeout=60)
    assert host not in path.read_text()
    known = load_known_hosts(path)
    assert not known.problems
    assert state(known, host, port) is HostKey.KNOWN
    assert state(known, host, port, OTHER) is HostKey.CHANGED
    assert state(known, "example.net", port) is HostKey.UNKNOWN


@pytest.mark.parametrize(("host", "port"), [("Example.com", 22), ("a", 2222), ("2001:db8::1", 22), ("::1", 443)])
def test_ssh_keygen_finds_what_was_recorded(tmp_path: Path, host: str, port: int) -> None:
    [program] = need("ssh-keygen")
    path = tmp_path / "known"
    record_host_key(path, host, port, KEY)
    done = subprocess.run(
        [program, "-F", host_name(host, port), "-f", path], capture_output=True, text=True, check=True, timeout=60
    )
    assert words(KEY) in done.stdout


def test_a_record_makes_the_host_known(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "known"
    assert record_host_key(path, "a", 2222, KEY).host_key is HostKey.UNKNOWN
    assert path.read_text() == f"[a]:2222 {words(KEY)}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert state(load_known_hosts(path), "a", 2222) is HostKey.KNOWN


def test_a_record_begins_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "known"
    path.write_text(f"a {words(OTHER)}")
    record_host_key(path, "b", 22, KEY)
    known = load_known_hosts(path)
    assert state(known, "a", key=OTHER) is state(known, "b") is HostKey.KNOWN


def test_what_is_recorded_already_is_not_recorded_again(tmp_path: Path) -> None:
    path = tmp_path / "known"
    record_host_key(path, "a", 22, KEY)
    before = path.read_bytes()
    assert record_host_key(path, "a", 22, KEY).host_key is HostKey.KNOWN
    assert record_host_key(path, "a", 22, OTHER).host_key is HostKey.CHANGED
    assert path.read_bytes() == before


def test_a_writer_waits_for_the_lock_and_then_sees_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "known"
    results: list[HostKey] = []
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        other = threading.Thread(target=lambda: results.append(record_host_key(path, "a", 22, KEY).host_key))
        other.start()
        held.write(f"a {words(OTHER)}\n")
        held.flush()
        assert not results
    other.join(30)
    assert results == [HostKey.CHANGED]


@pytest.mark.parametrize("host", ["two words", "a,b", "*", "a?", "|1|x|y", "!a", "@a", "#a", "", "a\nb", "a\tb"])
def test_a_host_that_no_line_can_hold_is_not_recorded(tmp_path: Path, host: str) -> None:
    with pytest.raises(UnusableFile, match="is not a host's name"):
        record_host_key(tmp_path / "known", host, 22, KEY)
    assert (tmp_path / "known").read_bytes() == b""


def test_a_file_that_cannot_be_written_or_read_is_unusable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnusableFile, match="cannot be written"):
        record_host_key(tmp_path / "file" / "known", "a", 22, KEY)
    with pytest.raises(UnusableFile, match="cannot be written"):
        record_host_key(tmp_path, "a", 22, KEY)
    with pytest.raises(UnusableFile, match="is a folder"):
        load_known_hosts(tmp_path)


def test_a_full_disk_leaves_no_half_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "known"
    path.write_text(f"b {words(OTHER)}\n")
    before = path.read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[: len(data) // 2]))
    with pytest.raises(UnusableFile, match="disk is full"):
        record_host_key(path, "a", 22, KEY)
    assert path.read_bytes() == before


def test_the_null_device_remembers_nothing() -> None:
    assert record_host_key(Path(os.devnull), "a", 22, KEY).host_key is HostKey.UNKNOWN
    assert load_known_hosts(Path(os.devnull)).records == ()


def test_a_missing_file_is_empty_and_content_may_be_bytes(tmp_path: Path) -> None:
    assert load_known_hosts(tmp_path / "none").records == ()
    assert state(load_known_hosts(f"a {words(KEY)}".encode()), "a") is HostKey.KNOWN
