"""R26: a half-done result is continued by the same run only: what could change a byte is a field of its identity."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from wsi_seg.card import named_classes
from wsi_seg.engine import prepare as preparing
from wsi_seg.engine.options import RunOptions, Scheduler
from wsi_seg.engine.prepare import prepare
from wsi_seg.engine.steps import identity_of
from wsi_seg.errors import RunMismatchError
from wsi_seg.output.run_directory import RunIdentity, open_run
from wsi_seg.plan import differing_fields, run_identity
from wsi_seg.sample import write_synthetic

ASKED: dict[str, Any] = {
    "model": "he-stain",
    "tile": 128,
    "block": 256,
    "overlap": 32,
    "window": "cosine",
    "workers": 1,
}
HARMLESS: dict[str, Any] = {
    "begun_with_tile": 256,  # a tile size is asked for
    "workers": 3,
    "memory_bytes": 4 << 30,
    "scheduler": Scheduler("tcp://127.0.0.1:1"),
    "overwrite": True,
    "restart": True,
    "lazy_bytes": 1 << 20,  # tile and block are asked for
    "flat_tiff": True,  # the Zarr that is built first is the same
    "trust_engine": True,
    "full_hash": True,
    "cuda_graphs": True,
    "blend": "host",  # the same integers on a device
    "decode": "fast",  # this slide is read as it is stored; where it is not: `test_fast_decoding.py`
    "device": "cpu",  # names the device that is taken anyhow
    "weights": None,  # of module:factory: counted in the model's hash, see `test_weights_of_a_factory`
    "batch": None,  # see `test_batches_count_where_predictions_depend_on_them`
    "model_weights": (1.0,),
}
CARD: dict[str, tuple[Any, str]] = {
    "mpp": (0.55, "card.mpp"),
    "classes": (named_classes(["other", "one", "two"]), "card.classes"),
    "mean": ((-0.1, 0.0, 0.0), "card.mean"),
    "std": ((0.9, 1.0, 1.0), "card.std"),
    "channels": ("BGR", "card.channels"),
    "output_stride": (2, "card.output_stride"),
    "background": ((0, 0, 0), "card.background"),
}
CHANGED: dict[str, tuple[Any, str]] = {
    "model": ("identity", "model.sha256"),
    "more_models": (("he-stain",), "model.members"),
    "tta": ("flips", "model.augmentation"),
    "tta_scales": ("0.5,1", "model.augmentation"),
    "runtime": ("onnxruntime", "model.runtime"),
    "precision": ("bf16", "model.precision"),
    "slide_mpp": (0.51, "slide.l0_mpp"),
    "reader": ("openslide", "slide.fingerprint"),
    "tile": (256, "grid.tile"),
    "overlap": (48, "grid.overlap"),
    "window": ("linear", "grid.window"),
    "block": (512, "layout.block"),
    "skip_background": (False, "selection"),
    "roi": (Path("roi.json"), "roi"),
    "probabilities": (True, "probabilities"),
    "min_object": ({"": 2.0}, "postprocessing"),
    "fill_holes": ({"": 2.0}, "postprocessing"),
    "crf": ({}, "postprocessing"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small slide, another of the same size, and a region."""
    folder = tmp_path_factory.mktemp("identity")
    write_synthetic(folder / "slide.tif", (600, 700), mpp=0.5, seed=3, tissue_fraction=0.7)
    write_synthetic(folder / "other.tif", (600, 700), mpp=0.5, seed=4, tissue_fraction=0.7)
    corners = [[9, 9], [400, 9], [400, 300], [9, 9]]
    (folder / "roi.json").write_text(json.dumps({"type": "Polygon", "coordinates": [corners]}))
    return folder


@pytest.fixture(scope="module")
def identity(folder: Path) -> Callable[..., RunIdentity]:
    def of(slide: str = "slide.tif", **options: Any) -> RunIdentity:
        if options.get("roi"):
            options["roi"] = folder / options["roi"]
        prepared = prepare(folder / slide, RunOptions(**{**ASKED, **options}))
        prepared.slide.close()
        return identity_of(prepared.planned.plan)

    return of


@pytest.fixture(scope="module")
def begun(identity: Callable[..., RunIdentity]) -> RunIdentity:
    return identity()


def refused(wanted: RunIdentity, begun: RunIdentity, out: Path) -> str:
    """What is said to a run that would go on with another's folder."""
    open_run(out, begun, differing_fields).close()
    with pytest.raises(RunMismatchError) as caught:
        open_run(out, wanted, differing_fields)
    return caught.value.what


def test_every_option_is_looked_at() -> None:
    known = {field.name for field in fields(RunOptions)}
    assert known == HARMLESS.keys() | CHANGED.keys() | {"card"}


@pytest.mark.parametrize("name", CHANGED)
def test_an_option_that_counts(
    name: str, identity: Callable[..., RunIdentity], begun: RunIdentity, tmp_path: Path
) -> None:
    value, field = CHANGED[name]
    assert f" {field}" in refused(identity(**{name: value}), begun, tmp_path / "x.seg.zarr")


@pytest.mark.parametrize("name", CARD)
def test_a_field_of_the_card(
    name: str, identity: Callable[..., RunIdentity], begun: RunIdentity, tmp_path: Path
) -> None:
    value, field = CARD[name]
    assert f"model.{field}: " in refused(identity(card={name: value}), begun, tmp_path / "x.seg.zarr")


def test_options_that_do_not_count(identity: Callable[..., RunIdentity], begun: RunIdentity) -> None:
    for name, value in HARMLESS.items():
        if name not in ("scheduler", "model_weights"):  # neither is asked by a plan of a single model
            assert identity(**{name: value}) == begun, name


def test_another_slide_and_another_version_of_a_library(
    identity: Callable[..., RunIdentity], begun: RunIdentity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "slide.fingerprint: " in refused(identity("other.tif"), begun, tmp_path / "a.seg.zarr")
    monkeypatch.setattr(preparing, "deciding_versions", lambda runtime: {runtime: "1.0", "simplejpeg": "1.0"})
    said = refused(identity(), begun, tmp_path / "b.seg.zarr")
    assert "libraries.openvino: " in said
    assert "libraries.simplejpeg: " in said


def test_every_field_that_is_kept_is_compared(begun: RunIdentity, tmp_path: Path) -> None:
    """Each leaf of the identity, however it came there: 30 and more."""
    out = tmp_path / "x.seg.zarr"
    open_run(out, begun, differing_fields).close()
    names = list(_leaves(begun.fields))
    assert len(names) > 30
    for name in names:
        changed = json.loads(json.dumps(begun.fields))
        *way, last = name.split(".")
        place = changed
        for part in way:
            place = place[part]
        place[last] = "something else"
        with pytest.raises(RunMismatchError, match=rf" {name}: "):
            open_run(out, RunIdentity(run_identity(changed), changed), differing_fields)


def test_weights_of_a_factory(identity: Callable[..., RunIdentity], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    paths = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        paths.append(tmp_path / f"{seed}.safetensors")
        save_file(torch.nn.Conv2d(3, 2, 1).state_dict(), paths[-1])
    card = {"mpp": 0.5, "classes": named_classes(["a", "b"]), "mean": (0.0,) * 3, "std": (1.0,) * 3}
    card |= {"activation": "softmax", "halo": 0, "output_stride": 1}
    asked = {"model": "tests.engine.test_identity_of_runs:pointwise", "card": card}
    one, other = (identity(weights=path, **asked) for path in paths)
    assert f" {'model.sha256'}: " in refused(other, one, tmp_path / "x.seg.zarr")


def pointwise() -> Any:
    """A factory of a network of two classes."""
    import torch

    return torch.nn.Conv2d(3, 2, 1)


def test_batches_count_where_predictions_depend_on_them(
    identity: Callable[..., RunIdentity], begun: RunIdentity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "batch: 1, now 2" in refused(identity(batch=2), begun, tmp_path / "a.seg.zarr")
    monkeypatch.setattr("wsi_seg.engine.planning.batch_is_independent", lambda *_: False)
    assert "batched_by_block: null, now 256" in refused(identity(batch=2), begun, tmp_path / "b.seg.zarr")


def test_weights_of_an_ensemble_count(identity: Callable[..., RunIdentity], tmp_path: Path) -> None:
    two = {"more_models": ("identity",), "card": {"classes": named_classes(["a", "b", "c"])}}
    one, other = (identity(**two, model_weights=weights) for weights in ((0.5, 0.5), (0.7, 0.3)))
    assert "model.sha256: " in refused(other, one, tmp_path / "x.seg.zarr")


def _leaves(content: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key, value in content.items():
        names += _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [f"{prefix}{key}"]
    return names
