"""How large tiles may become on this machine: larger ones overlap less, and take memory as their area.

Owns that limit. It depends on the machine and the program alone, not on the memory or the workers that a run is given,
and what was measured once is kept: the same command cuts the same tiles tomorrow. Which size within the limit is the
cheapest for a slide is the plan's to say.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from math import isqrt
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from wsi_seg.user_cache import cache_folder

if TYPE_CHECKING:
    from wsi_seg.infer import ModelSpec

_LOG = logging.getLogger(__name__)

MEMORY_SHARE = 0.4
"""Of the machine's or container's limit, for the predictions of all its cores."""


def resident_bytes() -> int:
    """What this process holds in memory now."""
    import psutil

    resident: int = psutil.Process().memory_info().rss
    return resident


def largest_tile(model: ModelSpec, tile: int, n_cores: int, measure: Callable[[], int]) -> int:
    """Side of the largest tile whose predictions fit here, a core each; at least `tile`.

    `measure` answers the bytes that one prediction of a tile of `tile` px took; it is asked once per machine, program
    and tile.
    """
    from wsi_seg.infer import program_key
    from wsi_seg.plan import LARGEST_TILE, memory_limit

    kept = cache_folder() / "tiles" / program_key(model, tile)
    n_bytes = _recall(kept)
    if n_bytes is None:
        n_bytes = max(1, measure())
        _keep(kept, n_bytes)
    affordable = MEMORY_SHARE * memory_limit() / n_cores / n_bytes
    return max(tile, min(LARGEST_TILE, isqrt(int(tile**2 * affordable))))


def _recall(file: Path) -> int | None:
    try:
        n_bytes = json.loads(file.read_text())["bytes_per_prediction"]
        return n_bytes if isinstance(n_bytes, int) and n_bytes > 0 else None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None


def _keep(file: Path, n_bytes: int) -> None:
    """Best effort: without it the next run measures again."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=file.parent, delete=False) as new:
            json.dump({"bytes_per_prediction": n_bytes}, new)
        Path(new.name).replace(file)
    except (OSError, RuntimeError) as error:
        _LOG.debug("the memory of a prediction is not remembered: %s", error)
