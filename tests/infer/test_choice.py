"""What `auto` becomes: measured, remembered, and never at the price of other labels."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from wsi_seg.errors import ModelError, ModelLoadError, PredictorError, PredictorOutOfMemory
from wsi_seg.infer import (
    Agreement,
    CardOverrides,
    ModelSpec,
    Trial,
    candidates,
    choice,
    choose_program,
    load_predictor,
    measuring,
    throughput,
    try_candidate,
)
from wsi_seg.infer.location import file_sha256, variant_path
from wsi_seg.infer.protocol import Member, RuntimeFacts

Tiles = Callable[..., np.ndarray]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(measuring, "throughput", partial(throughput, seconds=0.02))  # whose figures are not looked at
    return tmp_path / "cache"


def trial(runtime: str, precision: str, speed: float, same: float | None) -> Trial:
    result = None if same is None else Agreement(same, 0.1, 0.01)
    return Trial(ModelSpec("m", runtime=runtime, precision=precision), None, speed, result)


REFERENCE = trial("openvino", "fp32", 10, None)


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([], ("openvino", "fp32")),
        ([trial("onnxruntime", "fp32", 10.9, 1.0)], ("openvino", "fp32")),
        ([trial("onnxruntime", "fp32", 11.1, 1.0)], ("onnxruntime", "fp32")),
        ([trial("openvino", "int8", 30, 0.998)], ("openvino", "fp32")),
        ([trial("openvino", "int8", 30, 0.999)], ("openvino", "int8")),
        ([trial("openvino", "bf16", 20, 1.0), trial("openvino", "int8", 30, 1.0)], ("openvino", "int8")),
        ([Trial(ModelSpec("m", runtime="torch"), problem="no torch")], ("openvino", "fp32")),
    ],
    ids=[
        "nothing else",
        "a little faster is noise",
        "faster and equal",
        "faster but other labels",
        "just equal enough",
        "the fastest of several",
        "one that does not run",
    ],
)
def test_the_fastest_that_agrees_is_taken(others: list[Trial], expected: tuple[str, str]) -> None:
    taken = choice.fastest([REFERENCE, *others])
    assert (taken.runtime, taken.precision) == expected


def test_candidates_keep_what_is_stated(small_unet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_native_bf16", lambda: False)
    spec = ModelSpec(str(small_unet))
    assert [c.runtime for c in candidates(spec)] == ["openvino", "onnxruntime"]
    assert [c.runtime for c in candidates(spec.replaced(runtime="onnxruntime"))] == ["onnxruntime"]
    assert {c.precision for c in candidates(spec.replaced(precision="fp32"))} == {"fp32"}
    assert [c.precision for c in candidates(spec, thorough=True)][-1] == "bf16"
    monkeypatch.setattr(measuring, "_native_bf16", lambda: True)
    assert [(c.runtime, c.precision) for c in candidates(spec)][-1] == ("openvino", "bf16")


def test_auto_is_made_concrete_measured_and_remembered(
    small_unet: Path, tissue_like: Tiles, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    spec = ModelSpec(str(small_unet))
    first = choose_program(spec, tissue_like(2, 64))
    assert first.spec.runtime in ("openvino", "onnxruntime")
    assert first.spec.precision in ("fp32", "bf16")
    assert first.trials[0].agreement is None
    assert all(t.mpx_per_s > 0 for t in first.trials if t.runs)
    assert "Mpx/s" in first.notes()[0]
    assert "(taken)" in first.notes()[0]
    monkeypatch.setattr(choice, "compare_candidates", lambda *_: pytest.fail("measured again"))
    again = choose_program(spec, tissue_like(2, 64))
    assert again.remembered
    assert again.spec == first.spec
    assert again.notes() == ()


def test_a_choice_is_remembered_for_the_card_it_was_measured_with(
    small_unet: Path, tissue_like: Tiles, own_cache: Path
) -> None:
    spec, tiles = ModelSpec(str(small_unet)), tissue_like(1, 64)
    choose_program(spec, tiles)
    darker = spec.replaced(card=CardOverrides(mean=(0.1, 0.1, 0.1)))
    assert not choose_program(darker, tiles).remembered
    assert choose_program(spec, tiles).remembered


def test_a_memory_that_is_broken_or_cannot_be_written_costs_time_only(
    small_unet: Path, tissue_like: Tiles, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, tiles = ModelSpec(str(small_unet)), tissue_like(1, 64)
    choose_program(spec, tiles)
    (file,) = (own_cache / "wsi-seg" / "choices").iterdir()
    for content in ("", "[]", '{"runtime": "gone", "precision": "fp32"}', "{"):
        file.write_text(content)
        assert not choose_program(spec, tiles).remembered
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    assert choose_program(spec, tiles).trials


def test_one_way_to_run_is_not_measured(tissue_like: Tiles) -> None:
    assert choose_program(ModelSpec("constant:1/3"), tissue_like(1, 64)).trials == ()
    stated = ModelSpec("identity", runtime="onnxruntime", precision="fp32", device="cpu")
    assert choose_program(stated, tissue_like(1, 64)).spec == stated


def test_a_reference_that_does_not_run_is_replaced(small_unet: Path, tissue_like: Tiles) -> None:
    specs = [ModelSpec("gone.onnx"), ModelSpec(str(small_unet), runtime="onnxruntime")]
    trials = choice.compare_candidates(specs, tissue_like(1, 64))
    assert trials[0].spec.runtime == "onnxruntime"
    assert "gone.onnx" in trials[1].problem
    with pytest.raises(ModelError, match=r"no runtime here runs gone\.onnx"):
        choice.compare_candidates(specs[:1], tissue_like(1, 64))


class TestLoadedAndFailing:
    """A runtime that takes a program and then cannot run it, at once or on some tiles."""

    @pytest.fixture
    def failing(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        """Make a runtime fail on tiles: all of them, or those that are not the made-up one of loading."""
        monkeypatch.setattr(measuring, "_WINDOWS", 1)

        def fail(program: str, *, always: bool) -> None:
            module, name = program.rsplit(".", 1)
            kind = getattr(importlib.import_module(f"wsi_seg.infer.runtime.{module}"), name)
            run = kind.run

            def failing(self: object, batch: np.ndarray) -> np.ndarray:
                if always or tuple(batch[0, 0, 0]) != (128, 64, 160):
                    raise PredictorError(f"{name} stumbled") from RuntimeError("no kernel")
                return run(self, batch)

            monkeypatch.setattr(kind, "run", failing)

        return fail

    @pytest.mark.parametrize("always", [True, False])
    @pytest.mark.parametrize(
        ("program", "other"),
        [
            ("openvino_predictor.OpenvinoProgram", "onnxruntime"),
            ("onnxruntime_predictor.OnnxRuntimeProgram", "openvino"),
        ],
    )
    def test_it_is_told_with_its_reason_and_not_taken(
        self, program: str, other: str, always: bool, small_unet: Path, tissue_like: Tiles, failing: Callable[..., None]
    ) -> None:
        failing(program, always=always)
        found = choose_program(ModelSpec(str(small_unet), precision="fp32"), tissue_like(2, 64))
        assert found.spec.runtime == other
        (failed,) = [trial for trial in found.trials if not trial.runs]
        assert failed.spec.runtime != other
        assert "stumbled" in failed.problem
        assert f"{failed.spec.runtime} fp32 {failed.failure}" in found.notes()[0]
        assert ("fails to run it" in failed.failure) == (not always)

    def test_where_none_runs_none_is_taken(
        self, small_unet: Path, tissue_like: Tiles, failing: Callable[..., None]
    ) -> None:
        failing("openvino_predictor.OpenvinoProgram", always=False)
        failing("onnxruntime_predictor.OnnxRuntimeProgram", always=False)
        with pytest.raises(PredictorError, match=r"openvino on cpu: Openvino.*onnxruntime on cpu: Onnx"):
            choose_program(ModelSpec(str(small_unet), precision="fp32"), tissue_like(2, 64))

    def test_loading_goes_on_to_the_next_runtime(
        self, small_unet: Path, failing: Callable[..., None], caplog: pytest.LogCaptureFixture
    ) -> None:
        failing("openvino_predictor.OpenvinoProgram", always=True)
        assert load_predictor(ModelSpec(str(small_unet))).facts.runtime == "onnxruntime"
        assert "openvino on cpu: OpenvinoProgram stumbled" in caplog.text
        with pytest.raises(PredictorError, match="Openvino"):
            load_predictor(ModelSpec(str(small_unet), runtime="openvino"))
        failing("onnxruntime_predictor.OnnxRuntimeProgram", always=True)
        with pytest.raises(PredictorError, match="Openvino"):
            load_predictor(ModelSpec(str(small_unet)))

    def test_an_ensemble_goes_on_as_a_whole(
        self, small_unet: Path, failing: Callable[..., None], caplog: pytest.LogCaptureFixture
    ) -> None:
        failing("openvino_predictor.OpenvinoProgram", always=True)
        both = ModelSpec(str(small_unet), members=(Member(str(small_unet)), Member(str(small_unet), 2.0)))
        assert load_predictor(both).facts.runtime == "onnxruntime"
        assert "ensemble on openvino: OpenvinoProgram stumbled" in caplog.text

    def test_memory_that_runs_out_says_nothing_of_a_runtime(
        self, small_unet: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def run(self: object, batch: np.ndarray) -> np.ndarray:
            raise MemoryError

        monkeypatch.setattr("wsi_seg.infer.runtime.openvino_predictor.OpenvinoProgram.run", run)
        with pytest.raises(PredictorOutOfMemory):
            load_predictor(ModelSpec(str(small_unet)))


def test_a_candidate_that_fails_is_told_not_raised(tissue_like: Tiles) -> None:
    assert try_candidate(ModelSpec("gone.onnx"), tissue_like(1, 64), None).problem
    odd = try_candidate(ModelSpec("nuclei"), tissue_like(1, 50), None)  # not a multiple of its stride
    assert not odd.runs
    assert "50" in odd.problem


def test_throughput_counts_pixels(tissue_like: Tiles) -> None:
    class Slow:
        fixed_input = (None, None, None)
        facts = RuntimeFacts("numpy", "1", "CPU", "fp32")

        def predict(self, batch: np.ndarray) -> np.ndarray:
            import time

            time.sleep(0.02)
            return batch

    for streams in (1, 3):
        measured = throughput(Slow(), tissue_like(2, 64), streams, seconds=0.2)  # type: ignore[arg-type]
        assert 0.3 < measured / (streams * 64 * 64 / 1e6 / 0.02) <= 1.01


def test_the_shipped_int8_program_belongs_to_the_shipped_model() -> None:
    predictor = load_predictor(ModelSpec("nuclei", precision="int8"))
    assert (predictor.facts.precision, predictor.card.precision) == ("int8", "int8")
    for runtime in ("openvino", "onnxruntime"):
        assert load_predictor(ModelSpec("nuclei", runtime=runtime, precision="int8")).facts.runtime == runtime


def test_a_stale_program_of_lower_precision_is_refused(tmp_path: Path) -> None:
    from wsi_seg.infer import builtin_models

    original = builtin_models()["nuclei"]
    copy = tmp_path / "model.onnx"
    copy.write_bytes(original.read_bytes())
    variant_path(copy, "int8").write_bytes(variant_path(original, "int8").read_bytes())
    assert load_predictor(ModelSpec(str(copy), precision="int8")).card.derived_from == file_sha256(copy)
    copy.write_bytes(builtin_models()["he-stain"].read_bytes())
    with pytest.raises(ModelError, match="not made from"):
        load_predictor(ModelSpec(str(copy), precision="int8"))


def test_a_precision_that_is_not_there_says_how_to_make_it(small_unet: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"export .* --precision int8"):
        load_predictor(ModelSpec(str(small_unet), precision="int8"))


def test_an_int8_program_does_not_pretend_to_be_fp32() -> None:
    from wsi_seg.infer import builtin_models

    path = variant_path(builtin_models()["nuclei"], "int8")
    assert load_predictor(ModelSpec(str(path))).facts.precision == "int8"
    for precision in ("fp32", "bf16"):
        with pytest.raises(ModelLoadError, match="stored in int8"):
            load_predictor(ModelSpec(str(path), precision=precision))
