"""Whatever is changed in a result is found and named."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from tests.output.making import begin, finished, make_spec
from wsi_seg.errors import CorruptOutputError
from wsi_seg.geometry import Box
from wsi_seg.output.durable import json_bytes, record_digest
from wsi_seg.output.shard_writer import ResultWriter
from wsi_seg.output.status import TileStatus
from wsi_seg.output.verify import verify_result

SPEC = make_spec((520, 1100), 256, probabilities=True)
SMALL = make_spec((300, 600), 256, probabilities=True)


@pytest.fixture(scope="module")
def original(made_path):
    return finished(made_path / "r", SPEC)[0].path


@pytest.fixture
def copy(original, tmp_path):
    shutil.copytree(original, tmp_path / "r")
    return tmp_path / "r"


def test_a_sound_result_is_sound(original):
    told = []
    report = verify_result(original, progress=lambda done, total: told.append((done, total)))
    assert report.is_sound, report.problems
    assert (report.n_tasks, report.n_pending) == (21, 0)
    files = [p for p in original.rglob("*") if p.is_file() and p.name != "provenance.json"]
    assert report.n_files == len(files)
    assert report.n_bytes == sum(p.stat().st_size for p in files)
    assert told == [(n, 21) for n in range(1, 22)]


def test_state_that_is_left_in_a_finished_result_is_not_looked_at(tmp_path):
    """A process that dies between giving the result its name and removing the state leaves some or all of it."""
    made = begin(tmp_path / "r", SMALL)
    made.write_all()
    state = tmp_path / "r.partial/.wsi-seg"
    shutil.copytree(state, tmp_path / "state")
    path = made.finish().path
    shutil.copytree(tmp_path / "state", path / ".wsi-seg")
    for left in ("done/0/0.0.json", "spec.json"):
        (path / ".wsi-seg" / left).unlink()
        report = verify_result(path)
        assert report.is_sound, report.problems
        assert report.n_pending == 0


def named(path):
    """Keys of problems; a result that cannot be opened at all names the one file without which nothing can be."""
    try:
        return {problem.key for problem in verify_result(path).problems}
    except CorruptOutputError as error:
        return {name for name in ("provenance.json", "zarr.json") if str(path / name) in str(error)}


def test_a_flipped_bit_in_any_file_is_found_and_the_file_named(tmp_path):
    copy = finished(tmp_path / "r", SMALL)[0].path
    rng = np.random.default_rng(0)
    for path in [p for p in copy.rglob("*") if p.is_file()]:
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        assert path.relative_to(copy).as_posix() in named(copy)
        path.write_bytes(content)
    assert verify_result(copy).is_sound


def test_missing_and_unexpected_shards_are_named(copy):
    (copy / "labels/segmentation/0/c/1/1").unlink()
    (copy / "labels/segmentation/0/c/7").mkdir()
    (copy / "labels/segmentation/0/c/7/7").write_bytes(b"?")
    found = {problem.key: problem.cause for problem in verify_result(copy).problems}
    assert found["labels/segmentation/0/c/1/1"] == "is missing"
    assert found["labels/segmentation/0/c/7/7"] == "was written by no task"


def forge(path, change):
    """Change the record and make it consistent again, as a faulty program (not a faulty disk) would."""
    provenance = json.loads((path / "provenance.json").read_bytes())
    change(provenance)
    (path / "provenance.json").write_bytes(json_bytes({**provenance, "sha256": record_digest(provenance)}))


def rewrite(path, level, box, change, kind="labels"):
    """Store other pixels, with a matching hash."""
    from wsi_seg.output.label_store import open_result

    result = open_result(path)
    read = result.read_labels if kind == "labels" else result.read_probabilities
    pixels = read(level, box)
    change(pixels)
    writer = ResultWriter(path, result.spec)
    write = writer.write_labels if kind == "labels" else writer.write_probabilities
    key, record = write(level, box, pixels)

    def enter(provenance):
        for task in provenance["tasks"]:
            if key in task["shards"]:
                task["shards"][key] = record

    forge(path, enter)


def test_a_level_that_is_not_the_majority_of_the_one_below_is_found(copy):
    def change(pixels):
        pixels[3, 5] = (pixels[3, 5] + 1) % 3
        pixels[100, 7] = 2 if pixels[100, 7] != 2 else 0

    rewrite(copy, 1, Box(128, 128, 256, 256), change)
    problems = verify_result(copy).problems
    assert any("labels/segmentation/1 " in p.key and p.cause.startswith("2 px are not the majority") for p in problems)


def test_probabilities_that_are_not_the_mean_are_found(copy):
    rewrite(copy, 1, Box(128, 128, 256, 256), lambda pixels: pixels.__setitem__((1, 4, 4), 77), "probabilities")
    assert any("are not the mean" in problem.cause for problem in verify_result(copy).problems)


def test_counts_that_do_not_agree_and_values_that_are_no_class_are_found(copy):
    rewrite(copy, 0, Box(256, 256, 512, 512), lambda pixels: pixels.__setitem__((0, 0), 77))
    causes = [problem.cause for problem in verify_result(copy).problems]
    assert "1 px hold values that are no class" in causes
    assert any(cause.startswith("label counts") for cause in causes)


def test_a_record_without_a_task_and_of_another_run_are_found(copy):
    def change(provenance):
        provenance["tasks"] = [t for t in provenance["tasks"] if (t["tier"], t["row"], t["column"]) != (1, 1, 0)]
        provenance["run_id"] = "c" * 64

    forge(copy, change)
    found = {problem.key: problem.cause for problem in verify_result(copy).problems}
    assert "finished" in found["task 1/1.0"]
    assert "of run aaaaaaaaaaaa" in found["zarr.json"]


def test_pending_tiles_in_a_finished_result_are_found(tmp_path):
    made = begin(tmp_path / "r", SPEC)
    made.write_all()
    statuses = made.tiles()
    statuses[2, 3] = TileStatus.PENDING
    made.tiles = lambda: statuses
    found = {problem.key for problem in verify_result(made.finish().path).problems}
    assert found == {"tiles"}


def test_an_unfinished_result_is_checked_as_far_as_it_goes(tmp_path):
    made = begin(tmp_path / "r", SPEC)
    for task in ((0, 0, 2), (0, 2, 0)):
        made.write_task(*task)
    report = verify_result(made.run.path)
    assert report.is_sound, report.problems
    assert (report.n_tasks, report.n_pending) == (2, 19)
    (made.run.path / "labels/segmentation/1/c/2/0").write_bytes(b"?")
    assert [problem.key for problem in verify_result(made.run.path).problems] == ["labels/segmentation/1/c/2/0"]


def test_what_is_no_result_cannot_be_verified(tmp_path):
    with pytest.raises(CorruptOutputError):
        verify_result(tmp_path)
