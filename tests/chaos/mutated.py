"""R7: damaged slides of several formats. What comes is a sound result, or an error that says what, why and what to do.

Each slide is opened, described, planned and segmented by a driver process that lives on from one to the next: if it
dies, hangs or says something else, that is wrong. Reader processes, which are there to die, may.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.chaos.fault import Fault, Figures
from tests.chaos.mutations import mutate_folder, mutated
from tests.chaos.scene import ROOT, Scene, Wrong
from tests.chaos.slide_worker import HANG_S, Answer, Driver

REAL = ROOT.parent / "shared" / "data" / "slides"
REAL_SLIDES = {
    "aperio": "cmu-1-small-region/cmu-1-small-region.svs",
    "aperio, small": "openslide-python-fixtures/small.svs",
    "ndpi": "hamamatsu-ndpi-fluo/test3-DAPI-2-(387).ndpi",
    "dicom": "panimg-tiff/full_with_bot.dcm",
    "dicom, jpeg": "dicom-wsi-camelyon-google/multi_frame_jpeg_camelyon_challenge_image.dcm",
    "ome-tiff": "he-example-instanseg/HE_example.tif",
}
LARGE = ("aperio", "ndpi", "ome-tiff")
"""Of which mostly a part is segmented; all is read for the thumbnail."""
SIZE = (300, 400)


def tissue() -> np.ndarray[Any, Any]:
    """(300, 400, 3) uint8 of smooth colours with some grain."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] / 40
    waves = np.stack([np.sin(x) * 60 + 150, np.cos(y + x / 3) * 60 + 110, np.sin(y / 2 - x) * 50 + 160], axis=-1)
    grain = np.random.default_rng(0).normal(0, 4, waves.shape)
    return np.asarray((waves + grain).clip(0, 255), np.uint8)


def tiled(compression: str | None, **options: Any) -> Callable[[Path], Path]:
    """A maker of TIFF pyramids of our own."""

    def make(folder: Path) -> Path:
        import tifffile

        path, pixels = folder / f"{compression}.tif", tissue()
        with tifffile.TiffWriter(path, bigtiff=compression == "zlib") as tiff:
            for level in range(2):
                tiff.write(
                    np.ascontiguousarray(pixels[:: 2**level, :: 2**level]), tile=(128, 128), compression=compression,
                    photometric="rgb", subfiletype=min(level, 1), resolution=(20_000, 20_000), resolutionunit=3,
                    metadata=None, **options,
                )  # fmt: skip
        return path

    return make


def ome_zarr(folder: Path) -> Path:
    """An OME-Zarr image of two levels, sharded."""
    import zarr

    path, pixels = folder / "slide.zarr", tissue()
    group = zarr.open_group(path, mode="w", zarr_format=3)
    for level in range(2):
        group.create_array(
            str(level), data=np.ascontiguousarray(pixels[:: 2**level, :: 2**level].transpose(2, 0, 1)),
            chunks=(3, 50, 50), shards=(3, 100, 100),
        )  # fmt: skip
    space = {"type": "space", "unit": "micrometer"}
    axes = [{"name": "c", "type": "channel"}, {"name": "y", **space}, {"name": "x", **space}]
    datasets = [
        {"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": [1.0, 0.5 * 2**n, 0.5 * 2**n]}]}
        for n in range(2)
    ]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    return path


MADE: dict[str, Callable[[Path], Path]] = {
    "tiff, jpeg": tiled("jpeg"),
    "tiff, zlib": tiled("zlib", predictor=True),
    "tiff, lzw": tiled("lzw"),
    "tiff, jpeg2000": tiled("jpeg2000"),
    "tiff, webp": tiled("webp"),
    "ome-zarr": ome_zarr,
}


def sources(scene: Scene) -> dict[str, Path]:
    """Sound slides by kind: those made here, and the real ones where they are."""
    folder = scene.folder / "sound"
    folder.mkdir()
    made = {kind: make(folder) for kind, make in MADE.items()}
    return made | {kind: REAL / name for kind, name in REAL_SLIDES.items() if (REAL / name).is_file()}


def mutate_a_slide(scene: Scene, chance: Random, number: int) -> Figures:
    """One kind after the other, so that every kind is tried as often."""
    slides: dict[str, Path] = scene.kept("sound slides", lambda: sources(scene))
    driver: Driver = scene.kept("driver", lambda: Driver(scene.folder))
    kind = sorted(slides)[number % len(slides)]
    place = scene.folder / "mutant"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    slide, how = _damaged(slides[kind], place, chance)
    options = ("--mpp", "0.5") if chance.random() < 0.5 else ()
    if kind in LARGE and chance.random() < 0.9:
        options += ("--roi", str(_region(place, chance)))
    try:
        answer = driver.ask(slide, options)
        for command, seconds in answer.seconds.items():
            if seconds > HANG_S:
                raise Wrong(f"{command} took {seconds:.0f} s")
        check_answer(answer)
    except Wrong as wrong:
        raise Wrong(f"{kind} ({how}): {wrong}") from None
    return {
        "kind": kind,
        "code": answer.codes["run"],
        "seconds": max(answer.seconds.values()),
        "lost": answer.n_lost,
        "bytes": answer.extra_bytes,
    }


def _region(place: Path, chance: Random) -> Path:
    """A square of 400 px somewhere."""
    y, x = chance.randrange(1500), chance.randrange(1500)
    ring = [[x, y], [x + 400, y], [x + 400, y + 400], [x, y + 400], [x, y]]
    path = place / "region.geojson"
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    return path


def _damaged(sound: Path, place: Path, chance: Random) -> tuple[Path, str]:
    copy = place / sound.name
    if sound.is_dir():
        shutil.copytree(sound, copy)
        return copy, mutate_folder(copy, chance)
    content, how = mutated(sound.read_bytes(), chance)
    copy.write_bytes(content)
    return copy, how


def check_answer(answer: Answer) -> None:
    """Every command is done, or failed with an error that is whole. Raises Wrong."""
    for command, code in answer.codes.items():
        if command == "verify" and code:
            raise Wrong(f"the result is not sound: {answer.said[command]!r}")
        if code in (0, 3):
            continue
        if code not in (1, 2) or not is_whole(answer.said[command]):
            raise Wrong(f"{command} left with {code}, saying {answer.said[command][-500:]!r}")


def is_whole(said: str) -> bool:
    """Whether it ends in an error of ours: what, rule and remedy, and no name of an exception for the first."""
    lines = said[said.rfind("error: ") :].splitlines() if "error: " in said else []
    starts = [line[:8] for line in lines]
    return "Traceback" not in said and any(s == "  rule: " for s in starts) and any(s == "  try:  " for s in starts)


def told_of_mutants(figures: Sequence[Figures]) -> str:
    """What became of them."""
    codes = Counter(figure["code"] for figure in figures)
    ends = f"{codes[0]} whole, {codes[3]} with unreadable parts, {codes[1] + codes[2]} refused"
    slowest = max(figure["seconds"] for figure in figures)
    most = max(figure["bytes"] for figure in figures)
    lost = sum(figure["lost"] for figure in figures)
    kinds = len({figure["kind"] for figure in figures})
    return (
        f"{kinds} kinds: {ends}; {lost} reader processes died, the driver never; "
        f"slowest step {slowest:.1f} s, at most {most / 2**20:.0f} MiB more"
    )


FAULTS = (Fault("mutated", "R7", "damaged slides", 240, mutate_a_slide, told_of_mutants),)
