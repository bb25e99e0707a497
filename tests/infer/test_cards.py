"""Where a card comes from, and what is asked for where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import networks
from tests.models_of_others import zoo
from wsi_seg.card import ModelCard, named_classes
from wsi_seg.errors import CardError, ModelLoadError, PredictorError
from wsi_seg.infer import CardOverrides, ModelSpec, builtin_models, load_predictor, model_sha256, read_card

Affine = Callable[..., Path]
TWO = np.array([[0.9, 0, 0], [0, 0.9, 0]])
CARD = ModelCard("inside", 0.25, named_classes(["a", "b"]), 32)
MLP = Path(__file__).parents[3] / "shared/data/models/slaid-tissue-mlp"


def stated(**changes: object) -> CardOverrides:
    facts: dict[str, object] = {
        "mpp": 0.5, "classes": named_classes(["a", "b"]), "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0),
        "activation": "probabilities",
    }  # fmt: skip
    return CardOverrides(**{**facts, **changes})  # type: ignore[arg-type]


def test_a_card_beside_the_program_is_found(affine: Affine) -> None:
    path = affine(TWO)
    path.with_name("card.json").write_text(CARD.replaced(name="folder").to_json())
    assert read_card(ModelSpec(str(path))).name == "folder"
    path.with_name("affine.onnx.card.json").write_text(CARD.replaced(name="file").to_json())
    assert read_card(ModelSpec(str(path))).name == "file"


def test_the_card_inside_wins_and_options_win_over_it(affine: Affine) -> None:
    path = affine(TWO, card=CARD)
    path.with_name("card.json").write_text(CARD.replaced(name="folder").to_json())
    spec = ModelSpec(str(path), card=CardOverrides(mpp=0.4, tile_size=64))
    assert read_card(spec) == CARD.replaced(mpp=0.4, tile_size=64)
    assert load_predictor(spec).card == read_card(spec)


def test_what_is_missing_is_named_and_what_was_found_too(affine: Affine) -> None:
    path = affine(TWO, last="Softmax")
    with pytest.raises(CardError) as caught:
        load_predictor(ModelSpec(str(path), card=CardOverrides(mean=(0.5, 0.5, 0.5))))
    message = str(caught.value)
    assert "missing: --model-mpp, --classes, --std (the output has 2 channels)" in message
    assert "mean (0.5, 0.5, 0.5)" in message
    assert "layout NCHW" in message
    assert "activation probabilities" in message


def test_all_that_is_missing_is_in_one_message_outputs_to_choose_from_too(tmp_path: Path) -> None:
    path = tmp_path / "two.onnx"
    onnx.save(zoo.two_outputs(), str(path))
    with pytest.raises(CardError) as caught:
        read_card(ModelSpec(str(path)))
    assert "missing: --output (it has several outputs: coarse (?, 3, ?, ?), classes (?, 3, ?, ?)), " in str(
        caught.value
    )
    for option in ("--model-mpp", "--classes", "--mean", "--std"):
        assert option in str(caught.value)


def test_options_complete_a_card_that_lacks_something(affine: Affine) -> None:
    path = affine(TWO)
    path.with_name("card.json").write_text('{"name": "half", "mean": 0.5, "std": 0.25, "layout": "NCWH"}')
    with pytest.raises(CardError, match=r"lacks \['mpp', 'classes'\]"):
        read_card(ModelSpec(str(path)))
    card = read_card(ModelSpec(str(path), card=CardOverrides(0.5, named_classes(["a", "b=#123456"]), layout="NCHW")))
    assert (card.name, card.mpp, card.mean, card.layout) == ("half", 0.5, (0.5, 0.5, 0.5), "NCHW")
    assert card.classes[1].colour == "#123456"


def test_all_that_is_wrong_with_a_card_is_in_one_message(affine: Affine) -> None:
    with pytest.raises(CardError, match=r"channels 'RBG' must be .*; activation 'relu' must be .*; threshold 2 must"):
        read_card(ModelSpec(str(affine(TWO, card=CARD)), card=stated(channels="RBG", activation="relu", threshold=2)))


def test_activation_is_not_guessed_without_a_softmax(affine: Affine) -> None:
    with pytest.raises(CardError, match="missing: --activation;"):
        load_predictor(ModelSpec(str(affine(TWO)), card=stated(activation=None)))


@pytest.mark.parametrize(("layout", "dims"), [("NCHW", (1, 48, 48)), ("NHWC", (1, 48, 48)), ("NHWC", ("N", "H", "W"))])
def test_layout_and_tile_size_follow_from_the_shape(affine: Affine, layout: str, dims: tuple[object, ...]) -> None:
    predictor = load_predictor(ModelSpec(str(affine(TWO, layout=layout, dims=dims)), card=stated()))
    assert predictor.card.layout == layout
    assert predictor.card.tile_size == (48 if dims[1] == 48 else 512)
    assert predictor.fixed_input == ((1, 48, 48) if dims[1] == 48 else (None, None, None))


def test_an_ambiguous_layout_is_asked_for(affine: Affine) -> None:
    path = affine(TWO, dims=("N", "H", 3))  # (N, 3, H, 3)
    with pytest.raises(CardError, match="missing: --layout;"):
        load_predictor(ModelSpec(str(path), card=stated()))


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_fixed_shapes_are_demanded(affine: Affine, runtime: str) -> None:
    path = affine(TWO, dims=(2, 32, 32))
    predictor = load_predictor(ModelSpec(str(path), runtime=runtime, card=stated()))
    assert predictor.predict(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 2, 32, 32)
    with pytest.raises(PredictorError, match="batch size 3"):
        predictor.predict(np.zeros((3, 32, 32, 3), np.uint8))
    with pytest.raises(CardError, match="takes exactly 32 px; state tile_size 32"):
        load_predictor(ModelSpec(str(path), runtime=runtime, card=stated(tile_size=64)))


def test_the_output_stride_of_a_cardless_unet_is_measured(tmp_path: Path) -> None:
    import onnx

    path = networks.unet(tmp_path / "u.onnx", networks.UnetShape(4, 2, 2, 128))
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    card = stated(activation=None, mean=(0.5,) * 3, std=(0.25,) * 3, tile_size=128)
    assert load_predictor(ModelSpec(str(path), card=card)).card.output_stride == 4


def test_the_promised_hash_is_checked(affine: Affine) -> None:
    path = affine(TWO)
    card = path.with_name("card.json")
    card.write_text(CARD.replaced(weights_sha256=model_sha256(ModelSpec(str(path)))).to_json())
    load_predictor(ModelSpec(str(path)))
    card.write_text(CARD.replaced(weights_sha256="0" * 64).to_json())
    with pytest.raises(ModelLoadError, match="its card promises 0000"):
        load_predictor(ModelSpec(str(path)))


def test_builtin_models_load_and_carry_cards() -> None:
    for name in builtin_models():
        assert load_predictor(ModelSpec(name)).card.name == name
    assert read_card(ModelSpec("identity")).n_classes == 3


def test_shipped_programs_are_sound_onnx() -> None:
    """Strict checkers take them too, not only the runtimes that sort a graph for themselves."""
    programs = sorted(builtin_models()["nuclei"].parent.glob("*.onnx"))
    assert len(programs) > len(builtin_models())  # with nuclei.int8
    for program in programs:
        onnx.checker.check_model(str(program), full_check=True)


def test_the_shipped_identity_is_the_built_one(tmp_path: Path) -> None:
    assert networks.identity(tmp_path / "i.onnx").read_bytes() == builtin_models()["identity"].read_bytes()


def test_identity_returns_its_input() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    got = load_predictor(ModelSpec("identity")).predict(batch)
    np.testing.assert_array_equal(np.rint(got * 255), batch.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("name", ["constant:3/3", "constant:x", "constant:0/1", "constant:"])
def test_bad_constants_are_refused(name: str) -> None:
    with pytest.raises(ModelLoadError, match="class K of C"):
        load_predictor(ModelSpec(name))


def test_a_per_pixel_mlp_has_the_wrong_rank() -> None:
    path = MLP / "tissue_model-eddl-1.1.onnx"
    if not path.is_file():
        pytest.skip(f"no {path.name} in ../shared/data/models")
    with pytest.raises(ModelLoadError, match=r"2 axes \(\?, 3\).*fully convolutional"):
        load_predictor(ModelSpec(str(path)))


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_foreign_model_runs_with_stated_facts(runtime: str, real_tiles: np.ndarray) -> None:
    path = MLP / "tissue_1x1conv_derived.onnx"
    if not path.is_file():
        pytest.skip(f"no {path.name} in ../shared/data/models")
    card = stated(mpp=8.0, activation=None, std=(1 / 255,) * 3, tile_size=256)
    predictor = load_predictor(ModelSpec(str(path), runtime=runtime, card=card))
    assert predictor.card.output_stride == 1
    tissue = predictor.predict(real_tiles)[:, 1] > 0.5
    assert 0.5 < tissue.mean() <= 1
    assert not (predictor.predict(np.full((1, 256, 256, 3), 245, np.uint8))[:, 1] > 0.5).any()
