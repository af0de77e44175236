"""The `wraith` command and its subcommands."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
import typer.main

from wraith._version import __version__
from wraith.errors import ExitCode

from .connecting import connect
from .demo import demo
from .flags import ENVIRONMENT
from .keys import identify, keygen
from .outcome import guarded, with_hint
from .serving import serve
from .terminal import complain, keep_standard_descriptors_open, let_go_of_broken_streams, show

PROGRAM = "wraith"
_INTERRUPTED = 130  # what typer makes of Ctrl-C

app = typer.Typer(
    name=PROGRAM,
    rich_markup_mode=None,  # brackets in help are the user's syntax, not markup; and plain text needs no import of rich
    epilog=(
        f"{ENVIRONMENT} Keys and records are in <dir>: the platform's configuration folder for wraith, or WRAITH_DIR. "
        "Exit codes: 0 done, 1 failed, 2 usage, 3 unusable file, 4 not connected, 5 authentication refused, "
        "6 wrong host key or certificate, 7 address unavailable."
    ),
)
app.command("serve", epilog=ENVIRONMENT)(serve)
app.command("connect", epilog=ENVIRONMENT)(connect)
app.command("keygen", epilog=ENVIRONMENT)(keygen)
app.command("id")(identify)
app.command("demo", epilog=ENVIRONMENT)(demo)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """SSH over a pluggable transport: a SOCKS5 proxy and port forwards through one stream."""
    if version:
        show(f"{PROGRAM} {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        show(context.get_help())


def invoke(arguments: Sequence[str] | None) -> int:
    """Parse the arguments, run the command they name, and return its exit code. Prints all there is to say."""
    keep_standard_descriptors_open()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return guarded(PROGRAM, lambda: _dispatch(words))
    finally:
        let_go_of_broken_streams()


def _dispatch(words: list[str]) -> ExitCode:
    command = typer.main.get_command(app)
    try:
        code = command.main(args=words, prog_name=PROGRAM, standalone_mode=False)
    except typer.TyperException as error:
        complain(with_hint(_reason(error), _command_of(error, words)))
        return ExitCode.USAGE
    except typer.Abort:
        return ExitCode.FAILED
    return ExitCode.FAILED if code == _INTERRUPTED else ExitCode(code or 0)


def _reason(error: typer.TyperException) -> str:
    message = error.format_message().replace("Value error, ", "").replace("Invalid value for ", "")
    return message[:1].lower() + message[1:]


def _command_of(error: typer.TyperException, words: Sequence[str]) -> str:
    """Name the command whose help is of use."""
    context = getattr(error, "ctx", None)
    if context is not None:
        return str(context.command_path)
    known = {command.name for command in app.registered_commands}
    return " ".join([PROGRAM, *[word for word in words[:1] if word in known]])
