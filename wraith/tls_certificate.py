"""The certificate that `wraith serve` shows on its TLS ports."""

from __future__ import annotations

from dataclasses import dataclass

from wraith_transports.tls import ServerContext

from .options import TlsServerOptions


@dataclass(frozen=True, slots=True)
class TlsCertificate:
    """A certificate in use; `pin` is set when it is self-signed."""

    context: ServerContext
    pin: str | None


def tls_certificate(options: TlsServerOptions) -> TlsCertificate:
    raise NotImplementedError
