"""Tiles with the bytes of the one before are not decoded again, and nobody can tell."""

from __future__ import annotations

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from wsi_seg.slide.tile_codec import DEFLATE, JPEG, TileCodec, jpeg_prefix

SIZE = (16, 32)
RNG = np.random.default_rng(5)
PIXELS = [np.full((*SIZE, 3), 240, np.uint8), RNG.integers(0, 256, (*SIZE, 3), dtype=np.uint8)]
# Without the JFIF segment, which would say YCbCr, as a TIFF's tiles are.
JPEGS = [b"\xff\xd8" + simplejpeg.encode_jpeg(pixels, 90, "RGB", "444")[20:] for pixels in PIXELS]
CODECS = [TileCodec(JPEG, 3, jpeg_prefix=jpeg_prefix(None, is_ycbcr=is_ycbcr)) for is_ycbcr in (True, False)]


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.sampled_from([0, 1])), min_size=1, max_size=12))
def test_any_order_of_tiles_codecs_and_damage(order: list[tuple[int, int]]) -> None:
    payloads = [*JPEGS, JPEGS[0][:40] + JPEGS[0][-2:]]
    for tile, codec in order:
        if tile == 2:
            with pytest.raises(ValueError, match="JPEG"):
                CODECS[codec].decode(payloads[tile], SIZE)
        else:
            expected = simplejpeg.decode_jpeg(CODECS[codec].jpeg_prefix + payloads[tile][2:], "RGB")
            assert (CODECS[codec].decode(payloads[tile], SIZE) == expected).all()


def test_the_same_bytes_in_another_size_are_still_refused() -> None:
    CODECS[0].decode(JPEGS[0], SIZE)
    with pytest.raises(ValueError, match="instead of 16 x 64"):
        CODECS[0].decode(JPEGS[0], (16, 64))


def test_differences_are_summed_up_once() -> None:
    import imagecodecs

    pixels = PIXELS[1]
    payload = imagecodecs.zlib_encode(imagecodecs.delta_encode(pixels, axis=1))
    codec = TileCodec(DEFLATE, 3, difference=True)
    for _ in range(3):
        assert (codec.decode(payload, SIZE) == pixels).all()


def test_a_repeated_tile_is_not_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    decode, calls = simplejpeg.decode_jpeg, []
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *args, **options: calls.append(1) or decode(*args, **options))
    first = CODECS[0].decode(JPEGS[1], SIZE).copy()
    assert (CODECS[0].decode(bytes(bytearray(JPEGS[1])), SIZE) == first).all()
    assert len(calls) == 1
