"""How large tiles may become on this machine: larger ones overlap less, and take memory as their area.

Owns that limit. It depends on the machine, the program and the budget that was asked for alone, not on the number of
workers nor on what the process has done before. Which size within the limit is the cheapest for a slide is the plan's
to say.
"""

from __future__ import annotations

from math import isqrt

MEMORY_SHARE = 0.4
"""Of the limit, for the predictions of all cores."""


def largest_tile(tile: int, n_bytes: int, n_cores: int, limit_bytes: int) -> int:
    """Side of the largest tile whose predictions fit, one per core; at least `tile`.

    Args:
        tile: side of the tile that the halo asks for.
        n_bytes: what predicting a batch of such tiles takes.
        n_cores: predictions at once.
        limit_bytes: memory of the machine or container, or that the budget is a share of.
    """
    from wsi_seg.plan import LARGEST_TILE

    affordable = MEMORY_SHARE * limit_bytes / n_cores / n_bytes
    return max(tile, min(LARGEST_TILE, isqrt(int(tile**2 * affordable))))
