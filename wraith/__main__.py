"""`python -m wraith`, the same as the `wraith` command."""

from __future__ import annotations

import sys

from wraith.cli import main

if __name__ == "__main__":
    sys.exit(main())
