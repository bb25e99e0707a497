"""The file: what readers see of it, its ground truth, its determinism, and what a failure leaves behind."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import tifffile
from openslide import OpenSlide

from wsi_seg.errors import OutputExistsError, UsageError, WriteError
from wsi_seg.sample import synthetic, write_synthetic

SIZE = (2300, 3000)
SMALL = (300, 400)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slide")
    write_synthetic(folder / "slide.tif", SIZE, seed=3, mpp=0.25, labels=folder / "labels.tif")
    return folder / "slide.tif"


@pytest.fixture(scope="module")
def labels(slide):
    return tifffile.imread(slide.with_name("labels.tif"))


@pytest.fixture(scope="module")
def levels(slide):
    """RGB of every level, read by OpenSlide."""
    with OpenSlide(slide) as opened:
        sizes = enumerate(opened.level_dimensions)
        return [np.asarray(opened.read_region((0, 0), level, size).convert("RGB")) for level, size in sizes]


class TestReaders:
    def test_openslide_sees_a_pyramid_with_its_resolution(self, slide):
        with OpenSlide(slide) as opened:
            assert opened.properties["openslide.vendor"] == "generic-tiff"
            assert opened.level_dimensions == ((3000, 2300), (1500, 1150), (750, 575), (375, 288))
            assert opened.level_downsamples == pytest.approx((1, 2, 4, 8), rel=2e-3)
            assert float(opened.properties["openslide.mpp-x"]) == pytest.approx(0.25)
            assert float(opened.properties["openslide.mpp-y"]) == pytest.approx(0.25)
            assert {opened.properties[f"openslide.level[{i}].tile-width"] for i in range(4)} == {"256"}

    def test_tags_say_what_the_tiles_are(self, slide):
        with tifffile.TiffFile(slide) as tiff:
            assert not tiff.is_bigtiff
            assert [int(page.subfiletype) for page in tiff.pages] == [0, 1, 1, 1]
            assert len(tiff.series[0].levels) == 4
            for page in tiff.pages:
                assert page.photometric.name == "YCBCR"
                assert page.subsampling == (2, 2)
                assert page.compression.name == "JPEG"
                assert page.resolutionunit.name == "CENTIMETER"

    def test_tifffile_and_openslide_see_the_same_pixels(self, slide, levels):
        for level, seen in enumerate(levels):
            np.testing.assert_array_equal(tifffile.imread(slide, level=level), seen)

    def test_levels_are_area_means_within_the_error_of_jpeg(self, levels):
        for below, above in pairwise(levels):
            h, w = below.shape[0] // 2, below.shape[1] // 2
            mean = below[: 2 * h, : 2 * w].reshape(h, 2, w, 2, 3).mean(axis=(1, 3))
            error = np.abs(mean - above[:h, :w])
            assert error.mean() < 4
            assert np.abs((mean - above[:h, :w]).mean()) < 0.5

    def test_large_slides_are_bigtiff(self, tmp_path, monkeypatch):
        monkeypatch.setattr(synthetic, "_CLASSIC_TIFF_LIMIT", 1000)
        write_synthetic(tmp_path / "s.tif", SMALL, labels=tmp_path / "l.tif", tissue_fraction=0)
        for name in ("s.tif", "l.tif"):
            with tifffile.TiffFile(tmp_path / name) as tiff:
                assert tiff.is_bigtiff


class TestTruth:
    def test_labels_lie_on_the_grid_of_level_0(self, slide, labels):
        assert labels.shape == SIZE
        assert labels.dtype == np.uint8
        assert set(np.unique(labels)) == {0, 1, 2}
        with tifffile.TiffFile(slide.with_name("labels.tif")) as tiff:
            assert tiff.pages[0].tile == (256, 256)

    def test_nuclei_are_darker_and_bluer_glass_is_white(self, levels, labels):
        glass, tissue, nuclei = (levels[0][labels == kind].astype(float) for kind in (0, 1, 2))
        assert np.median(glass) > 240
        assert nuclei.mean() < tissue.mean() - 40
        assert (nuclei[:, 2] > nuclei[:, 0]).mean() > 0.95
        assert (tissue[:, 2] < tissue[:, 0]).mean() > 0.85

    def test_tissue_stands_out_from_glass_by_saturation(self, levels, labels):
        saturation = np.ptp(levels[0].astype(int), axis=-1)
        assert (saturation[labels == 0] < 15).mean() > 0.95
        assert (saturation[labels > 0] >= 15).mean() > 0.97

    def test_half_of_the_slide_is_tissue(self, labels):
        assert (labels > 0).mean() == pytest.approx(0.5, abs=0.08)
        assert 0.02 < (labels == 2).sum() / (labels > 0).sum() < 0.25

    @pytest.mark.parametrize(("fraction", "least", "most"), [(0.0, 0, 0), (1.0, 0.85, 1)])
    def test_extreme_fractions(self, tmp_path, fraction, least, most):
        write_synthetic(tmp_path / "s.tif", SMALL, tissue_fraction=fraction, labels=tmp_path / "l.tif")
        assert least <= (tifffile.imread(tmp_path / "l.tif") > 0).mean() <= most


class TestDeterminism:
    def test_equal_arguments_give_equal_bytes(self, slide, tmp_path):
        write_synthetic(tmp_path / "again.tif", SIZE, seed=3, mpp=0.25, labels=tmp_path / "labels.tif")
        assert (tmp_path / "again.tif").read_bytes() == slide.read_bytes()
        assert (tmp_path / "labels.tif").read_bytes() == slide.with_name("labels.tif").read_bytes()

    def test_another_seed_gives_another_slide(self, tmp_path):
        for seed in (0, 1):
            write_synthetic(tmp_path / f"{seed}.tif", SMALL, seed=seed)
        first, second = (tifffile.imread(tmp_path / f"{seed}.tif", level=0).astype(int) for seed in (0, 1))
        assert np.abs(first - second).mean() > 10


class TestFailures:
    def test_nothing_is_overwritten(self, tmp_path):
        out, truth = tmp_path / "s.tif", tmp_path / "l.tif"
        truth.write_bytes(b"mine")
        with pytest.raises(OutputExistsError, match=r"l\.tif exists"):
            write_synthetic(out, SMALL, labels=truth)
        assert [path.name for path in tmp_path.iterdir()] == ["l.tif"]
        assert truth.read_bytes() == b"mine"

    def test_a_stopped_run_leaves_nothing(self, tmp_path):
        def stop(done, total):
            if done > total / 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_synthetic(tmp_path / "s.tif", (700, 700), labels=tmp_path / "l.tif", progress=stop)
        assert list(tmp_path.iterdir()) == []

    def test_a_missing_folder_is_named(self, tmp_path):
        with pytest.raises(WriteError, match="nowhere"):
            write_synthetic(tmp_path / "nowhere" / "s.tif", SMALL)

    def test_slide_and_labels_are_two_files(self, tmp_path):
        with pytest.raises(UsageError, match="both"):
            write_synthetic(tmp_path / "s.tif", SMALL, labels=tmp_path / "s.tif")

    def test_progress_counts_every_tile_once(self, tmp_path):
        told = []
        write_synthetic(tmp_path / "s.tif", (700, 900), labels=tmp_path / "l.tif", progress=lambda *at: told.append(at))
        assert [total for _, total in told] == [12 + 4 + 12] * len(told)
        assert [done for done, _ in told] == [4, 8, 12, 14, 16, 20, 24, 28]


def test_importing_the_package_costs_nothing():
    script = (
        "import sys, wsi_seg.sample; print({'numpy', 'tifffile', 'simplejpeg', 'urllib.request'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_slide(tmp_path):
    script = (
        "import resource, sys; from pathlib import Path; from wsi_seg.sample import write_synthetic;"
        "write_synthetic(Path(sys.argv[1]), (60_000, 60_000));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "s.tif")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) / 1024 < 600
    with OpenSlide(tmp_path / "s.tif") as opened:
        assert opened.dimensions == (60_000, 60_000)
