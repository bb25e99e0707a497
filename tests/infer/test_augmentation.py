"""Test-time augmentation: exact where it can be, bounded where it interpolates, refused where it cannot be."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from fractions import Fraction
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.infer.analytic import CARD, AnalyticPredictor, Formula, lopsided, per_pixel
from wsi_seg.errors import CardError, UsageError
from wsi_seg.infer import Augmentation, ModelSpec, load_predictor, measure_halo, model_sha256, parse_scales, read_card
from wsi_seg.infer.combined.augmentation import TURNS
from wsi_seg.infer.combined.rescaling import reach_through, rescaled_maps, rescaled_pixels
from wsi_seg.infer.combined.tta import AugmentedPredictor, augmented_card, turned, turned_back

KINDS = ("flips", "rotations", "d4")
SCALES = st.sampled_from([Fraction(text) for text in ("1/2", "3/4", "9/10", "1", "11/10", "5/4", "3/2", "2", "7/3")])


def tiles_of(n: int = 2, height: int = 24, width: int = 24, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def augmented(kind: str, scales: str = "1", formula: Formula = lopsided) -> AugmentedPredictor:
    augmentation = Augmentation(kind, parse_scales(scales))
    return AugmentedPredictor([AnalyticPredictor(formula) for _ in augmentation.scales], augmentation)


class TestTurns:
    @pytest.mark.parametrize("kind", KINDS)
    def test_what_is_turned_comes_back(self, kind: str) -> None:
        batch = tiles_of(height=8, width=12)
        seen = set()
        for turn in TURNS[kind]:
            copy = turned(batch, turn)
            np.testing.assert_array_equal(turned_back(copy.transpose(0, 3, 1, 2), turn), batch.transpose(0, 3, 1, 2))
            seen.add(copy[:, :8, :8].tobytes())
        assert len(seen) == len(TURNS[kind]) == {"flips": 4, "rotations": 4, "d4": 8}[kind]

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_mean_is_the_plain_mean_over_explicit_copies(self, kind: str) -> None:
        batch = tiles_of()
        explicit = {
            "flips": [lambda x: x, np.fliplr, np.flipud, lambda x: np.fliplr(np.flipud(x))],
            "rotations": [lambda x, k=k: np.rot90(x, k) for k in range(4)],
        }
        explicit["d4"] = [*explicit["rotations"], *(lambda x, k=k: np.rot90(x, k).swapaxes(0, 1) for k in range(4))]
        undo = {
            "flips": explicit["flips"],
            "rotations": [lambda x, k=k: np.rot90(x, -k) for k in range(4)],
        }
        undo["d4"] = [*undo["rotations"], *(lambda x, k=k: np.rot90(x.swapaxes(0, 1), -k) for k in range(4))]
        wanted = [
            np.mean([back(lopsided(to(tile)[None])[0].transpose(1, 2, 0)).astype(float)
                     for to, back in zip(explicit[kind], undo[kind], strict=True)], axis=0)
            for tile in batch
        ]  # fmt: skip
        got = augmented(kind).predict(batch)
        np.testing.assert_allclose(got.transpose(0, 2, 3, 1), wanted, atol=1e-7)
        assert np.abs(got - lopsided(batch)).max() > 0.1, "else the formula needs no augmentation"

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_answer_turns_with_the_tile(self, kind: str) -> None:
        """Bit for bit: the mean over a whole group is symmetric under it, whatever the model is."""
        batch = tiles_of()
        answer = augmented(kind).predict(batch)
        for turn in TURNS[kind]:
            got = augmented(kind).predict(turned(batch, turn))
            np.testing.assert_array_equal(turned_back(got, turn), answer)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_symmetric_model_gives_the_same_bits_as_without(self, kind: str) -> None:
        batch = tiles_of(height=16, width=32)
        np.testing.assert_array_equal(augmented(kind, formula=per_pixel).predict(batch), per_pixel(batch))

    def test_a_real_program_of_single_pixels_gives_the_same_as_without(self) -> None:
        batch = tiles_of(height=64, width=64)
        for model, tolerance in (("identity", 0.0), ("he-stain", 2e-6)):  # the runtime's exp depends on the place
            plain = load_predictor(ModelSpec(model)).predict(batch)
            got = load_predictor(ModelSpec(model, augmentation=Augmentation("d4"))).predict(batch)
            np.testing.assert_allclose(got, plain, rtol=0, atol=tolerance)

    def test_the_halo_of_a_network_stays(self, small_unet: Path, tissue_like: Callable[..., np.ndarray]) -> None:
        """Measured on all its copies: turned and flipped tiles lie on the same down-sampling grid."""
        predictor = load_predictor(ModelSpec(str(small_unet), augmentation=Augmentation("flips")))
        assert predictor.card.halo == 23
        measured = measure_halo(predictor, tissue_like(1, 96))
        assert measured is not None
        assert measured <= 23 + predictor.card.output_stride - 1


def dense(length: int, scale: Fraction) -> NDArray[np.float64]:
    """The triangle filter as one matrix, from its definition in exact fractions."""
    n, width = int(length * scale), max(Fraction(1), 1 / scale)
    matrix = np.zeros((n, length))
    for row in range(n):
        centre = (Fraction(row) + Fraction(1, 2)) / scale - Fraction(1, 2)
        reach = ceil(width) + 1
        weights = {i: max(Fraction(0), 1 - abs(i - centre) / width)
                   for i in range(round(centre) - reach, round(centre) + reach + 1)}  # fmt: skip
        for i, weight in weights.items():
            matrix[row, min(max(i, 0), length - 1)] += float(weight / sum(weights.values()))
    return matrix


class TestRescaling:
    @settings(max_examples=25)
    @given(SCALES, st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
    def test_against_the_dense_matrix(self, scale: Fraction, rows: int, columns: int, seed: int) -> None:
        q = scale.denominator
        maps = np.random.default_rng(seed).random((2, 3, rows * q, columns * q), np.float32)
        y, x = dense(rows * q, scale), dense(columns * q, scale)
        got = rescaled_maps(maps, scale)
        np.testing.assert_allclose(got, np.einsum("ij,ncjk,lk->ncil", y, maps.astype(float), x), atol=1e-6)
        assert got.dtype == np.float32
        pixels = tiles_of(1, rows * q, columns * q, seed)
        exact = np.einsum("ij,njkc,lk->nilc", y, pixels.astype(float), x)
        assert np.abs(rescaled_pixels(pixels, scale) - exact).max() <= 0.5 + 1e-3

    @given(SCALES, st.integers(0, 255))
    def test_one_colour_stays(self, scale: Fraction, value: int) -> None:
        pixels = np.full((1, 6 * scale.denominator, 5 * scale.denominator, 3), value, np.uint8)
        assert (rescaled_pixels(pixels, scale) == value).all()

    @settings(max_examples=40)
    @given(SCALES, st.integers(0, 3), st.integers(0, 3))
    def test_a_pixel_has_the_same_bits_in_every_tile(self, scale: Fraction, row: int, column: int) -> None:
        """Tiles whose origins are multiples of the denominator: what lies inside both is the same."""
        p, q, side = scale.numerator, scale.denominator, 12
        image = tiles_of(1, (side + 3) * q, (side + 3) * q)
        whole = rescaled_pixels(image, scale)
        tile = rescaled_pixels(image[:, row * q : (row + side) * q, column * q : (column + side) * q], scale)
        margin = 3 * p
        inside = tile[:, margin:-margin, margin:-margin]
        y, x = row * p + margin, column * p + margin
        np.testing.assert_array_equal(inside, whole[:, y : y + inside.shape[1], x : x + inside.shape[2]])

    @settings(max_examples=25)
    @given(SCALES.filter(lambda scale: scale != 1), st.integers(0, 3))
    def test_the_reach_is_what_moves_an_output_and_no_more(self, scale: Fraction, halo: int) -> None:
        """Dense: which inputs have weight in an output that was made at the scale, by a network of that halo."""
        side = 16 * scale.denominator
        down, up = dense(side, scale) > 0, dense(int(side * scale), 1 / scale) > 0
        n = len(down)
        network = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) <= halo
        weight = up.astype(int) @ network.astype(int) @ down.astype(int)
        middle = range(side // 2, side // 2 + scale.denominator)
        reached = [np.flatnonzero(weight[row]) for row in middle]
        wanted = max(max(row - seen[0], seen[-1] - row) for row, seen in zip(middle, reached, strict=True))
        assert reach_through(scale, halo) == wanted

    def test_sizes_that_are_not_whole_are_refused(self) -> None:
        with pytest.raises(ValueError, match="whole"):
            rescaled_pixels(tiles_of(1, 10, 10), Fraction(1, 4))


class TestScales:
    def test_the_mean_over_scales(self) -> None:
        batch = tiles_of(height=24, width=36)
        half = rescaled_maps(lopsided(rescaled_pixels(batch, Fraction(1, 2))), Fraction(2))
        got = augmented("none", "1/2,1").predict(batch)
        np.testing.assert_allclose(got, (half + lopsided(batch)) / 2, atol=1e-7)
        assert got.flags.c_contiguous

    @settings(max_examples=20)
    @given(st.lists(SCALES, min_size=1, max_size=3, unique=True), st.integers(0, 2), st.integers(0, 2))
    def test_tiles_of_the_cards_stride_agree_beyond_the_cards_halo(
        self, scales: list[Fraction], row: int, column: int
    ) -> None:
        """What makes tiling exact: same bits in every tile, but for the halo along its sides."""
        augmentation = Augmentation("flips", tuple(scales))
        predictor = AugmentedPredictor([AnalyticPredictor(lopsided) for _ in scales], augmentation)
        stride, halo = predictor.card.output_stride, predictor.card.halo
        assert halo is not None
        side = -(-(2 * halo + 8) // stride) * stride
        image = tiles_of(1, side + 2 * stride, side + 2 * stride)
        whole = predictor.predict(image)
        y, x = row * stride, column * stride
        tile = predictor.predict(image[:, y : y + side, x : x + side])
        np.testing.assert_array_equal(
            tile[..., halo:-halo, halo:-halo], whole[..., y + halo : y + side - halo, x + halo : x + side - halo]
        )

    def test_the_card_states_what_changes(self) -> None:
        card = CARD.replaced(output_stride=16, tile_size=512, halo=20)
        got = augmented_card(card, Augmentation("d4", parse_scales("0.9,1,1.1")))
        assert (got.output_stride, got.tile_size) == (160, 640)
        assert got.halo == reach_through(Fraction(9, 10), 20) > 20
        assert got.replaced(output_stride=16, tile_size=512, halo=20) == card
        assert augmented_card(card.replaced(halo=None), Augmentation(scales=parse_scales("1/2"))).halo is None
        assert augmented_card(card, Augmentation("d4")) == card

    def test_one_program_per_scale_sees_one_size(self) -> None:
        augmentation = Augmentation("d4", parse_scales("1/2,1"))
        members = [AnalyticPredictor(), AnalyticPredictor()]
        AugmentedPredictor(members, augmentation).predict(tiles_of(3))
        assert [set(member.shapes) for member in members] == [{(3, 12, 12, 3)}, {(3, 24, 24, 3)}]


class TestNoProbability:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.5, -0.5])
    def test_it_is_never_averaged_away_and_harms_no_other_tile(self, value: float) -> None:
        def broken(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
            """Wrong in one turn of eight only: where the first pixel is dark."""
            out = per_pixel(batch)
            out[batch[:, 0, 0, 0] == 7, 1, 2, 3] = value
            return out

        batch = tiles_of(3)
        batch[:, [0, 0, -1, -1], [0, -1, 0, -1]] = 100
        batch[1, 0, -1] = 7
        got = augmented("d4", formula=broken).predict(batch)
        assert np.isnan(got[1]).sum() == 2  # two of the eight bring that corner to the front
        sound = np.delete(got, 1, axis=0)
        np.testing.assert_array_equal(sound, per_pixel(np.delete(batch, 1, axis=0)))

    def test_rounding_beyond_the_range_is_none(self) -> None:
        got = augmented("flips", formula=lambda batch: per_pixel(batch) * 0 + np.float32(1.005)).predict(tiles_of())
        np.testing.assert_array_equal(got, np.float32(1.005))


class TestRefusals:
    @pytest.mark.parametrize(
        ("kind", "scales", "told"),
        [("mirror", "1", "one of none, flips, rotations, d4"), ("d4", "1,1", "each once"), ("d4", "a", "numbers"),
         ("d4", "0.93", "use 0.928571"), ("d4", "8", "use 4"), ("d4", "1/0", "numbers"), ("d4", "0", "use 0.25")],
    )  # fmt: skip
    def test_values(self, kind: str, scales: str, told: str) -> None:
        with pytest.raises(UsageError, match=told):
            Augmentation(kind, parse_scales(scales))

    def test_a_program_of_fixed_input_has_one_scale(self) -> None:
        predictor = AnalyticPredictor(fixed_input=(1, 64, 64))
        AugmentedPredictor([predictor], Augmentation("d4"))
        with pytest.raises(CardError, match="takes tiles of 64 x 64 px only"):
            AugmentedPredictor([predictor] * 2, Augmentation("none", parse_scales("1/2,1")))

    def test_an_oblong_program_is_flipped_but_not_turned(self) -> None:
        predictor = AnalyticPredictor(fixed_input=(None, 32, 64))
        AugmentedPredictor([predictor], Augmentation("flips")).predict(tiles_of(1, 32, 64))
        with pytest.raises(CardError, match="--tta flips"):
            AugmentedPredictor([predictor], Augmentation("rotations"))


class TestSpec:
    def test_it_travels_and_differs(self, small_unet: Path) -> None:
        spec = ModelSpec(str(small_unet), augmentation=Augmentation("d4", parse_scales("3/4,1")))
        again = pickle.loads(pickle.dumps(spec))
        assert again == spec
        assert hash(again) == hash(spec)
        assert spec != spec.replaced(augmentation=Augmentation("d4"))
        assert model_sha256(spec) == model_sha256(ModelSpec(str(small_unet)))  # the weights are the same

    def test_the_card_is_known_without_loading(self, small_unet: Path) -> None:
        spec = ModelSpec(str(small_unet), augmentation=Augmentation("none", parse_scales("3/4,1")))
        assert read_card(spec) == load_predictor(spec).card
        assert read_card(spec).output_stride == 16

    def test_members_are_closed_when_a_later_one_fails(self, small_unet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[AnalyticPredictor] = []

        def load(_: ModelSpec) -> AnalyticPredictor:
            made.append(AnalyticPredictor(fixed_input=(None, 64, 64)))
            return made[-1]

        monkeypatch.setattr("wsi_seg.infer.loading._load_program", load)
        with pytest.raises(CardError):
            load_predictor(ModelSpec(str(small_unet), augmentation=Augmentation("d4", parse_scales("1/2,1"))))
        assert [predictor.closed for predictor in made] == [1, 1]
