"""SSH over a pluggable transport."""
