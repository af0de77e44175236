"""The SOCKS port: SOCKS5, SOCKS4a and HTTP CONNECT on one listener."""
