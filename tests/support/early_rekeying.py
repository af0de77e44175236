"""wraith as it is, but for asking for new keys after 4 MiB instead of 1 GiB."""

from __future__ import annotations

import sys
import textwrap

from tests.support.processes import WRAITH, WraithClient, WraithServer

_PROGRAM = textwrap.dedent(
    """
    import sys
    from wraith.cli import main
    from wraith.ssh import attach
    attach.REKEY_BYTES = 4 << 20
    sys.exit(main(sys.argv[1:]))
    """
)


def _rekeying(argv: list[str]) -> list[str]:
    return [sys.executable, "-c", _PROGRAM, *argv[len(WRAITH) :]]


class EarlyRekeyingServer(WraithServer):
    """`wraith serve`; counts what it sends."""

    def start(self) -> None:
        self.argv = _rekeying(self.argv)
        super().start()


class EarlyRekeyingClient(WraithClient):
    """`wraith connect`; counts what it sends."""

    def start(self) -> None:
        self.argv = _rekeying(self.argv)
        super().start()
