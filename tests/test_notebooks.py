"""Every notebook runs from top to bottom in a kernel of its own, without a network or a trace in the tree."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
import tifffile
from nbclient import NotebookClient
from PIL import Image

from wsi_seg.sample import write_synthetic

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
REAL = ROOT.parent / "shared/data/slides/cmu-1-small-region/cmu-1-small-region.svs"
SIDE = 224
"""Of an image of EBHI-Seg, px."""

SAID = {
    "quickstart": "nuclei in",
    "overlap_and_seams": "112, crop         3.16  0.000 %",
    "own_onnx": "carries no card; missing: model_mpp, classes, mean, std, activation",
    "faster": "Dice between the two: 0.9",
    "cluster_in_a_box": "3 of 3 slides are done, none failed",
    "gland_model": "gland",
}
"""What a notebook must have printed."""


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slide of the notebooks under its own name; a synthetic one where it is not at hand."""
    folder = tmp_path_factory.mktemp("slides")
    if REAL.is_file():
        return Path(shutil.copy(REAL, folder / "CMU-1-Small-Region.svs"))
    path = folder / "synthetic.tif"
    write_synthetic(path, (2048, 1536), mpp=0.5, seed=3, tissue_fraction=0.6)
    return path


@pytest.fixture(scope="module")
def glands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for EBHI-Seg: fields of a synthetic slide, tissue for glands; eight cases of three fields."""
    folder = tmp_path_factory.mktemp("ebhi")
    pixels, labels = folder / "slide.tif", folder / "labels.tif"
    write_synthetic(pixels, (6 * SIDE, 4 * SIDE), mpp=0.25, seed=5, labels=labels, tissue_fraction=0.5)
    for name, array in (("image", tifffile.imread(pixels)), ("label", (tifffile.imread(labels) > 0) * np.uint8(255))):
        (folder / name).mkdir()
        for number in range(24):
            y, x = number // 4 * SIDE, number % 4 * SIDE
            Image.fromarray(array[y : y + SIDE, x : x + SIDE]).save(folder / name / f"{number}.png")
    with (folder / "split.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("image", "label", "class", "case", "split"))
        for number in range(24):
            names = (f"image/{number}.png", f"label/{number}.png")
            table.writerow((*names, "tissue", number % 8, "val" if number % 8 > 5 else "train"))
    return folder


def of_the_tree() -> set[Path]:
    """Files of the tree that a notebook could leave behind."""
    return {path for folder in ("notebooks", "benchmarks", "wsi_seg") for path in (ROOT / folder).rglob("*.*")
            if path.suffix not in (".pyc", ".nbi", ".nbc")}  # fmt: skip


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(notebook: Path, slide: Path, glands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "WSI_SEG_SLIDE": slide,
        "EBHI_SEG": glands,
        "GLAND_EPOCHS": 1,
        "GLAND_PATCHES": 32,
        "TMPDIR": tmp_path,
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "kernels"))),
        "HTTPS_PROXY": "http://127.0.0.1:9",  # whoever asked the network would be refused
        "HTTP_PROXY": "http://127.0.0.1:9",
        "JUPYTER_PLATFORM_DIRS": 1,
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    before = of_the_tree()
    pages = nbformat.read(notebook, as_version=4)
    client = NotebookClient(pages, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    printed = "".join(
        out["text"] for cell in pages.cells for out in cell.get("outputs", []) if out["output_type"] == "stream"
    )
    assert SAID[notebook.stem] in printed
    assert of_the_tree() == before
