"""Results are read as they were written; everything else is refused in words."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.output.making import begin, finished, make_spec, make_thumbnail
from wsi_seg.card import named_classes
from wsi_seg.errors import CorruptOutputError
from wsi_seg.geometry import Box, Mpp
from wsi_seg.output.label_store import open_result
from wsi_seg.output.result_spec import ResultSpec
from wsi_seg.output.status import TileStatus


@pytest.fixture(scope="module")
def made(made_path):
    return finished(made_path / "r.zarr", make_spec(probabilities=True))


def test_every_level_reads_back(made):
    result, expected = made
    for level in range(result.n_levels):
        np.testing.assert_array_equal(result.labels(level)[...], expected.levels[level])
        np.testing.assert_array_equal(result.probabilities(level)[...], expected.chances[level])


@given(st.data())
def test_any_box_reads_back(made, data):
    result, expected = made
    level = data.draw(st.integers(0, result.n_levels - 1))
    height, width = expected.levels[level].shape
    y = sorted(data.draw(st.tuples(st.integers(0, height), st.integers(0, height))))
    x = sorted(data.draw(st.tuples(st.integers(0, width), st.integers(0, width))))
    box = Box(y[0], x[0], y[1], x[1])
    np.testing.assert_array_equal(result.read_labels(level, box), expected.levels[level][box.slices()])
    part = expected.chances[level][(slice(None), *box.slices())]
    np.testing.assert_array_equal(result.read_probabilities(level, box), part)


def test_the_rest_of_a_result_reads_back(made):
    result, expected = made
    assert result.run_id == "a" * 64
    assert (result.read_tiles() == TileStatus.DONE).all()
    thumbnail = make_thumbnail(result.spec)
    np.testing.assert_array_equal(result.thumbnail.pixels, thumbnail.pixels)
    assert result.thumbnail.mpp == thumbnail.mpp
    again = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(again.labels(1)[...], expected.levels[1])
    assert again.spec == result.spec == expected.spec


@pytest.mark.parametrize(("level", "box"), [(0, Box(0, 0, 701, 10)), (3, Box(0, 0, 1, 1)), (1, Box(-1, 0, 1, 1))])
def test_boxes_off_the_level_are_refused(made, level, box):
    with pytest.raises(ValueError, match="level"):
        made[0].read_labels(level, box)


def test_an_unfinished_result_opens_only_when_asked_for(tmp_path):
    made = begin(tmp_path / "r.zarr", make_spec())
    made.write_task(0, 0, 1)
    with pytest.raises(CorruptOutputError, match=r"zarr.json is not there.*run the same command again"):
        open_result(made.run.path)
    with pytest.raises(CorruptOutputError, match=r"does not exist.*run the same command again"):
        open_result(made.run.out)
    result = open_result(made.run.path, partial=True)
    box = made.spec.layout.task_box(0, 0, 1)
    np.testing.assert_array_equal(result.read_labels(0, box), made.levels[0][box.slices()])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "cannot be read"),
        (b"[]", "a JSON object"),
        (b'{"attributes": {}}', "not a result of wsi-seg"),
        (b'{"attributes": {"wsi_seg": {"spec": {"size": [1]}}}}', "description of the result"),
    ],
)
def test_what_is_no_result_is_said_so(tmp_path, content, words):
    (tmp_path / "zarr.json").write_bytes(content)
    with pytest.raises(CorruptOutputError, match=words):
        open_result(tmp_path)


def test_a_damaged_shard_is_named(tmp_path):
    result, _ = finished(tmp_path / "r.zarr", make_spec())
    path = result.path / "labels/segmentation/0/c/1/2"
    content = bytearray(path.read_bytes())
    content[20] ^= 4
    path.write_bytes(content)
    with pytest.raises(CorruptOutputError, match=r"labels/segmentation/0 of .*wsi-seg verify"):
        result.read_labels(0, Box(256, 512, 512, 768))


@given(
    size=st.tuples(st.integers(1, 200_000), st.integers(1, 200_000)),
    mpp=st.floats(0.05, 20),
    offset=st.floats(0, 1e6),
    n=st.integers(2, 300),
)
def test_specs_survive_json(size, mpp, offset, n):
    classes = named_classes([f"c{i}" for i in range(n)])
    spec = make_spec(
        size,
        4096,
        mpp=Mpp(mpp, mpp * 1.01),
        l0_offset=(offset, 2 * offset),
        classes=classes,
        not_analysed=255 if n <= 255 else 65535,
    )
    assert ResultSpec.from_mapping(spec.to_mapping(), "test") == spec


@pytest.mark.parametrize(("n", "absent"), [(256, 255), (3, 254)])
def test_a_label_that_could_be_a_class_is_not_taken_for_not_analysed(n, absent):
    with pytest.raises(CorruptOutputError, match="above every class index"):
        make_spec(classes=named_classes([f"c{i}" for i in range(n)]), not_analysed=absent)
