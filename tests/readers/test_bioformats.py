"""Bio-Formats, by which QuPath, Fiji and OMERO read OME-TIFF, sees every level where the slide has its marks.

GPL: its jar is run by these tests, in a process of its own, and is no dependency. `make readers` fetches it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile

from tests.readers.conftest import Made
from tests.readers.fiducials import CASES, Case
from tests.readers.places import corner_in_json, place_in_xml
from tests.readers.seen import Level, assert_aligned

JAR = Path(os.environ.get("WSI_SEG_BIOFORMATS_JAR", "not here"))

pytestmark = [
    pytest.mark.skipif(not JAR.is_file(), reason="no jar of Bio-Formats is named: `make readers` fetches it"),
    pytest.mark.skipif(shutil.which("java") is None, reason="no java here"),
    pytest.mark.parametrize("case", CASES, ids=lambda case: case.name),
]


def bioformats(tool: str, *arguments: object) -> str:
    """What a command-line tool of Bio-Formats prints."""
    command = ["java", "-cp", str(JAR), f"loci.formats.tools.{tool}", "-no-upgrade", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def metadata(path: Path) -> str:
    """OME-XML as Bio-Formats makes it of a file, which its own schema must accept."""
    said = bioformats("ImageInfo", "-nopix", "-noflat", "-omexml", path)
    assert "No validation errors found" in said
    return said[said.index("<?xml") :]


def pixels(path: Path, level: int, out: Path, *crop: int) -> np.ndarray:
    """A level, or (x, y, width, height) of it, by way of an uncompressed copy."""
    part = ["-crop", ",".join(map(str, crop))] if crop else []
    bioformats("ImageConverter", "-overwrite", "-series", level, *part, path, out)
    return tifffile.imread(out)


def test_ome_tiff(made: Callable[[Case], Made], case: Case, tmp_path: Path) -> None:
    path = made(case).ome
    mpp, corner = place_in_xml(metadata(path))
    said = bioformats("ImageInfo", "-nopix", "-noflat", path)
    assert f"Resolutions = {len(case.levels)}" in said or len(case.levels) == 1
    assert "Indexed = false" in said
    assert "RGB = false" in said
    levels = [
        # it states the resolution of the first level only; the others are this by definition of a pyramid
        Level(pixels(path, n, tmp_path / f"{n}.tif"), (mpp[0] * 2**n, mpp[1] * 2**n), corner)
        for n in range(len(case.levels))
    ]
    assert_aligned(levels, case)
    y, x = case.levels[0].shape[0] - 203, case.levels[0].shape[1] - 301
    part = pixels(path, 0, tmp_path / "part.tif", x, y, 300, 202)
    np.testing.assert_array_equal(part, case.levels[0][y : y + 202, x : x + 300])


def test_the_class_names_arrive(made: Callable[[Case], Made], case: Case) -> None:
    root = ElementTree.fromstring(metadata(made(case).ome))
    values = {entry.get("K"): entry.text for entry in root.iter() if entry.tag.endswith("}M")}
    assert (values["label 1"], values["colour 2"], values["label 255"]) == ("square", "#e41a1c", "not analysed")
    assert values["corner of the scanned bounds (x, y)"] == f"{case.bounds[1]}, {case.bounds[0]}"


def test_flat_tiff_is_its_first_level(made: Callable[[Case], Made], case: Case, tmp_path: Path) -> None:
    path = made(case).flat
    root = ElementTree.fromstring(metadata(path))
    found = [entry for entry in root.iter() if entry.tag.endswith("}Pixels")]
    assert len(found) == 1  # it takes the reduced pages for thumbnails
    mpp = float(found[0].get("PhysicalSizeY", "nan")), float(found[0].get("PhysicalSizeX", "nan"))
    with tifffile.TiffFile(path) as file:
        corner = corner_in_json(file.pages.first.description)
    assert_aligned([Level(pixels(path, 0, tmp_path / "0.tif"), mpp, corner)], case)
