"""R9: a bit of a slide's pixels is turned. Decoders mostly notice nothing; `verify --slide` does, by the whole hash."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np

from tests.chaos.fault import Fault, Figures
from tests.chaos.scene import Scene, Wrong
from tests.chaos.warm import OPTIONS, segment, warm_program, wsi_seg
from wsi_seg.engine.same_slide import compare_slide
from wsi_seg.errors import WsiSegError
from wsi_seg.geometry import Box
from wsi_seg.slide import open_slide

SIZE = (1600, 2000)


def hashed_result(scene: Scene) -> tuple[Path, Path, Path]:
    """A slide large enough that its fingerprint is a sample, and results with and without the whole hash."""
    from wsi_seg.sample import write_synthetic

    scene.kept("warm program", warm_program)
    slide = scene.folder / "hashed.tif"
    write_synthetic(slide, SIZE, mpp=0.5, seed=3, tissue_fraction=0.7)
    outs = scene.folder / "hashed.seg.zarr", scene.folder / "sampled.seg.zarr"
    for out, options in zip(outs, (("--full-hash",), ()), strict=True):
        if (ended := segment(slide, out, (*OPTIONS, *options))).code:
            raise RuntimeError(ended.said)
    return slide, *outs


def flip_a_bit_of_the_slide(scene: Scene, chance: Random, number: int) -> Figures:
    """Anywhere in the tiles; every 20th sound slide is compared too, and must be found sound."""
    slide, hashed, sampled = scene.kept("hashed result", lambda: hashed_result(scene))
    copy = scene.folder / "flipped.tif"
    content = bytearray(slide.read_bytes())
    sound = number % 20 == 19
    if not sound:
        bit = chance.randrange(8 * 16, 8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
    copy.write_bytes(content)
    if _is_found(hashed, copy) == sound:
        raise Wrong(f"{'the sound slide' if sound else f'bit {bit}'} was {'' if sound else 'not '}found to differ")
    if number % 50 < 2 and wsi_seg("verify", hashed, "--slide", copy).code != (0 if sound else 1):
        raise Wrong("the command says otherwise")
    return {"sound": sound, "sampled": _is_found(sampled, copy), "noticed": sound or _is_noticed(copy)}


def _is_found(result: Path, slide: Path) -> bool:
    try:
        return not compare_slide(result, slide).is_same
    except WsiSegError:
        return True


def _is_noticed(copy: Path) -> bool:
    """Whether opening or reading all of it fails."""
    try:
        with open_slide(copy, mpp=0.5, reader="tiff") as opened:  # type: ignore[attr-defined]
            for level, stored in enumerate(opened.levels):
                np.asarray(opened.read_region(Box(0, 0, *stored.size), level))
    except WsiSegError:
        return True
    return False


def told_of_slide_flips(figures: Sequence[Figures]) -> str:
    """Who found what."""
    flipped = [figure for figure in figures if not figure["sound"]]
    by_reading, by_sample = (sum(figure[key] for figure in flipped) for key in ("noticed", "sampled"))
    return (
        f"{len(flipped)} flips, all found by the whole hash, {by_sample} by the fingerprint, {by_reading} by reading; "
        f"{len(figures) - len(flipped)} sound slides found sound"
    )


FAULTS = (Fault("slide-flips", "R9", "bits of slides turned", 100, flip_a_bit_of_the_slide, told_of_slide_flips),)
