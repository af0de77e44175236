"""A proxy as `--proxy` takes it: socks5://, socks5h:// or http://[USER:PASSWORD@]HOST[:PORT]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from wraith_transports.proxy import ProxyUrl


def parse_proxy(text: str) -> ProxyUrl:
    """Read a proxy's URL. Raises UsageError, which repeats nothing of it that may be a password."""
    # Brings asyncio, which nothing else on the command line needs.
    from wraith_transports import ProxyUrlInvalid  # noqa: PLC0415
    from wraith_transports.proxy import ProxyUrl  # noqa: PLC0415

    try:
        return ProxyUrl.parse(text)
    except ProxyUrlInvalid as error:
        raise UsageError(f"--proxy: {error}") from error
