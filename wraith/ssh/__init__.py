"""SSH over a duplex stream: what wraith adds around asyncssh."""

from __future__ import annotations

from .client_session import ForwardRefused
from .forward_requests import ForwardedOpen

__all__ = ["ForwardRefused", "ForwardedOpen"]
