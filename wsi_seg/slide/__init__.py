"""Lazy reading of whole slides: one protocol, one way to open, four readers behind it.

Owns everything that knows a vendor's format. Knows no plan, no model and no output. The libraries of a reader are
imported when a slide of its kind is opened.
"""

from wsi_seg.slide.array_slide import ArraySlide
from wsi_seg.slide.opening import DECODINGS, READERS, open_slide
from wsi_seg.slide.protocol import Slide

__all__ = ["DECODINGS", "READERS", "ArraySlide", "Slide", "open_slide"]
