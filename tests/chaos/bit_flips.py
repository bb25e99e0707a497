"""R10: a random bit of a finished result is turned; the reader or `wsi-seg verify` must find it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np

from tests.chaos.fault import Fault, Figures
from tests.chaos.scene import Scene, Wrong
from tests.chaos.warm import OPTIONS, SIZE, segment, warm_program
from wsi_seg.errors import WsiSegError
from wsi_seg.output.label_store import open_result
from wsi_seg.output.verify import verify_result


def finished_result(scene: Scene) -> Path:
    """A small result with probabilities."""
    from wsi_seg.sample import write_synthetic

    scene.kept("warm program", warm_program)
    slide, out = scene.folder / "flips.tif", scene.folder / "flips.seg.zarr"
    write_synthetic(slide, SIZE, mpp=0.5, seed=3, tissue_fraction=0.7)
    if (ended := segment(slide, out, (*OPTIONS, "--probabilities"))).code:
        raise RuntimeError(ended.said)
    return out


def kind_of(key: str) -> str:
    """What sort of file a key is."""
    name = key.rpartition("/")[2]
    if "/c/" in key:
        return f"{key.partition('/')[0]} chunks"
    return ("root " if key == "zarr.json" else "inner ") + name if name == "zarr.json" else name


def flip_a_bit(scene: Scene, chance: Random, _: int) -> Figures:
    """A kind of file is chosen, then a file, then a bit; all are equally likely."""
    out: Path = scene.kept("finished result", lambda: finished_result(scene))
    kinds: dict[str, list[Path]] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        kinds.setdefault(kind_of(path.relative_to(out).as_posix()), []).append(path)
    kind = chance.choice(sorted(kinds))
    path = chance.choice(kinds[kind])
    sound = path.read_bytes()
    damaged, bit = bytearray(sound), chance.randrange(8 * len(sound))
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    try:
        by_reader, by_verify = _reader_finds(out), _verify_finds(out)
    finally:
        path.write_bytes(sound)
    if not by_reader and not by_verify:
        raise Wrong(f"bit {bit} of {path.relative_to(out)} was not found")
    return {"kind": kind, "reader": by_reader, "verify": by_verify}


def _reader_finds(out: Path) -> bool:
    """Whether reading everything raises an error of ours."""
    try:
        result = open_result(out)
        for level in range(result.n_levels):
            np.asarray(result.labels(level)[:])
            np.asarray(result.probabilities(level)[:])
        result.read_tiles()
        _ = result.thumbnail
    except Exception:
        return True
    return False


def _verify_finds(out: Path) -> bool:
    try:
        return not verify_result(out).is_sound
    except WsiSegError:
        return True


def told_of_flips(figures: Sequence[Figures]) -> str:
    """Who found what, by kind of file."""
    total = Counter(figure["kind"] for figure in figures)
    reader = Counter(figure["kind"] for figure in figures if figure["reader"])
    verify = Counter(figure["kind"] for figure in figures if figure["verify"])
    return "reader / verify / all: " + ", ".join(f"{k} {reader[k]}/{verify[k]}/{total[k]}" for k in sorted(total))


FAULTS = (Fault("bit-flips", "R10", "bits of results turned", 2000, flip_a_bit, told_of_flips),)
