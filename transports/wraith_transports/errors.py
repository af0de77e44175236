"""What can go wrong below SSH, one class per thing a caller does differently."""

from __future__ import annotations

from enum import Enum


class FailureKind(Enum):
    """Whose fault a failed connection is, and so whether trying again can help."""

    UNREACHABLE = "unreachable"  # no address, refused, no route, timed out: may pass
    NOT_THIS_PROTOCOL = "not-this-protocol"  # something answered, and it speaks another protocol
    UNTRUSTED = "untrusted"  # a certificate or pin is not the expected one
    CONFIGURATION = "configuration"  # an option or file of ours; trying again cannot help


class TransportError(Exception):
    """A stream could not be obtained.

    The text is one line for a person: what failed, to what, and where it helps what to do.
    """

    def __init__(self, message: str, kind: FailureKind = FailureKind.UNREACHABLE) -> None:
        super().__init__(message)
        self.kind = kind

    @property
    def permanent(self) -> bool:
        """Whether the same call will fail again until somebody changes something."""
        return self.kind in (FailureKind.UNTRUSTED, FailureKind.CONFIGURATION)


class DialFailure(Enum):
    """Why a TCP connection could not be made, as the SOCKS and SSH replies tell it."""

    REFUSED = "refused"
    HOST_UNREACHABLE = "host-unreachable"
    NETWORK_UNREACHABLE = "network-unreachable"
    NOT_FOUND = "name-not-found"
    TIMED_OUT = "timed-out"
    NOT_ALLOWED = "not-allowed"
    OTHER = "failed"


class DialError(TransportError):
    """A Dialer could not reach its target; `reason` says why in a form a program can use."""

    def __init__(self, message: str, reason: DialFailure) -> None:
        super().__init__(message, FailureKind.UNREACHABLE)
        self.reason = reason


class ProxyUrlInvalid(TransportError):
    """A proxy's URL cannot be read. The text repeats nothing of it that may be a password."""

    def __init__(self, message: str) -> None:
        super().__init__(message, FailureKind.CONFIGURATION)


class ProxySchemeUnknown(ProxyUrlInvalid):
    """A proxy's URL has no scheme, or one of a kind of proxy that is not supported."""


class ProxyFailure(Enum):
    """What went wrong with a proxy, or what it said."""

    UNREACHABLE = "unreachable"  # no connection to the proxy itself
    BAD_CREDENTIALS = "bad-credentials"  # it wants a user and password, or others
    BAD_ANSWER = "bad-answer"  # it closed, or answered what no such proxy answers
    NO_ANSWER = "no-answer"  # in time; most often the target is what is slow
    REFUSED = "refused"  # it did not connect to the target, and said so


class ProxyFailed(DialError):
    """A proxy did not make the connection.

    `reason` is the target's failure as the proxy told it, and OTHER where the proxy itself failed.
    """

    def __init__(self, message: str, failure: ProxyFailure, reason: DialFailure = DialFailure.OTHER) -> None:
        super().__init__(message, reason)
        self.failure = failure


class AddressUnavailable(TransportError):
    """A listening address is in use, not ours, or needs privileges."""

    def __init__(self, message: str) -> None:
        super().__init__(message, FailureKind.CONFIGURATION)


class AcceptorClosed(Exception):
    """`accept()` will yield nothing more: the acceptor was stopped or closed."""
