"""The password file of a SOCKS port: what is accepted, and what the user is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from wraith.errors import UnusableFile
from wraith.socks import Credentials, parse_credentials, read_credentials


def written(folder: Path, data: bytes, mode: int = 0o600) -> Path:
    path = folder / "socks-users"
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_each_line_is_a_user_and_a_password(tmp_path: Path) -> None:
    credentials = read_credentials(written(tmp_path, b"anna:se:cret\r\n\n# ben:old\nb\xc3\xa9n:x"))
    assert credentials.accepts(b"anna", b"se:cret")
    assert credentials.accepts("bén".encode(), b"x")
    assert not credentials.accepts(b"# ben", b"old")
    assert not credentials.accepts(b"anna", b"x")
    assert not credentials.accepts(b"anna:se", b"cret")
    assert not credentials.accepts(b"", b"")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o601])
def test_a_file_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(UnusableFile, match="chmod 600"):
        read_credentials(written(tmp_path, b"a:b\n", mode))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableFile, match="nowhere: No such file"):
        read_credentials(tmp_path / "nowhere")


def test_a_file_that_cannot_be_such_a_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableFile, match="64 KiB"):
        read_credentials(written(tmp_path, b"a:b\n" * 20_000))
    with pytest.raises(UnusableFile):
        read_credentials(tmp_path)
    with pytest.raises(UnusableFile):
        read_credentials(Path("a\0b"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no user"),
        (b"# anna:x\n", "no user"),
        (b"a:b\nhunter2\n", "line 2: no colon"),
        (b":hunter2", "line 1: the user"),
        (b"a:", "line 1: the password"),
        (b"a:" + b"x" * 256, "line 1: the password"),
        (b"u" * 256 + b":x", "line 1: the user"),
        (b"a:hunter2\0", "line 1: the password holds a control"),
        (b"a:hunter2\na:y", "line 2: this user has a line"),
    ],
)
def test_a_bad_line_is_named_and_not_repeated(data: bytes, reason: str) -> None:
    with pytest.raises(UnusableFile, match=reason) as caught:
        parse_credentials(data, "file")
    assert "hunter2" not in str(caught.value)


def test_credentials_show_no_password() -> None:
    credentials = Credentials({b"anna": b"hunter2"})
    assert "hunter2" not in repr(credentials) + repr(vars(credentials))
