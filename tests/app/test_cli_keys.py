"""Claims about `wraith keygen` and `wraith id`, held against ssh-keygen."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support.tools import need
from wraith.cli import main
from wraith.errors import ExitCode


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("WRAITH_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "configuration"
    monkeypatch.setenv("WRAITH_DIR", str(folder))
    return folder


def ssh_keygen(*arguments: str | Path) -> str:
    (program,) = need("ssh-keygen")
    return subprocess.run([program, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_a_new_key_is_what_ssh_keygen_reads(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keygen", "-C", "me at home"]) == 0
    lines = capsys.readouterr().out.splitlines()
    path = directory / "id_ed25519"
    assert lines[0] == f"identity     {path}"
    assert lines[1] == ssh_keygen("-y", "-f", path)
    assert lines[1] == path.with_suffix(".pub").read_text().strip()
    assert lines[1].endswith(" me at home")
    size, fingerprint, *_, kind = ssh_keygen("-l", "-f", path).split()
    assert (size, kind) == ("256", "(ED25519)")
    assert lines[2] == f"fingerprint  {fingerprint}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_key_is_never_overwritten_without_force(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keygen"]) == 0
    before = (directory / "id_ed25519").read_bytes()
    assert main(["keygen"]) == ExitCode.UNUSABLE_FILE
    assert (directory / "id_ed25519").read_bytes() == before
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "--force" in err
    assert main(["keygen", "--force"]) == 0
    assert (directory / "id_ed25519").read_bytes() != before


def test_a_passphrase_locks_the_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "folder" / "key"
    assert main(["keygen", "-f", str(path), "-N", "open sesame"]) == 0
    assert ssh_keygen("-y", "-P", "open sesame", "-f", path) == capsys.readouterr().out.splitlines()[1]
    with pytest.raises(subprocess.CalledProcessError):
        ssh_keygen("-y", "-P", "", "-f", path)


def test_the_environment_names_what_the_flags_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRAITH_FILE", str(tmp_path / "k"))
    monkeypatch.setenv("WRAITH_COMMENT", "from the environment")
    monkeypatch.setenv("WRAITH_PASSPHRASE", "x y")
    assert main(["keygen"]) == 0
    assert ssh_keygen("-y", "-P", "x y", "-f", tmp_path / "k").endswith(" from the environment")
    monkeypatch.setenv("WRAITH_FORCE", "1")
    assert main(["keygen"]) == 0


@pytest.mark.parametrize("comment", ["two\nlines", "x" * 5000])
def test_a_comment_that_is_no_line_is_a_usage_error(comment: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keygen", "-C", comment]) == ExitCode.USAGE
    assert capsys.readouterr().err.count("\n") == 1


def test_id_shows_the_key_that_keygen_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keygen"]) == 0
    made = capsys.readouterr().out.splitlines()
    assert main(["id"]) == 0
    assert capsys.readouterr().out.splitlines() == made[1:]


def test_id_reads_private_locked_and_public_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "key"
    assert main(["keygen", "-f", str(path), "-N", "locked", "-C", "c"]) == 0
    made = capsys.readouterr().out.splitlines()[1:]
    assert main(["id", f"{path}.pub"]) == 0
    assert capsys.readouterr().out.splitlines() == made
    assert main(["id", str(path)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown == [made[0].removesuffix(" c"), *made[1:]]


def test_the_endpoint_id_is_a_word_of_its_own_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keygen"]) == 0
    label, _, endpoint_id = capsys.readouterr().out.splitlines()[3].rpartition(" ")
    assert label.strip() == "endpoint ID"
    assert 40 <= len(endpoint_id) <= 50
    assert endpoint_id.isalnum()


def test_a_key_of_another_type_has_no_endpoint_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "key"
    ssh_keygen("-q", "-t", "ecdsa", "-N", "", "-f", path)
    assert main(["id", str(path)]) == 0
    line, fingerprint, endpoint_id = capsys.readouterr().out.splitlines()
    assert line == path.with_suffix(".pub").read_text().strip()
    assert fingerprint.split()[1] == ssh_keygen("-l", "-f", path).split()[1]
    assert "none" in endpoint_id


def test_without_a_key_id_names_keygen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["id"]) == ExitCode.UNUSABLE_FILE
    assert "wraith keygen" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("key", "nonsense", "not an OpenSSH private key"),
        ("key.pub", "nonsense", "not a public key"),
        ("key", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n", "ssh-keygen -p"),
    ],
)
def test_a_file_that_is_no_key_is_exit_code_3(
    name: str, content: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_text(content)
    path.chmod(0o600)
    assert main(["id", str(path)]) == ExitCode.UNUSABLE_FILE
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
