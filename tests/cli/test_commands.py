"""What the commands say and with which code they leave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wsi_seg import __version__
from wsi_seg.cli.models import _halo
from wsi_seg.errors import PredictorError
from wsi_seg.output.label_store import open_result

COMMANDS = ["run", "plan", "info", "verify", "sample", "models"]
SMALL = ("--model", "he-stain", "--tile", 128, "--block", 256, "--no-skip", "--quiet")


class TestHelp:
    def test_lists_the_commands(self, wsi_seg: Any) -> None:
        code, out, _ = wsi_seg("--help")
        assert code == 0
        assert all(f" {command} " in out for command in COMMANDS)

    @pytest.mark.parametrize("command", COMMANDS)
    def test_of_each_command(self, wsi_seg: Any, command: str) -> None:
        code, out, _ = wsi_seg(command, "--help")
        assert code == 0
        assert "Usage" in out
        assert "--help" in out

    def test_version(self, wsi_seg: Any) -> None:
        assert wsi_seg("--version")[:2] == (0, f"{__version__}\n")

    def test_no_command(self, wsi_seg: Any) -> None:
        code, out, err = wsi_seg()
        assert code == 2
        assert "Usage" in out + err


# arguments after the slide, exit code, what the first line says
REFUSED = [
    (("--memory", "x"), 2, "--memory 'x'"),
    (("--memory", "nan"), 2, "--memory 'nan'"),
    (("--memory", "1e400"), 2, "--memory '1e400'"),
    (("--memory", "10M"), 1, "the projected peak is"),
    (("--overlap", "7"), 1, "overlap 7"),
    (("--overlap", "some"), 2, "--overlap 'some'"),
    (("--tile", "0"), 2, "--tile 0"),
    (("--tile", "50000"), 1, "tiles of 50000 px need"),
    (("--batch-size", "0"), 2, "--batch-size 0"),
    (("--batch-size", "1000000"), 1, "batches of 1000000 tiles"),
    (("--workers", "0"), 2, "--workers 0"),
    (("--workers", "1000000"), 1, "1000000 workers"),
    (("--block", "300"), 1, "block size 300"),
    (("--roi", "missing"), 1, "file of regions missing"),
    (("--model", "nope"), 1, "model 'nope'"),
    (("--model", "nope:nope"), 1, "module 'nope'"),
    (("--window", "nope"), 1, "window 'nope'"),
    (("--reader", "nope"), 2, "reader 'nope'"),
    (("--runtime", "nope"), 2, "runtime 'nope'"),
    (("--precision", "fp8"), 2, "precision 'fp8'"),
    (("--model-weights", "1,2"), 2, "--model-weights has 2 numbers for 1 models"),
    (("--model-weights", "much"), 2, "--model-weights 'much'"),
    (("--model", "constant:0/2", "--model", "constant:0/3"), 1, "models 'constant:0/2' and 'constant:0/3' differ in"),
    (("--tta", "mirror"), 2, "--tta 'mirror'"),
    (("--tta-scales", "0.93"), 2, "--tta-scales 0.93"),
    (("--mpp", "nan"), 2, "resolution nan"),
    (("--mpp", "50"), 1, "the nearest stored level has 50"),
    (("--classes", "only"), 1, "1 classes"),
    (("--mean", "1,2"), 2, "--mean '1,2'"),
    (("--threshold", "3"), 1, "threshold 3.0"),
    (("--min-object", "small"), 2, "--min-object 'small'"),
    (("--min-object", "20,nuclei=5,nuclei=6"), 2, "--min-object '20,nuclei=5,nuclei=6'"),
    (("--fill-holes", "nucleus=20"), 2, "--fill-holes for class 'nucleus'"),
    (("--min-object", "nucleus=20"), 2, "--min-object for class 'nucleus'"),
    (("--min-object", "0.1"), 1, "--min-object 0.1"),
    (("--crf", "--crf-iterations", "0"), 2, "--crf-iterations 0"),
    (("--crf", "--crf-radius", "-2"), 2, "--crf-radius -2"),
    (("--crf-colour", "4"), 2, "without --crf"),
]


class TestSeveralPredictions:
    OPTIONS = ("--tile", 128, "--block", 256, "--no-skip", "--quiet", "--overlap", 32)

    def test_the_mean_of_equals_is_the_model_itself(self, wsi_seg: Any, small_slide: Path, tmp_path: Path) -> None:
        """Pixels have no neighbours here, so turns and members change nothing; what was averaged is stated."""
        labels, told = [], []
        for name, more in (("a", ()), ("b", ("--model", "identity", "--model-weights", "3,1", "--tta", "d4"))):
            out = tmp_path / f"{name}.seg.zarr"
            left = wsi_seg("run", small_slide, "--out", out, "--model", "identity", *more, *self.OPTIONS, "--json")
            assert left.code == 0
            told.append(json.loads(left.out))
            labels.append(open_result(out).labels(0)[:])
        assert (labels[0] == labels[1]).all()
        assert [one["model"]["augmentation"] for one in told] == ["none", "d4"]
        assert told[1]["model"]["members"] == ["identity", "identity"]
        assert told[0]["run_id"] != told[1]["run_id"]

    def test_the_plan_shows_it(self, wsi_seg: Any, small_slide: Path) -> None:
        left = wsi_seg("plan", small_slide, "--model", "identity", "--tta", "flips", "--tta-scales", "1/2,1")
        assert left.code == 0
        assert "flips, scales 1/2 1" in left.out


class TestErrors:
    """Every error is: what, then rule, then remedy; and a code."""

    @pytest.mark.parametrize("command", ["run", "plan"])
    @pytest.mark.parametrize(("arguments", "code", "what"), REFUSED, ids=lambda value: str(value)[:30])
    def test_garbage(
        self, wsi_seg: Any, small_slide: Path, tmp_path: Path, command: str, arguments: Any, code: int, what: str
    ) -> None:
        out = ("--out", tmp_path / "x.seg.zarr", "--quiet") if command == "run" else ()
        quick = () if "--model" in arguments else ("--model", "he-stain")
        left = wsi_seg(command, small_slide, *arguments, *quick, *out)
        assert left.code == code
        assert left.out == ""
        first, *others = left.err.splitlines()
        assert first.startswith("error: ")
        assert what in first
        assert all(line.startswith(("  rule: ", "  try:  ")) for line in others)
        assert list(tmp_path.iterdir()) == [], "nothing is left of what was refused"

    @pytest.mark.parametrize(
        ("out", "code", "remedy"),
        [("foo.png", 2, "foo.png.seg.zarr"), ("no/folder/x.seg.zarr", 2, "make the folder"), (".", 2, "seg.zarr")],
    )
    def test_impossible_results(
        self, wsi_seg: Any, small_slide: Path, tmp_path: Path, out: str, code: int, remedy: str
    ) -> None:
        left = wsi_seg("run", small_slide, "--out", tmp_path / out)
        assert left.code == code
        assert remedy in left.err

    @pytest.mark.parametrize("command", ["run", "plan", "info"])
    @pytest.mark.parametrize("name", ["missing.svs", "", "text.svs"])
    def test_no_slide(self, wsi_seg: Any, tmp_path: Path, command: str, name: str) -> None:
        (tmp_path / "text.svs").write_text("not a slide")
        left = wsi_seg(command, tmp_path / name)
        assert left.code == 1
        assert left.err.startswith(f"error: {tmp_path / name}")
        assert "  try:  " in left.err

    def test_no_scheduler(self, wsi_seg: Any, small_slide: Path, tmp_path: Path, monkeypatch: Any) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise TimeoutError("nobody there")

        monkeypatch.setattr("distributed.Client", refuse)
        left = wsi_seg("run", small_slide, "--out", tmp_path / "x.seg.zarr", "--scheduler", "tcp://127.0.0.1:1", "-q")
        assert left.code == 1
        assert "no Dask scheduler at tcp://127.0.0.1:1" in left.err

    @pytest.mark.parametrize("arguments", [("run",), ("run", "x", "--bogus"), ("bogus",), ("run", "x", "--tile", "a")])
    def test_typing_errors(self, wsi_seg: Any, arguments: tuple[str, ...]) -> None:
        left = wsi_seg(*arguments)
        assert left.code == 2
        assert "Error: " in left.err

    def test_a_fault_of_ours_is_one_message_too(self, wsi_seg: Any, small_slide: Path, monkeypatch: Any) -> None:
        def break_down(*_: object) -> None:
            raise KeyError("surprise")

        monkeypatch.setattr("wsi_seg.engine.prepare.prepare", break_down)
        left = wsi_seg("plan", small_slide)
        assert left.code == 1
        assert left.err == "error: KeyError: 'surprise'\n  try:  wsi-seg --debug … shows where\n"

    def test_debug_shows_the_traceback(self, small_slide: Path, monkeypatch: Any) -> None:
        from wsi_seg.cli.main import main

        def break_down(*_: object) -> None:
            raise PredictorError("surprise")

        monkeypatch.setattr("wsi_seg.engine.prepare.prepare", break_down)
        with pytest.raises(PredictorError, match="surprise"):
            main(["--debug", "plan", str(small_slide)])


class TestJson:
    def test_plan(self, wsi_seg: Any, small_slide: Path) -> None:
        left = wsi_seg("plan", small_slide, "--json")
        assert left.code == 0
        assert set(json.loads(left.out)) == {
            "run_id", "identity", "layout", "slide", "program", "tiling", "selection", "n_levels", "tissue_mm2",
            "memory", "notes",
        }  # fmt: skip

    def test_run(self, wsi_seg: Any, small_slide: Path, tmp_path: Path) -> None:
        left = wsi_seg("run", small_slide, "--out", tmp_path / "x.seg.zarr", *SMALL, "--json")
        assert (left.code, left.err) == (0, "")
        report = json.loads(left.out)
        assert report["out"] == str(tmp_path / "x.seg.zarr")
        assert report["model"]["runtime"] in report["versions"]
        assert report["tiles"]["done"] == sum(report["tiles"].values()) == open_result(tmp_path / "x.seg.zarr").read_tiles().size  # fmt: skip  # noqa: E501
        assert sum(entry["n_pixels"] for entry in report["classes"]) == 1100 * 1500

    def test_info_and_models(self, wsi_seg: Any, small_slide: Path) -> None:
        info = json.loads(wsi_seg("info", small_slide, "--json").out)
        assert info["levels"][0]["size"] == [1100, 1500]
        assert info["mpp"] == [0.5, 0.5]
        cards = json.loads(wsi_seg("models", "--json").out)
        assert "he-stain" in cards
        assert json.loads(wsi_seg("models", "he-stain", "--json").out)["he-stain"] == cards["he-stain"]

    def test_verify(self, wsi_seg: Any, small_slide: Path, tmp_path: Path) -> None:
        out = tmp_path / "x.seg.zarr"
        assert wsi_seg("run", small_slide, "--out", out, *SMALL).code == 0
        sound = wsi_seg("verify", out, "--json")
        assert sound.code == 0
        assert json.loads(sound.out)["problems"] == []
        next(file for file in out.rglob("c/0/0") if file.is_file()).write_bytes(b"x")
        damaged = wsi_seg("verify", out, "--json")
        assert damaged.code == 1
        assert json.loads(damaged.out)["problems"]
        assert wsi_seg("verify", out).out.startswith(f"{out} is damaged")


class TestWords:
    def test_run_names_classes_and_files(self, wsi_seg: Any, small_slide: Path, tmp_path: Path) -> None:
        left = wsi_seg("run", small_slide, "--out", tmp_path / "x.seg.zarr")
        assert left.code == 0
        for word in ("background", "nuclei", "mm2", "overview.png", "done"):
            assert word in left.out
        assert "tiles" in left.err

    def test_plan_and_info(self, wsi_seg: Any, small_slide: Path) -> None:
        assert "0.5" in wsi_seg("info", small_slide).out
        said = wsi_seg("plan", small_slide).out
        assert "emory" in said
        assert "nuclei (openvino" in said or "nuclei (onnxruntime" in said
        assert "post-processing" not in said

    def test_plan_tells_of_post_processing(self, wsi_seg: Any, small_slide: Path) -> None:
        said = wsi_seg("plan", small_slide, "--min-object", "5", "--fill-holes", "nuclei=10", "--crf").out
        for words in (
            "below 20 px within 18 px",
            "nuclei below 40 px within 26 px",
            "radius 4 px, 5 iterations",
        ):
            assert words in said
        assert "82 px" in said, "the margin: 20 + 26 + 2 * 18"
        assert "probabilities for the CRF" in said

    def test_info_of_an_unfinished_result_says_so(self, wsi_seg: Any, tmp_path: Path) -> None:
        (tmp_path / "x.seg.zarr.partial/.wsi-seg").mkdir(parents=True)
        (tmp_path / "x.seg.zarr.partial/.wsi-seg/lock").touch()
        left = wsi_seg("info", tmp_path / "x.seg.zarr.partial")
        assert left.code == 1
        assert "is an unfinished result" in left.err

    def test_sizes_are_width_by_height_everywhere(self, wsi_seg: Any, tmp_path: Path) -> None:
        slide = tmp_path / "wide.tif"
        assert wsi_seg("sample", "--synthetic", "900x600", slide).code == 0
        assert " 900 x 600 px" in wsi_seg("info", slide).out
        plan = wsi_seg("plan", slide, *SMALL[:-2]).out
        assert plan.count(" 900 x 600 px") == 2
        assert "8 x 5 = 40 tiles" in plan

    def test_a_card_that_leaves_things_open(self, wsi_seg: Any) -> None:
        assert "halo 2 px" in wsi_seg("models", "he-stain").out
        assert _halo(None) == "measured before each run"

    def test_default_name(self, wsi_seg: Any, small_slide: Path, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.chdir(tmp_path)
        assert wsi_seg("run", small_slide, *SMALL).code == 0
        assert [path.name for path in tmp_path.iterdir()] == ["small.seg.zarr"]

    def test_sample(self, wsi_seg: Any, tmp_path: Path) -> None:
        slide = tmp_path / "made.tif"
        assert wsi_seg("sample", "--synthetic", "300x200", slide).code == 0
        assert json.loads(wsi_seg("info", slide, "--json").out)["levels"][0]["size"] == [200, 300]
        assert wsi_seg("sample", "--synthetic", "300x200", slide).code == 1
        assert wsi_seg("sample", "--synthetic", "300", slide).code == 2
