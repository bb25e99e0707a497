"""Areas add up, what was not analysed counts in no denominator, equal runs give equal facts."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.output.making import make_spec
from wsi_seg.output.status import TileStatus
from wsi_seg.output.summary import CSV_FIELDS, Performance, make_summary


@given(st.data())
def test_areas_add_up(data):
    spec = make_spec((70, 110))
    total = 70 * 110
    cuts = sorted(data.draw(st.lists(st.integers(0, total), min_size=3, max_size=3)))
    counts = [cuts[0], cuts[1] - cuts[0], cuts[2] - cuts[1], total - cuts[2]]
    summary = make_summary(spec, "r", counts, np.ones(spec.tile_grid, np.uint8))
    slide_mm2 = 70 * 0.5 * 110 * 0.52 * 1e-6
    assert sum(area.mm2 for area in summary.classes) == pytest.approx(summary.analysed_mm2)
    assert summary.analysed_mm2 + summary.not_analysed_mm2 == pytest.approx(slide_mm2)
    assert sum(area.percent for area in summary.classes) == pytest.approx(100 if cuts[2] else 0)


@pytest.mark.parametrize("counts", [[1, 2, 3], [0, 0, 0, 7699], [7701, 0, 0, 0], [1, 2, 3, 4, 5]])
def test_counts_that_are_not_the_slide_are_refused(counts):
    spec = make_spec((70, 110))
    with pytest.raises(ValueError, match="together all pixels"):
        make_summary(spec, "r", counts, np.ones(spec.tile_grid, np.uint8))


def test_tiles_are_counted_by_status():
    spec = make_spec((70, 110))
    tiles = np.array([[TileStatus.DONE, TileStatus.SKIPPED], [TileStatus.UNREADABLE, TileStatus.SKIPPED]], np.uint8)
    summary = make_summary(spec, "r", [7700, 0, 0, 0], tiles)
    assert summary.tiles == {
        "pending": 0,
        "done": 1,
        "skipped": 2,
        "unreadable": 1,
        "model-failed": 0,
        "redone-fp32": 0,
    }


def test_json_holds_everything_and_facts_nothing_that_varies():
    spec = make_spec((70, 110))
    tiles = np.ones(spec.tile_grid, np.uint8)
    fast, slow = (
        make_summary(
            spec,
            "r",
            [7000, 600, 0, 100],
            tiles,
            tissue_mm2=0.001,
            model={"name": "he"},
            versions={"numpy": "2"},
            performance=Performance(seconds, 9.0, 10**9, 4, {"read": 0.5}),
        )
        for seconds in (1.0, 2.0)
    )
    content = json.loads(fast.to_json())
    assert content["performance"]["peak_memory_bytes"] == 10**9
    assert content["classes"][1]["name"] == "stroma"
    assert content["tissue_mm2"] == 0.001
    assert (
        fast.facts()
        == slow.facts()
        == json.loads(json.dumps(fast.facts(), default=list))
        | {
            "classes": fast.facts()["classes"],
            "mpp": fast.facts()["mpp"],
        }
    )
    assert "seconds" not in json.dumps(fast.facts())


def test_csv_has_one_row_per_class():
    spec = make_spec((70, 110), name='odd, "name"\n')
    summary = make_summary(spec, "r", [7000, 600, 0, 100], np.ones(spec.tile_grid, np.uint8))
    rows = list(csv.DictReader(io.StringIO(summary.to_csv().decode())))
    assert tuple(rows[0]) == CSV_FIELDS
    assert [row["class"] for row in rows] == ["background", "stroma", "tumour <1 & 2>"]
    assert rows[0]["slide"] == 'odd, "name"\n'
    assert float(rows[1]["mm2"]) == pytest.approx(600 * 0.5 * 0.52e-6, abs=1e-6)
    assert float(rows[1]["percent_of_analysed"]) == pytest.approx(100 * 600 / 7600, abs=1e-4)
