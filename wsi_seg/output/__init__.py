"""Everything that is written: the durable store, the run directory, its verification and the copies in other formats.

Takes values only: knows no slide, no plan and no model. Importing the package costs no third-party library; each of
them is loaded by the one module that owns it.
"""

from wsi_seg.output.status import TileStatus

__all__ = ["TileStatus"]
