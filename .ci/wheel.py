"""Builds the distributions, looks into the wheel and runs the command from it in an empty environment."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"wraith", "wraith_transports", "wraith_acme"}
# The demonstration moves 64 MiB a transport; a shared machine needs a few seconds for each.
COMMANDS = (("--version",), ("--help",), ("demo",))
COMMAND_TIMEOUT_S = 180
INSTALL_TIMEOUT_S = 600


def main() -> None:
    """Build, look, install and run; exits with one line at the first thing that is wrong."""
    with tempfile.TemporaryDirectory(prefix="wraith-wheel-") as name:
        folder = Path(name)
        # Without arguments `build` makes the wheel from the sdist, which so is shown to be complete.
        _run([sys.executable, "-m", "build", "--outdir", str(folder / "dist"), str(ROOT)], folder, INSTALL_TIMEOUT_S)
        (wheel,) = (folder / "dist").glob("*.whl")
        _check_contents(wheel)
        command = _install(wheel, folder)
        for arguments in COMMANDS:
            _run([str(command), *arguments], folder, COMMAND_TIMEOUT_S, env=_empty_environment(folder))


def _check_contents(wheel: Path) -> None:
    """Exit unless the wheel holds the three packages, typed, and nothing beside them."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    metadata = {top for top in tops if top.endswith(".dist-info")}
    if tops - metadata != PACKAGES or len(metadata) != 1:
        sys.exit(f"{wheel.name} adds {sorted(tops)}; it should add {sorted(PACKAGES)} and one .dist-info")
    if missing := sorted(f"{package}/py.typed" for package in PACKAGES if f"{package}/py.typed" not in names):
        sys.exit(f"{wheel.name} lacks {', '.join(missing)}")
    if not any(name.endswith("licenses/LICENSE") for name in names):
        sys.exit(f"{wheel.name} lacks its licence")


def _install(wheel: Path, folder: Path) -> Path:
    """Install the wheel into an environment of its own, and return its command."""
    environment = folder / "environment"
    venv.create(environment, with_pip=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, str(wheel)], folder, INSTALL_TIMEOUT_S)
    return environment / "bin" / "wraith"


def _empty_environment(folder: Path) -> dict[str, str]:
    """Return the least a command needs; no agent, no settings, and a home with nothing in it."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return {"HOME": str(home), "PATH": os.defpath, "LC_ALL": "C.UTF-8"}


def _run(command: list[str], folder: Path, timeout_s: float, env: dict[str, str] | None = None) -> None:
    """Run a command outside the checkout, so that nothing is imported from there; exit if it fails."""
    result = subprocess.run(command, cwd=folder, env=env, timeout=timeout_s, check=False)  # noqa: S603 - our own commands
    if result.returncode:
        sys.exit(f"exit {result.returncode} of {' '.join(command)}")


if __name__ == "__main__":
    main()
