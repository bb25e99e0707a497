"""Results of slides with marks: a folder, an OME-TIFF and a flat TIFF of each case, made once, each by a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.readers.fiducials import SLIDES, Case, write_model
from tests.whole_runs import folder_in_memory, quick_runs
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.run import run_slide
from wsi_seg.slide import Slide

__all__ = ["quick_runs"]


class Made(NamedTuple):
    """The three results of a case, and its slide."""

    slide: Path | Slide
    zarr: Path
    ome: Path
    flat: Path


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Case], Made]]:
    """Makes the results of a case, or finds them."""
    with folder_in_memory(tmp_path_factory.mktemp("fiducials")) as folder:
        yield cache(lambda case: _make(folder, case))


def _make(folder: Path, case: Case) -> Made:
    folder = folder / case.name
    folder.mkdir()
    slide = SLIDES[case.slide](folder / case.slide, case)
    model = write_model(folder / "model.onnx", case.model_mpp)
    options = {"model": str(model), "tile": 128, "block": 256, "workers": 2, "skip_background": False}
    if case.hole:
        options["roi"] = _region(folder / "roi.geojson", case)
    outs = [folder / name for name in ("r.seg.zarr", "r.ome.tif", "r.flat.tif")]
    for out in outs:
        run_slide(slide, RunOptions(**options, flat_tiff="flat" in out.name), out=out)
    return Made(slide, *outs)


def _region(path: Path, case: Case) -> Path:
    """All but the hole, as QuPath writes it: from the corner of the scanned part. The outline lies 2 px beyond."""
    assert case.hole
    boxes = [(-2, -2, case.size[0] + 2, case.size[1] + 2), case.hole]
    rings = [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]] for y0, x0, y1, x1 in boxes]
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": rings}}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path
