"""What a proxy's failures are called: one line for a person, with the proxy's name and never its password."""

from __future__ import annotations

from ..addresses import format_address, is_name, is_numeric
from ..errors import DialError, DialFailure, ProxyFailed, ProxyFailure
from .url import ProxyScheme, ProxyUrl

MAX_WORDS = 100  # characters of a proxy's own words that are shown


def check_target(host: str, port: int) -> None:
    """See that a target can be asked of a proxy, before anything is sent. Raises DialError."""
    where = format_address(host, port)
    if not 0 < port < 65536:
        raise DialError(f"{where}: no such port", DialFailure.REFUSED)
    # A zone (fe80::1%eth0) means an interface of this machine, and says nothing to another.
    if "%" in host or not (is_numeric(host) or is_name(host)):
        raise DialError(f"{host!a} is not a host name or address that a proxy can be asked for", DialFailure.NOT_FOUND)


def unreachable(proxy: ProxyUrl, error: DialError) -> ProxyFailed:
    """Say that there is no connection to the proxy itself."""
    words = str(error).removeprefix(f"{format_address(proxy.host, proxy.port)}: ")
    return ProxyFailed(f"the proxy {proxy} cannot be reached: {words}", ProxyFailure.UNREACHABLE)


def unreachable_in_time(proxy: ProxyUrl, timeout_s: float) -> ProxyFailed:
    """Say that the proxy's machine does not answer."""
    return ProxyFailed(
        f"the proxy {proxy} cannot be reached: no answer within {timeout_s:g} s", ProxyFailure.UNREACHABLE
    )


def no_answer(proxy: ProxyUrl, target: str, timeout_s: float) -> ProxyFailed:
    """Say that the proxy took the request and then was silent."""
    return ProxyFailed(
        f"the proxy {proxy} did not connect to {target} within {timeout_s:g} s",
        ProxyFailure.NO_ANSWER,
        DialFailure.TIMED_OUT,
    )


def bad_answer(proxy: ProxyUrl, words: str) -> ProxyFailed:
    """Say that what is there does not behave as such a proxy."""
    kind = "an HTTP" if proxy.scheme is ProxyScheme.HTTP else "a SOCKS5"
    return ProxyFailed(f"the proxy {proxy} does not answer as {kind} proxy: {shown(words)}", ProxyFailure.BAD_ANSWER)


def bad_credentials(proxy: ProxyUrl) -> ProxyFailed:
    """Say that a user and password are missing, or not the right ones."""
    if proxy.user is None:
        words = "wants a user and password: write them before its host, as in USER:PASSWORD@HOST"
    else:
        words = "does not accept the user and password given for it"
    return ProxyFailed(f"the proxy {proxy} {words}", ProxyFailure.BAD_CREDENTIALS)


def refused(proxy: ProxyUrl, target: str, words: str, reason: DialFailure) -> ProxyFailed:
    """Say that the proxy did not connect to the target, in its words."""
    return ProxyFailed(f"the proxy {proxy} did not connect to {target}: {shown(words)}", ProxyFailure.REFUSED, reason)


def shown(words: str) -> str:
    """Make one short line of printable ASCII of what a stranger wrote."""
    cut = words[:MAX_WORDS].strip()
    return "".join(each if " " <= each <= "~" else "?" for each in cut) or "no reason given"
