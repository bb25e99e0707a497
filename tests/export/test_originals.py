"""What exports start from: other people's modules and files, their cards completed by options, and what is missing."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.export.conftest import SIDE, asked
from wsi_seg.card import named_classes
from wsi_seg.cli.bench import bench
from wsi_seg.cli.export import export
from wsi_seg.cli.run import run
from wsi_seg.cli.shared_options import card_options
from wsi_seg.errors import CardError, ModelLoadError, UsageError
from wsi_seg.export import export_model, exporting, packages
from wsi_seg.infer import CardOverrides, ModelSpec, load_predictor, read_card
from wsi_seg.infer.runtime import tensorrt_library

FACTORY = "tests.export.bare_models:"
STATED = {
    "mpp": 0.5, "classes": named_classes(["a", "b"]), "mean": (0.5, 0.4, 0.3), "std": (0.25,) * 3,
    "activation": "softmax", "tile_size": SIDE,
}  # fmt: skip


@pytest.mark.parametrize("command", [export, bench])
def test_a_card_is_completed_by_the_options_of_run(command: Callable[..., None]) -> None:
    def told(asked: Callable[..., None], name: str) -> tuple[object, ...]:
        option = inspect.signature(asked).parameters[name]
        return option.default, option.annotation.__origin__, option.annotation.__metadata__[0].help

    for name in (*inspect.signature(card_options).parameters, "weights"):
        assert told(command, name) == told(run, name)


class TestFactories:
    """A stranger's module: options say what its card would, and it runs as `run` runs it."""

    @pytest.mark.parametrize(
        ("model", "to", "stated"),
        [
            ("Halved", "onnx", {"channels": "BGR", "halo": 3}),
            ("Last", "onnx", {"layout": "NHWC"}),
            ("Named", "torch", {"output": "fine"}),
            ("Single", "torch", {"activation": "sigmoid", "threshold": 0.7}),
        ],
    )
    def test_it_gives_what_running_it_gives(
        self, model: str, to: str, stated: dict[str, object], tmp_path: Path, slide: Path
    ) -> None:
        pytest.importorskip("onnxscript")
        card, out = {**STATED, **stated}, tmp_path / f"m{'.onnx' if to == 'onnx' else '.pt2'}"
        report = export_model(asked(FACTORY + model, slide, to=to, card=card, out=out, n_tiles=2))
        assert all(v.agreement is not None and v.agreement.max_abs < 1e-5 for v in report.verdicts)
        made, users = (
            load_predictor(spec)
            for spec in (ModelSpec(str(out)), ModelSpec(FACTORY + model, card=CardOverrides(**card)))  # type: ignore[arg-type]
        )
        batch = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), dtype=np.uint8)
        assert np.abs(made.predict(batch) - users.predict(batch)).max() < 1e-5
        assert made.card.output_stride == 2  # measured
        for field in ("mpp", "classes", "mean", "std", "channels", "halo", "threshold"):
            assert getattr(made.card, field) == getattr(users.card, field)
        assert made.card.name == users.card.name == model
        assert (made.card.activation, made.card.layout, made.card.output) == ("probabilities", "NCHW", "")

    def test_all_that_its_card_lacks_is_said_at_once(self, slide: Path) -> None:
        pytest.importorskip("torch")
        with pytest.raises(CardError, match="missing: --model-mpp, --classes, --mean, --std, --activation; found"):
            export_model(asked(FACTORY + "Halved", slide))

    @pytest.mark.parametrize("to", ["onnx", "torch"])
    def test_one_that_cannot_be_traced_is_one_message(self, to: str, tmp_path: Path, slide: Path) -> None:
        pytest.importorskip("onnxscript")
        card = {key: value for key, value in STATED.items() if key != "tile_size"}
        out = tmp_path / f"m{'.onnx' if to == 'onnx' else '.pt2'}"
        with pytest.raises(ModelLoadError, match=r"torch cannot trace Fixed: ") as caught:
            export_model(asked(FACTORY + "Fixed", slide, to=to, card={**card, "output_stride": 2}, out=out))
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 700
        assert not out.exists()


def test_what_was_measured_of_a_program_without_a_card_goes_into_the_file(program: Path, slide: Path) -> None:
    model = onnx.load(str(program))
    del model.metadata_props[:]
    onnx.save(model, str(program))
    card = {**STATED, "activation": "probabilities", "classes": named_classes(["a", "b", "c"])}
    report = export_model(asked(program, slide, card=card, out=program.with_name("with.onnx"), n_tiles=2))
    assert read_card(ModelSpec(str(report.out))).output_stride == 4
    assert read_card(ModelSpec(str(report.out))).mpp == 0.5


class TestPackages:
    """What is not installed is told before anything is loaded, traced or read."""

    @pytest.fixture(autouse=True)
    def no_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("load_predictor", "draw_tiles", "check_precision"):
            monkeypatch.setattr(exporting, name, lambda *_: pytest.fail("worked"))

    @pytest.mark.parametrize(
        ("model", "to", "missing", "command"),
        [
            (FACTORY + "Halved", "coreml", "coremltools", "pip install 'wsi-seg[coreml]'"),
            (FACTORY + "Halved", "torch", "torch", "pip install 'wsi-seg[torch]'"),
            (FACTORY + "Halved", "openvino", "onnxscript", "pip install 'wsi-seg[export]'"),
        ],
    )
    def test_with_the_command_that_installs_it(
        self, model: str, to: str, missing: str, command: str, slide: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(packages, "find_spec", lambda name: None if name == missing else object())
        with pytest.raises(ModelLoadError, match=f"to {to} needs {missing}, not installed") as caught:
            export_model(asked(model, slide, to=to))
        assert caught.value.remedy == command

    def test_tensorrt_under_either_name(self, program: Path, slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tensorrt_library, "FLAVOURS", ("no_such_tensorrt",))
        with pytest.raises(ModelLoadError, match="pip install tensorrt, or"):
            export_model(asked(program, slide, to="tensorrt"))

    def test_nothing_is_missing_for_what_needs_nothing(
        self, program: Path, slide: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(packages, "find_spec", lambda _: None)
        monkeypatch.setattr(exporting, "check_precision", lambda _: None)
        with pytest.raises(UsageError, match="folder does not exist"):
            export_model(asked(program, slide, out=program / "no" / "m.onnx"))
