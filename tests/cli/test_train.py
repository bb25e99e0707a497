"""`wsi-seg train`: from a configuration to a model that `wsi-seg run` takes, nothing typed twice."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tests.train.discs import disc_config, write_discs
from tests.whole_runs import Program
from wsi_seg.infer import ModelSpec, read_card
from wsi_seg.train.config import to_yaml

FILES = {
    "best.safetensors", "card.json", "config.yaml", "curves.png", "last.pt", "log.csv", "model.onnx", "predictions.png",
    "summary.json", "tensorboard",
}  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration file beside its data, with relative paths."""
    write_discs(tmp_path, 8)
    text = to_yaml(disc_config(Path(), licence="CC0-1.0", training_data="drawn discs"))
    (tmp_path / "discs.yaml").write_text(text)
    return tmp_path / "discs.yaml"


def test_a_trained_folder_is_a_model(wsi_seg: Program, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    trained = wsi_seg("train", config, "--out", out)
    assert trained.code == 0, trained.err
    assert {path.name for path in out.iterdir()} == FILES
    assert "epoch 2/2: loss" in trained.err
    assert f"--model {out}" in trained.out
    summary = json.loads((out / "summary.json").read_text())
    assert summary["scores"]["dice"]["disc"] > 0.7
    assert summary["export"]["largest_difference"] < 1e-4
    assert summary["network"]["halo"] > 0

    card = read_card(ModelSpec(model=str(out)))
    assert (card.name, card.mpp, card.tile_size, card.output_stride, card.licence) == ("discs", 1.0, 64, 2, "CC0-1.0")
    assert [entry.colour for entry in card.classes][1] == "#aa00aa"
    assert card.halo == summary["network"]["halo"]
    assert "Dice on" in card.description

    slide = tmp_path / "slide.tif"
    assert wsi_seg("sample", slide, "--synthetic", "300x200", "--mpp", "1.0").code == 0
    ran = wsi_seg("run", slide, "--model", out, "--out", tmp_path / "slide.seg.zarr", "--json", "--no-skip")
    assert ran.code == 0, ran.err
    assert {row["name"] for row in json.loads(ran.out)["classes"]} == {"ground", "disc"}

    again = wsi_seg("train", config, "--out", out, "--json")
    assert again.code == 0
    assert json.loads(again.out) == summary
    other = wsi_seg("train", config, "--out", out, "--set", "epochs=3")
    assert other.code == 1
    assert "epochs 2, asked is 3" in other.err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("epoch=3", "epoch: there is no such key; did you mean epochs"),
        ("patch_size=33", "use 32 or 34"),
        ("tile_size=65", "use 64 or 66"),
        ("model.width", "key=value"),
        ("data.train.7.weight=2", "7 must be a number below 1"),
        ("data.train.0.images=nowhere", "nowhere"),
        ("classes=[a, a]", "class names must differ"),
        ("loss=[{name: dice, class_weights: [1]}]", "1 class weights"),
        ("transfer={weights: nothing.safetensors}", "nothing.safetensors"),
        ("distill={teacher: nothing}", "is no run folder"),
        ("device=cuda", "no CUDA device"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(wsi_seg: Program, config: Path, change: str, said: str) -> None:
    outcome = wsi_seg("train", config, "--out", config.with_name("run"), "--set", change)
    assert outcome.code in (1, 2)
    assert said in outcome.err
    assert not config.with_name("run").exists()


def test_every_key_is_told_without_a_configuration(wsi_seg: Program) -> None:
    told = wsi_seg("train", "--keys")
    assert told.code == 0
    assert "model.checkpointing" in told.out
    rows = json.loads(wsi_seg("train", "--keys", "--json").out)
    assert {"key": "model.depth", "default": "4", "meaning": "number of down-samplings after the stem"} in rows


def test_no_configuration_and_no_extra_are_one_clear_error(wsi_seg: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no configuration" in wsi_seg("train").err
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "yaml" else find_spec(name))
    outcome = wsi_seg("train", "--keys")
    assert outcome.code == 2
    assert "pip install 'wsi-seg[train]'" in outcome.err


def test_a_folder_without_a_program_is_no_model(wsi_seg: Program, tmp_path: Path) -> None:
    outcome = wsi_seg("models", tmp_path)
    assert outcome.code == 1
    assert "is the training in it finished?" in outcome.err
