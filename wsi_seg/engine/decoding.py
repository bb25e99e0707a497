"""Whether fast decoding does anything for a run; owns the reasons why it does not, in words. Knows no format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_seg.errors import UsageError

if TYPE_CHECKING:
    from wsi_seg.plan import Scale
    from wsi_seg.slide import Slide


def check_decode(decode: str) -> None:
    """Refuse what is no way of decoding. Raises UsageError."""
    from wsi_seg.slide import DECODINGS

    if decode not in DECODINGS:
        raise UsageError(f"--decode {decode}", rule=f"one of {', '.join(DECODINGS)}")


def decoding_notes(slide: Slide, scale: Scale, decode: str) -> tuple[str, ...]:
    """A note where fast decoding is asked for and changes nothing, with the reason; else none."""
    if decode == "exact" or scale.reduction > 1:
        return ()
    if slide.reader != "tiff":
        why = f"only our TIFF reader can, and this slide is read by {slide.reader}"
    elif any(side % 2 for side in scale.factor):
        factor = f"{scale.factor[0]:.4g} x {scale.factor[1]:.4g}"
        why = f"{factor} px of level {scale.stored_level} make a px of the canvas, and that is not a multiple of 2"
    else:
        where = f"level {scale.stored_level} is not stored as JPEG tiles that can be halved with their colours"
        why = f"{where}, or its scanned part begins at an odd px"
    return (f"--decode fast changes nothing here: {why}",)
