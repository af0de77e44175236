"""Where wraith's own files are: one folder, and the names in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs

HOST_KEY = "host_ed25519"
AUTHORIZED_KEYS = "authorized_keys"
IDENTITY = "id_ed25519"
KNOWN_HOSTS = "known_hosts"
TLS_FOLDER = "tls"


def configuration_folder(environ: Mapping[str, str]) -> Path:
    """Give `<dir>`: WRAITH_DIR when it is set and not empty, else the platform's folder for wraith.

    The folder need not exist; what writes into it creates it.
    """
    override = environ.get("WRAITH_DIR", "")
    if override:
        # os.path rather than Path.expanduser(): an unknown home leaves the text as it is instead of raising.
        return Path(os.path.expanduser(override))  # noqa: PTH111
    # appauthor=False: on Windows the author's name would be one more folder.
    return platformdirs.user_config_path("wraith", appauthor=False)
