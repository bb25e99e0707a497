"""Where this user's caches are kept: measured choices, built engines, the sample slide."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`wsi-seg` in `$XDG_CACHE_HOME`, or in `~/.cache` where that is not set to an absolute path; may not exist yet."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (folder if folder.is_absolute() else Path.home() / ".cache") / "wsi-seg"
