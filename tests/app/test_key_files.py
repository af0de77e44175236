"""Key files are read, judged, made and converted as ssh-keygen knows them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import multiprocessing
import os
import shlex
import stat
import subprocess
from pathlib import Path

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.tools import need
from wraith.errors import UnusableFile, UsageError
from wraith.ssh import key_files

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def ssh_keygen(*arguments: object) -> str:
    [program] = need("ssh-keygen")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def make(path: Path, kind: str = "ed25519", passphrase: str = "", *more: str) -> Path:
    ssh_keygen("-q", "-t", kind, "-N", passphrase, "-C", "a comment", "-f", path, *more)
    return path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class Answers:
    """Somebody who is asked for a passphrase, and answers from a list."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, name: str) -> str | None:
        self.asked.append(name)
        return self.answers.pop(0)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
@pytest.mark.parametrize("passphrase", ["", "correct horse"])
def test_keys_of_ssh_keygen_load_and_sign(tmp_path: Path, kind: str, passphrase: str) -> None:
    path = make(tmp_path / "key", kind, passphrase)
    key = key_files.load_private_key(path, Answers(passphrase))
    assert key.sign(b"data", key.sig_algorithms[0])
    assert key_files.fingerprint(key) == ssh_keygen("-l", "-f", path).split()[1]
    assert key_files.public_line(key) == path.with_name("key.pub").read_text().strip()


def test_a_key_is_loaded_from_bytes_too(tmp_path: Path) -> None:
    path = make(tmp_path / "key")
    assert key_files.load_private_key(path.read_bytes()) == key_files.load_private_key(path)


def test_the_public_half_of_a_locked_key_needs_no_passphrase(tmp_path: Path) -> None:
    file = key_files.read_private_key(make(tmp_path / "key", "ed25519", "secret"))
    assert file.locked
    assert key_files.fingerprint(file.public_key) == ssh_keygen("-l", "-f", tmp_path / "key").split()[1]


def test_a_key_with_windows_line_ends_and_text_around_it_loads(tmp_path: Path) -> None:
    path = make(tmp_path / "key")
    path.write_bytes(b"my key\r\n" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\nend")
    assert key_files.load_private_key(path).get_algorithm() == "ssh-ed25519"


def test_the_passphrase_is_asked_for_three_times(tmp_path: Path) -> None:
    path = make(tmp_path / "key", "ed25519", "right")
    third = Answers("wrong", "", "right")
    assert key_files.load_private_key(path, third)
    assert third.asked == [str(path)] * 3
    with pytest.raises(UnusableFile, match="wrong 3 times"):
        key_files.load_private_key(path, Answers("a", "b", "c", "right"))


@pytest.mark.parametrize("ask", [None, Answers(None)])
def test_a_locked_key_that_nobody_unlocks_names_ssh_add(tmp_path: Path, ask: Answers | None) -> None:
    path = make(tmp_path / "key", "ed25519", "right")
    with pytest.raises(UnusableFile, match=f"ssh-add {path}"):
        key_files.load_private_key(path, ask)


def test_no_secret_is_in_a_repr(tmp_path: Path) -> None:
    path = make(tmp_path / "key")
    body = path.read_text().splitlines()[2]
    assert body not in repr(key_files.read_private_key(path))


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
@pytest.mark.parametrize("container", ["PEM", "PKCS8"])
def test_a_pem_key_names_the_command_that_converts_it(tmp_path: Path, kind: str, container: str) -> None:
    path = make(tmp_path / "a key", kind, "", "-m", container)
    with pytest.raises(UnusableFile) as refused:
        key_files.load_private_key(path)
    _, _, command = str(refused.value).partition("convert it with: ")
    program, *arguments = shlex.split(command)
    assert program == "ssh-keygen"
    ssh_keygen(*arguments, "-N", "")
    public = path.with_name("a key.pub").read_text()
    assert key_files.public_line(key_files.load_private_key(path)).split() == public.split()[:2]


def test_a_putty_key_names_what_converts_it(tmp_path: Path) -> None:
    path = tmp_path / "key.ppk"
    path.write_text("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n")
    path.chmod(0o600)
    with pytest.raises(UnusableFile, match=f"puttygen {path} -O private-openssh-new -o {tmp_path}/key.openssh"):
        key_files.load_private_key(path)


def test_small_rsa_keys_and_other_curves_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableFile, match="1024 bits"):
        key_files.load_private_key(make(tmp_path / "small", "rsa", "", "-b", "1024"))
    with pytest.raises(UnusableFile, match="nistp384"):
        key_files.load_private_key(make(tmp_path / "other", "ecdsa", "", "-b", "384"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644])
def test_a_private_key_that_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = make(tmp_path / "key")
    path.chmod(mode)
    with pytest.raises(UnusableFile, match=f"chmod 600 {path}"):
        key_files.load_private_key(path)
    path.chmod(0o400)
    assert key_files.load_private_key(path)


def test_a_link_is_judged_by_what_it_leads_to(tmp_path: Path) -> None:
    path = make(tmp_path / "key")
    link = tmp_path / "link"
    link.symlink_to(path)
    assert key_files.load_private_key(link)
    path.chmod(0o644)
    with pytest.raises(UnusableFile, match="read by others"):
        key_files.load_private_key(link)


def test_what_is_no_key_file_is_named_as_what_it_is(tmp_path: Path) -> None:
    make(tmp_path / "key")
    (tmp_path / "empty").write_bytes(b" \n")
    (tmp_path / "noise").write_bytes(bytes(range(256)))
    (tmp_path / "large").write_bytes(b"x" * (64 * 1024 + 1))
    os.mkfifo(tmp_path / "pipe")
    for name in ("empty", "noise", "large", "key.pub"):
        (tmp_path / name).chmod(0o600)
    wrong = {
        "missing": "no such file",
        "empty": "is empty",
        "noise": "not an OpenSSH private key",
        "large": "larger than 64 KiB",
        "key.pub": "is a public key",
        "pipe": "not a regular file",
        "": "is a folder",
        "key/inside": "Not a directory",
        "nul\0": "null byte",
        "n" * 300: "File name too long",
    }
    for name, reason in wrong.items():
        with pytest.raises(UnusableFile, match=reason) as refused:
            key_files.load_private_key(tmp_path / name)
        assert "\n" not in str(refused.value)


def test_reading_files_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in ("", "missing"):
        with pytest.raises(UnusableFile):
            key_files.load_private_key(tmp_path / name)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@given(st.binary(max_size=400))
def test_random_bytes_are_an_unusable_file(data: bytes) -> None:
    with pytest.raises(UnusableFile):
        key_files.load_private_key(data)


@given(cut=st.integers(0, 300), change=st.integers(1, 255), armour=st.booleans())
def test_a_damaged_key_is_an_unusable_file_or_the_same_key(cut: int, change: int, armour: bool) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    body = bytearray(key.export_private_key() if armour else _body(key))
    body[cut % len(body)] ^= change
    data = bytes(body) if armour else key_files._armour(bytes(body))
    with contextlib.suppress(UnusableFile):
        assert key_files.load_private_key(data, lambda _: None).public_data == key.public_data


def _body(key: asyncssh.SSHKey) -> bytes:
    lines = key.export_private_key().splitlines()[1:-1]
    return base64.b64decode(b"".join(lines))


def test_generated_keys_are_those_of_ssh_keygen_too(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "id"
    key = key_files.generate_ed25519(path, "me@here")
    assert mode_of(path) == 0o600
    assert mode_of(path.parent) == 0o700
    assert mode_of(path.with_name("id.pub")) == 0o644
    assert ssh_keygen("-y", "-f", path) == path.with_name("id.pub").read_text()
    assert ssh_keygen("-l", "-f", path).split()[1:3] == [key_files.fingerprint(key), "me@here"]
    assert sorted(each.name for each in path.parent.iterdir()) == ["id", "id.pub"]


def test_a_generated_key_with_a_passphrase_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "id"
    key = key_files.generate_ed25519(path, "", "secret")
    assert ssh_keygen("-y", "-P", "secret", "-f", path).split()[:2] == key_files.public_line(key).split()
    with pytest.raises(subprocess.CalledProcessError):
        ssh_keygen("-y", "-P", "", "-f", path)
    assert key_files.load_private_key(path, Answers("secret")) == key


@pytest.mark.parametrize("taken", ["id", "id.pub"])
def test_generating_overwrites_nothing_without_force(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("mine")
    with pytest.raises(UnusableFile, match=f"{taken} exists already; --force"):
        key_files.generate_ed25519(tmp_path / "id", "")
    assert (tmp_path / taken).read_text() == "mine"
    assert [each.name for each in tmp_path.iterdir()] == [taken]
    key_files.generate_ed25519(tmp_path / "id", "", force=True)
    assert key_files.load_private_key(tmp_path / "id")
    assert mode_of(tmp_path / "id") == 0o600


@pytest.mark.parametrize("comment", ["two\nlines", "bell\a", "x" * 1025])
def test_a_comment_is_one_printable_line(tmp_path: Path, comment: str) -> None:
    with pytest.raises(UsageError):
        key_files.generate_ed25519(tmp_path / "id", comment)
    assert not list(tmp_path.iterdir())


def test_a_key_that_cannot_be_written_is_an_unusable_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnusableFile, match="cannot be written"):
        key_files.generate_ed25519(tmp_path / "file" / "id", "")


def test_without_hard_links_a_key_is_still_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Path, _target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    first = key_files.load_or_create_host_key(tmp_path / "host")
    assert first.created
    with pytest.raises(FileExistsError):
        key_files._write_whole(tmp_path / "host", b"other", 0o600, replace=False)
    assert key_files.load_or_create_host_key(tmp_path / "host").key == first.key
    assert sorted(each.name for each in tmp_path.iterdir()) == ["host", "host.pub"]


def test_a_host_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "host_ed25519"
    first = key_files.load_or_create_host_key(path)
    second = key_files.load_or_create_host_key(path)
    assert (first.created, second.created) == (True, False)
    assert first.key == second.key
    assert mode_of(path) == 0o600


def test_a_host_key_that_cannot_be_used_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "host"
    path.write_text("")
    path.chmod(0o600)
    with pytest.raises(UnusableFile, match="is empty"):
        key_files.load_or_create_host_key(path)
    assert path.read_text() == ""


def _start(path: Path, barrier: object, answers: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    answers.put(key_files.fingerprint(key_files.load_or_create_host_key(path).key))  # type: ignore[attr-defined]


def test_two_processes_that_start_at_once_use_the_same_host_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(5):
        barrier, answers = context.Barrier(3), context.SimpleQueue()
        path = tmp_path / str(attempt) / "host"
        processes = [context.Process(target=_start, args=(path, barrier, answers)) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(30)
            assert process.exitcode == 0
        stored = key_files.fingerprint(key_files.load_private_key(path))
        assert [answers.get() for _ in processes] == [stored] * 3
        assert ssh_keygen("-l", "-f", path.with_name("host.pub")).split()[1] == stored


def test_an_endpoint_id_is_the_key_and_a_checksum() -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    number = 0
    for character in key_files.endpoint_id(key):
        number = number * 58 + BASE58.index(character)
    raw = key.public_data[-32:]
    assert number.to_bytes(36, "big") == raw + hashlib.sha256(b"wraith-id" + raw).digest()[:4]


def test_base58_is_that_of_bitcoin() -> None:
    # The examples of draft-msporny-base58.
    assert key_files._base58(b"Hello World!") == "2NEpo7TZRRrLZSi2U"
    assert key_files._base58(bytes.fromhex("0000287fb4cd")) == "11233QC4"


def test_another_key_type_has_no_endpoint_id() -> None:
    with pytest.raises(UsageError, match="ssh-ed25519"):
        key_files.endpoint_id(asyncssh.generate_private_key("ecdsa-sha2-nistp256"))


def test_a_public_line_is_one_line_whatever_the_comment() -> None:
    key = asyncssh.generate_private_key("ssh-ed25519", comment="two\nlines")
    assert len(key_files.public_line(key).split()) == 2
