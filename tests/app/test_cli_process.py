"""Claims about `wraith` as a process: its streams, its signals, and its questions on a terminal."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.consoles import LIMIT_S, TAKES_TERMINAL, environment, ready, started, terminal, wraith
from tests.support.loops import LOOPS
from wraith._version import __version__
from wraith.cli.running import raise_descriptor_limit
from wraith.errors import ExitCode


def test_the_version_is_the_packages_and_needs_no_ssh() -> None:
    program = """
        import sys
        from wraith.cli import main
        assert main(["--version"]) == 0
        print(sorted({"asyncssh", "rich", "uvloop", "cryptography", "asyncio"} & set(sys.modules)))
    """
    with started(program) as process:
        out, err = process.communicate(timeout=LIMIT_S)
    assert out == f"wraith {__version__}\n[]\n"
    assert err == ""


def test_the_module_runs_as_the_command_does() -> None:
    done = wraith("connect", "-4", "-6", "h")
    assert done.returncode == ExitCode.USAGE
    assert done.stderr == "wraith: -4 and -6 exclude each other: give one of them (see `wraith connect --help`)\n"


def test_a_result_that_cannot_be_written_is_a_failure_in_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = wraith("--version", stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert done.returncode == ExitCode.FAILED
    assert done.stderr.startswith("wraith: the result could not be written")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_leaves_ends_it_in_silence() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = wraith("--version", stdout=writing, stderr=subprocess.PIPE, capture_output=False)
    os.close(writing)
    assert done.returncode == ExitCode.FAILED
    assert done.stderr == ""


def test_a_full_stderr_does_not_change_the_exit_code() -> None:
    with Path("/dev/full").open("w") as full:
        done = wraith("connect", stderr=full, stdout=subprocess.PIPE, capture_output=False)
    assert done.returncode == ExitCode.USAGE


@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_a_closed_standard_stream_does_not_change_the_exit_code(descriptor: int) -> None:
    done = wraith("connect", preexec_fn=lambda: os.close(descriptor))
    assert done.returncode == ExitCode.USAGE


def test_closed_standard_descriptors_are_filled_so_that_no_socket_gets_their_numbers() -> None:
    program = """
        import os, sys
        os.close(0); os.close(2)
        from wraith.cli.terminal import keep_standard_descriptors_open
        keep_standard_descriptors_open()
        print([os.readlink(f"/proc/self/fd/{number}") for number in (0, 2)])
    """
    with started(program) as process:
        out, _ = process.communicate(timeout=LIMIT_S)
    assert out == "['/dev/null', '/dev/null']\n"


def test_an_error_is_one_line_whatever_is_in_it(tmp_path: Path) -> None:
    done = wraith("id", str(tmp_path / "a\nwraith: all is well\x1b[2J"))
    assert done.returncode == ExitCode.UNUSABLE_FILE
    assert done.stderr.count("\n") == 1
    assert "\\n" in done.stderr
    assert "\x1b" not in done.stderr


def test_the_shells_completion_knows_commands_and_flags() -> None:
    base = environment(_WRAITH_COMPLETE="complete_bash")
    commands = wraith(env=base | {"COMP_WORDS": "wraith co", "COMP_CWORD": "1"})
    assert commands.stdout.split() == ["connect"]
    flags = wraith(env=base | {"COMP_WORDS": "wraith connect --host", "COMP_CWORD": "2"})
    assert flags.stdout.split() == ["--host-key-check", "--host-key"]
    values = wraith(env=base | {"COMP_WORDS": "wraith connect --host-key-check a", "COMP_CWORD": "3"})
    assert values.stdout.split() == ["ask", "accept-new"]


# Signals

WAITING = """
    import asyncio, sys
    from wraith.cli import running
    running.STOP_TIMEOUT_S = float(sys.argv[1])

    async def work(interruption):
        try:
            print("ready", flush=True)
            await asyncio.sleep(3600)
        finally:
            print("stopping", flush=True)
            await asyncio.sleep(float(sys.argv[2]))
            print("stopped", flush=True)

    sys.exit(running.run(work))
"""


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_in_order_and_is_no_failure(number: signal.Signals, loop: str) -> None:
    with started(WAITING, "30", "0", env=environment(WRAITH_LOOP=loop)) as process:
        ready(process)
        process.send_signal(number)
        out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out, err) == (ExitCode.DONE, "stopping\nstopped\n", "")


def test_stopping_that_hangs_is_cut_short_and_still_no_failure() -> None:
    with started(WAITING, "0.1", "3600") as process:
        ready(process)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out) == (ExitCode.DONE, "stopping\n")


def test_a_second_signal_ends_at_once() -> None:
    with started(WAITING, "3600", "3600") as process:
        ready(process)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "stopping\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out) == (ExitCode.FAILED, "")


def test_a_name_lookup_that_hangs_does_not_keep_the_process() -> None:
    program = """
        import asyncio, sys, time
        from wraith.cli import running
        running.STOP_TIMEOUT_S = 0.1

        async def work(interruption):
            lookup = asyncio.get_running_loop().run_in_executor(None, time.sleep, 3600)
            print("ready", flush=True)
            await lookup

        sys.exit(running.run(work))
    """
    with started(program) as process:
        ready(process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT_S)
    assert process.returncode == ExitCode.DONE


@pytest.mark.parametrize(("choice", "module"), [("asyncio", "asyncio"), ("uvloop", "uvloop"), ("", LOOPS[-1])])
def test_the_loop_is_the_best_there_is_or_the_chosen_one(choice: str, module: str) -> None:
    if module not in LOOPS:
        pytest.skip("no uvloop here")
    program = """
        import asyncio, sys
        from wraith.cli.running import run

        async def work(interruption):
            print(type(asyncio.get_running_loop()).__module__.partition(".")[0])
            return 0

        run(work)
    """
    with started(program, env=environment(WRAITH_LOOP=choice)) as process:
        out, _ = process.communicate(timeout=LIMIT_S)
    assert out == module + "\n"


def test_an_unknown_loop_is_a_usage_error() -> None:
    done = wraith("demo", env=environment(WRAITH_LOOP="trio"))
    assert done.returncode == ExitCode.USAGE
    assert "WRAITH_LOOP" in done.stderr


def test_a_stray_exception_is_one_line_without_its_text() -> None:
    program = """
        import asyncio, logging, sys
        from wraith import logs
        from wraith.cli.running import run

        async def work(interruption):
            logs.configure(logging.ERROR, sys.stderr)
            asyncio.get_running_loop().call_soon(int, "target.example")
            await asyncio.sleep(0.01)
            return 0

        sys.exit(run(work))
    """
    with started(program) as process:
        _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert err.endswith("ERROR an internal task failed exception=ValueError\n")
    assert "target.example" not in err


def test_the_descriptor_limit_is_raised_to_the_hard_one() -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
        raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# Questions on a terminal

ASKS = (
    TAKES_TERMINAL
    + """
    import asyncio
    from wraith.cli.running import run
    from wraith.cli.terminal import Questions, has_terminal
    from wraith.errors import UnusableFile

    async def work(interruption):
        questions = Questions(interruption.request_from_terminal)
        assert has_terminal()
        if sys.argv[1] == "passphrase":
            answer = questions.passphrase("/home/me/key")
        else:
            answer = questions.trusts_host_key("[host]:1", "SHA256:abc")
        if answer is None:
            raise UnusableFile("no passphrase")
        print("answer", repr(answer), flush=True)
        return 0

    sys.exit(run(work))
"""
)


def test_a_passphrase_is_asked_for_by_the_keys_name_and_not_shown() -> None:
    with terminal(ASKS, "passphrase") as person:
        person.wait_for("Passphrase for /home/me/key: ")
        person.wait_for_hidden_input()
        person.type("open sesame\n")
        assert person.end() == 0
    assert person.shown.count("open sesame") == 1  # what the program printed
    assert "answer 'open sesame'" in person.shown


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("question", ["passphrase", "host key"])
@pytest.mark.parametrize("how", ["ctrl-c", signal.SIGINT, signal.SIGTERM])
def test_interrupting_a_question_ends_cleanly(how: str | signal.Signals, question: str, loop: str) -> None:
    with terminal(ASKS, question, env=environment(WRAITH_LOOP=loop)) as person:
        person.wait_for("Passphrase for" if question == "passphrase" else "(yes, no")
        if question == "passphrase":
            person.wait_for_hidden_input()
        if isinstance(how, signal.Signals):
            person.process.send_signal(how)
        else:
            person.type("\x03")
        assert person.end() == ExitCode.DONE
    assert "Traceback" not in person.shown


@pytest.mark.parametrize(
    ("answer", "trusted"),
    [("yes", True), ("YES ", True), ("SHA256:abc", True), ("no", False), ("y", False), ("", False)],
)
def test_a_host_key_is_trusted_for_yes_or_its_fingerprint_only(answer: str, trusted: bool) -> None:
    with terminal(ASKS, "host key") as person:
        person.wait_for("(yes, no")
        assert "[host]:1" in person.shown
        assert "SHA256:abc" in person.shown
        person.type(answer + "\n")
        assert person.end() == 0
    assert f"answer {trusted}" in person.shown


KEYGEN = TAKES_TERMINAL + "    from wraith.cli import main\n    sys.exit(main(['keygen', *sys.argv[1:]]))\n"


def test_keygen_asks_twice_on_a_terminal(tmp_path: Path) -> None:
    with terminal(KEYGEN, "-f", str(tmp_path / "key")) as person:
        for prompt, answer in (("new key", "one"), ("once more", "two"), ("new key", "three"), ("once more", "three")):
            person.wait_for(prompt)
            person.wait_for_hidden_input()
            person.type(answer + "\n")
        assert person.end() == 0
    assert (tmp_path / "key").exists()
    assert "These differ." in person.shown
    locked = wraith("id", str(tmp_path / "key"))
    assert locked.returncode == 0


def test_keygen_interrupted_at_its_question_makes_no_key(tmp_path: Path) -> None:
    with terminal(KEYGEN, "-f", str(tmp_path / "key")) as person:
        person.wait_for("new key")
        person.wait_for_hidden_input()
        person.type("\x03")
        assert person.end() == ExitCode.FAILED
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" not in person.shown


def test_without_a_terminal_keygen_asks_nothing(tmp_path: Path) -> None:
    done = wraith("keygen", "-f", str(tmp_path / "key"))
    assert done.returncode == 0
    assert (tmp_path / "key").exists()
