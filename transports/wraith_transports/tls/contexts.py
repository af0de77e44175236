"""How OpenSSL is set up, for the server's side and for the client's."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import FailureKind, TransportError
from .hello import ClientHello
from .pem_file import readable_file
from .trust import Verification

# The server's face is nginx's: its cipher list, its protocols without http2, the client's order of ciphers.
SERVER_CIPHERS = "HIGH:!aNULL:!MD5"
SERVER_ALPN = (b"http/1.1", b"http/1.0", b"http/0.9")
CLIENT_ALPN = (b"http/1.1",)

_PEM_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")


@dataclass(frozen=True, slots=True)
class ServerContext:
    """A certificate ready to serve, and the protocols it is served for."""

    ssl_context: ssl.SSLContext
    alpn: tuple[bytes, ...] = SERVER_ALPN

    def speaks(self, hello: ClientHello) -> bool:
        """Whether there is a protocol in common; a client that asks for none takes any (RFC 7301, section 3.1).

        Python's ssl goes on without a protocol where there is none in common, so this is asked first.
        """
        return not hello.alpn or any(name in self.alpn for name in hello.alpn)


# Chooses what a connection is served with. Called with the hello, or with None when the first bytes begin a TLS
# record but hold no readable hello: OpenSSL then gets them, to answer with the right alert.
ContextSource = Callable[[ClientHello | None], ServerContext]


def server_context(chain_pem: bytes, key_pem: bytes, *, alpn: tuple[bytes, ...] = SERVER_ALPN) -> ServerContext:
    """Prepare a chain, the leaf first, and its unencrypted key. Raises TransportError when OpenSSL refuses them.

    It names no file and little of the reason: whoever read the PEM checks it first, as wraith_acme does.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, alpn)
    context.set_ciphers(SERVER_CIPHERS)
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.sni_callback = _acknowledge_server_name
    try:
        with readable_file(key_pem + b"\n" + chain_pem) as path:
            # A callable, so that OpenSSL never asks for a passphrase on the terminal.
            context.load_cert_chain(path, password=_no_passphrase)
    except (OSError, ValueError) as error:
        reason = (error.reason or str(error)) if isinstance(error, ssl.SSLError) else str(error)
        raise TransportError(
            f"the TLS certificate and key cannot be used: {reason}", FailureKind.CONFIGURATION
        ) from error
    return ServerContext(context, alpn)


def client_context(verification: Verification) -> ssl.SSLContext:
    """Set up the client's side to check what OpenSSL can check of `verification`; pins come after the handshake.

    Raises TransportError for a CA file that cannot be used.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, CLIENT_ALPN)
    if not verification.by_chain:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context.hostname_checks_common_name = False  # RFC 9525, section 2: only subjectAltName counts
    if verification.ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _load_roots(context, verification.ca)
    return context


def _context(protocol: int, alpn: tuple[bytes, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols([name.decode("ascii") for name in alpn])
    return context


def _load_roots(context: ssl.SSLContext, ca: Path | bytes) -> None:
    origin = f"--tls-ca {ca}" if isinstance(ca, Path) else "--tls-ca"
    try:
        pem = ca.read_bytes() if isinstance(ca, Path) else ca
    except OSError as error:
        raise TransportError(
            f"{origin}: {(error.strerror or str(error)).lower()}", FailureKind.CONFIGURATION
        ) from error
    blocks = _PEM_CERTIFICATE.findall(pem)
    # An intermediate that the user names is trusted as it is, as curl does it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=b"\n".join(blocks).decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise _unusable(f"{origin}: no certificate in PEM there") from error


def _acknowledge_server_name(_tls: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
    """Do nothing: that there is a callback makes OpenSSL acknowledge the name, as nginx does."""


def _no_passphrase() -> bytes:
    return b""


def _unusable(message: str) -> TransportError:
    return TransportError(message, FailureKind.CONFIGURATION)
