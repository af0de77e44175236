"""Claims about the scripts behind make on machines that lack something: one line that says what to install."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# An interpreter as .ci/venv sees it: what it says its version is, and whether it can make environments.
INTERPRETER = """#!/bin/sh
case "$2" in
    *print*) echo '{version}' ;;
    *version_info*) exit {too_old} ;;
    *ensurepip*) exit {no_venv} ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A checkout with nothing but the script, on a machine with a folder for programs and little in it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "cksum", "dirname", "cat", "pwd", "id"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    (tmp_path / ".ci").mkdir()
    for name in ("venv", "test-deps"):
        shutil.copy(ROOT / ".ci" / name, tmp_path / ".ci" / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def add_interpreter(machine: Path, name: str, version: str, *, too_old: bool = False, no_venv: bool = False) -> None:
    program = machine / "bin" / name
    program.write_text(INTERPRETER.format(version=version, too_old=int(too_old), no_venv=int(no_venv)))
    program.chmod(0o755)


def complaint(machine: Path, script: str, **environment: str) -> str:
    """Run a script that must fail with one line, and return the line."""
    done = subprocess.run(
        [machine / ".ci" / script],
        env={"PATH": str(machine / "bin"), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def test_without_python_it_says_to_install_it(machine: Path) -> None:
    assert "install Python 3.11 or newer" in complaint(machine, "venv")


def test_an_old_python_is_named_with_its_version(machine: Path) -> None:
    add_interpreter(machine, "python3", "3.9", too_old=True)
    line = complaint(machine, "venv")
    assert "python3 is Python 3.9" in line
    assert "needs 3.11 or newer" in line


def test_a_python_without_venv_is_told_the_package(machine: Path) -> None:
    add_interpreter(machine, "python3", "3.9", too_old=True)
    add_interpreter(machine, "python3.12", "3.12", no_venv=True)
    assert "apt-get install python3.12-venv" in complaint(machine, "venv")


def test_the_interpreter_asked_for_is_not_replaced_by_another(machine: Path) -> None:
    add_interpreter(machine, "python3", "3.12")
    assert "PYTHON=/nowhere/python3 does not run" in complaint(machine, "venv", PYTHON="/nowhere/python3")


def test_without_apt_the_programs_to_install_are_listed(machine: Path) -> None:
    line = complaint(machine, "test-deps")
    assert "openssh-server" in line
    assert "install by hand" in line


def test_test_deps_asks_for_root(machine: Path) -> None:
    for name in ("apt-get", "dpkg-query"):
        add_interpreter(machine, name, "")
    (machine / "bin" / "id").unlink()
    (machine / "bin" / "id").write_text("#!/bin/sh\necho 1000\n")
    (machine / "bin" / "id").chmod(0o755)
    assert "run it as root" in complaint(machine, "test-deps")
