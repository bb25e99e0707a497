"""DICOM Segmentations, read back by pydicom and highdicom: pixels, place, references, no patient but the source's."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.convert.test_files import written
from tests.output.making import finished, make_spec
from wsi_seg.card import named_classes
from wsi_seg.errors import ConversionError, OutputExistsError
from wsi_seg.geometry import Mpp

highdicom = pytest.importorskip("highdicom")
pydicom = pytest.importorskip("pydicom")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return finished(tmp_path_factory.mktemp("results") / "slide.seg.zarr", make_spec((700, 1100)))


@pytest.fixture
def source(shared: Path) -> Path:
    return shared / "slides/dicom-highdicom/sm_image.dcm"


def of_source(tmp_path: Path, l0_mpp: float = 0.499, **changes: Any) -> Any:
    """A result over the 50 x 50 px of that slide."""
    values = {"mpp": Mpp(l0_mpp, l0_mpp), "l0_mpp": Mpp(l0_mpp, l0_mpp), "l0_offset": (0.0, 0.0), "l0_size": (50, 50)}
    return finished(tmp_path / "dicom.seg.zarr", make_spec((50, 50), l0_bounds=(0, 0), **{**values, **changes}))


def matrix(path: Path) -> Any:
    return highdicom.seg.segread(path).get_total_pixel_matrix(combine_segments=True)


def expected(labels: Any, indices: tuple[int, ...] = (1, 2)) -> Any:
    out = np.zeros(labels.shape, int)
    for number, index in enumerate(indices, start=1):
        out[labels == index] = number
    return out


@pytest.mark.parametrize("level", [0, 1])
def test_px_come_back_exactly(made, tmp_path, level):
    result, of = made
    path = written(result, tmp_path, "dicom-seg", level=level)
    assert (matrix(path) == expected(of.levels[level])).all()


def test_frames_decoded_by_pydicom_are_the_px(made, tmp_path):
    result, of = made
    dataset = pydicom.dcmread(written(result, tmp_path, "dicom-seg"))
    frames = dataset.pixel_array
    seen = np.zeros((3, 700 + 512, 1100 + 512), np.uint8)
    for frame, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        place = group.PlanePositionSlideSequence[0]
        y, x = place.RowPositionInTotalImagePixelMatrix - 1, place.ColumnPositionInTotalImagePixelMatrix - 1
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        seen[number, y : y + 512, x : x + 512] = frame
    for number in (1, 2):
        assert (seen[number, :700, :1100] == (of.levels[0] == number)).all()
        assert not seen[number, 700:].any()


def test_classes_choose_segments(made, tmp_path):
    result, of = made
    path = written(result, tmp_path, "dicom-seg", classes=("background", "tumour <1 & 2>"))
    assert (matrix(path) == expected(of.levels[0], (0, 2))).all()
    labels = [segment.SegmentLabel for segment in pydicom.dcmread(path).SegmentSequence]
    assert labels == ["background", "tumour <1 & 2>"]


def test_without_a_source_nothing_refers_to_a_patient_or_an_image(made, tmp_path):
    dataset = pydicom.dcmread(written(made[0], tmp_path, "dicom-seg"))
    for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        assert not dataset.get(name), name
    assert "ReferencedSOPInstanceUID" not in str(dataset)
    assert "Referenced SOP Instance UID" not in str(dataset)
    assert "ReferencedSeriesSequence" not in dataset
    assert made[0].spec.name not in str(dataset)


@pytest.mark.parametrize("level", [0, 1])
def test_it_lies_where_the_result_lies(made, tmp_path, level):
    """Centres of px: level 0 of the slide has its first at (0, 0); the canvas has px of 2 level-0 px at (100, 300)."""
    dataset = pydicom.dcmread(written(made[0], tmp_path, "dicom-seg", level=level))
    origin = dataset.TotalPixelMatrixOriginSequence[0]
    step = 2 << level
    assert float(origin.YOffsetInSlideCoordinateSystem) == pytest.approx((100 + (step - 1) / 2) * 0.25e-3)
    assert float(origin.XOffsetInSlideCoordinateSystem) == pytest.approx((300 + (step - 1) / 2) * 0.26e-3)
    spacing = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    assert list(map(float, spacing)) == pytest.approx([0.25e-3 * step, 0.26e-3 * step])


def test_a_source_is_referred_to(tmp_path, source):
    result, of = of_source(tmp_path)
    path = written(result, tmp_path, "dicom-seg", slide=source)
    dataset, image = pydicom.dcmread(path), pydicom.dcmread(source)
    assert (matrix(path) == expected(of.levels[0])).all()
    for name in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID", "ContainerIdentifier"):
        assert dataset[name].value == image[name].value, name
    (series,) = dataset.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == image.SeriesInstanceUID
    assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID
    assert list(dataset.ImageOrientationSlide) == list(image.ImageOrientationSlide)
    origin = dataset.TotalPixelMatrixOriginSequence[0], image.TotalPixelMatrixOriginSequence[0]
    for name in ("XOffsetInSlideCoordinateSystem", "YOffsetInSlideCoordinateSystem"):
        assert float(origin[0].get(name)) == pytest.approx(float(origin[1].get(name)), abs=1e-7)


def test_the_place_follows_the_sources_axes(tmp_path, source):
    """Its rows run along -y, its columns along -x: 10 px down and 20 px right of its corner."""
    result, _ = of_source(tmp_path, l0_offset=(10.0, 20.0))
    dataset = pydicom.dcmread(written(result, tmp_path, "dicom-seg", slide=source))
    image = pydicom.dcmread(source).TotalPixelMatrixOriginSequence[0]
    origin = dataset.TotalPixelMatrixOriginSequence[0]
    x, y = (float(image.get(f"{axis}OffsetInSlideCoordinateSystem")) for axis in "XY")
    assert float(origin.XOffsetInSlideCoordinateSystem) == pytest.approx(x - 10 * 0.000499, abs=1e-7)
    assert float(origin.YOffsetInSlideCoordinateSystem) == pytest.approx(y - 20 * 0.000499, abs=1e-7)


def test_the_source_may_be_a_folder_with_other_things_in_it(tmp_path, source):
    result, _ = of_source(tmp_path)
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "a.txt").write_text("no DICOM")
    (folder / "b").mkdir()
    shutil.copy(source, folder / "c.dcm")
    dataset = pydicom.dcmread(written(result, tmp_path, "dicom-seg", slide=folder))
    assert dataset.FrameOfReferenceUID == pydicom.dcmread(source).FrameOfReferenceUID


def test_a_source_that_is_not_the_slides_is_refused(made, tmp_path, source):
    with pytest.raises(ConversionError, match="no level 0 of"):
        written(made[0], tmp_path, "dicom-seg", slide=source)
    with pytest.raises(ConversionError, match="no level 0 of"):
        written(made[0], tmp_path, "dicom-seg", slide=tmp_path / "missing.dcm")
    assert not list(tmp_path.iterdir())


def test_a_source_that_says_not_where_it_lies_is_refused(tmp_path, source):
    image = pydicom.dcmread(source)
    del image.TotalPixelMatrixOriginSequence
    (tmp_path / "s").mkdir()
    image.save_as(tmp_path / "s/a.dcm")
    result, _ = of_source(tmp_path)
    with pytest.raises(ConversionError, match="lacks TotalPixelMatrixOriginSequence"):
        written(result, tmp_path, "dicom-seg", slide=tmp_path / "s")


def test_names_in_any_script(tmp_path):
    result, _ = finished(tmp_path / "a.seg.zarr", make_spec((64, 64), classes=named_classes(["a", "腫瘍", "Drüse"])))
    dataset = pydicom.dcmread(written(result, tmp_path, "dicom-seg"))
    assert [segment.SegmentLabel for segment in dataset.SegmentSequence] == ["腫瘍", "Drüse"]


def test_a_level_too_large_is_refused_with_one_that_fits(made, tmp_path, monkeypatch):
    monkeypatch.setattr("wsi_seg.convert.dicom_seg.MOST_PX", 350 * 550)
    with pytest.raises(ConversionError, match="--level 1"):
        written(made[0], tmp_path, "dicom-seg")
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over_unasked(made, tmp_path):
    written(made[0], tmp_path, "dicom-seg", level=1)
    with pytest.raises(OutputExistsError):
        written(made[0], tmp_path, "dicom-seg", level=1)


def test_without_the_extra_it_says_what_to_install(made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ConversionError, match=r"wsi-seg\[dicom\]"):
        written(made[0], tmp_path, "dicom-seg")
