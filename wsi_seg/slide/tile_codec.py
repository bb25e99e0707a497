"""Turns the stored bytes of one TIFF tile into pixels; the only file of slides that knows simplejpeg and imagecodecs.

Owns the codecs, the colour space of JPEG tiles and the detection of cut-off ones. Knows no file and no geometry of a
slide. The libraries release the GIL while they decode.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NONE, LZW, JPEG, DEFLATE, PACKBITS, ADOBE_DEFLATE = 1, 5, 7, 32946, 32773, 8
JPEG2000, APERIO_JPEG2000_RGB, ZSTD, OLD_ZSTD, WEBP = 34712, 33005, 50000, 34926, 50001
SUPPORTED = {
    NONE, LZW, JPEG, DEFLATE, PACKBITS, ADOBE_DEFLATE, JPEG2000, APERIO_JPEG2000_RGB, ZSTD, OLD_ZSTD, WEBP
}  # fmt: skip
"""TIFF compression tags that are read here."""
_WITH_END_MARKER = {JPEG, JPEG2000, APERIO_JPEG2000_RGB}
_END_MARKER = b"\xff\xd9"
_START_MARKER = b"\xff\xd8"
_ADOBE_SEGMENTS = {
    False: bytes.fromhex("ffee000e41646f626500640000000000"),
    True: bytes.fromhex("ffee000e41646f626500640000000001"),
}
"""APP14 with colour transform none (RGB) or YCbCr."""
_CODESTREAM = b"\xff\x4f\xff\x51"
_EVEN = {"444", "420", "Gray"}
"""Ways of storing colours at which both axes have the same share of them."""
_MAX_PARTS = 4096
_KEPT_SCRATCH_BYTES = 16 << 20

_thread = threading.local()


@dataclass(frozen=True, slots=True)
class TileCodec:
    """How the tiles of one level are stored; 8-bit samples, (height, width, samples) interleaved."""

    compression: int
    """TIFF tag 259, one of `SUPPORTED`."""
    samples: int
    """Samples per pixel in one tile: 1, 3 or 4."""
    difference: bool = False
    """True with the horizontal-differencing predictor."""
    jpeg_prefix: bytes = b""
    """What goes before a JPEG tile in place of its start marker; see `jpeg_prefix`."""
    reduction: int = 1
    """2, 4 or 8: JPEG tiles are decoded at this part of their sides, from the low frequencies of each block of 8 px."""

    def most_bytes(self, size: tuple[int, int]) -> int:
        """Stored bytes beyond which a tile of (height, width) is not even read: twice its pixels and some headers."""
        return 2 * size[0] * size[1] * self.reduction**2 * max(self.samples, 3) + (64 << 10)

    def decode(self, payload: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Pixels (height, width, samples) uint8 of one tile; JPEG always has three samples, RGB.

        `size`: (height, width) of what comes back, the stored tile's divided by `reduction`.
        The array is the calling thread's scratch memory, not to be written to: it holds until this thread decodes the
        next tile. Where that has the same bytes, as empty parts of a slide have, it holds its pixels already.
        Raises ValueError where the bytes are damaged, cut off or of another size.
        """
        if (last := getattr(_thread, "last", None)) is not None:
            codec, tile_size, bytes_, pixels = last
            if payload == bytes_ and size == tile_size and self == codec:
                return pixels  # type: ignore[no-any-return]
        _thread.last = None
        pixels = self._decode(payload, size)
        if self.compression != NONE:
            _thread.last = self, size, payload, pixels
        return pixels

    def can_be_reduced(self, payload: bytes) -> bool:
        """Whether a tile like this one keeps its colours when it is decoded at a part of its sides.

        Where colours are stored coarser on one axis only (4:2:2), decoders make them coarser on the other one as well:
        37 dB from the area average at every reduction, on real tissue, against 50. Raises ValueError where it is no
        JPEG tile or its header is damaged.
        """
        import simplejpeg

        return simplejpeg.decode_jpeg_header(self.jpeg_prefix + payload[2:])[3] in _EVEN

    def _decode(self, payload: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
        if self.compression in _WITH_END_MARKER and _END_MARKER not in payload[-64:] and _END_MARKER not in payload:
            raise ValueError("its end is missing")
        if self.compression == JPEG:
            return self._decode_jpeg(payload, size)
        pixels = self._decode_lossless(payload, (*size, self.samples))
        if self.difference:
            import imagecodecs

            imagecodecs.delta_decode(pixels, axis=1, out=pixels)
        return pixels

    def _decode_jpeg(self, payload: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
        import simplejpeg

        whole, scratch = self.jpeg_prefix + payload[2:], _scratch(size[0] * size[1] * 3)
        height, width = size[0] * self.reduction, size[1] * self.reduction
        least = (0, 0)
        try:
            if self.reduction > 1:
                # The decoder takes the smallest size that is enough: from another tile it would make that as well.
                _check_sides(simplejpeg.decode_jpeg_header(whole)[:2], (height, width))
                least = size
            pixels = simplejpeg.decode_jpeg(
                whole, "RGB", min_height=least[0], min_width=least[1], min_factor=1, buffer=scratch
            )
        except Exception as error:
            raise ValueError(f"JPEG: {error}") from error
        _check_sides(pixels.shape[:2], size)
        return np.asarray(pixels)

    def _decode_lossless(self, payload: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        n_bytes = shape[0] * shape[1] * shape[2]
        if self.compression == NONE:
            if len(payload) < n_bytes:
                raise ValueError(f"it has {len(payload)} of {n_bytes} bytes")
            stored = np.frombuffer(payload, np.uint8, n_bytes).reshape(shape)
            return stored.copy() if self.difference else stored
        if self.compression in (JPEG2000, APERIO_JPEG2000_RGB):
            _check_codestream(payload, shape)
        flat = self.compression not in (JPEG2000, APERIO_JPEG2000_RGB, WEBP)
        scratch = _scratch(n_bytes)
        try:
            decoded = _decoder(self.compression)(payload, out=scratch if flat else scratch.reshape(shape))
        except Exception as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        if decoded.size != n_bytes:
            raise ValueError(f"it decodes to {decoded.size} of {n_bytes} bytes")
        return np.asarray(decoded).reshape(shape)


def _check_sides(found: tuple[int, int], expected: tuple[int, int]) -> None:
    if found != expected:
        raise ValueError(f"it decodes to {found[0]} x {found[1]} px instead of {expected[0]} x {expected[1]}")


def _check_codestream(payload: bytes, shape: tuple[int, ...]) -> None:
    """Refuse a JPEG 2000 codestream whose header is not of the tile: the decoder would make room for what it says.

    The header's first segment, SIZ, is that of ISO/IEC 15444-1, A.5.1. Raises ValueError.
    """
    start = payload.find(_CODESTREAM)
    segment = payload[start + 8 : start + 42]
    if start < 0 or len(segment) < 34:
        raise ValueError("JPEG 2000: its header is missing")
    right, bottom, left, top, part_width, part_height, _, _, samples = struct.unpack(">8IH", segment)
    if (bottom - top, right - left, samples) != shape:
        raise ValueError(f"JPEG 2000: it is {bottom - top} x {right - left} px of {samples} samples, not {shape}")
    parts = -(-shape[0] // max(1, part_height)) * -(-shape[1] // max(1, part_width))
    if not 0 < parts <= _MAX_PARTS:
        raise ValueError(f"JPEG 2000: it is divided into {parts} parts, at most {_MAX_PARTS} are read")


def jpeg_prefix(tables: bytes | None, *, is_ycbcr: bool) -> bytes:
    """What replaces the start marker of a TIFF's JPEG tile: colour space and the shared tables.

    A TIFF's colour space stands in its directory and the tile has no marker for it; decoders then guess YCbCr, which
    is wrong for the RGB tiles that Aperio writes (errors up to 200 grey levels). The Adobe segment states it.

    >>> jpeg_prefix(None, is_ycbcr=True).hex()[-2:], jpeg_prefix(None, is_ycbcr=False).hex()[-2:]
    ('01', '00')
    """
    shared = tables[2:-2] if tables else b""
    return _START_MARKER + _ADOBE_SEGMENTS[is_ycbcr] + shared


def _decoder(compression: int) -> Callable[..., Any]:
    import imagecodecs

    names = {LZW: "lzw", DEFLATE: "zlib", ADOBE_DEFLATE: "zlib", PACKBITS: "packbits", ZSTD: "zstd", OLD_ZSTD: "zstd"}
    names |= {JPEG2000: "jpeg2k", APERIO_JPEG2000_RGB: "jpeg2k", WEBP: "webp"}
    decoder: Callable[..., Any] = getattr(imagecodecs, f"{names[compression]}_decode")
    return decoder


def _scratch(n_bytes: int) -> NDArray[np.uint8]:
    """Memory of the calling thread, reused: fresh pages for every tile cost a third of the decoder's speed."""
    kept: NDArray[np.uint8] | None = getattr(_thread, "scratch", None)
    if kept is None or kept.size < n_bytes:
        kept = np.empty(n_bytes, np.uint8)
        if n_bytes <= _KEPT_SCRATCH_BYTES:
            _thread.scratch = kept
    return kept[:n_bytes]
