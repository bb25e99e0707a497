"""R8: tiles of a slide that are cut, missing or damaged: exactly the tiles of the run that need them are unreadable."""

from __future__ import annotations

import shutil
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random

import numpy as np

from tests.chaos.fault import Fault, Figures
from tests.chaos.scene import Scene, Wrong
from tests.chaos.warm import segment, warm_program
from wsi_seg.geometry import Box
from wsi_seg.output.label_store import open_result
from wsi_seg.output.status import TileStatus
from wsi_seg.plan.grid import TileGrid

SIDE, TILE, MODEL_TILE, OVERLAP = 1024, 128, 128, 32
OPTIONS = (
    "--model", "identity", "--tile", str(MODEL_TILE), "--block", "512", "--overlap", str(OVERLAP), "--no-skip",
    "--workers", "2", "--quiet", "--mpp", "0.5",
)  # fmt: skip
N_FAULTS = 8
"""In one slide of 64 tiles."""
DETECTABLE = {
    ("tiff", "jpeg"): ("cut", "zero tail", "no bytes", "bad header"),
    ("tiff", "jpeg2000"): ("cut", "zero tail", "no bytes", "bad header"),
    ("tiff", "zlib"): ("cut", "zero tail", "no bytes", "bad header"),
    ("tiff", "lzw"): ("cut", "no bytes"),
    ("tiff", None): ("cut", "no bytes"),
    ("tiff", "webp"): ("cut", "no bytes", "bad header"),
    ("tiff", "zstd"): ("cut", "no bytes", "bad header"),
    ("openslide", "jpeg"): ("bad header",),
    ("openslide", "zlib"): ("bad header",),
    ("openslide", "lzw"): ("cut",),
}
"""By reader and codec: what the stored bytes themselves betray. The rest (a zero tail of LZW or of plain pixels, a
turned bit of a JPEG) only a hash of the whole file finds; see `slide_flips`."""


def sound_slide(folder: Path, codec: str | None) -> Path:
    """One level of 8 x 8 tiles, smooth colours with some grain."""
    import tifffile

    path = folder / f"{codec}.tif"
    y, x = np.mgrid[:SIDE, :SIDE] / 60
    waves = np.stack([np.sin(x) * 60 + 150, np.cos(y + x / 3) * 60 + 110, np.sin(y / 2 - x) * 50 + 160], axis=-1)
    pixels = (waves + np.random.default_rng(0).normal(0, 3, waves.shape)).clip(0, 255).astype(np.uint8)
    tifffile.imwrite(path, pixels, tile=(TILE, TILE), compression=codec, photometric="rgb", metadata=None)
    return path


def damage_tiles(scene: Scene, chance: Random, number: int) -> Figures:
    """Some tiles of one slide, each in a way that its reader can notice."""
    scene.kept("warm program", warm_program)
    reader, codec = sorted(DETECTABLE, key=str)[number % len(DETECTABLE)]
    sound: Path = scene.kept(f"sound {codec}", lambda: sound_slide(scene.folder, codec))
    slide, out = scene.folder / "faulty.tif", scene.folder / "faulty.seg.zarr"
    faults = {
        divmod(tile, SIDE // TILE): chance.choice(DETECTABLE[reader, codec])
        for tile in chance.sample(range((SIDE // TILE) ** 2), N_FAULTS)
    }
    slide.write_bytes(_damaged(sound, faults, chance))
    told = f"{reader}, {codec}, {faults}"
    remove_result(out)
    ended = segment(slide, out, (*OPTIONS, "--reader", reader))
    if ended.code != 3:
        raise Wrong(f"{told}: exit code {ended.code}: {ended.said[-400:]!r}")
    found = {(int(y), int(x)) for y, x in np.argwhere(open_result(out).read_tiles() == TileStatus.UNREADABLE)}
    expected = touching(faults)
    if found != expected:
        raise Wrong(f"{told}: missed {sorted(expected - found)}, lost for nothing {sorted(found - expected)}")
    return {"of": f"{codec} by {reader}", "faults": len(faults)}


def remove_result(out: Path) -> None:
    """A result, finished or not."""
    for folder in (out, out.with_name(f"{out.name}.partial")):
        shutil.rmtree(folder, ignore_errors=True)


def touching(faults: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
    """Tiles of the run, (row, column), that read one of the slide's own tiles."""
    grid = TileGrid((SIDE, SIDE), MODEL_TILE, OVERLAP)
    boxes = [Box.at(row * TILE, column * TILE, TILE, TILE) for row, column in faults]
    keys = ((row, column) for row in range(grid.shape[0]) for column in range(grid.shape[1]))
    return {key for key in keys if any(not grid.tile_box(*key).intersect(box).is_empty for box in boxes)}


def _damaged(sound: Path, faults: Mapping[tuple[int, int], str], chance: Random) -> bytes:
    import tifffile

    content = bytearray(sound.read_bytes())
    with tifffile.TiffFile(sound) as file:
        page = file.pages.first
        offsets, counts = page.dataoffsets, page.databytecounts
        table = page.tags["TileByteCounts"]
    for (row, column), kind in faults.items():
        index = row * (SIDE // TILE) + column
        start, count = offsets[index], counts[index]
        kept = int(count * chance.uniform(0.1, 0.9))
        if kind == "zero tail":
            content[start + kept : start + count] = bytes(count - kept)
        elif kind == "bad header":
            content[start : start + 32] = bytes(32)
        else:
            form = {3: "<H", 4: "<I", 16: "<Q"}[int(table.dtype)]
            place = table.valueoffset + index * struct.calcsize(form)
            struct.pack_into(form, content, place, kept if kind == "cut" else 0)
    return bytes(content)


def told_of_tiles(figures: Sequence[Figures]) -> str:
    """How many faults of each codec."""
    total: Counter[str] = Counter()
    for figure in figures:
        total[figure["of"]] += figure["faults"]
    return f"{sum(total.values())} tiles damaged, found set = injected set: " + ", ".join(
        f"{key} {n}" for key, n in sorted(total.items())
    )


FAULTS = (Fault("tile-faults", "R8", "slides with damaged tiles", 40, damage_tiles, told_of_tiles),)
