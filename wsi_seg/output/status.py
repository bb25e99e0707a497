"""What became of a tile; owns the values that the `tiles` array of a result holds and their words."""

from __future__ import annotations

from enum import IntEnum


class TileStatus(IntEnum):
    """Status of one tile of the grid, as stored (uint8).

    >>> [status.word for status in TileStatus]
    ['pending', 'done', 'skipped', 'unreadable', 'model-failed', 'redone-fp32']
    """

    PENDING = 0
    """Not dealt with yet; a finished result holds none."""
    DONE = 1
    """Predicted."""
    SKIPPED = 2
    """Background, or outside the region of interest: its pixels are not analysed."""
    UNREADABLE = 3
    """The slide's pixels could not be read: not analysed."""
    MODEL_FAILED = 4
    """The model gave no usable answer (an error, NaN or Inf): not analysed."""
    REDONE_FP32 = 5
    """Predicted in fp32, because the run's lower precision gave NaN, Inf or no probability."""

    @property
    def word(self) -> str:
        """The status in words, as in summaries and metadata."""
        return self.name.lower().replace("_", "-")
