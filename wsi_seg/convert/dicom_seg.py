"""A level of a result as a DICOM Segmentation, through highdicom: one bit a px and segment, in tiles.

Owns what the segments say, and how much a level may have: highdicom wants it whole. Tiles without a px of a segment are
left out. Without a source nothing in the file refers to a patient or an image. Knows no polygon.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg import __version__
from wsi_seg.card import SegmentationClass
from wsi_seg.convert.dicom_source import Source, open_source, stand_in
from wsi_seg.convert.extras import extra_needed
from wsi_seg.convert.new_file import new_path
from wsi_seg.convert.selection import Frame, chosen_classes, frame_of
from wsi_seg.convert.strips import read_strips
from wsi_seg.errors import ConversionError
from wsi_seg.output.label_store import Result

if TYPE_CHECKING:
    from wsi_seg.convert.converting import ConversionRequest

MOST_PX = 1 << 28
"""Of a level that becomes a DICOM Segmentation."""
TILE = 512
"""Side of a tile, px."""
_MOST_LABEL = 64
"""Characters of a segment's label, and of a long string of DICOM."""


def write_dicom_seg(result: Result, out: Path, request: ConversionRequest, *, overwrite: bool = False) -> int:
    """Write a segment for each class asked for; answers their number.

    What was not analysed is in no segment. With a source, its patient and study are copied, as DICOM wants of what
    is derived from an image.

    Raises:
        ConversionError: a level too large, a source that does not fit, or a library that is missing.
        OutputExistsError, WriteError, CorruptOutputError.
    """
    with extra_needed():
        import highdicom
        from pydicom.uid import ExplicitVRLittleEndian, generate_uid
    frame = frame_of(result.spec, request.level)
    indices = chosen_classes(result, request.classes)
    _check_size(result, request.level)
    source = stand_in(result.spec) if request.slide is None else open_source(request.slide, result.spec)
    slide = highdicom.CoordinateSystemNames.SLIDE
    segmentation = highdicom.seg.Segmentation(
        [source.dataset],
        _segment_numbers(result, request.level, indices),
        highdicom.seg.SegmentationTypeValues.BINARY,
        _segments([result.spec.classes[index] for index in indices], _model_name(result)),
        series_instance_uid=generate_uid(prefix=None),
        series_number=1,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer="wsi-seg",
        manufacturer_model_name="wsi-seg",
        software_versions=__version__,
        device_serial_number="none",
        content_label="SEGMENTATION",
        content_description=f"wsi-seg run {result.run_id}"[:_MOST_LABEL],
        transfer_syntax_uid=ExplicitVRLittleEndian,
        pixel_measures=_measures(source, frame),
        plane_orientation=highdicom.PlaneOrientationSequence(slide, source.orientation),
        plane_positions=[highdicom.PlanePositionSequence(slide, _rounded(source.origin_mm(frame)), (1, 1))],
        tile_pixel_array=True,
        tile_size=(TILE, TILE),
        specific_character_set="ISO_IR 192",  # UTF-8: names of classes may be in any script
    )
    if not source.is_real:
        _forget(segmentation)
    with new_path(out, overwrite=overwrite) as temp:
        segmentation.save_as(temp)
    return len(indices)


def _check_size(result: Result, level: int) -> None:
    layout = result.spec.layout
    height, width = layout.level_size(level)
    if height * width <= MOST_PX:
        return
    fits = [n for n in range(layout.n_levels) if np.prod(layout.level_size(n)) <= MOST_PX]
    raise ConversionError(
        f"level {level} has {height:,} x {width:,} px",
        rule=f"a DICOM Segmentation is made in memory, of {MOST_PX:,} px at most",
        remedy=f"--level {fits[0]}" if fits else "",
    )


def _segment_numbers(result: Result, level: int, indices: Sequence[int]) -> NDArray[Any]:
    """Segment of each px, (h, w): 1 … n, 0 for none."""
    dtype = np.uint8 if len(indices) < 256 else np.uint16
    numbers: NDArray[Any] = np.zeros(result.spec.layout.level_size(level), dtype)
    meanings = np.zeros(np.iinfo(result.spec.dtype).max + 1, dtype)
    meanings[list(indices)] = np.arange(1, len(indices) + 1)
    for strip in read_strips(result, level):
        rows = numbers[strip.y0 : strip.y0 + len(strip.labels)]
        rows[:] = meanings[strip.labels[: len(rows)]]
    return numbers


def _segments(classes: Sequence[SegmentationClass], model: str) -> list[Any]:
    """Descriptions: what a class is, only its name says, so all are tissue to DICOM."""
    import highdicom
    from pydicom.sr.codedict import codes

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=model[:_MOST_LABEL], family=codes.DCM.ArtificialIntelligence, version=__version__
    )
    return [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=entry.name[:_MOST_LABEL],
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            display_color=highdicom.color.CIELabColor.from_rgb(*entry.rgb),
        )
        for number, entry in enumerate(classes, start=1)
    ]


def _model_name(result: Result) -> str:
    summary = result.attributes.get("summary", {})
    model = summary.get("model", {}) if isinstance(summary, dict) else {}
    return str(model.get("name") or "wsi-seg") if isinstance(model, dict) else "wsi-seg"


def _measures(source: Source, frame: Frame) -> Any:
    import highdicom

    measured = source.dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    thickness = measured.get("SliceThickness")
    spacing = _rounded(source.spacing_mm(frame))
    return highdicom.PixelMeasuresSequence(spacing, float(thickness) if thickness else 0.001)


def _rounded(values: Sequence[float]) -> list[float]:
    """To what a decimal string of DICOM, 16 characters, can hold."""
    return [float(f"{value:.9g}") for value in values]


def _forget(segmentation: Any) -> None:
    """Remove every reference to the stand-in: it does not exist."""
    segmentation.pop("ReferencedSeriesSequence", None)
    segmentation.pop("SourceImageSequence", None)
    for group in (*segmentation.SharedFunctionalGroupsSequence, *segmentation.PerFrameFunctionalGroupsSequence):
        if "DerivationImageSequence" in group:
            group.DerivationImageSequence = []
