"""Where things lie that are made once on a machine and can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`eager` in the user's cache folder (XDG_CACHE_HOME, by default ~/.cache); it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eager"
