"""Writing a synthetic slide: a tiled JPEG pyramid TIFF of any size, and its ground truth, streamed to disk.

Owns the file layout. Knows nothing of what the picture shows. Tiles that are copies of one another are encoded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

from wsi_seg.errors import OutputExistsError, UsageError, WriteError, WsiSegError
from wsi_seg.sample.scene import Scene, SceneOptions

Progress = Callable[[int, int], None]
"""Told (tiles written, tiles in all) once per row of tiles."""

_QUALITY = 80
_CLASSIC_TIFF_LIMIT = 4_000_000_000


class Look(TypedDict, total=False):
    """Keyword arguments of `write_synthetic` that say what the slide shows; see `SceneOptions`."""

    mpp: float
    seed: int
    tissue_fraction: float
    tile: int


def write_synthetic(
    out: Path,
    size: tuple[int, int],
    *,
    labels: Path | None = None,
    progress: Progress | None = None,
    **look: Unpack[Look],
) -> None:
    """Write a synthetic H&E slide, of which every px has a known label.

    Args:
        out: the slide, a TIFF (BigTIFF from about 55,000 px square) of JPEG tiles, YCbCr 4:2:0, whose levels halve
            down to 512 px.
        size: (height, width) of level 0, px.
        labels: where to write the ground truth, a tiled Deflate TIFF of the same size, uint8: 0 glass and lumen,
            1 tissue, 2 nucleus; None: nowhere.
        progress: told (tiles written, tiles in all).
        look: `mpp` (0.5 um/px), `seed` (0), `tissue_fraction` (0.5) and `tile` (256 px).

    Equal arguments give equal bytes on one machine with the same libraries. Memory stays below 600 MB at 100,000 px
    square. A file appears under its name when it is whole.

    Raises:
        UsageError: an argument is out of its range, or both files are the same.
        OutputExistsError: `out` or `labels` exists.
        WriteError: the disk is full or not writable.
    """
    if out == labels:
        raise UsageError(f"slide and labels are both {out}", rule="they are two files", remedy="choose another name")
    scene = Scene(SceneOptions(size, **look))
    count = _Count(_n_tiles(scene, labels is not None), progress)
    with _finished(out) as slide_path, _finished(labels) as labels_path:
        if slide_path is not None:
            _write_slide(slide_path, scene, count)
        if labels_path is not None:
            _write_labels(labels_path, scene, count)


@dataclass(slots=True)
class _Count:
    """Tiles written so far, told to whoever listens."""

    total: int
    progress: Progress | None
    done: int = 0

    def add(self, n: int) -> None:
        self.done += n
        if self.progress is not None:
            self.progress(self.done, self.total)


def _n_tiles(scene: Scene, with_labels: bool) -> int:
    grids = [scene.grid(level) for level in range(scene.n_levels)]
    return sum(rows * columns for rows, columns in grids + grids[:1] * with_labels)


def _write_slide(path: Path, scene: Scene, count: _Count) -> None:
    """Levels as a chain of pages, reduced ones marked: what OpenSlide, libvips and tifffile take as a pyramid."""
    import tifffile

    height, width = scene.options.size
    # at quality 80 a tile stays well below one byte per px
    with tifffile.TiffWriter(path, bigtiff=height * width * 4 // 3 > _CLASSIC_TIFF_LIMIT) as tiff:
        for level in range(scene.n_levels):
            tiff.write(
                _slide_tiles(scene, level, count),
                shape=(*scene.layout.level_size(level), 3),
                photometric="rgb",
                compression="jpeg",
                subsampling=(2, 2),
                subfiletype=int(level > 0),
                **_page(scene, level),
            )


def _write_labels(path: Path, scene: Scene, count: _Count) -> None:
    import tifffile

    height, width = scene.options.size
    with tifffile.TiffWriter(path, bigtiff=height * width > _CLASSIC_TIFF_LIMIT) as tiff:
        tiff.write(
            _label_tiles(scene, count),
            shape=scene.options.size,
            photometric="minisblack",
            compression="zlib",
            **_page(scene, 0),
        )


def _page(scene: Scene, level: int) -> dict[str, Any]:
    """What pages of a slide and of its ground truth have in common."""
    per_cm = 1e4 / (scene.options.mpp * 2**level)
    return {
        "dtype": "uint8",
        "tile": (scene.options.tile, scene.options.tile),
        "resolution": (per_cm, per_cm),
        "resolutionunit": "CENTIMETER",
        "software": "wsi-seg",
        "metadata": None,
    }


def _slide_tiles(scene: Scene, level: int, count: _Count) -> Iterator[bytes]:
    import numpy as np
    from simplejpeg import encode_jpeg

    def encode(row: int, column: int) -> bytes:
        pixels = scene.pixels(level, row, column)
        encoded: bytes = encode_jpeg(
            np.ascontiguousarray(pixels), quality=_QUALITY, colorspace="RGB", colorsubsampling="420"
        )
        return encoded

    return _tiles(scene, level, encode, count)


def _label_tiles(scene: Scene, count: _Count) -> Iterator[bytes]:
    import zlib

    return _tiles(scene, 0, lambda row, column: zlib.compress(scene.labels(row, column).tobytes(), 6), count)


def _tiles(scene: Scene, level: int, encode: Callable[[int, int], bytes], count: _Count) -> Iterator[bytes]:
    """Encoded tiles of a level in file order; copies are encoded once."""
    copies: dict[object, bytes] = {}
    rows, columns = scene.grid(level)
    for row in range(rows):
        for column in range(columns):
            key = scene.copy_key(level, row, column)
            encoded = copies.get(key) or encode(row, column)
            if key is not None:
                copies[key] = encoded
            if column == columns - 1:  # before the last tile: nobody asks for one after it
                count.add(columns)
            yield encoded


@contextmanager
def _finished(out: Path | None) -> Iterator[Path | None]:
    """A path to write to, which becomes `out` if all goes well and vanishes if not."""
    if out is None:
        yield None
        return
    if out.exists():
        raise OutputExistsError(
            f"{out} exists", rule="a slide is never overwritten", remedy="remove it or choose another"
        )
    partial = out.with_name(out.name + ".partial")
    try:
        yield partial
        partial.replace(out)
    except OSError as error:
        if isinstance(error, WsiSegError):
            raise
        raise WriteError(f"cannot write {out}: {error.strerror or error}", remedy="check space and rights") from error
    finally:
        partial.unlink(missing_ok=True)
