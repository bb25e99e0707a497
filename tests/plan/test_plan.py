"""The whole plan: it is made, told, hashed and sent without a slide, and its identity holds what changes a label."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tests.plan.strategies import card
from wsi_seg.errors import GridError, MemoryBudgetError, MissingMppError, PlanError
from wsi_seg.geometry import Box, Level, Mpp
from wsi_seg.plan import (
    Plan,
    PlanOptions,
    PlanRequest,
    ProgramFacts,
    Roi,
    SlideFacts,
    differing_fields,
    make_plan,
    read_roi,
)

SIZE = (30_000, 40_000)
LEVELS = (Level(SIZE, (1.0, 1.0), (256, 256)), Level((7500, 10_000), (4.0, 4.0), (256, 256)))
SLIDE = SlideFacts("case 7.svs", "aperio", LEVELS, Mpp(0.25, 0.25), Box(0, 0, *SIZE), "f" * 64)
PROGRAM = ProgramFacts("a" * 64, "openvino", "CPU", "fp32", n_channels=3, halo=24, batch_independent=True)
OPTIONS = PlanOptions(n_workers=2, memory_bytes=8 * 10**9, resident_bytes=5 * 10**8)
GB = 10**9


def thumbnail() -> np.ndarray:
    pixels = np.full((300, 400, 3), 243, np.uint8)
    pixels[100:200, 100:300] = (190, 110, 170)
    return pixels


def request(**changes: Any) -> PlanRequest:
    made = PlanRequest(SLIDE, card(), PROGRAM, OPTIONS, thumbnail())
    for name in ("slide", "program", "options"):
        if isinstance(changes.get(name), dict):
            changes[name] = replace(getattr(made, name), **changes[name])
    return replace(made, **changes)


def plan(**changes: Any) -> Plan:
    return make_plan(request(**changes))


def region(tmp_path: Path, side: int = 8000) -> Roi:
    corners = [[12_000, 12_000], [12_000 + side, 12_000], [12_000 + side, 18_000], [12_000, 18_000]]
    path = tmp_path / f"{side}.geojson"
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [corners]}))
    return read_roi(path, SLIDE.bounds)


def test_the_parts_fit_each_other() -> None:
    made = plan()
    assert made.scale.canvas_size == made.grid.canvas == made.layout.size == (15_000, 20_000)
    assert made.grid.tile == made.tiling.tile == 512
    assert made.tiling.exact
    assert made.selection.shape == made.grid.shape
    assert 0 < made.selection.n_analysed < made.grid.n_tiles
    assert made.tissue_mm2 == pytest.approx(10_000 * 20_000 * 0.25**2 / 1e6, rel=0.05)
    assert made.batch == 8
    assert made.layout.block == made.memory.block == 4096
    assert made.memory.fits
    assert made.notes == ()


def test_a_plan_is_json_words_and_a_pickle() -> None:
    made = plan()
    again = pickle.loads(pickle.dumps(made))
    assert json.loads(json.dumps(made.to_mapping())) == again.to_mapping()
    assert again.run_id == made.run_id == made.to_mapping()["run_id"]
    sections = dict(made.describe())
    assert list(sections) == ["slide", "model", "resolution", "tiles", "blocks", "memory"]
    words = {label: text for rows in sections.values() for label, text in rows}
    assert words["canvas"] == "20000 x 15000 px at 0.5 um/px"  # width x height
    assert words["trained at"] == "0.5 um/px"
    assert words["level read"] == "0, resampled by 2 x 2"
    assert words["cost"] == f"{made.tiling.cost:.2f} predicted px per canvas px"
    assert words["tile"] == "512 px, overlap 48 px, window crop, equal to an untiled prediction"


def test_regions_and_notes_are_told(tmp_path: Path) -> None:
    made = plan(roi=region(tmp_path), program={"halo": None})
    sections = dict(made.describe())
    assert dict(sections["tiles"])["regions"] == "1 polygon, 3.00 mm2"
    assert "unknown or unbounded" in dict(sections["model"])["halo"]
    assert any("blended" in note for _, note in sections["notes"])
    assert made.canvas_roi is not None
    assert made.canvas_roi.rings[0].max(0).tolist() == [9000, 10_000]


SAME = [
    pytest.param({"options": {"n_workers": 5}}, id="workers"),
    pytest.param({"options": {"memory_bytes": 20 * GB}}, id="memory"),
    pytest.param({"options": {"resident_bytes": GB}}, id="resident memory"),
    pytest.param({"options": {"block": 1024}}, id="block"),
    pytest.param({"options": {"batch": 8}}, id="the batch that would be chosen anyway"),
    pytest.param({"slide": {"name": "copy.svs"}}, id="file name"),
    pytest.param({"card": card(description="words", licence="MIT", name="b")}, id="words of the card"),
]
OTHER = [
    pytest.param({"slide": {"fingerprint": "e" * 64}}, ["slide.fingerprint"], id="slide"),
    pytest.param({"slide": {"l0_mpp": Mpp(0.251, 0.25)}}, ["scale.canvas_mpp", "slide.l0_mpp"], id="mpp"),
    pytest.param({"program": {"sha256": "b" * 64}}, ["model.sha256"], id="weights"),
    pytest.param({"program": {"precision": "bf16"}}, ["model.precision"], id="precision"),
    pytest.param({"program": {"runtime": "onnxruntime"}}, ["model.runtime"], id="runtime"),
    pytest.param({"program": {"halo": 28}}, ["grid.overlap", "selection"], id="halo, by the overlap"),
    pytest.param({"card": card(threshold=0.4)}, ["model.card.threshold"], id="threshold"),
    pytest.param({"card": card(mean=(0.5, 0.5, 0.5))}, ["model.card.mean"], id="normalisation"),
    pytest.param({"options": {"window": "linear"}}, ["grid.margin", "grid.window"], id="window"),
    pytest.param({"options": {"batch": 4}}, ["batch"], id="batch"),
    pytest.param({"options": {"skip": False}}, ["selection"], id="no skipping"),
    pytest.param({"options": {"probabilities": True}}, ["probabilities"], id="probabilities"),
]


@pytest.mark.parametrize("change", SAME)
def test_what_changes_no_label_is_not_in_the_identity(change: dict[str, Any]) -> None:
    assert differing_fields(plan().identity_fields(), plan(**change).identity_fields()) == []


@pytest.mark.parametrize(("change", "fields"), OTHER)
def test_what_changes_a_label_is_named_by_the_identity(change: dict[str, Any], fields: list[str]) -> None:
    first, second = plan(), plan(**change)
    assert first.run_id != second.run_id
    told = differing_fields(first.identity_fields(), second.identity_fields())
    assert [line.partition(":")[0] for line in told] == fields


def test_regions_are_in_the_identity_even_where_they_select_the_same_tiles(tmp_path: Path) -> None:
    first, second = plan(roi=region(tmp_path)), plan(roi=region(tmp_path, 8001))
    told = differing_fields(first.identity_fields(), second.identity_fields())
    assert [line.partition(":")[0] for line in told] == ["roi"]


def test_the_block_is_in_the_identity_of_a_model_whose_predictions_depend_on_their_batch() -> None:
    first, second = (plan(program={"batch_independent": False}, options={"block": block}) for block in (1024, 2048))
    assert differing_fields(first.identity_fields(), second.identity_fields()) == ["batched_by_block: 1024, now 2048"]


def test_the_block_is_in_the_layout_instead() -> None:
    assert plan(options={"block": 1024}).layout_fields() == {"block": 1024}


def test_a_block_left_open_shrinks_until_it_fits() -> None:
    roomy = plan()
    tight = plan(options={"memory_bytes": int(0.85 * (roomy.memory.total_bytes - roomy.memory.edge_cache_bytes))})
    assert tight.layout.block < roomy.layout.block
    assert tight.memory.fits
    assert tight.run_id == roomy.run_id


def test_a_block_asked_for_is_kept_or_refused() -> None:
    assert plan(options={"block": 8192}).layout.block == 8192
    with pytest.raises(MemoryBudgetError, match="a smaller --block"):
        plan(options={"block": 8192, "batch": 1, "memory_bytes": 10**9})
    with pytest.raises(GridError, match="use 512 or 1024"):
        plan(options={"block": 1000})


def test_a_budget_below_the_smallest_block_is_refused() -> None:
    with pytest.raises(MemoryBudgetError, match="--memory"):
        plan(options={"memory_bytes": 6 * 10**8})


def test_the_default_budget_is_the_systems() -> None:
    from wsi_seg.plan import default_budget

    assert plan(options={"memory_bytes": None}).memory.budget_bytes == pytest.approx(default_budget(), rel=0.01)


def test_without_tissue_there_is_a_plan_and_a_note() -> None:
    made = plan(thumbnail=np.full((300, 400, 3), 243, np.uint8))
    assert made.selection.n_predicted == 0
    assert "no tissue was found in the slide" in made.notes[0]


def test_without_skipping_no_thumbnail_is_needed() -> None:
    made = plan(thumbnail=None, options={"skip": False})
    assert made.selection.n_analysed == made.grid.n_tiles
    assert made.tissue_mm2 is None
    with pytest.raises(PlanError, match="--no-skip"):
        plan(thumbnail=None)


def test_a_slide_without_a_resolution_is_refused() -> None:
    with pytest.raises(MissingMppError, match=r"case 7\.svs does not state its resolution.*--mpp"):
        plan(slide={"l0_mpp": None})


@pytest.mark.parametrize("size", [(1, 1), (255, 255), (1, 5000), (513, 100)])
def test_slides_smaller_than_a_tile_have_a_plan(size: tuple[int, int]) -> None:
    small = {"levels": (Level(size, (1.0, 1.0)),), "bounds": Box(0, 0, *size)}
    made = plan(slide=small, thumbnail=np.full((8, 8, 3), (190, 110, 170), np.uint8))
    assert made.grid.canvas == (max(1, round(size[0] / 2)), max(1, round(size[1] / 2)))
    assert made.selection.n_analysed == made.grid.n_tiles
    assert made.describe()


def test_many_classes_take_wider_labels() -> None:
    def label_bytes(n_classes: int) -> int:
        names = card().from_mapping({"name": "m", "mpp": 0.5, "classes": [f"c{i}" for i in range(n_classes)]}, "test")
        return plan(card=names).memory.to_mapping()["terms"]["labels and their pyramid"]

    assert label_bytes(256) == pytest.approx(2 * label_bytes(255), rel=1e-6)


@pytest.mark.parametrize("wish", [{"tile": 0}, {"batch": -1}, {"n_workers": 0}, {"memory_bytes": 0}])
def test_wishes_below_1_are_refused(wish: dict[str, int]) -> None:
    with pytest.raises(PlanError, match="at least 1"):
        PlanOptions(**wish)  # type: ignore[arg-type]


def test_importing_the_room_loads_no_heavy_library() -> None:
    heavy = ["numba", "shapely", "psutil", "wsi_kernels", "zarr", "dask"]
    script = f"import sys, wsi_seg.plan; print([name for name in {heavy!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


class TestLargerTiles:
    """An exact tiling may grow, to predict fewer px of this slide; its labels are the same."""

    WIDE: ClassVar = {"halo": 107}

    @pytest.mark.parametrize("skip", [True, False])
    def test_the_plan_predicts_the_fewest_px_that_any_tile_up_to_the_largest_would(
        self, skip: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("wsi_seg.plan.plan.WORTH_ENLARGING", (0, 0))
        base = plan(program=self.WIDE, options={"skip": skip})
        made = plan(program=self.WIDE, options={"largest_tile": 2048, "skip": skip})
        assert (base.grid.tile, base.tiling.exact, made.tiling.exact) == (1024, True, True)
        assert made.grid.overlap == base.grid.overlap
        px = [
            (other.selection.n_predicted * other.grid.tile**2, other.grid.tile)
            for tile in range(1024, 2049, 32)
            for other in [plan(program=self.WIDE, options={"enlarged_tile": tile, "skip": skip})]
        ]
        assert made.grid.tile == min(px)[1]
        assert min(px)[0] < 0.92 * base.selection.n_predicted * base.grid.tile**2

    def test_nothing_grows_beyond_what_is_allowed_or_where_it_is_not_exact(self) -> None:
        assert plan(program=self.WIDE, options={"largest_tile": 1100}).grid.tile <= 1088
        assert plan(program=self.WIDE, options={"largest_tile": 512}).grid.tile == 1024
        assert plan(program={"halo": None}, options={"largest_tile": 2048}).grid.tile == 512
        assert plan(program=self.WIDE, options={"largest_tile": 2048, "tile": 512, "overlap": 64}).grid.tile == 512

    def test_an_enlargement_is_taken_as_asked_and_only_where_it_is_one(self) -> None:
        sides = [plan(program=self.WIDE, options={"enlarged_tile": side}).grid.tile for side in (1056, 1057, 1024, 512)]
        assert sides == [1056, 1024, 1024, 1024]

    def test_it_is_part_of_a_runs_identity(self) -> None:
        fields = [plan(program=self.WIDE, options={"enlarged_tile": side}).identity_fields() for side in (1024, 1056)]
        assert "cells" not in fields[0]
        assert fields[0] != {**fields[1], "cells": None}

    def test_a_small_slide_is_not_worth_it(self) -> None:
        small = (Level((3000, 3000), (1.0, 1.0), (256, 256)),)
        slide = {"levels": small, "bounds": Box(0, 0, 3000, 3000), "l0_mpp": Mpp(0.5, 0.5)}
        made = plan(slide=slide, program=self.WIDE, options={"largest_tile": 2048, "skip": False})
        assert made.grid.tile == 1024
