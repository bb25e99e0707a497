"""How large tiles may become on this machine: larger ones overlap less, and take memory as their area.

Owns that limit. It depends on the machine and the program alone, not on the memory or the workers that a run is given,
nor on what the process has done before: the same command cuts the same tiles tomorrow. Which size within the limit is
the cheapest for a slide is the plan's to say.
"""

from __future__ import annotations

from math import isqrt

MEMORY_SHARE = 0.4
"""Of the machine's or container's limit, for the predictions of all its cores."""


def largest_tile(tile: int, n_bytes: int, n_cores: int) -> int:
    """Side of the largest tile whose predictions fit here, one per core; at least `tile`.

    `n_bytes`: what a prediction of a tile of `tile` px takes.
    """
    from wsi_seg.plan import LARGEST_TILE, memory_limit

    affordable = MEMORY_SHARE * memory_limit() / n_cores / n_bytes
    return max(tile, min(LARGEST_TILE, isqrt(int(tile**2 * affordable))))
