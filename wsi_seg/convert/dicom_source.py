"""What a DICOM Segmentation is derived from: the image that the user gives, or a stand-in that says nothing.

Owns which file of a series is the level 0 that the result lies in, and the way from its px to the slide's millimetres.
Copies nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wsi_seg.convert.extras import extra_needed
from wsi_seg.convert.selection import Frame
from wsi_seg.errors import ConversionError
from wsi_seg.output.result_spec import ResultSpec

WHOLE_SLIDE_IMAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""SOP class VL Whole Slide Microscopy Image Storage."""
_NEEDED = (
    "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID", "ImageOrientationSlide",
    "TotalPixelMatrixOriginSequence", "SharedFunctionalGroupsSequence",
)  # fmt: skip
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime",
)  # fmt: skip
_MM = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The image behind a segmentation."""

    dataset: Any
    """pydicom's, without pixels."""
    is_real: bool
    """False for the stand-in, to which nothing may refer."""

    def spacing_mm(self, frame: Frame) -> tuple[float, float]:
        """Of px of a level: (between rows, between columns)."""
        row, column = self._l0_spacing_mm()
        return row * frame.l0_per_px[0], column * frame.l0_per_px[1]

    def origin_mm(self, frame: Frame) -> tuple[float, float, float]:
        """Centre of the level's first px in the slide's coordinates, (x, y, z): DICOM places px by their centres."""
        row_mm, column_mm = self._l0_spacing_mm()
        down, right = (
            (offset + (step - 1) / 2) * mm
            for offset, step, mm in zip(frame.l0_offset, frame.l0_per_px, (row_mm, column_mm), strict=True)
        )
        corner = self.dataset.TotalPixelMatrixOriginSequence[0]
        origin = [float(corner.get(f"{axis}OffsetInSlideCoordinateSystem") or 0) for axis in "XYZ"]
        along = self.orientation
        x, y, z = (origin[k] + along[k] * right + along[k + 3] * down for k in range(3))
        return x, y, z

    @property
    def orientation(self) -> list[float]:
        """Direction of a row, then of a column, in the slide's coordinates."""
        return [float(value) for value in self.dataset.ImageOrientationSlide]

    def _l0_spacing_mm(self) -> tuple[float, float]:
        measures = self.dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        row, column = measures.PixelSpacing
        return float(row), float(column)


def open_source(path: Path, spec: ResultSpec) -> Source:
    """The whole-slide image whose level 0 the result lies in: the file, or one of its series in the folder.

    Raises:
        ConversionError: no such image there, or one that does not say where it lies.
    """
    with extra_needed():
        import pydicom
    folder = path if path.is_dir() else path.parent
    named = [] if path.is_dir() else [path]
    others = sorted(file for file in folder.iterdir() if file not in named) if folder.is_dir() else []
    series, seen = None, []
    for file in [*named, *others]:
        try:
            found = pydicom.dcmread(file, stop_before_pixels=True)
        except (OSError, pydicom.errors.InvalidDicomError):  # a folder, or no DICOM
            continue
        if found.get("SOPClassUID") != WHOLE_SLIDE_IMAGE or (series and found.get("SeriesInstanceUID") != series):
            continue
        series = series or (found.get("SeriesInstanceUID") if named else None)
        size = found.get("TotalPixelMatrixRows"), found.get("TotalPixelMatrixColumns")
        if size == spec.l0_size:
            return Source(_complete(found, file), is_real=True)
        seen.append(size)
    raise ConversionError(
        f"{path} holds no level 0 of {spec.l0_size[0]} x {spec.l0_size[1]} px (height x width)",
        rule=f"--slide is the DICOM slide that was segmented; images there: {seen[:5]}",
        remedy="give that slide, or leave --slide away",
    )


def stand_in(spec: ResultSpec) -> Source:
    """An image without patient that lies where the result's slide would, its corner at the origin."""
    with extra_needed():
        from pydicom.dataset import Dataset, FileMetaDataset
        from pydicom.uid import ExplicitVRLittleEndian, generate_uid
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = WHOLE_SLIDE_IMAGE
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        setattr(dataset, name, generate_uid(prefix=None))
    for name in _MAY_BE_EMPTY:
        setattr(dataset, name, "")
    now = datetime.now(UTC)
    dataset.StudyDate, dataset.StudyTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.Modality, dataset.ImageType = "SM", ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    dataset.PositionReferenceIndicator = "SLIDE_CORNER"
    dataset.ImageOrientationSlide = [1, 0, 0, 0, 1, 0]
    dataset.Rows = dataset.Columns = 512
    dataset.NumberOfFrames = 1
    dataset.TotalPixelMatrixRows, dataset.TotalPixelMatrixColumns = spec.l0_size
    dataset.ContainerIdentifier, dataset.SpecimenDescriptionSequence = "", []
    dataset.ContainerTypeCodeSequence, dataset.IssuerOfTheContainerIdentifierSequence = [], []
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = 0
    dataset.TotalPixelMatrixOriginSequence = [origin]
    measures, groups = Dataset(), Dataset()
    measures.PixelSpacing = [round(spec.l0_mpp.y * _MM, 12), round(spec.l0_mpp.x * _MM, 12)]
    groups.PixelMeasuresSequence = [measures]
    dataset.SharedFunctionalGroupsSequence = [groups]
    dataset.DimensionOrganizationType = "TILED_FULL"
    return Source(dataset, is_real=False)


def _complete(dataset: Any, file: Path) -> Any:
    """The dataset, with the attributes that may be empty but must be there. Raises ConversionError."""
    missing = [name for name in _NEEDED if name not in dataset]
    shared = dataset.get("SharedFunctionalGroupsSequence")
    if not missing and "PixelMeasuresSequence" not in shared[0]:
        missing = ["PixelMeasuresSequence"]
    if missing:
        raise ConversionError(
            f"{file} lacks {', '.join(missing)}",
            rule="a segmentation refers to where its source lies",
            remedy="mend the file, or leave --slide away",
        )
    for name in _MAY_BE_EMPTY:
        if name not in dataset:
            setattr(dataset, name, "")
    return dataset
