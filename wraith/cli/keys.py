"""`wraith keygen` and `wraith id`: identities made and shown."""

from __future__ import annotations

import getpass
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wraith.errors import ExitCode, UnusableFile, UsageError, WraithError
from wraith.options import default_directory
from wraith.paths import IDENTITY

from .flags import flag
from .outcome import guarded
from .terminal import Questions, has_terminal, show

if TYPE_CHECKING:
    import asyncssh


def keygen(
    file: Annotated[
        Path | None,
        flag("-f", "--file", value="PATH", text="Default <dir>/id_ed25519."),
    ] = None,
    force: Annotated[bool, flag("--force", text="Overwrite a key that is there.")] = False,
    comment: Annotated[
        str | None,
        flag("-C", "--comment", value="TEXT", text="Default user@machine."),
    ] = None,
    passphrase: Annotated[
        str | None,
        flag(
            "-N",
            "--passphrase",
            value="TEXT",
            text="Default: asked for on a terminal, else none. Others on this machine can see it while this runs.",
        ),
    ] = None,
) -> ExitCode:
    """Make an Ed25519 identity in OpenSSH's format. Never overwrites one without --force."""
    path = file if file is not None else default_directory() / IDENTITY

    def work() -> ExitCode:
        from wraith.ssh.key_files import generate_ed25519  # noqa: PLC0415 - asyncssh takes 0.2 s to import

        # generate_ed25519 looks again; this spares a person from inventing a passphrase for nothing.
        if not force and os.path.lexists(path):
            raise UnusableFile(f"{path} exists already; --force overwrites it")
        secret = passphrase if passphrase is not None else _asked_passphrase()
        key = generate_ed25519(path, comment if comment is not None else _default_comment(), secret, force=force)
        show(f"identity     {path}")
        _describe(key)
        return ExitCode.DONE

    return guarded("wraith keygen", work)


def identify(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="PATH", readable=False, help="A private or public key. Default <dir>/id_ed25519."),
    ] = None,
) -> ExitCode:
    """Print a key's public line, which authorized_keys wants, its SHA-256 fingerprint and its endpoint ID."""
    chosen = path if path is not None else default_directory() / IDENTITY

    def work() -> ExitCode:
        try:
            _describe(_read(chosen))
        except UnusableFile as error:
            if path is None and isinstance(error.__cause__, FileNotFoundError):
                raise UnusableFile(f"there is no identity {chosen} yet; make one with: wraith keygen") from error
            raise
        return ExitCode.DONE

    return guarded("wraith id", work)


def _read(path: Path) -> asyncssh.SSHKey:
    from wraith.ssh.key_files import (  # noqa: PLC0415 - asyncssh takes 0.2 s to import
        MAX_KEY_FILE,
        Guard,
        read_file,
        read_private_key,
    )

    if path.suffix != ".pub":
        private = read_private_key(path)
        # The comment of a locked key is locked with it, and not worth a passphrase.
        return private.public_key if private.locked else private.unlock()
    import asyncssh  # noqa: PLC0415 - as above

    try:
        return asyncssh.import_public_key(read_file(path, "public key", Guard.NOTHING, MAX_KEY_FILE))
    except asyncssh.KeyImportError as error:
        raise UnusableFile(f"{path} is not a public key in OpenSSH's format") from error


def _describe(key: asyncssh.SSHKey) -> None:
    from wraith.ssh.key_files import endpoint_id, fingerprint, public_line  # noqa: PLC0415 - as above

    show(public_line(key))
    show(f"fingerprint  {fingerprint(key)}")
    try:
        show(f"endpoint ID  {endpoint_id(key)}")
    except UsageError:  # a key of another type has none
        show("endpoint ID  none: only an ssh-ed25519 key has one")


def _asked_passphrase() -> str:
    """Ask where somebody can answer; a script gets a key without a passphrase. Raises WraithError."""
    if not (sys.stdin is not None and sys.stdin.isatty() and has_terminal()):
        return ""

    def give_up() -> None:
        raise KeyboardInterrupt

    chosen = Questions(give_up).new_passphrase()
    if chosen is None:
        raise WraithError("no key was made: the passphrase was not given twice the same")
    return chosen


def _default_comment() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user without a name, as containers have
        user = "wraith"
    return f"{user}@{socket.gethostname()}"
