"""Speaks the three protocols of the SOCKS port as a test needs it: one request, and what was answered."""

from __future__ import annotations

import socket
import struct

from tests.support.polling import LIMIT_S
from tests.support.targets import read_head

NO_ADDRESS = bytes(6)


def dial(port: int, limit_s: float = LIMIT_S) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=limit_s)


def exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise ConnectionError(f"ended after {len(data)} of {size} bytes")
        data += chunk
    return data


def socks5_ask(connection: socket.socket, host: str, port: int) -> int:
    """Ask for a target by name, IPv4 or IPv6 (by how `host` looks), and return the reply code."""
    if ":" in host:
        address = b"\x04" + socket.inet_pton(socket.AF_INET6, host)
    elif host.replace(".", "").isdigit():
        address = b"\x01" + socket.inet_aton(host)
    else:
        address = b"\x03" + bytes((len(host),)) + host.encode("ascii")
    connection.sendall(b"\x05\x01\x00" + b"\x05\x01\x00" + address + struct.pack("!H", port))
    assert exactly(connection, 2) == b"\x05\x00"
    version, code, _, kind = exactly(connection, 4)
    assert (version, kind) == (5, 1)
    exactly(connection, 6)
    return code


def socks4_ask(connection: socket.socket, host: str, port: int) -> int:
    """Ask by SOCKS4a, and return the reply code: 90 is granted, 91 is not."""
    connection.sendall(
        b"\x04\x01" + struct.pack("!H", port) + b"\x00\x00\x00\x01" + b"me\x00" + host.encode() + b"\x00"
    )
    return exactly(connection, 8)[1]


def http_ask(connection: socket.socket, host: str, port: int) -> int:
    """Ask by HTTP CONNECT, and return the status."""
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    head, rest = read_head(connection)
    assert not rest or not head.startswith(b"HTTP/1.1 200"), "the target spoke first: not for this function"
    return int(head.split()[1])


def through_socks5(socks_port: int, host: str, port: int) -> socket.socket:
    """Open a connection to a target that must be there."""
    connection = dial(socks_port)
    try:
        code = socks5_ask(connection, host, port)
        assert code == 0, f"SOCKS5 reply {code}"
    except BaseException:
        connection.close()
        raise
    return connection
