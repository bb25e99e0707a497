"""Whole evaluations: files of every kind, blocks, resolutions, values, pooling, errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.output.making import finished, make_spec
from tests.whole_runs import folder_in_memory
from wsi_seg.annotation import open_annotation
from wsi_seg.card import named_classes
from wsi_seg.errors import AnnotationError, EvaluationError
from wsi_seg.evaluate import evaluation as evaluation_module
from wsi_seg.evaluate.documents import to_csv, to_json
from wsi_seg.evaluate.evaluation import Reading, evaluate_masks
from wsi_seg.evaluate.label_map import ArrayMap, Frame, open_label_map
from wsi_seg.evaluate.objects import object_scores, objects_of
from wsi_seg.evaluate.pairing import Pair, pair_up
from wsi_seg.evaluate.picture import write_picture
from wsi_seg.evaluate.pixels import confusion, dice
from wsi_seg.evaluate.scores import Evaluation, Scoring
from wsi_seg.evaluate.surfaces import boundary_f1, hausdorff95
from wsi_seg.geometry import Box, Mpp
from wsi_seg.output.tiff_writer import write_ome_tiff

TWO = Reading(classes=("background", "nuclei"))
NUCLEI = Scoring(objects=("nuclei",))


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    with folder_in_memory(tmp_path) as folder:
        yield folder


def discs(seed: int, size: tuple[int, int] = (150, 170), shift: int = 0) -> Any:
    """Discs on nothing, uint8 0 and 1; neighbours may touch."""
    rng, (y, x) = np.random.default_rng(seed), np.ogrid[: size[0], : size[1]]
    mask = np.zeros(size, np.uint8)
    for cy, cx, r in zip(
        rng.integers(0, size[0], 25), rng.integers(0, size[1], 25), rng.integers(3, 9, 25), strict=True
    ):
        mask[(y - cy - shift) ** 2 + (x - cx) ** 2 < r * r] = 1
    return mask


def scores_of(predicted: Any, reference: Any, reading: Reading = TWO, scoring: Scoring | None = None) -> Evaluation:
    maps = [m if isinstance(m, Path) or not isinstance(m, np.ndarray) else ArrayMap(m) for m in (predicted, reference)]
    return evaluate_masks([Pair("slide", maps[0], maps[1])], reading, scoring)


class TestAddingUp:
    def test_one_image_has_the_scores_of_its_arrays(self) -> None:
        predicted, reference = discs(1, shift=2), discs(1)
        predicted[:20, :30], reference[100:, :40] = 255, 255
        found = scores_of(predicted, reference, scoring=NUCLEI)
        matrix = confusion(predicted, reference, 2)
        np.testing.assert_array_equal(found.confusion, matrix)
        scored = (predicted != 255) & (reference != 255)
        masks = predicted == 1, reference == 1
        assert [e.value for e in found.pooled["dice"][:2]] == pytest.approx(dice(matrix[:, :2]))
        assert found.pooled["boundary_f1"][1].value == pytest.approx(boundary_f1(*masks, 2.0, scored=scored))
        assert found.pooled["hausdorff95"][1].value == pytest.approx(hausdorff95(*masks, scored=scored))
        objects = object_scores(*(objects_of(m) for m in masks), scored=scored)
        assert found.pooled["object_f1"][1].value == pytest.approx(objects.f1)
        assert np.isnan(found.pooled["object_f1"][0].value)
        assert found.slides[0].n_ignored == (reference == 255).sum()

    def test_blocks_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        predicted, reference = discs(2, shift=3), discs(2)
        predicted[40:60, 60:90] = 255
        monkeypatch.setattr(evaluation_module, "PICTURE_SIDE", 45)  # steps of 4 px, which no block border minds
        whole = scores_of(predicted, reference, scoring=NUCLEI)
        monkeypatch.setattr(evaluation_module, "BLOCK", 47)
        monkeypatch.setattr(evaluation_module, "MARGIN", 20)
        blocks = scores_of(predicted, reference, scoring=NUCLEI)
        for name in whole.metrics:
            np.testing.assert_allclose(blocks.per_slide[name], whole.per_slide[name], err_msg=name)
        np.testing.assert_array_equal(blocks.slides[0].picture, whole.slides[0].picture)

    def test_far_boundaries_are_found_across_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        predicted, reference = np.zeros((2, 150, 170), np.uint8)
        predicted[5:15, 5:15] = reference[100:120, 90:140] = 1
        whole = scores_of(predicted, reference)
        monkeypatch.setattr(evaluation_module, "BLOCK", 47)
        monkeypatch.setattr(evaluation_module, "MARGIN", 20)
        blocks = scores_of(predicted, reference)
        np.testing.assert_allclose(blocks.per_slide["hausdorff95"], whole.per_slide["hausdorff95"])
        assert whole.per_slide["hausdorff95"][0, 1] > 100

    def test_not_analysed_is_left_out_or_wrong(self) -> None:
        reference = discs(3)
        predicted = reference.copy()
        predicted[:75] = 255
        left_out = scores_of(predicted, reference)
        assert left_out.pooled["dice"][1].value == 1.0
        assert left_out.not_analysed.sum() == 75 * 170
        wrong = scores_of(predicted, reference, scoring=Scoring(as_wrong=True))
        hits, all_of = reference[75:].sum(), reference.sum()
        assert wrong.pooled["dice"][1].value == pytest.approx(2 * hits / (hits + all_of))
        assert wrong.pooled["precision"][1].value == 1.0

    def test_slides_are_pooled_by_their_pixels(self) -> None:
        images = [(discs(n, (60, 40 + 20 * n), shift=n), discs(n, (60, 40 + 20 * n))) for n in range(4)]
        pairs = [Pair(f"s{n}", ArrayMap(p), ArrayMap(r)) for n, (p, r) in enumerate(images)]
        found = evaluate_masks(pairs, TWO)
        joined = np.concatenate([np.stack(pair).reshape(2, -1) for pair in images], axis=1)
        assert found.pooled["dice"][1].value == pytest.approx(dice(confusion(joined[0], joined[1], 2))[1])
        estimate = found.pooled["dice"][1]
        assert estimate.low is not None
        assert estimate.low < estimate.value < (estimate.high or 0)
        few = [evaluate_masks(pairs, TWO, Scoring(n_resamples=20, seed=seed)).pooled["dice"] for seed in (0, 0, 1)]
        assert few[0] == few[1] != few[2]

    def test_slides_of_one_case_are_drawn_together(self) -> None:
        pairs = [Pair(f"s{n}", ArrayMap(discs(n, shift=n)), ArrayMap(discs(n)), case="same") for n in range(3)]
        found = evaluate_masks(pairs, TWO)
        assert found.pooled["dice"][1].low is None
        assert any("one case" in note for note in found.notes)
        # four slides of two patients are as good as two slides, of their pixels side by side
        images = [(discs(n, shift=n), discs(n)) for n in range(4)]
        slides = [Pair(f"s{n}", ArrayMap(p), ArrayMap(r), case=f"c{n // 2}") for n, (p, r) in enumerate(images)]
        sides = [np.concatenate([images[2 * n], images[2 * n + 1]], axis=2) for n in range(2)]
        patients = [Pair(f"c{n}", ArrayMap(p), ArrayMap(r)) for n, (p, r) in enumerate(sides)]
        assert evaluate_masks(slides, TWO).pooled["dice"] == evaluate_masks(patients, TWO).pooled["dice"]


class TestFiles:
    def test_result_against_itself_as_tiff_and_png(self, tmp_path: Path) -> None:
        result, made = finished(tmp_path / "a.seg.zarr", make_spec())
        assert (made.levels[0] == 255).any()
        for name, options in (("a.ome.tif", {}), ("a.tif", {"flat": True})):
            write_ome_tiff(result, tmp_path / name, **options)
            opened, stored = open_label_map(tmp_path / name), open_label_map(tmp_path / "a.seg.zarr")
            assert opened.classes == stored.classes
            assert opened.size == stored.size
            assert opened.mpp is not None
            assert opened.mpp.x == pytest.approx(stored.mpp.x if stored.mpp else 0, rel=1e-6)
            assert opened.frame is not None
            assert opened.frame.offset == pytest.approx((100.0, 300.0))
            box = Box(37, 500, 611, 1100)
            np.testing.assert_array_equal(opened.read(box), stored.read(box))
            found = scores_of(tmp_path / "a.seg.zarr", tmp_path / name, Reading())
            assert [e.value for e in found.pooled["dice"]] == [1.0] * 4
            assert found.unit == "um"
        Image.fromarray(made.levels[0]).save(tmp_path / "a.png")
        found = scores_of(tmp_path / "a.seg.zarr", tmp_path / "a.png", Reading())
        assert found.pooled["iou"][-1].value == 1.0

    @pytest.mark.parametrize("options", [{"tile": (64, 32)}, {"rowsperstrip": 7}, {}], ids=["tiles", "strips", "plain"])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
    def test_tiffs_of_others_are_read_by_box(self, tmp_path: Path, options: Any, dtype: Any) -> None:
        values = (np.arange(150 * 170).reshape(150, 170) % 251).astype(dtype)
        tifffile.imwrite(tmp_path / "x.tif", values, compression="zlib", **options)
        opened = open_label_map(tmp_path / "x.tif")
        for box in (Box(0, 0, 150, 170), Box(60, 31, 70, 130), Box(149, 169, 150, 170)):
            np.testing.assert_array_equal(opened.read(box), values[box.slices()])
        assert (opened.mpp, opened.classes) == (None, ())

    def test_polygons(self, tmp_path: Path) -> None:
        # level-0 px (x, y), counted from the corner of the scanned bounds, one px of the canvas below its corner
        ring = [[40, 20], [140, 20], [140, 80], [40, 80], [40, 20]]
        feature = {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"classification": {"name": "Tumor"}},
        }
        (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
        labels = np.zeros((100, 200), np.uint8)
        labels[11:41, 20:70] = 1
        frame = Frame(Mpp(0.25, 0.25), (100.0, 300.0), (2.0, 2.0), (600, 900), (102, 300))
        predicted = ArrayMap(labels, Mpp(0.5, 0.5), frame, named_classes(["background", "tumour"]))
        reading = Reading(reference_values={"Tumor": "tumour"}, unannotated="background")
        found = scores_of(predicted, tmp_path / "a.geojson", reading)
        assert [e.value for e in found.pooled["dice"]] == [1.0] * 3
        only = scores_of(predicted, tmp_path / "a.geojson", replace(reading, unannotated=""))
        assert only.confusion.tolist() == [[0, 0, 0], [0, 1500, 0]]
        with pytest.raises(AnnotationError, match="Tumor"):
            scores_of(predicted, tmp_path / "a.geojson", Reading())
        assert not any("place" in note for note in found.notes)
        placeless = scores_of(replace(predicted, frame=None), tmp_path / "a.geojson", reading)
        assert any(note.startswith("slide: the prediction does not state its place") for note in placeless.notes)


class TestResolutions:
    def test_reference_is_taken_at_the_pixel_centres(self) -> None:
        rng = np.random.default_rng(0)
        fine = rng.integers(0, 2, (120, 90)).astype(np.uint8)
        for factor in (2, 3):
            predicted = fine[factor // 2 :: factor, factor // 2 :: factor]
            assert scores_of(predicted, fine).pooled["dice"][-1].value == 1.0
            assert scores_of(np.kron(fine, np.ones((factor, factor), np.uint8)), fine).pooled["dice"][-1].value == 1.0

    def test_places_in_the_slide(self) -> None:
        whole = discs(5, (100, 100))
        l0 = Mpp(0.25, 0.25)
        part = ArrayMap(whole[30:80, 20:90], Mpp(0.5, 0.5), Frame(l0, (60.0, 40.0), (2.0, 2.0), (200, 240), (60, 40)))
        all_of_it = ArrayMap(whole, Mpp(0.5, 0.5), Frame(l0, (0.0, 0.0), (2.0, 2.0), (200, 240), (60, 40)))
        assert scores_of(part, all_of_it).pooled["dice"][-1].value == 1.0
        inside = scores_of(all_of_it, part)
        assert inside.pooled["dice"][-1].value == 1.0
        assert inside.slides[0].n_ignored == 100 * 100 - 50 * 70

    @pytest.mark.parametrize("per_px", [1, 2, 4])
    def test_a_reference_without_a_place_covers_the_slide_as_in_training(self, tmp_path: Path, per_px: int) -> None:
        l0_labels = np.kron(discs(5, (50, 75)), np.ones((4, 4), np.uint8))
        frame = Frame(Mpp(0.25, 0.25), (40.0, 60.0), (2.0, 2.0), (200, 300), (40, 60))
        predicted = ArrayMap(l0_labels[41:140:2, 61:200:2], Mpp(0.5, 0.5), frame)
        reference = l0_labels[per_px // 2 :: per_px, per_px // 2 :: per_px]
        assert scores_of(predicted, reference).pooled["dice"][-1].value == 1.0
        Image.fromarray(reference).save(tmp_path / "r.png")
        trained_on = open_annotation(tmp_path / "r.png", ["a", "b"], {}, l0_size=(200, 300))
        assert np.array_equal(trained_on.read_labels(Box(0, 0, 50, 70), (2.0, 2.0), (40.0, 60.0)), predicted.values)
        assert scores_of(predicted, predicted.values).pooled["dice"][-1].value == 1.0  # it has no slide's shape
        with pytest.raises(EvaluationError, match=r"a slide of 0\.25 um/px, the reference of one of 0\.5"):
            scores_of(predicted, ArrayMap(reference, Mpp(0.5 * per_px, 0.5 * per_px)))

    def test_a_much_finer_reference_is_read_in_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from wsi_seg.evaluate import alignment

        fine = discs(6, (210, 330))
        coarse = fine[1::3, 1::3]
        monkeypatch.setattr(alignment, "MAX_READ_PX", 500)
        assert scores_of(coarse, fine).pooled["dice"][-1].value == 1.0

    @pytest.mark.parametrize("size", [(150, 171), (149, 170), (75, 85), (300, 340), (76, 85)])
    def test_sizes_that_fit_but_for_rounding(self, size: tuple[int, int]) -> None:
        scores_of(np.zeros((150, 170), np.uint8), np.zeros(size, np.uint8))

    @pytest.mark.parametrize("size", [(170, 150), (150, 190), (75, 170)])
    def test_sizes_that_do_not_fit(self, size: tuple[int, int]) -> None:
        with pytest.raises(EvaluationError, match="same field of view"):
            scores_of(np.zeros((150, 170), np.uint8), np.zeros(size, np.uint8))

    def test_resolutions_that_contradict_the_sizes(self) -> None:
        mask = discs(1)
        with pytest.raises(EvaluationError, match="field of view"):
            scores_of(ArrayMap(mask, Mpp(0.5, 0.5)), ArrayMap(mask, Mpp(0.25, 0.25)))


class TestValues:
    def test_masks_of_0_and_255(self) -> None:
        reference = discs(1)
        with_note = scores_of(reference, reference * 255)
        assert any("0 and 255" in note for note in with_note.notes)
        reading = replace(TWO, reference_values={"255": "nuclei"})
        assert scores_of(reference, reference * np.uint8(255), reading).pooled["dice"][1].value == 1.0

    def test_masks_of_one_bit(self, tmp_path: Path) -> None:
        mask = discs(1)
        for name in ("predicted", "reference"):
            Image.fromarray(mask > 0).save(tmp_path / f"{name}.png")
        found = scores_of(tmp_path / "predicted.png", tmp_path / "reference.png")
        assert np.diagonal(found.confusion).tolist() == np.bincount(mask.reshape(-1)).tolist()

    def test_classes_meet_by_name(self) -> None:
        mask = discs(1)
        predicted = ArrayMap(mask, classes=named_classes(["background", "nuclei"]))
        reference = ArrayMap(1 - mask, classes=named_classes(["nuclei", "background"]))
        assert scores_of(predicted, reference, Reading()).pooled["dice"][-1].value == 1.0

    def test_a_boundary_class_can_be_merged(self) -> None:
        reference = discs(1)
        predicted = ArrayMap(reference * np.uint8(2), classes=named_classes(["background", "edge", "nuclei"]))
        predicted.values[0, :5] = 1
        reading = Reading(("background", "nuclei"), {"edge": "background"})
        assert scores_of(predicted, reference, reading).confusion[:, 1].sum() == (predicted.values == 2).sum()
        with pytest.raises(EvaluationError, match="'edge'"):
            scores_of(predicted, reference, TWO)

    def test_instances(self) -> None:
        ids = objects_of(discs(1) > 0).astype(np.int32) * 300  # beyond 8 bits, with gaps
        found = scores_of(
            (ids > 0).astype(np.uint8), ids, replace(TWO, reference_instances=True), replace(NUCLEI, connectivity=8)
        )
        assert found.pooled["object_f1"][1].value == 1.0
        assert found.pooled["aggregated_jaccard"][1].value == 1.0
        both = replace(TWO, reference_instances=True, predicted_instances=True)
        assert scores_of(ids + np.int32(7) * (ids > 0), ids, both, NUCLEI).pooled["object_f1"][1].value == 1.0
        with pytest.raises(EvaluationError, match="--objects"):
            scores_of(ids, ids, both)

    @pytest.mark.parametrize(
        ("reading", "scoring", "says"),
        [
            (Reading(), None, "names its classes"),
            (Reading(("a", "a")), None, "names differ"),
            (Reading(("a", "b"), {"9": "c"}), None, "mapping 9=c"),
            (Reading(("a",)), None, "holds the value 1"),
            (TWO, Scoring(objects=("stroma",)), "'stroma'"),
            (TWO, Scoring(object_iou=0.3), "IoU 0.3"),
            (TWO, Scoring(connectivity=6), "connectivity 6"),
            (TWO, Scoring(tolerance_unit="um"), "resolution"),
        ],
    )
    def test_refusals(self, reading: Reading, scoring: Scoring | None, says: str) -> None:
        with pytest.raises(EvaluationError, match=says):
            scores_of(discs(1), discs(1), reading, scoring)

    def test_resolution_for_all_or_for_none(self) -> None:
        mask = discs(1)
        pairs = [Pair("a", ArrayMap(mask), ArrayMap(mask)), Pair("b", ArrayMap(mask, Mpp(1, 1)), ArrayMap(mask))]
        with pytest.raises(EvaluationError, match="--mpp"):
            evaluate_masks(pairs, TWO)
        assert evaluate_masks(pairs, replace(TWO, mpp=1.0)).unit == "um"

    def test_a_tolerance_in_um(self) -> None:
        predicted, reference = discs(1, shift=2), discs(1)
        by_px = scores_of(ArrayMap(predicted, Mpp(0.5, 0.5)), reference, scoring=Scoring(2.0))
        by_um = scores_of(ArrayMap(predicted, Mpp(0.5, 0.5)), reference, scoring=Scoring(1.0, "um"))
        plain = scores_of(predicted, reference)
        assert by_px.pooled["boundary_f1"] == by_um.pooled["boundary_f1"] == plain.pooled["boundary_f1"]
        assert by_px.pooled["hausdorff95"][1].value == pytest.approx(plain.pooled["hausdorff95"][1].value / 2)


class TestPairing:
    def test_folders_by_stem(self, tmp_path: Path) -> None:
        for name in ("p/a.png", "p/b.tif", "p/b.overview.png", "r/a.tif", "r/b.geojson"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "p/c.seg.zarr").mkdir()
        with pytest.raises(EvaluationError, match=r"1 files without a partner: .*c\.seg\.zarr"):
            pair_up(tmp_path / "p", tmp_path / "r")
        pairs = pair_up(tmp_path / "p", tmp_path / "r", only_paired=True, case="^(.)")
        assert [(p.name, p.case) for p in pairs] == [("a", "a"), ("b", "b")]
        (tmp_path / "p/a.tif").touch()
        with pytest.raises(EvaluationError, match="one name"):
            pair_up(tmp_path / "p", tmp_path / "r")

    def test_a_file_and_a_folder_do_not_pair(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").touch()
        with pytest.raises(EvaluationError, match="two folders"):
            pair_up(tmp_path / "a.png", tmp_path)
        with pytest.raises(EvaluationError, match="is not there"):
            pair_up(tmp_path / "b.png", tmp_path)


class TestReports:
    def test_documents(self) -> None:
        pairs = [Pair(f"s{n}", ArrayMap(discs(n, shift=n)), ArrayMap(discs(n))) for n in range(3)]
        reading = Reading(classes=("background", "nuclei", "absent, $x$"))
        found = evaluate_masks(pairs, reading, NUCLEI)
        content = json.loads(to_json(found), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert content["all_slides"]["absent, $x$"]["dice"] == {"value": None, "low": None, "high": None}
        assert content["slides"][0]["scores"]["nuclei"]["dice"] == 1.0
        rows = to_csv(found).splitlines()
        assert len(rows) == 1 + 3 * 3 + 4
        assert rows[0].startswith("slide,case,class,reference_px,predicted_px,not_analysed_px,dice,iou")

    @pytest.mark.parametrize(("n_slides", "n_classes"), [(1, 2), (7, 14)])
    def test_picture(self, tmp_path: Path, n_slides: int, n_classes: int) -> None:
        names = tuple(f"class of tissue ${n}" for n in range(n_classes))
        pairs = [Pair(f"s{n}", ArrayMap(discs(n, shift=n)), ArrayMap(discs(n))) for n in range(n_slides)]
        write_picture(evaluate_masks(pairs, Reading(names)), tmp_path / "report.png")
        with Image.open(tmp_path / "report.png") as picture:
            assert min(picture.size) > 500

    def test_nothing_scored(self, tmp_path: Path) -> None:
        found = scores_of(discs(1), np.full((150, 170), 255, np.uint8))
        assert any("nothing was scored" in note for note in found.notes)
        write_picture(found, tmp_path / "report.png")
        assert json.loads(to_json(found))["all_slides"]["nuclei"]["dice"]["value"] is None
