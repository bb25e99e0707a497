"""Small image files as arrays: RGB pictures and label images in PNG, JPEG, BMP and TIFF.

Owns their decoding, whole, by Pillow and tifffile. Knows no classes and no resolution.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import AnnotationError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
"""Of the files that are read, in lower case."""
_TIFF = (".tif", ".tiff")
_LOSSY = (".jpg", ".jpeg")
_COLOURS = ("RGB", "MINISBLACK", "YCBCR")
"""Of TIFF images: tifffile answers the numbers of a palette, of ink and of negatives as they are."""


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """An 8-bit picture as RGB, uint8 (h, w, 3); grey becomes three equal channels, transparency is dropped.

    Raises AnnotationError.
    """
    pixels = _decoded(path, _as_rgb)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise AnnotationError(
            f"{path} holds {pixels.dtype} of shape {pixels.shape}", rule="images are 8-bit RGB or grey, one plane"
        )
    return np.ascontiguousarray(pixels[..., :3])


def read_index(path: Path) -> NDArray[Any]:
    """A label image as stored, (h, w) of an integer type or bool; a palette's indices, not its colours.

    Three equal channels count as one. Raises AnnotationError, for JPEG too: it does not keep numbers.
    """
    if path.suffix.lower() in _LOSSY:
        raise AnnotationError(
            f"{path} is a JPEG", rule="JPEG changes the values of px, which are labels", remedy="save labels as PNG"
        )
    return _one_channel(path, _decoded(path, _as_stored))


def read_grey(path: Path) -> NDArray[Any]:
    """A mask of dark and bright px, (h, w) of an integer type or bool; a palette's colours as grey. JPEG may be.

    Raises AnnotationError.
    """
    return _one_channel(path, _decoded(path, _palette_as_grey))


def _one_channel(path: Path, pixels: NDArray[Any]) -> NDArray[Any]:
    if pixels.ndim == 3 and pixels.shape[2] in (3, 4):
        if not (pixels[..., :3] == pixels[..., :1]).all():
            raise AnnotationError(
                f"{path} is a colour picture", rule="a label image has one number per px", remedy="save class indices"
            )
        pixels = pixels[..., 0]
    if pixels.ndim != 2 or pixels.dtype.kind not in "uib":
        raise AnnotationError(
            f"{path} holds {pixels.dtype} of shape {pixels.shape}", rule="a label image is (h, w) of whole numbers"
        )
    return pixels


def _decoded(path: Path, converted: Callable[[Image], Image]) -> NDArray[Any]:
    """Px of a file; `converted` brings a picture of Pillow to the form that is wanted."""
    try:
        if path.suffix.lower() in _TIFF:
            return _read_tiff(path, rgb=converted is _as_rgb)
        return _read_picture(path, converted)
    except AnnotationError:
        raise
    except Exception as error:
        # Pillow and tifffile raise OSError, SyntaxError, ValueError, struct.error, zlib.error, … for damaged files.
        raise AnnotationError(f"{path} cannot be read: {error}", remedy="check the file") from error


def _read_picture(path: Path, converted: Callable[[Image], Image]) -> NDArray[Any]:
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(converted(picture))


def _as_rgb(picture: Image) -> Image:
    return picture if picture.mode in ("RGB", "L") or picture.mode.startswith(("I", "F")) else picture.convert("RGB")


def _as_stored(picture: Image) -> Image:
    return picture


def _palette_as_grey(picture: Image) -> Image:
    return picture.convert("L") if picture.mode == "P" else picture


def _read_tiff(path: Path, *, rgb: bool) -> NDArray[Any]:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        colours = tifffile.PHOTOMETRIC(tiff.pages.first.photometric).name
        if rgb and colours not in _COLOURS:
            raise AnnotationError(
                f"{path} holds {colours} colours",
                rule=f"it may be {', '.join(_COLOURS)}",
                remedy="save it as RGB",
            )
        pixels: NDArray[Any] = tiff.series[0].levels[0].asarray()
    pixels = pixels.squeeze()
    planar = pixels.ndim == 3 and pixels.shape[0] in (3, 4) and pixels.shape[2] not in (3, 4)
    return np.moveaxis(pixels, 0, 2) if planar else pixels
