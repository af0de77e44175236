"""SSH over a duplex stream: what wraith adds around asyncssh."""
