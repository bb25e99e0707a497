"""Ensembles: the weighted mean of models that promise the same, and of no others."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import networks
from tests.infer.analytic import CARD, FACTS, AnalyticPredictor, lopsided, per_pixel
from wsi_seg.card import ModelCard, named_classes
from wsi_seg.errors import CardError, ModelLoadError, PredictorError, UsageError
from wsi_seg.infer import (
    Augmentation,
    CardOverrides,
    Member,
    ModelSpec,
    choose_program,
    load_predictor,
    member_cards,
    model_sha256,
    read_card,
)
from wsi_seg.infer.combined.ensemble import EnsemblePredictor, joint_card

BATCH = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, small_unet: Path) -> tuple[str, str]:
    """Two networks of the same shape with other weights."""
    shape = networks.UnetShape(base_channels=4, depth=2, tile_size=64)
    other = networks.unet(tmp_path_factory.mktemp("other") / "other.onnx", shape, seed=1)
    return str(small_unet), str(other)


def ensemble(*models: str, weights: tuple[float, ...] = (), **fields: Any) -> ModelSpec:
    members = tuple(map(Member, models, weights or (1.0,) * len(models)))
    return ModelSpec(models[0], members=members, **fields)


class TestMean:
    def test_weights_are_shares(self) -> None:
        members = [AnalyticPredictor(per_pixel), AnalyticPredictor(lopsided)]
        got = EnsemblePredictor(members, (0.7, 0.3)).predict(BATCH)
        wanted = 0.7 * per_pixel(BATCH).astype(float) + 0.3 * lopsided(BATCH)
        np.testing.assert_allclose(got, wanted, atol=1e-7)
        assert got.dtype == np.float32

    @given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=5))
    def test_the_mean_of_equals_is_the_same_bits(self, weights: list[float]) -> None:
        spec = ensemble(*("constant:0/2",) * len(weights), weights=tuple(weights))
        assert sum(spec.shares) == pytest.approx(1)
        predictor = EnsemblePredictor([AnalyticPredictor() for _ in weights], spec.shares)
        np.testing.assert_array_equal(predictor.predict(BATCH), per_pixel(BATCH))

    def test_real_programs(self, pair: tuple[str, str]) -> None:
        first, second = (load_predictor(ModelSpec(model)).predict(BATCH) for model in pair)
        assert np.abs(first - second).max() > 0.05
        got = load_predictor(ensemble(*pair, weights=(7, 3))).predict(BATCH)
        np.testing.assert_allclose(got, 0.7 * first.astype(float) + 0.3 * second, atol=1e-7)

    def test_with_augmentation_around_it(self, pair: tuple[str, str]) -> None:
        turns = Augmentation("flips")
        first, second = (load_predictor(ModelSpec(model, augmentation=turns)).predict(BATCH) for model in pair)
        got = load_predictor(ensemble(*pair, augmentation=turns)).predict(BATCH)
        np.testing.assert_allclose(got, (first.astype(float) + second) / 2, atol=1e-6)

    def test_in_a_low_precision(self, pair: tuple[str, str]) -> None:
        fast = load_predictor(ensemble(*pair, runtime="openvino", precision="bf16"))
        assert fast.facts.precision == "bf16"
        difference = np.abs(fast.predict(BATCH) - load_predictor(ensemble(*pair)).predict(BATCH)).max()
        assert 1e-5 < difference < 0.2

    def test_auto_is_chosen_for_all_at_once(self, pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("wsi_seg.infer.choice._recall", lambda *_: None)
        monkeypatch.setattr("wsi_seg.infer.choice._remember", lambda *_: None)
        chosen = choose_program(ensemble(*pair), BATCH)
        assert chosen.spec.members == ensemble(*pair).members
        assert {trial.spec.runtime for trial in chosen.trials} >= {"openvino", "onnxruntime"}
        assert all(trial.runs for trial in chosen.trials)

    def test_the_folder_of_a_training_is_a_member(self, pair: tuple[str, str], tmp_path: Path) -> None:
        shutil.copy(pair[1], tmp_path / "model.onnx")
        got = load_predictor(ensemble(pair[0], str(tmp_path))).predict(BATCH)
        np.testing.assert_array_equal(got, load_predictor(ensemble(*pair)).predict(BATCH))

    def test_nan_in_one_member_is_nan(self) -> None:
        def broken(batch: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.float32]]:
            out = per_pixel(batch)
            out[1, 0, 2, 3] = np.nan
            return out

        got = EnsemblePredictor([AnalyticPredictor(), AnalyticPredictor(broken)], (0.9, 0.1)).predict(BATCH)
        assert np.argwhere(np.isnan(got)).tolist() == [[1, 0, 2, 3]]


class TestCard:
    def test_the_largest_needs_rule(self) -> None:
        a = CARD.replaced(name="a", tile_size=96, output_stride=32, halo=10, licence="MIT", mean=(0.1,) * 3)
        b = CARD.replaced(name="b", tile_size=120, output_stride=24, halo=44, licence="Apache-2.0")
        got = joint_card([a, b])
        assert (got.tile_size, got.output_stride, got.halo) == (192, 96, 44)
        assert (got.name, got.licence) == ("a + b", "MIT AND Apache-2.0")
        assert joint_card([a, b.replaced(halo=None)]).halo is None

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"mpp": 0.25}, "differ in mpp: 0.5 and 0.25"),
            ({"classes": named_classes(["a", "c", "b"])}, "differ in classes: a, b, c and a, c, b"),
            ({"background": (0, 0, 0)}, "differ in background: 255, 255, 255 and 0, 0, 0"),
            ({"threshold": 0.4}, "differ in threshold: 0.5 and 0.4"),
        ],
        ids=["mpp", "classes", "background", "threshold"],
    )
    def test_what_differs_is_named_with_both_values(self, changes: dict[str, Any], told: str) -> None:
        with pytest.raises(CardError, match=f"'analytic' and 'other' {told}"):
            joint_card([CARD, CARD.replaced(name="other", **changes)])

    def test_colours_may_differ(self) -> None:
        painted = named_classes(["a=#000000", "b", "c"])
        assert joint_card([CARD, CARD.replaced(classes=painted)]).classes == CARD.classes

    def test_output_channels(self) -> None:
        card = CARD.replaced(classes=named_classes(["a", "b"]))
        members = [AnalyticPredictor(card=card, n_channels=2), AnalyticPredictor(card=card, n_channels=1)]
        with pytest.raises(CardError, match="output channels: 2 and 1"):
            EnsemblePredictor(members, (0.5, 0.5))

    def test_a_class_for_none_of_them_is_no_opinion_of_a_member(self, affine: Callable[..., Path]) -> None:
        card = CARD.replaced(activation="sigmoid")
        rows = np.eye(3, dtype=np.float32)
        whole, lacking, other = (
            str(affine(rows[:n], card=card, name=f"{name}.onnx")) for name, n in (("a", 3), ("b", 2), ("c", 2))
        )
        assert load_predictor(ensemble(lacking, other)).n_channels == 3
        with pytest.raises(CardError, match="output channels: 3 and 2"):
            load_predictor(ensemble(whole, lacking))

    def test_fixed_inputs_agree_or_are_refused(self) -> None:
        fixed = AnalyticPredictor(fixed_input=(2, 32, 32))
        free, other = AnalyticPredictor(), AnalyticPredictor(fixed_input=(2, 64, 64))
        joined = EnsemblePredictor([free, fixed], (0.5, 0.5))
        assert joined.fixed_input == (2, 32, 32)
        assert joined.card.tile_size == 32
        with pytest.raises(PredictorError, match="exactly 32"):
            joined.predict(BATCH)
        with pytest.raises(CardError, match="fixed tile height: 32 and 64"):
            EnsemblePredictor([free, fixed, other], (0.5, 0.25, 0.25))

    def test_runtimes_are_the_same_for_all(self) -> None:
        other = AnalyticPredictor(facts=replace(FACTS, precision="bf16"))
        with pytest.raises(ModelLoadError, match="in fp32 and formula 1 on CPU in bf16"):
            EnsemblePredictor([AnalyticPredictor(), other], (0.5, 0.5))

    def test_it_is_known_without_loading(self, pair: tuple[str, str]) -> None:
        spec = ensemble(*pair)
        assert read_card(spec) == load_predictor(spec).card
        assert [card.name for card in member_cards(spec)] == ["unet-4-2", "unet-4-2"]
        assert member_cards(ModelSpec(pair[0])) == ()


class TestSpec:
    def test_the_hash_covers_members_weights_and_order(self, pair: tuple[str, str]) -> None:
        first, second = pair
        specs = [
            ModelSpec(first), ensemble(first, second), ensemble(second, first), ensemble(first, first),
            ensemble(first, second, weights=(0.7, 0.3)), ensemble(first, second, second),
        ]  # fmt: skip
        assert len({model_sha256(spec) for spec in specs}) == len(specs)
        assert model_sha256(ensemble(first, second, weights=(7, 7))) == model_sha256(ensemble(first, second))

    def test_it_travels(self, pair: tuple[str, str]) -> None:
        spec = ensemble(*pair, weights=(2, 1), augmentation=Augmentation("d4"))
        again = pickle.loads(pickle.dumps(spec))
        assert again == spec
        assert hash(again) == hash(spec)
        assert [one.model for one in again.single] == list(pair)
        assert all(not one.members and one.augmentation.is_none for one in again.single)

    @pytest.mark.parametrize(
        ("make", "told"),
        [
            (lambda: ensemble("a.onnx"), "two models or more"),
            (lambda: ModelSpec("c.onnx", members=(Member("a.onnx"), Member("b.onnx"))), "the first of them"),
            (lambda: ensemble("a.onnx", "b.onnx", weights=(1, 0)), "numbers above 0"),
            (lambda: ensemble("a.onnx", "b.onnx", weights=(1, float("nan"))), "numbers above 0"),
            (lambda: ensemble("m:f", "n:f", weights=(1, 1)).replaced(weights="w.safetensors"), "which model"),
        ],
        ids=["alone", "first", "zero", "nan", "weights file"],
    )
    def test_what_makes_no_sense_is_refused(self, make: Callable[[], ModelSpec], told: str) -> None:
        with pytest.raises(UsageError, match=told):
            make()

    def test_overrides_hold_for_every_member(self, pair: tuple[str, str]) -> None:
        card = load_predictor(ensemble(*pair, card=CardOverrides(mpp=0.3, halo=40))).card
        assert (card.mpp, card.halo) == (0.3, 40)


class TestRuntimes:
    def test_a_member_that_openvino_cannot_read_takes_the_others_along(
        self, pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from wsi_seg.infer.runtime import openvino_predictor

        read = openvino_predictor._read

        def unreadable(path: Path) -> Any:
            if str(path) == pair[1]:
                raise ModelLoadError(f"OpenVINO cannot read {path}")
            return read(path)

        monkeypatch.setattr(openvino_predictor, "_read", unreadable)
        assert load_predictor(ensemble(*pair)).facts.runtime == "onnxruntime"
        with pytest.raises(ModelLoadError, match="OpenVINO cannot read"):
            load_predictor(ensemble(*pair, runtime="openvino"))

    def test_no_common_runtime(self, pair: tuple[str, str]) -> None:
        with pytest.raises(ModelLoadError, match=r"no runtime runs all members.*he_stain.* on torch"):
            load_predictor(ensemble(pair[0], "wsi_seg.model.he_stain:HeStain"))

    def test_members_are_closed_when_a_later_one_cannot_be_loaded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[AnalyticPredictor] = []

        def load(spec: ModelSpec) -> AnalyticPredictor:
            if made:
                raise ModelLoadError("broken")
            made.append(AnalyticPredictor())
            return made[-1]

        monkeypatch.setattr("wsi_seg.infer.loading._load_program", load)
        with pytest.raises(ModelLoadError, match="broken"):
            load_predictor(ensemble("constant:0/3", "constant:1/3"))
        assert [member.closed for member in made] == [1]

    def test_members_are_closed_when_they_do_not_fit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[AnalyticPredictor] = []

        def load(spec: ModelSpec) -> AnalyticPredictor:
            made.append(AnalyticPredictor(card=ModelCard(spec.model, 0.5 + len(made), CARD.classes)))
            return made[-1]

        monkeypatch.setattr("wsi_seg.infer.loading._load_program", load)
        with pytest.raises(CardError, match="mpp"):
            load_predictor(ensemble("constant:0/3", "constant:1/3"))
        assert [member.closed for member in made] == [1, 1]
