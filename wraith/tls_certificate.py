"""The certificate that `wraith serve` shows on its TLS ports."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from wraith_acme import CertificateError, load_manual, load_or_make_self_signed
from wraith_transports import TransportError
from wraith_transports.tls import ServerContext, server_context

from .errors import UnusableFile
from .options import TlsServerOptions


@dataclass(frozen=True, slots=True)
class TlsCertificate:
    """A certificate in use."""

    context: ServerContext
    pin: str | None  # when it is self-signed, so that nothing else vouches for it


def tls_certificate(options: TlsServerOptions) -> TlsCertificate:
    """Load the manual certificate, or load or make the self-signed one. Raises UnusableFile."""
    now = datetime.now(UTC)
    try:
        if options.certificate is not None and options.key is not None:
            certificate = load_manual(options.certificate, options.key, now=now)
            pin = None
        else:
            certificate = load_or_make_self_signed(options.folder, now=now)
            pin = certificate.pin
        return TlsCertificate(server_context(certificate.chain_pem, certificate.key_pem), pin)
    except (CertificateError, TransportError) as error:
        raise UnusableFile(str(error)) from error
