"""Augmentation and ensembles in whole runs: still exact, part of what a run is, and the same on workers."""

from __future__ import annotations

import json
import pickle
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import networks
from tests.engine.runs import SMALL, Runs, assert_same_labels, labels_of, pixels_of, shard_bytes, whole_forward
from wsi_seg.card import METADATA_KEY, ModelCard
from wsi_seg.engine.job import RunJob, TaskKey
from wsi_seg.engine.models import Models
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.prepare import prepare
from wsi_seg.engine.session import Session, run_task, session_for
from wsi_seg.engine.steps import result_spec
from wsi_seg.errors import GridError, RunMismatchError, UsageError
from wsi_seg.output.label_store import create_result
from wsi_seg.output.run_directory import RunIdentity, open_run
from wsi_seg.slide import ArraySlide


@pytest.fixture(autouse=True)
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_seg.engine.target._overview", lambda *_: b"picture")


@pytest.fixture(scope="module")
def slide(small_slide: Path) -> ArraySlide:
    return ArraySlide(np.ascontiguousarray(pixels_of(small_slide)[200:500, 300:630]), mpp=0.5)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> str:
    """As `unet`, with other weights."""
    shape = networks.UnetShape(base_channels=4, depth=2, tile_size=128)
    return str(networks.unet(tmp_path_factory.mktemp("second") / "second.onnx", shape, seed=1))


COMPOSED: dict[str, dict[str, Any]] = {
    "d4": {"tta": "d4"},
    "scales": {"tta": "none", "tta_scales": "1/2,1"},
    "ensemble": {"more_models": ("second",), "model_weights": (0.7, 0.3)},
    "all": {"tta": "flips", "tta_scales": "3/4", "more_models": ("second",)},
}


def options_of(kind: str, unet: str, second: str) -> dict[str, Any]:
    options = dict(COMPOSED[kind], model=unet)
    return options | ({"more_models": (second,)} if "more_models" in options else {})


@pytest.mark.parametrize("kind", COMPOSED)
def test_tiles_of_any_size_in_blocks_of_any_size_give_the_labels_of_the_whole(
    kind: str, run: Runs, slide: ArraySlide, unet: str, second: str
) -> None:
    options = options_of(kind, unet, second)
    sizes = (128, 192) if kind in ("d4", "ensemble") else (256, 320)
    whole = whole_forward(slide, **options, tile=sizes[0])
    assert len(np.unique(whole)) >= 2
    assert (whole != whole_forward(slide, model=unet)).any(), "it changes something"
    first = run(slide, **options, tile=sizes[0])
    np.testing.assert_array_equal(labels_of(first)[0], whole)
    assert_same_labels(run(slide, **options, tile=sizes[1], block=512, workers=1), first)


def test_a_tile_off_the_larger_stride_is_refused_with_what_fits(slide: ArraySlide, unet: str) -> None:
    with pytest.raises(GridError, match="use 80 or 120"):
        prepare(slide, RunOptions(**{**SMALL, "model": unet, "tta_scales": "0.9,1", "tile": 100}))


def identity_of(slide: ArraySlide, **options: Any) -> dict[str, Any]:
    prepared = prepare(slide, RunOptions(**{**SMALL, "overlap": 48, **options}))
    prepared.predictor.close()
    fields: dict[str, Any] = prepared.plan.identity_fields()
    return fields


def test_a_run_is_another_run_with_other_members_weights_turns_or_scales(
    slide: ArraySlide, unet: str, second: str
) -> None:
    kinds: list[dict[str, Any]] = [
        {}, {"tta": "d4"}, {"tta": "flips"}, {"tta_scales": "1/2,1"}, {"tta_scales": "1,1/2"},
        {"more_models": (second,)}, {"more_models": (second,), "model_weights": (2.0, 1.0)},
        {"more_models": (second,), "tta": "d4"},
    ]  # fmt: skip
    identities = [json.dumps(identity_of(slide, model=unet, **kind), sort_keys=True) for kind in kinds]
    assert len(set(identities)) == len(kinds)
    assert json.dumps(identity_of(slide, model=unet, tta_scales="1.0"), sort_keys=True) == identities[0]


def test_a_members_card_is_part_of_it(slide: ArraySlide, unet: str, second: str, tmp_path: Path) -> None:
    """A card beside the second program: not one byte of a program has changed, nor the card they have in common."""
    import onnx

    bare = tmp_path / "bare.onnx"
    model = onnx.load(second)
    (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    card = ModelCard.from_json(entry.value, "here")
    del model.metadata_props[:]
    onnx.save(model, bare)
    told = []
    for mean in ((0.5,) * 3, (0.6,) * 3):
        (tmp_path / "bare.onnx.card.json").write_text(card.replaced(mean=mean).to_json())
        told.append(identity_of(slide, model=unet, more_models=(str(bare),))["model"])
    assert [one["sha256"] for one in told] == [told[0]["sha256"]] * 2
    assert told[0]["card"] == told[1]["card"]
    assert told[0]["members"] != told[1]["members"]


def test_plan_and_summary_say_so(slide: ArraySlide, unet: str, second: str, run: Runs) -> None:
    report = run.report(slide, model=unet, more_models=(second,), tta="flips")
    assert report.summary.model["augmentation"] == "flips"
    assert report.summary.model["members"] == ["unet-4-2", "unet-4-2"]
    assert report.summary.model["name"] == "unet-4-2 + unet-4-2"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"model_weights": (1.0, 2.0)}, "2 numbers for 1 models"),
        ({"more_models": ("identity",), "model_weights": (1.0,)}, "1 numbers for 2 models"),
        ({"more_models": ("identity",), "model_weights": (1.0, -1.0)}, "numbers above 0"),
        ({"tta": "mirror"}, "one of none, flips"),
        ({"tta_scales": "big"}, "numbers with commas"),
    ],
    ids=["one model", "too few", "negative", "group", "scale"],
)
def test_options_that_make_no_sense(slide: ArraySlide, options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        prepare(slide, RunOptions(**{**SMALL, "model": "he-stain", **options}))


def on_worker(job: RunJob) -> Session:
    return session_for(job, Models(), lambda _: None, threading.Event())


class TestWorker:
    def job(self, folder: Path, slide: ArraySlide, **options: Any) -> RunJob:
        prepared = prepare(slide, RunOptions(**{**SMALL, **options}))
        prepared.predictor.close()
        plan, spec = prepared.plan, result_spec(prepared)
        with open_run(folder, RunIdentity(plan.run_id, plan.identity_fields()), lambda *_: []) as opened:
            create_result(opened.path, spec)
            return RunJob(plan.run_id, opened.path, slide, prepared.model, plan, spec)

    def test_it_makes_the_same_shard(
        self, tmp_path: Path, slide: ArraySlide, unet: str, second: str, run: Runs
    ) -> None:
        options = options_of("all", unet, second)
        wanted = shard_bytes(run(slide, **options, tile=256))
        job = pickle.loads(pickle.dumps(self.job(tmp_path / "a.zarr", slide, **options, tile=256)))
        receipt = run_task(on_worker(job), TaskKey(0, 0, 0))
        made = {key.removeprefix("labels/"): (job.folder / key).read_bytes() for key in receipt.shards}
        assert made
        assert {key: wanted[key] for key in made} == made

    def test_another_member_is_noticed(self, tmp_path: Path, slide: ArraySlide, unet: str, second: str) -> None:
        job = self.job(tmp_path / "a.zarr", slide, **options_of("ensemble", unet, second))
        first, other = job.model.members
        swapped = job.model.replaced(members=(first, replace(other, weight=0.9)))
        with pytest.raises(RunMismatchError, match="model of this worker differ"):
            on_worker(replace(job, model=swapped))

    def test_a_slide_that_offers_other_levels_is_refused(self, tmp_path: Path, slide: ArraySlide) -> None:
        job = self.job(tmp_path / "x.seg.zarr", slide)
        facts = replace(job.plan.slide, levels=job.plan.slide.levels * 2)
        with pytest.raises(RunMismatchError, match="levels of the slide"):
            on_worker(replace(job, plan=replace(job.plan, slide=facts)))
