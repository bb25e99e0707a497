"""The TIFF copies hold every pixel, for the readers that people have, or do not appear at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from xml.etree import ElementTree

import numpy as np
import openslide
import pytest
import tifffile

from tests.output.making import finished, make_spec
from wsi_seg.errors import CorruptOutputError, OutputExistsError, UsageError, WriteError
from wsi_seg.output import tiff_writer
from wsi_seg.output.tiff_writer import COMPRESSIONS, write_ome_tiff

SPECS = {
    "one byte": make_spec((1300, 1100), 512),
    "two bytes": make_spec((600, 1100), 256, not_analysed=65535),
    "one pixel": make_spec((1, 1), 256),
    "exact tiles": make_spec((1024, 512), 512),
}
OME = {"ome": "http://www.openmicroscopy.org/Schemas/OME/2016-06"}


@pytest.fixture(scope="module", params=SPECS)
def made(request, made_path):
    return finished(made_path / f"{request.param}.zarr", SPECS[request.param])


@pytest.fixture(scope="module")
def plain(made_path):
    return finished(made_path / "plain.zarr", SPECS["one byte"])


@pytest.mark.parametrize("flat", [False, True], ids=["ome", "flat"])
def test_tifffile_reads_every_level(made, flat, tmp_path):
    result, expected = made
    out = tmp_path / "r.ome.tif"
    told = []
    write_ome_tiff(result, out, flat=flat, progress=lambda done, total: told.append((done, total)))
    with tifffile.TiffFile(out) as file:
        assert file.is_ome is not flat
        assert len(file.pages) == (result.n_levels if flat else 1)
        (series,) = file.series
        assert len(series.levels) == result.n_levels
        for level, pixels in zip(series.levels, expected.levels, strict=True):
            assert level.dtype == result.spec.dtype
            np.testing.assert_array_equal(level.asarray(), pixels)
    assert [done for done, _ in told] == list(range(1, told[-1][1] + 1))
    assert [p.name for p in tmp_path.iterdir()] == ["r.ome.tif"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_openslide_sees_every_level_and_the_resolution(plain, compression, tmp_path):
    result, expected = plain
    write_ome_tiff(result, tmp_path / "r.tif", flat=True, compression=compression)
    with openslide.OpenSlide(tmp_path / "r.tif") as slide:
        assert slide.level_count == result.n_levels
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.52, rel=1e-6)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.5, rel=1e-6)
        for level, pixels in enumerate(expected.levels):
            read = np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))
            np.testing.assert_array_equal(read[..., 0], pixels)


def test_openslide_reads_level_0_of_the_ome_file(plain, tmp_path):
    result, expected = plain
    write_ome_tiff(result, tmp_path / "r.ome.tif")
    with openslide.OpenSlide(tmp_path / "r.ome.tif") as slide:
        read = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))
    np.testing.assert_array_equal(read[..., 0], expected.levels[0])


def test_each_level_states_its_own_resolution(plain, tmp_path):
    for flat in (False, True):
        write_ome_tiff(plain[0], tmp_path / f"{flat}.tif", flat=flat)
        with tifffile.TiffFile(tmp_path / f"{flat}.tif") as file:
            for n, level in enumerate(file.series[0].levels):
                tags = level.keyframe.tags
                assert tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER
                for name, mpp in (("XResolution", 0.52), ("YResolution", 0.5)):
                    top, bottom = tags[name].value
                    assert 1e4 * bottom / top == pytest.approx(mpp * 2**n, rel=1e-6)
                assert tags["NewSubfileType"].value == (1 if n else 0)


def test_the_ome_xml_states_sizes_classes_and_place(plain, tmp_path):
    write_ome_tiff(plain[0], tmp_path / "r.ome.tif")
    with tifffile.TiffFile(tmp_path / "r.ome.tif") as file:
        text = file.ome_metadata
    root = ElementTree.fromstring(text)
    pixels = root.find(".//ome:Pixels", OME)
    assert (pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeXUnit")) == ("0.52", "µm")
    assert (pixels.get("PhysicalSizeY"), pixels.get("SizeX"), pixels.get("SizeY")) == ("0.5", "1100", "1300")
    assert root.find(".//ome:Image", OME).get("Name") == "slide é"
    values = {entry.get("K"): entry.text for entry in root.findall(".//ome:M", OME)}
    assert values["label 2"] == "tumour <1 & 2>"
    assert values["label 255"] == "not analysed"
    assert values["origin in slide level-0 px (x, y)"] == "300, 100"
    plane = root.find(".//ome:Plane", OME)
    assert (float(plane.get("PositionX")), float(plane.get("PositionY"))) == (78.0, 25.0)


def test_copies_are_equal_and_tell_nothing_of_the_machine(plain, tmp_path):
    for flat in (False, True):
        for name in ("a", "b"):
            write_ome_tiff(plain[0], tmp_path / f"{flat}{name}", flat=flat)
        content = (tmp_path / f"{flat}a").read_bytes()
        assert content == (tmp_path / f"{flat}b").read_bytes()
        assert os.uname().nodename.encode() not in re.findall(rb"[ -~]{20,}", content)
        assert str(tmp_path).encode() not in content


def test_a_file_that_does_not_hold_what_was_written_never_appears(plain, tmp_path, monkeypatch):
    def damage(path):
        with path.open("r+b") as file, tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            file.seek(page.dataoffsets[2] + page.databytecounts[2] // 2)
            old = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([old[0] ^ 1]))

    monkeypatch.setattr(tiff_writer, "sync_file", damage)
    with pytest.raises(CorruptOutputError, match="tile 2 of level 0"):
        write_ome_tiff(plain[0], tmp_path / "r.tif", flat=True, compression="none")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CorruptOutputError, match=r"r\.tif.* (differs|cannot be decoded)"):
        write_ome_tiff(plain[0], tmp_path / "r.tif", flat=True, compression="zlib")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_that_looks_like_a_file(plain, tmp_path, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tiff_writer, "sync_file", full)
    with pytest.raises(WriteError, match="No space left"):
        write_ome_tiff(plain[0], tmp_path / "r.tif")
    assert list(tmp_path.iterdir()) == []


def test_files_are_replaced_only_when_asked(plain, tmp_path):
    out = tmp_path / "r.tif"
    out.write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        write_ome_tiff(plain[0], out)
    assert out.read_bytes() == b"precious"
    write_ome_tiff(plain[0], out, overwrite=True)
    assert out.stat().st_size > 1000


def test_lossy_compressions_are_no_choice(plain, tmp_path):
    with pytest.raises(UsageError, match="'jpeg'; one of zlib, lzw, zstd, none"):
        write_ome_tiff(plain[0], tmp_path / "r.tif", compression="jpeg")


def test_large_files_have_large_offsets(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_writer, "_CLASSIC_LIMIT", 1000)
    write_ome_tiff(plain[0], tmp_path / "r.tif")
    with tifffile.TiffFile(tmp_path / "r.tif") as file:
        assert file.is_bigtiff
        np.testing.assert_array_equal(file.asarray(), plain[1].levels[0])


@pytest.mark.skipif(shutil.which("vips") is None, reason="Debian's libvips-tools are not installed")
def test_libvips_reads_the_class_indices(plain, tmp_path):
    write_ome_tiff(plain[0], tmp_path / "r.tif", flat=True)
    subprocess.run(["vips", "copy", f"{tmp_path / 'r.tif'}[page=1]", tmp_path / "r.v"], check=True)
    raw = subprocess.run(["vips", "rawsave", tmp_path / "r.v", tmp_path / "r.raw"], check=True)
    assert raw.returncode == 0
    pixels = np.fromfile(tmp_path / "r.raw", np.uint8).reshape(plain[1].levels[1].shape)
    np.testing.assert_array_equal(pixels, plain[1].levels[1])
