"""Claims about what a newcomer tries first: the demonstration and the library example of the README."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

from tests.support.processes import ROOT, WraithServer, environment, run_program, wraith
from tests.support.targets import Target, http_answer, read_head
from wraith.errors import ExitCode

DEMO_LIMIT_S = 100.0


def test_the_demonstration_passes_and_touches_no_settings(tmp_path: Path) -> None:
    folder = tmp_path / "settings"
    done = wraith("demo", folder=folder, limit_s=DEMO_LIMIT_S, TMPDIR=str(tmp_path))
    assert done.code == ExitCode.DONE, done
    for transport in ("tcp", "tls"):
        assert re.search(rf"^\s*{transport}\s+67,108,864\s.*\bok\s*$", done.out, re.MULTILINE), done.out
    # The harness keeps the output of the command there, and that is all there is.
    assert {path.suffix for path in folder.iterdir()} <= {".out", ".err"}
    assert list(tmp_path.iterdir()) == [folder], "the demonstration's own folder is gone"


def readme_example() -> str:
    (example,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return str(example)


def test_the_readmes_library_example_runs_as_it_stands(tmp_path: Path) -> None:
    def page(connection: socket.socket) -> None:
        asked.append(read_head(connection)[0])
        connection.sendall(http_answer(b"hello from the intranet\n"))

    asked: list[bytes] = []
    with Target(page) as target, WraithServer(tmp_path) as server:
        # The example's own names lead nowhere: these are the only changes.
        program = readme_example()
        for written, real in (
            ('"server.example.net", port=2222', f'"127.0.0.1", port={server.port}'),
            ('"intranet.example", 80', f'"127.0.0.1", {target.port}'),
        ):
            assert program.count(written) == 1
            program = program.replace(written, real)
        # The server's folder has the key that may log in; it is where the README says a key is looked for.
        settings = tmp_path / "settings"
        settings.mkdir(mode=0o700)
        server.client_key.rename(settings / "id_ed25519")
        script = tmp_path / "example.py"
        script.write_text(program)
        done = run_program(sys.executable, script, folder=settings, env=environment(settings))
    assert done.code == 0, done
    assert asked[0].startswith(b"GET / HTTP/1.0\r\n")
    assert done.out.endswith("hello from the intranet\n\n")
