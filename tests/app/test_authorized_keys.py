"""authorized_keys is read by our own rules, which ssh-keygen's keys pass."""

from __future__ import annotations

import base64
import contextlib
import struct
import subprocess
from pathlib import Path

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.tools import need
from wraith.errors import UnusableFile
from wraith.ssh.authorized_keys import MAX_FILE, AuthorizedKey, options_end, parse_authority_line, parse_line
from wraith.ssh.watched_file import WatchedFile, parse_lines

ED25519 = asyncssh.generate_private_key("ssh-ed25519")
ECDSA = asyncssh.generate_private_key("ecdsa-sha2-nistp256")
RSA = asyncssh.generate_private_key("ssh-rsa", key_size=2048)


def line_of(key: asyncssh.SSHKey) -> str:
    return key.export_public_key().decode().strip()


LINE = line_of(ED25519)


def encoded(*fields: bytes) -> str:
    return base64.b64encode(b"".join(struct.pack(">I", len(each)) + each for each in fields)).decode()


def parse(text: str) -> tuple[AuthorizedKey, ...]:
    return parse_lines(text, "keys", parse_line)


def load(source: Path | bytes) -> WatchedFile[AuthorizedKey]:
    return WatchedFile(source, "authorized_keys", parse_line, MAX_FILE, loss="all", needed=False)


def find(keys: tuple[AuthorizedKey, ...], key: asyncssh.SSHKey) -> AuthorizedKey | None:
    return next((each for each in keys if each.public_data == key.public_data), None)


def refusal(text: str) -> str:
    with pytest.raises(UnusableFile) as refused:
        parse(text)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("key", [ED25519, ECDSA, RSA], ids=lambda key: key.get_algorithm())
def test_a_key_is_found_by_its_data(key: asyncssh.SSHKey) -> None:
    found = find(parse(f"{line_of(key)} me@here and more\n"), key)
    assert found is not None
    assert (found.algorithm, found.comment, found.where) == (key.get_algorithm(), "me@here and more", "keys:1")
    assert found.fingerprint == key.get_fingerprint()


def test_security_keys_are_accepted() -> None:
    ed25519 = encoded(b"sk-ssh-ed25519@openssh.com", bytes(32), b"ssh:")
    point = base64.b64decode(line_of(ECDSA).split()[1])[-65:]
    ecdsa = encoded(b"sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", point, b"ssh:")
    keys = parse(f"sk-ssh-ed25519@openssh.com {ed25519}\nsk-ecdsa-sha2-nistp256@openssh.com {ecdsa}")
    assert [key.where for key in keys] == ["keys:1", "keys:2"]


def test_a_stranger_is_not_found() -> None:
    assert find(parse(LINE), ECDSA) is None
    assert parse("") == ()


def test_comments_blank_lines_and_any_line_end_are_fine() -> None:
    text = f"# {LINE}\r\n\r\n \t \n\t {LINE}\t a comment \r\n   # more\n{line_of(ECDSA)}"
    assert [(key.where, key.comment) for key in parse(text)] == [("keys:4", "a comment"), ("keys:6", "")]


@pytest.mark.parametrize("separator", ["\u2028", "\x0b", "\x0c", "\x1c", "\x85", "\r"])
def test_only_a_line_feed_ends_a_line(separator: str) -> None:
    keys = parse(f"{LINE} comment{separator}{line_of(ECDSA)}")
    assert len(keys) == 1
    assert find(keys, ECDSA) is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ('command="echo ssh-ed25519 AAAA"', "the option command is not supported: there are no commands to run"),
        (r'command="say \"hi there\" now",restrict', "the option command is not supported"),
        ('environment="A=b c",from="*"', "the option environment is not supported"),
        ('restrict,TUNNEL="0"', "the option tunnel is not supported: there are no tunnel devices"),
        ("verify-required", "the option verify-required is not supported: it cannot be enforced"),
        ("no-touch-required", "the option no-touch-required is not supported: a touch is always required"),
        ("anything", "the option 'anything' is unknown"),
        ("Restrict-all", "the option 'Restrict-all' is unknown"),
        ('restrict="yes"', "the option restrict takes no value"),
        ("from", 'from needs a value in quotes: from="…"'),
        ('principals="a"', "principals needs cert-authority: it is about the certificates that a key signs"),
    ],
)
def test_a_line_with_an_option_that_cannot_be_obeyed_is_refused_by_its_name(options: str, said: str) -> None:
    assert refusal(f"# first\n{options} {LINE}\n").startswith(f"keys:2: {said}")


def test_options_belong_to_the_key_of_their_line() -> None:
    first, second = parse(f'RESTRICT,permitopen="a b:1" {LINE} me\n{line_of(ECDSA)}')
    assert not first.options.port_forwarding
    assert first.options.permit_open[0].host == "a b"
    assert first.comment == "me"
    assert second.options.port_forwarding


def test_authorities_stand_without_options() -> None:
    assert parse_lines(f"# ours\n{LINE} ca", "cas", parse_authority_line)[0].comment == "ca"
    with pytest.raises(UnusableFile, match="cas:1: options belong in authorized_keys"):
        parse_lines(f"cert-authority {LINE}", "cas", parse_authority_line)


def test_an_option_line_is_never_a_key() -> None:
    for options in ('"', 'from="x', r"from=\"", "ssh-ed25519,restrict", 'ssh-ed25519"" '):
        refusal(f"{options} {LINE}")


def test_an_open_quote_is_named() -> None:
    assert "quote" in refusal(f'from="10.0.0.1 {LINE}')


@given(st.text(alphabet='ab=,"\\ \t', max_size=30), st.sampled_from([" ", "\t", "  "]))
def test_options_are_read_to_their_end(options: str, blank: str) -> None:
    end = options_end(options + blank + "x")
    if end is not None:
        assert options_end(options[:end]) == end


@pytest.mark.parametrize(
    "name",
    ["ssh-dss", "SSH-ED25519", "Ssh-Rsa", "ssh-ed448", "ecdsa-sha2-nistp521", "ssh-ed25519-cert-v01@openssh.com"],
)
def test_other_key_types_and_other_spellings_are_refused(name: str) -> None:
    message = refusal(f"{name} {LINE.split()[1]} me")
    assert "keys:1: " in message
    assert repr(name) in message


def test_a_key_of_another_type_than_its_line_says_is_refused() -> None:
    message = refusal(f"ssh-rsa {LINE.split()[1]}")
    assert message == "keys:1: the line says ssh-rsa, the key in it says 'ssh-ed25519'"


@pytest.mark.parametrize(
    "line",
    [
        "ssh-ed25519",
        "ssh-ed25519 ",
        "ssh-ed25519 me@here",
        LINE[:-8],
        LINE[:-5] + "!AAAA",
        "ssh-ed25519 " + encoded(b"ssh-ed25519", bytes(31)),
        "ssh-ed25519 " + encoded(b"ssh-ed25519", bytes(32), b"more"),
        "ssh-ed25519 " + encoded(b"ssh-ed25519"),
        "ssh-rsa " + encoded(b"ssh-rsa", b"\x03", b""),
        "ecdsa-sha2-nistp256 " + encoded(b"ecdsa-sha2-nistp256", b"nistp256", bytes(65)),
        "ecdsa-sha2-nistp256 " + encoded(b"ecdsa-sha2-nistp256", b"nistp384", b"\x04" + bytes(64)),
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "just some words",
        "\0",
    ],
)
def test_broken_lines_are_refused_with_their_number(line: str) -> None:
    assert refusal(f"{LINE}\n{line}\n").startswith("keys:2: ")


def test_small_rsa_keys_are_refused() -> None:
    small = asyncssh.generate_private_key("ssh-rsa", key_size=1024)
    assert "1024 bits" in refusal(line_of(small))


def test_a_number_with_needless_zeros_is_no_second_way_to_write_a_key() -> None:
    _, exponent, modulus = (b"ssh-rsa", b"\x00\x01\x00\x01", RSA.public_data[-257:])
    assert "damaged" in refusal(f"ssh-rsa {encoded(b'ssh-rsa', exponent, modulus)}")


def test_lines_have_a_limit() -> None:
    comment = "x" * (16 * 1024 - len(LINE) - 1)
    assert parse(f"{LINE} {comment}")
    assert "16 KiB" in refusal(f"{LINE} {comment}x")


@given(st.text())
def test_random_text_is_keys_or_an_unusable_file(text: str) -> None:
    with contextlib.suppress(UnusableFile):
        parse(text)


@given(
    st.sampled_from(["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "sk-ssh-ed25519@openssh.com"]),
    st.lists(st.binary(max_size=300), max_size=4),
)
def test_random_keys_are_keys_or_an_unusable_file(name: str, fields: list[bytes]) -> None:
    with contextlib.suppress(UnusableFile):
        parse(f"{name} {encoded(name.encode(), *fields)}")


@given(st.text(alphabet='"\\, \t#=a\r', max_size=12), st.text(alphabet='"\\, \t#=a\r', max_size=12))
def test_whatever_stands_before_a_key_it_is_refused_or_a_comment(before: str, after: str) -> None:
    try:
        keys = parse(f"{before}{LINE}{after}")
    except UnusableFile:
        return
    # Accepted only when nothing but blanks, and commas that separate no options, stood before it.
    assert not keys or not before.strip(" \t,")


def test_a_file_of_ssh_keygen_loads(tmp_path: Path) -> None:
    [program] = need("ssh-keygen")
    for kind in ("ed25519", "ecdsa", "rsa"):
        path = tmp_path / kind
        subprocess.run([program, "-q", "-t", kind, "-N", "", "-C", f"my {kind}", "-f", path], check=True, timeout=60)
    file = tmp_path / "authorized_keys"
    file.write_text("".join((tmp_path / f"{kind}.pub").read_text() for kind in ("ed25519", "ecdsa", "rsa")))
    keys = load(file).entries
    assert [key.comment for key in keys] == ["my ed25519", "my ecdsa", "my rsa"]
    listed = subprocess.run([program, "-l", "-f", file], capture_output=True, text=True, check=True, timeout=60).stdout
    assert [key.fingerprint for key in keys] == [line.split()[1] for line in listed.splitlines()]


def test_a_missing_file_is_an_empty_set_that_says_so(tmp_path: Path) -> None:
    keys = load(tmp_path / "none")
    assert keys.missing
    assert not keys.entries
    (tmp_path / "none").write_text("")
    assert not load(tmp_path / "none").missing


@pytest.mark.parametrize(("mode", "usable"), [(0o644, True), (0o600, True), (0o664, False), (0o646, False)])
def test_a_file_that_others_can_write_is_refused(tmp_path: Path, mode: int, usable: bool) -> None:
    path = tmp_path / "keys"
    path.write_text(LINE)
    path.chmod(mode)
    if usable:
        assert load(path).entries
        return
    with pytest.raises(UnusableFile, match=f"chmod go-w {path}"):
        load(path)


def test_comments_in_any_encoding_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(b"\xef\xbb\xbf" + LINE.encode() + b" J\xf6rg\n")
    assert find(load(path).entries, ED25519) is not None
    path.write_bytes(LINE.encode("utf-16"))
    with pytest.raises(UnusableFile, match="UTF-8"):
        load(path)


def test_a_folder_is_no_file_of_keys(tmp_path: Path) -> None:
    with pytest.raises(UnusableFile, match="is a folder"):
        load(tmp_path)


def test_the_content_may_be_given_as_bytes() -> None:
    assert find(load(LINE.encode()).entries, ED25519) is not None
