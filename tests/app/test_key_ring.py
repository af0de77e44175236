"""Which keys may log in now: the file as it stands, and never a key that was taken out."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import asyncssh
import pytest

from tests.support.ssh_peers import logged
from wraith.errors import UnusableFile
from wraith.ssh.grant import Grant
from wraith.ssh.key_files import public_line
from wraith.ssh.key_ring import KeyRing
from wraith.ssh.offer import read_offer

KEYS = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(3)]
BAD_LINE = 'command="rm -rf /" ' + public_line(KEYS[2])


def write(path: Path, *lines: str, mode: int = 0o600) -> None:
    """Replace the file as an editor does."""
    draft = path.with_suffix(".new")
    draft.write_text("".join(line + "\n" for line in lines))
    draft.chmod(mode)
    draft.replace(path)


def found(ring: KeyRing) -> list[bool]:
    return [isinstance(ring.judge(read_offer(key.public_data), "me", "127.0.0.1", 0), Grant) for key in KEYS]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "authorized_keys"


def test_keys_given_as_bytes_are_the_keys() -> None:
    ring = KeyRing((public_line(KEYS[0]) + "\n").encode())
    assert found(ring) == [True, False, False]
    assert not ring.missing


def test_a_key_added_later_is_found_and_one_taken_out_is_not(path: Path) -> None:
    write(path, public_line(KEYS[0]))
    ring = KeyRing(path)
    assert found(ring) == [True, False, False]
    write(path, public_line(KEYS[1]), "# a comment", "", public_line(KEYS[2]))
    assert found(ring) == [False, True, True]
    write(path)
    assert found(ring) == [False, False, False]


def test_a_file_that_appears_is_picked_up_and_one_that_vanishes_lets_nobody_in(path: Path) -> None:
    ring = KeyRing(path)
    assert ring.missing
    assert found(ring) == [False, False, False]
    write(path, public_line(KEYS[0]))
    assert found(ring) == [True, False, False]
    assert not ring.missing
    path.unlink()
    assert found(ring) == [False, False, False]
    assert ring.missing


def test_a_change_of_the_same_size_within_the_same_second_is_seen(path: Path) -> None:
    lines = [public_line(key) for key in KEYS]
    assert len({len(line) for line in lines}) == 1
    write(path, lines[0])
    ring = KeyRing(path)
    for index in (1, 2, 0, 1):
        write(path, lines[index])
        assert found(ring) == [index == which for which in range(3)]


def test_a_change_in_place_is_seen(path: Path) -> None:
    write(path, public_line(KEYS[0]))
    ring = KeyRing(path)
    path.write_text(public_line(KEYS[1]) + "\n")
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert found(ring) == [False, True, False]


def test_at_the_start_a_bad_line_is_an_error(path: Path) -> None:
    write(path, public_line(KEYS[0]), BAD_LINE)
    with pytest.raises(UnusableFile, match="2"):
        KeyRing(path)


def test_later_a_bad_line_is_left_out_and_said_and_the_rest_is_in_force(path: Path) -> None:
    async def scenario() -> list[str]:
        write(path, public_line(KEYS[0]))
        ring = KeyRing(path)
        async with logged() as lines:
            write(path, BAD_LINE, public_line(KEYS[1]))
            assert found(ring) == [False, True, False]
            assert found(ring) == [False, True, False]
        return lines.of("left out")

    said = asyncio.run(scenario())
    assert len(said) == 1
    assert " ERROR " in said[0]
    assert "command" in said[0]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_a_file_that_others_may_write_lets_nobody_in_until_it_is_right_again(path: Path) -> None:
    async def scenario() -> list[str]:
        write(path, public_line(KEYS[0]))
        ring = KeyRing(path)
        async with logged() as lines:
            write(path, public_line(KEYS[0]), mode=0o666)
            assert found(ring) == [False, False, False]
            assert not ring.missing
            write(path, public_line(KEYS[0]), public_line(KEYS[1]))
            assert found(ring) == [True, True, False]
        return lines.of("cannot be used")

    assert len(asyncio.run(scenario())) == 1


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_a_mode_made_unsafe_without_another_change_lets_nobody_in(path: Path) -> None:
    write(path, public_line(KEYS[0]))
    ring = KeyRing(path)
    path.chmod(0o666)
    assert found(ring) == [False, False, False]
    path.chmod(0o600)
    assert found(ring) == [True, False, False]


def test_bytes_that_are_no_text_and_a_folder_in_its_place_do_not_raise(path: Path) -> None:
    write(path, public_line(KEYS[0]))
    ring = KeyRing(path)
    path.write_bytes(b"\xff\xfe\x00 garbage \n" + public_line(KEYS[1]).encode() + b"\n")
    assert found(ring) == [False, True, False]
    path.unlink()
    path.mkdir()
    assert found(ring) == [False, False, False]
