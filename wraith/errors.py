"""What can go wrong in wraith, one class per thing a caller does differently.

An error's text is the one line the command line prints: what happened, to what, and what to do.
No error carries a secret.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit statuses of the `wraith` command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNUSABLE_FILE = 3
    NOT_CONNECTED = 4
    AUTHENTICATION_REFUSED = 5
    WRONG_PEER = 6
    ADDRESS_UNAVAILABLE = 7


class WraithError(Exception):
    """The root of every error wraith raises on purpose."""

    exit_code = ExitCode.FAILED


class UsageError(WraithError):
    """An option, target or specification is malformed or contradicts another."""

    exit_code = ExitCode.USAGE


class UnusableFile(WraithError):
    """A key, certificate or other file cannot be used as it is."""

    exit_code = ExitCode.UNUSABLE_FILE


class ConnectFailed(WraithError):
    """No session: nothing answered, or what answered was not an SSH server."""

    exit_code = ExitCode.NOT_CONNECTED


class AuthenticationRefused(WraithError):
    """The server refused every key that was offered."""

    exit_code = ExitCode.AUTHENTICATION_REFUSED


class WrongPeer(WraithError):
    """A host key, pin or certificate is not the expected one."""

    exit_code = ExitCode.WRONG_PEER


class AddressUnavailable(WraithError):
    """A local address is in use or may not be bound."""

    exit_code = ExitCode.ADDRESS_UNAVAILABLE


class SessionLost(WraithError):
    """The SSH session ended without being asked to."""
