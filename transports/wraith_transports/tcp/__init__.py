"""Plain TCP."""
