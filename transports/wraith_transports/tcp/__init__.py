"""Plain TCP: streams over sockets, dialling, listening."""

from __future__ import annotations

from .acceptor import TcpAcceptor
from .dial import DirectDialer, Family
from .stream import TcpStream
from .transport import TcpTransport
from .unix import dial_unix

__all__ = ["DirectDialer", "Family", "TcpAcceptor", "TcpStream", "TcpTransport", "dial_unix"]
