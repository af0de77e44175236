"""What can go wrong with certificates, keys and the files they are in."""

from __future__ import annotations


class CertificateError(Exception):
    """A certificate or key cannot be used as it is.

    The text is one line for a person: which file, what is wrong with it, and where it helps what to do.
    """
