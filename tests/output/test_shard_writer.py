"""Whole shards only, recorded as stored, absent where nothing was analysed."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.output.making import NA, blobs, make_spec
from wsi_seg.errors import CorruptOutputError
from wsi_seg.geometry import Box
from wsi_seg.output.durable import file_record
from wsi_seg.output.label_store import create_result, open_result
from wsi_seg.output.shard_writer import ResultWriter
from wsi_seg.output.store import posix


@pytest.fixture
def writer(tmp_path):
    spec = make_spec((700, 1100), 256, probabilities=True)
    create_result(tmp_path, spec)
    return ResultWriter(tmp_path, spec)


def test_a_shard_is_stored_recorded_and_read_back(writer):
    labels = blobs((256, 256), 3, NA)
    key, record = writer.write_labels(0, Box(256, 512, 512, 768), labels)
    assert key == "labels/segmentation/0/c/1/2"
    content = (writer.path / key).read_bytes()
    assert record == (sha256(content).hexdigest(), len(content))
    result = open_result(writer.path, partial=True)
    np.testing.assert_array_equal(result.read_labels(0, Box(256, 512, 512, 768)), labels)
    assert (result.read_labels(0, Box(0, 0, 256, 256)) == NA).all()


def test_shards_at_the_end_of_a_level_are_cut(writer):
    labels = blobs((700 - 512, 1100 - 1024), 3, NA)
    writer.write_labels(0, Box(512, 1024, 700, 1100), labels)
    result = open_result(writer.path, partial=True)
    np.testing.assert_array_equal(result.read_labels(0, Box(512, 1024, 700, 1100)), labels)


BOXES = st.builds(Box, st.integers(-300, 800), st.integers(-300, 1200), st.integers(-300, 800), st.integers(-300, 1200))


@given(box=BOXES, level=st.integers(-1, 4))
def test_no_other_box_is_taken(box, level):
    spec = make_spec((700, 1100), 256)
    side = {0: 256, 1: 128, 2: 128}.get(level)
    whole = set()
    if side is not None:
        height, width = spec.layout.level_size(level)
        whole = {
            Box(y, x, min(y + side, height), min(x + side, width))
            for y in range(0, height, side)
            for x in range(0, width, side)
        }
    if box in whole:
        assert spec.shard_row_column(level, box) == (box.y0 // side, box.x0 // side)
    else:
        with pytest.raises(ValueError, match=r"shard|levels"):
            spec.shard_row_column(level, box)


@pytest.mark.parametrize(
    "box", [Box(0, 0, 255, 256), Box(0, 1, 256, 257), Box(512, 1024, 768, 1280), Box(0, 0, 512, 512), Box(0, 0, 0, 0)]
)
def test_a_part_of_a_shard_is_refused_and_nothing_written(writer, box):
    with pytest.raises(ValueError, match="not one whole shard"):
        writer.write_labels(0, box, np.zeros(box.size, np.uint8))
    assert not (writer.path / "labels/segmentation/0/c").exists()


def test_wrong_shapes_and_types_are_refused(writer):
    box = Box(0, 0, 256, 256)
    for wrong in (np.zeros((256, 255), np.uint8), np.zeros((256, 256), np.uint16)):
        with pytest.raises(ValueError, match=r"for a shard of \(256, 256\) uint8"):
            writer.write_labels(0, box, wrong)
    with pytest.raises(ValueError, match="for a shard of"):
        writer.write_probabilities(0, box, np.zeros((2, 256, 256), np.uint8))
    with pytest.raises(ValueError, match="stores no probabilities"):
        ResultWriter(writer.path, make_spec()).write_probabilities(0, box, np.zeros((3, 256, 256), np.uint8))


def test_nothing_analysed_is_nothing_stored_even_over_an_older_shard(writer):
    box = Box(0, 0, 256, 256)
    key, record = writer.write_labels(0, box, np.zeros((256, 256), np.uint8))
    assert record is not None
    assert writer.write_labels(0, box, np.full((256, 256), NA, np.uint8)) == (key, None)
    assert not (writer.path / key).exists()
    assert writer.write_probabilities(0, box, np.zeros((3, 256, 256), np.uint8))[1] is None


def test_writing_twice_gives_the_same_record(writer):
    box, labels = Box(0, 0, 256, 256), blobs((256, 256), 3, NA)
    assert writer.write_labels(0, box, labels) == pickle.loads(pickle.dumps(writer)).write_labels(0, box, labels)


def test_threads_write_side_by_side(writer):
    labels = blobs((700, 1100), 3, NA)
    boxes = [Box(y, x, min(y + 256, 700), min(x + 256, 1100)) for y in range(0, 700, 256) for x in range(0, 1100, 256)]
    with ThreadPoolExecutor(4) as pool:
        records = dict(pool.map(lambda box: writer.write_labels(0, box, labels[box.slices()]), boxes))
    assert all(file_record(writer.path / key) == record for key, record in records.items())
    np.testing.assert_array_equal(open_result(writer.path, partial=True).labels(0)[...], labels)


def test_a_disk_that_returns_other_bytes_is_noticed(writer, monkeypatch):
    def lossy(path, content, **_):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content[:-1] + b"?")

    monkeypatch.setattr(posix, "write_durably", lossy)
    with pytest.raises(CorruptOutputError, match="right after writing"):
        writer.write_labels(0, Box(0, 0, 256, 256), np.zeros((256, 256), np.uint8))
