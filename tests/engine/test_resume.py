"""A run that ends early, in any way, is continued by the same command and by no other."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.engine.runs import SMALL, labels_of, shard_bytes
from tests.whole_runs import folder_in_memory
from wsi_seg.engine.events import Event, RunStarted, TaskDone
from wsi_seg.engine.job import TaskKey
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.prepare import prepare
from wsi_seg.engine.run import run_slide
from wsi_seg.errors import OutputExistsError, RunMismatchError, RunStopped
from wsi_seg.output.label_store import open_result
from wsi_seg.output.run_directory import partial_path
from wsi_seg.output.verify import verify_result

N_TASKS = 30 + 9
"""Blocks of 256 px in the small slide of 1100 x 1500 px, and tasks for the levels above."""


@pytest.fixture(autouse=True)
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Overviews take half the time of such small runs, and are not looked at here."""
    monkeypatch.setattr("wsi_seg.engine.target._overview", lambda *_: b"picture")


@pytest.fixture(scope="module")
def begun(small_slide: Path, tmp_path_factory: pytest.TempPathFactory, unet: str) -> Sequel:
    """A run that was stopped; only to be refused."""
    sequel = Sequel(small_slide, tmp_path_factory.mktemp("begun") / "x.seg.zarr", unet)
    sequel.stopped(after=2)
    return sequel


class Recorder:
    """Hears a run's events, and stops it after so many tasks."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop = threading.Event()
        self.started: RunStarted | None = None
        self.done: list[TaskKey] = []
        self._stop_after = stop_after

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self.started = event
        if isinstance(event, TaskDone):
            self.done.append(TaskKey(event.receipt.tier, event.receipt.row, event.receipt.column))
            if len(self.done) == self._stop_after:
                self.stop.set()


class Sequel:
    """Runs of the same slide into the same result."""

    def __init__(self, slide: Path, out: Path, model: str) -> None:
        self.slide, self.out = slide, out
        self._options: dict[str, Any] = {**SMALL, "model": model, "overlap": 48, "window": "cosine"}

    def options(self, **changes: Any) -> RunOptions:
        return RunOptions(**{**self._options, **changes})

    def run(self, stop_after: int | None = None, **changes: Any) -> Recorder:
        recorder = Recorder(stop_after)
        run_slide(self.slide, self.options(**changes), out=self.out, listener=recorder, stop=recorder.stop)
        return recorder

    def stopped(self, after: int, **changes: Any) -> Recorder:
        recorder = Recorder(after)
        with pytest.raises(RunStopped, match="run the same command again to resume"):
            run_slide(self.slide, self.options(**changes), out=self.out, listener=recorder, stop=recorder.stop)
        assert self.partial.is_dir()
        assert not self.out.exists()
        return recorder

    @property
    def partial(self) -> Path:
        return partial_path(self.out)

    def shards(self) -> dict[str, bytes]:
        return shard_bytes(open_result(self.out))


@pytest.fixture
def sequel(small_slide: Path, tmp_path: Path, unet: str) -> Sequel:
    return Sequel(small_slide, tmp_path / "x.seg.zarr", unet)


@pytest.fixture(scope="module")
def undisturbed(small_slide: Path, tmp_path_factory: pytest.TempPathFactory, unet: str) -> dict[str, bytes]:
    """Shards of a run that nothing stopped."""
    with folder_in_memory(tmp_path_factory.mktemp("undisturbed")) as folder:
        sequel = Sequel(small_slide, folder / "x.seg.zarr", unet)
        assert len(sequel.run().done) == N_TASKS
        return sequel.shards()


class TestStopped:
    def test_nothing_is_done_again(self, sequel: Sequel, undisturbed: dict[str, bytes]) -> None:
        first = sequel.stopped(after=5)
        assert 5 <= len(first.done) <= 7, "two workers may have been at work when the stop came"
        second = sequel.stopped(after=6)
        third = sequel.run()
        assert third.started is not None
        assert (third.started.n_tasks, third.started.n_done) == (N_TASKS, len(first.done) + len(second.done))
        done = first.done + second.done + third.done
        assert len(done) == len(set(done)) == N_TASKS
        assert sequel.shards() == undisturbed
        assert not sequel.partial.exists()
        assert verify_result(sequel.out).is_sound

    def test_before_the_first_tile(self, sequel: Sequel) -> None:
        stop = threading.Event()
        stop.set()
        with pytest.raises(RunStopped):
            run_slide(sequel.slide, sequel.options(), out=sequel.out, stop=stop)
        assert not sequel.partial.exists(), "planning writes nothing"

    def test_after_all_tasks(
        self, sequel: Sequel, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def cut(*_: Any, **__: Any) -> None:
            raise OSError("cut")

        with monkeypatch.context() as patch:
            patch.setattr("wsi_seg.output.commit.commit_run", cut)
            with pytest.raises(OSError, match="cut"):
                sequel.run()
        assert sequel.run().done == []
        assert sequel.shards() == undisturbed


class TestKilled:
    """A real `kill -9`, at three moments."""

    def test_same_bytes(self, sequel: Sequel, undisturbed: dict[str, bytes]) -> None:
        command = [
            sys.executable, "-m", "wsi_seg.cli", "run", str(sequel.slide), "--out", str(sequel.out), "--quiet",
            "--model", sequel.options().model, "--tile", "128", "--block", "256", "--workers", "1", "--no-skip",
            "--overlap", "48", "--window", "cosine",
        ]  # fmt: skip
        chance = random.Random()
        seen = 0
        for moment in sorted(chance.sample(range(1, N_TASKS - 1), 3)):
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
                while process.poll() is None and self._markers(sequel) < moment:
                    time.sleep(0.001)
                process.kill()
                said = process.communicate()[1].decode()
            assert process.returncode == -9, f"moment {moment}: {said}"
            assert self._markers(sequel) >= max(seen, moment), "what is marked stays"
            seen = self._markers(sequel)
            assert not sequel.out.exists()
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        assert sequel.shards() == undisturbed
        assert not list(sequel.out.parent.rglob("*.wsi-seg-tmp"))
        assert verify_result(sequel.out).is_sound

    def _markers(self, sequel: Sequel) -> int:
        return len(list((sequel.partial / ".wsi-seg" / "done").rglob("[0-9]*.json")))


class TestAnotherRun:
    """An unfinished result is continued by the same run only."""

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"model": "identity"}, "model.sha256"),
            ({"overlap": 32}, "grid.overlap"),
            ({"window": "linear"}, "grid.window"),
            ({"tile": 256}, "grid.tile"),
            ({"block": 512}, "layout.block"),
            ({"probabilities": True}, "probabilities"),
            ({"skip_background": True}, "selection"),
            ({"slide_mpp": 0.51}, "slide.l0_mpp"),
            ({"roi": "roi"}, "roi"),
        ],
    )
    def test_is_refused_naming_the_field(
        self, begun: Sequel, tmp_path: Path, changes: dict[str, Any], field: str
    ) -> None:
        if "roi" in changes:
            changes = {"roi": tmp_path / "roi.json"}
            changes["roi"].write_text('{"type": "Polygon", "coordinates": [[[9, 9], [99, 9], [99, 99], [9, 9]]]}')
        before = sorted(begun.partial.rglob("*"))
        with pytest.raises(RunMismatchError, match=rf"[ ;:]{field}: ") as raised:
            begun.run(**changes)
        assert "--restart" in raised.value.remedy
        assert sorted(begun.partial.rglob("*")) == before

    def test_restart_begins_anew(self, sequel: Sequel, small_slide: Path, tmp_path: Path) -> None:
        sequel.stopped(after=4)
        restarted = sequel.run(model="identity", restart=True)
        assert len(restarted.done) == N_TASKS
        other = Sequel(small_slide, tmp_path / "other.seg.zarr", "identity")
        other.run()
        assert sequel.shards() == other.shards()

    def test_other_workers_and_memory_resume(self, sequel: Sequel) -> None:
        few, many = {"block": None, "workers": 1, "memory_bytes": 8 << 30}, {"block": None, "workers": 8}
        blocks = {prepare(sequel.slide, sequel.options(**o)).plan.layout.block for o in (few, many)}
        assert len(blocks) == 2, "left alone, the plans would not fit each other"
        first = sequel.stopped(after=1, **few)
        rest = sequel.run(**many)
        assert rest.started is not None
        assert rest.started.n_done == len(first.done) >= 1


class TestDamaged:
    def test_damaged_parts_are_done_again(self, sequel: Sequel, undisturbed: dict[str, bytes]) -> None:
        done = sequel.stopped(after=12).done
        zeroth = sequel.partial / "labels/segmentation/0/c"
        flipped, cut, gone, unmarked = done[:4]
        shard = bytearray((zeroth / f"{flipped.row}/{flipped.column}").read_bytes())
        shard[len(shard) // 2] ^= 1
        (zeroth / f"{flipped.row}/{flipped.column}").write_bytes(shard)
        (zeroth / f"{cut.row}/{cut.column}").write_bytes(b"")
        (zeroth / f"{gone.row}/{gone.column}").unlink()
        marker = sequel.partial / f".wsi-seg/done/0/{unmarked.row}.{unmarked.column}.json"
        marker.write_bytes(marker.read_bytes()[:100])
        again = sequel.run()
        broken = {flipped, cut, gone, unmarked}
        above = {TaskKey(1, key.row // 2, key.column // 2) for key in broken}
        assert set(done) & set(again.done) == broken | (above & set(done))
        assert sequel.shards() == undisturbed
        assert verify_result(sequel.out).is_sound

    def test_what_was_made_from_them_is_made_again(self, sequel: Sequel, undisturbed: dict[str, bytes]) -> None:
        """Else a level made while a shard was lost would keep the hole, with hashes that agree."""
        done = sequel.stopped(after=14, workers=1).done
        above = next(key for key in done if key.tier == 1)
        below = TaskKey(0, 2 * above.row, 2 * above.column)
        hollow = sequel.partial / f"labels/segmentation/2/c/{above.row}/{above.column}"
        hollow.unlink()
        marker = sequel.partial / f".wsi-seg/done/1/{above.row}.{above.column}.json"
        content = json.loads(marker.read_bytes())
        content["shards"] = dict.fromkeys(content["shards"])
        marker.write_text(json.dumps(content))
        (sequel.partial / f"labels/segmentation/1/c/{below.row}/{below.column}").unlink()
        assert {below, above} <= set(sequel.stopped(after=3, workers=1).done) | set(sequel.run().done)
        assert sequel.shards() == undisturbed

    def test_an_unreadable_identity_is_refused(self, sequel: Sequel) -> None:
        sequel.stopped(after=1)
        (sequel.partial / ".wsi-seg/run.json").write_bytes(b"{")
        with pytest.raises(RunMismatchError, match=r"run\.json cannot be read"):
            sequel.run()
        assert len(sequel.run(restart=True).done) == N_TASKS


def test_a_second_run_on_the_same_output_is_refused(sequel: Sequel, undisturbed: dict[str, bytes]) -> None:
    refused: list[OutputExistsError] = []

    def listen(event: Event) -> None:
        if isinstance(event, TaskDone) and not refused:
            with pytest.raises(OutputExistsError) as raised:
                run_slide(sequel.slide, sequel.options(), out=sequel.out)
            refused.append(raised.value)

    run_slide(sequel.slide, sequel.options(workers=1), out=sequel.out, listener=listen)
    assert f"pid {os.getpid()} on host {socket.gethostname()}" in str(refused[0])
    assert sequel.shards() == undisturbed


class TestFinished:
    def test_is_never_replaced_unasked(self, sequel: Sequel) -> None:
        sequel.run(model="identity")
        before = {file: file.read_bytes() for file in sequel.out.rglob("*") if file.is_file()}
        with pytest.raises(OutputExistsError, match="exists") as raised:
            sequel.run()
        assert "--overwrite" in raised.value.remedy
        assert {file: file.read_bytes() for file in sequel.out.rglob("*") if file.is_file()} == before

    def test_stays_until_the_new_one_is_complete(self, sequel: Sequel, undisturbed: dict[str, bytes]) -> None:
        sequel.run(model="identity")
        old = labels_of(open_result(sequel.out))[0]
        recorder = Recorder(3)
        with pytest.raises(RunStopped):
            run_slide(
                sequel.slide, sequel.options(overwrite=True), out=sequel.out, listener=recorder, stop=recorder.stop
            )
        assert verify_result(sequel.out).is_sound
        assert (labels_of(open_result(sequel.out))[0] == old).all()
        assert len(sequel.run(overwrite=True).done) == N_TASKS - len(recorder.done)
        assert sequel.shards() == undisturbed
        assert [path.name for path in sequel.out.parent.iterdir()] == [sequel.out.name]
