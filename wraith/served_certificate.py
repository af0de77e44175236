"""The certificate that TLS ports are served with, loaded again when its files have changed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from wraith_transports.tls import ServerContext

from .errors import UnusableFile
from .logs import event
from .options import KeySource, TlsServerOptions
from .tls_certificate import TlsCertificate, tls_certificate

Stamp = tuple[tuple[int, int, int, int] | None, ...]

logger = logging.getLogger(__name__)


class ServedCertificate:
    """Gives the context for each handshake. A new pair that cannot be used is logged once, and the old one stays."""

    def __init__(
        self, options: TlsServerOptions, load: Callable[[TlsServerOptions], TlsCertificate] = tls_certificate
    ) -> None:
        """Load it. Raises UnusableFile."""
        self._options = options
        self._load = load
        self._stamp = self._look()
        self._current = load(options)

    @property
    def pin(self) -> str | None:
        """The pin of a self-signed certificate, which clients cannot check otherwise."""
        return self._current.pin

    def context(self) -> ServerContext:
        """Give what the next handshake is served with; looks at the files first, which costs two calls of stat."""
        if self._look() != self._stamp:
            self.reload()
        return self._current.context

    def reload(self) -> None:
        """Load the files of a manual certificate again, changed or not. A self-signed one stays: its pin is known."""
        if self._options.certificate is None:
            return
        # Before reading: what changes while the files are read is read once more.
        self._stamp = self._look()
        try:
            self._current = self._load(self._options)
        except UnusableFile as error:
            event(logger, logging.ERROR, "the new TLS certificate cannot be used, the old one stays", reason=error)
        else:
            event(logger, logging.INFO, "TLS certificate read again", path=_path(self._options.certificate))

    def _look(self) -> Stamp:
        return tuple(_stamp(each) for each in (self._options.certificate, self._options.key))


def _path(source: KeySource) -> Path | None:
    return source if isinstance(source, Path) else None


def _stamp(source: KeySource | None) -> tuple[int, int, int, int] | None:
    if not isinstance(source, Path):
        return None
    try:
        found = source.stat()
    except (OSError, ValueError):  # ValueError: a null byte in the path
        return None
    # The time of change tells of a new mode too, which may be what kept the last one from being used.
    return found.st_ctime_ns, found.st_mtime_ns, found.st_size, found.st_ino
