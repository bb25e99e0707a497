"""`wsi-seg export`, `bench`, and the runs that follow from them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from benchmarks import networks
from tests.whole_runs import Program
from wsi_seg.engine import prepare
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.run import run_slide
from wsi_seg.export import benching
from wsi_seg.infer import choice, measuring
from wsi_seg.infer.runtime import openvino_predictor
from wsi_seg.output.label_store import open_result
from wsi_seg.sample import write_synthetic


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "tissue.tif"
    write_synthetic(path, (1024, 1024), tissue_fraction=0.8)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return networks.unet(tmp_path / "unet.onnx", networks.UnetShape(4, 2, tile_size=128))


def test_export_then_run_in_int8_then_bench(
    wsi_seg: Program, model: Path, slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = wsi_seg(
        "export", model, "--precision", "int8", "--calibrate", slide, "--tiles", 4, "--max-dice-loss", 0.5
    )
    assert exported.code == 0, exported.err
    assert "2 tiles of tissue" not in exported.out
    assert "keep their class" in exported.out
    out = tmp_path / "a.seg.zarr"
    ran = wsi_seg("run", slide, "--model", model, "--precision", "int8", "--out", out, "--json", "--quiet")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["model"]["precision"] == "int8"
    # one process for each is shown in tests/export/test_benching.py
    monkeypatch.setattr(benching, "_apart", benching._measured)
    monkeypatch.setattr(measuring, "throughput", partial(measuring.throughput, seconds=0.02))
    table = wsi_seg("bench", model, "--slide", slide, "--tiles", 1, "--workers", 1, "--json")
    assert table.code == 0, table.err
    assert {row["precision"] for row in json.loads(table.out)} == {"fp32", "bf16", "int8"}


class TestTable:
    """What `bench` prints."""

    FACTORY = "tests.export.bare_models:Halved"
    STATED = ("--model-mpp", 0.5, "--classes", "a,b", "--mean", 0.5, "--std", 0.25, "--activation", "softmax")

    def test_it_fits_a_terminal_and_notes_come_after_it_each_once(
        self, wsi_seg: Program, model: Path, slide: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr(openvino_predictor, "has_native_bf16", lambda: False)
        named = model.rename(model.with_name("a-model-with-a-long-name.onnx"))
        named.with_suffix(".pt2").write_bytes(b"no archive")
        outcome = wsi_seg("bench", named, "--slide", slide, "--tiles", 1, "--workers", 1)
        assert outcome.code == 0, outcome.err
        lines = outcome.out.splitlines()
        assert max(map(len, lines)) <= 80
        assert [line.split()[:3] for line in lines[1:]] == [
            ["…ng-name.onnx", "openvino", "fp32"], ["…ng-name.onnx", "onnxruntime", "fp32"],
            ["…ng-name.onnx", "openvino", "bf16"], ["…ong-name.pt2", "auto", "auto"],
        ]  # fmt: skip
        notes = outcome.err.splitlines()
        assert len(notes) == 3
        assert notes[0].startswith("note: a-model-with-a-long-name.pt2 on auto in auto: ")
        assert notes[1].startswith("note: openvino bf16: this CPU has no bf16 instructions")
        assert notes[2].startswith("note: no int8 program: wsi-seg export ")

    def test_options_complete_a_model_without_a_card_and_leave_alone_the_one_that_has_its_own(
        self, wsi_seg: Program, tmp_path: Path, slide: Path
    ) -> None:
        pytest.importorskip("onnxscript")
        out = tmp_path / "halved.onnx"
        made = wsi_seg("export", self.FACTORY, *self.STATED, "--judge", slide, "--tiles", 1, "--out", out)
        assert made.code == 0, made.err
        outcome = wsi_seg(
            "bench", self.FACTORY, out, *self.STATED, "--slide", slide, "--tiles", 1, "--workers", 1, "--json"
        )
        assert outcome.code == 0, outcome.err
        rows = json.loads(outcome.out)
        assert [(row["runtime"], row["problem"]) for row in rows if row["precision"] == "fp32"] == [
            ("torch", ""), ("openvino", ""), ("onnxruntime", "")
        ]  # fmt: skip
        assert all(row["agreement"] is None or row["agreement"]["max_abs"] < 0.02 for row in rows)

    @pytest.fixture(autouse=True)
    def in_this_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """tests/export/test_benching.py is about the processes."""
        monkeypatch.setattr(benching, "_apart", benching._measured)


def test_bad_wishes_are_one_message(wsi_seg: Program, model: Path, slide: Path) -> None:
    for arguments, said in (
        (("--precision", "int8"), "calibrated on tissue"),
        (("--precision", "bf16"), "run --precision bf16"),
        (("--to", "keras"), "--to 'keras'"),
        (("--method", "guess", "--calibrate", slide), "minmax, percentile, entropy"),
        (("--to", "torch", "--judge", slide), "made from a torch module"),
    ):
        outcome = wsi_seg("export", model, *arguments)
        assert outcome.code in (1, 2)
        assert said in outcome.err, outcome.err


class TestAuto:
    """What `run` makes of `--runtime auto`."""

    @pytest.fixture(autouse=True)
    def measured(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr(prepare, "MEASURED_FROM_S", 0.0)
        monkeypatch.setattr("wsi_seg.infer.rough_throughput", measuring.rough_throughput)

    def test_it_tells_what_was_measured(self, model: Path, slide: Path, tmp_path: Path) -> None:
        options = RunOptions(model=str(model), tile=128, workers=1)
        notes = run_slide(slide, options, out=tmp_path / "a.seg.zarr").notes
        assert [note for note in notes if "openvino fp32" in note and "onnxruntime fp32" in note and "(taken)" in note]
        assert not run_slide(slide, options, out=tmp_path / "b.seg.zarr").notes

    def test_a_small_slide_is_not_measured_for(
        self, model: Path, slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(prepare, "MEASURED_FROM_S", 30.0)
        monkeypatch.setattr(choice, "compare_candidates", lambda *_: pytest.fail("measured"))
        run_slide(slide, RunOptions(model=str(model), tile=128, workers=1), out=tmp_path / "a.seg.zarr")

    def test_a_resumed_run_keeps_the_runtime_it_began_with(
        self, model: Path, slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from threading import Event as Flag

        from wsi_seg.engine.events import Event, TaskDone
        from wsi_seg.errors import RunStopped

        stop = Flag()

        def stop_soon(event: Event) -> None:
            if isinstance(event, TaskDone):
                stop.set()

        options = RunOptions(model=str(model), tile=128, workers=1, block=256)
        out = tmp_path / "a.seg.zarr"
        stated = RunOptions(model=str(model), tile=128, workers=1, block=256, runtime="onnxruntime", precision="fp32")
        with pytest.raises(RunStopped):
            run_slide(slide, stated, out=out, listener=stop_soon, stop=stop)
        monkeypatch.setattr(choice, "fastest", lambda trials: trials[0].spec)  # openvino, were it asked
        run_slide(slide, options, out=out)
        provenance = json.loads((out / "provenance.json").read_text())
        assert provenance["identity"]["model"]["runtime"] == "onnxruntime"
        assert open_result(out).n_levels
