"""TLS over any duplex stream."""
