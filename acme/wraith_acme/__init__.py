"""Certificates: self-signed ones, manual ones and where they are kept."""
