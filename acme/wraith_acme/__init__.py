"""Certificates: self-signed ones, manual ones and where they are kept."""

from __future__ import annotations

from .certificate import Certificate
from .errors import CertificateError
from .manual import load_manual
from .self_signed import load_or_make_self_signed

__all__ = [
    "Certificate",
    "CertificateError",
    "load_manual",
    "load_or_make_self_signed",
]
