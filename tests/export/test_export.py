"""Exports: what is written runs, gives the same labels, and carries its card; what does not agree is not written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tests.export.conftest import SIDE, asked
from wsi_seg.card import METADATA_KEY, ModelCard, named_classes
from wsi_seg.errors import ModelLoadError, OutputExistsError, ParityError, PredictorError, UsageError
from wsi_seg.export import FORMATS, ExportRequest, export_model, exporting
from wsi_seg.export.quantisation import Quantiser
from wsi_seg.export.tissue_tiles import draw_tiles
from wsi_seg.export.writing import transposed
from wsi_seg.infer import ModelSpec, load_predictor, read_card
from wsi_seg.infer.location import file_sha256
from wsi_seg.sample import write_synthetic


class TestTiles:
    def test_none_is_in_both_sets_and_the_seed_decides(self, slide: Path) -> None:
        card = ModelCard("m", 0.5, named_classes(["a", "b"]), SIDE)
        sets = draw_tiles([slide], card, 8, 0, None)
        assert sets.calibration.shape == sets.judging.shape == (8, SIDE, SIDE, 3)
        hashes = [{tile.tobytes() for tile in tiles} for tiles in (sets.calibration, sets.judging)]
        assert len(hashes[0] | hashes[1]) == 16
        again, other = draw_tiles([slide], card, 8, 0, None), draw_tiles([slide], card, 8, 1, None)
        assert np.array_equal(sets.calibration, again.calibration)
        assert not np.array_equal(sets.calibration, other.calibration)

    def test_glass_is_not_drawn_and_shades_are_mixed(self, slide: Path) -> None:
        card = ModelCard("m", 0.5, named_classes(["a", "b"]), SIDE)
        tiles = draw_tiles([slide], card, 10, 0, None).calibration
        darkness = tiles.reshape(len(tiles), -1).mean(axis=1)
        assert darkness.max() < 235
        assert darkness.std() > 1

    def test_every_slide_has_its_share_where_the_number_does_not_divide(self, slide: Path, tmp_path: Path) -> None:
        others = [tmp_path / f"{seed}.tif" for seed in (1, 2)]
        for seed, path in enumerate(others, 1):
            write_synthetic(path, (1024, 1024), tissue_fraction=0.8, seed=seed)
        card, slides = ModelCard("m", 0.5, named_classes(["a", "b"]), SIDE), [slide, *others]
        drawn = draw_tiles(slides, card, 4, 0, None).calibration
        alone = [draw_tiles([path], card, 64, 0, None) for path in slides]
        origin = [{tile.tobytes() for tile in (*sets.calibration, *sets.judging)} for sets in alone]
        assert [sum(tile.tobytes() in tiles for tile in drawn) for tiles in origin] == [2, 1, 1]

    def test_a_single_tile_serves_both_and_that_is_told(self, program: Path, tmp_path: Path) -> None:
        import tifffile

        path = tmp_path / "speck.tif"
        pixels = np.full((512, 512, 3), 245, np.uint8)
        pixels[140:230, 140:230] = np.random.default_rng(0).integers(100, 200, (90, 90, 3))
        tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb")
        card = ModelCard("m", 0.5, named_classes(["a", "b"]), SIDE)
        sets = draw_tiles([path], card, 4, 0, 0.5)
        assert not sets.apart
        assert np.array_equal(sets.calibration, sets.judging)
        report = export_model(asked(program, path, slide_mpp=0.5, precision="int8", max_dice_loss=1.0))
        assert "give --judge" in report.notes[0]
        assert "1 of 6 tiles" in report.notes[1]

    def test_glass_alone_is_refused(self, tmp_path: Path) -> None:
        import tifffile

        path = tmp_path / "glass.tif"
        tifffile.imwrite(path, np.full((600, 600, 3), 245, np.uint8), tile=(256, 256), photometric="rgb")
        card = ModelCard("m", 0.5, named_classes(["a", "b"]), SIDE)
        with pytest.raises(UsageError, match=r"no tissue in glass\.tif"):
            draw_tiles([path], card, 4, 0, 0.5)


class TestInt8:
    def test_it_is_written_beside_found_by_precision_and_agrees(self, program: Path, slide: Path) -> None:
        report = export_model(asked(program, slide, precision="int8", max_dice_loss=0.02))
        assert report.out == program.with_name("unet.int8.onnx")
        assert {verdict.runtime for verdict in report.verdicts} == {"openvino", "onnxruntime"}
        predictor = load_predictor(ModelSpec(str(program), precision="int8"))
        assert predictor.card.precision == "int8"
        assert predictor.card.derived_from == file_sha256(program)
        assert "calibrated on 6 tiles of tissue.tif" in predictor.card.description
        assert report.out.stat().st_size < program.stat().st_size

    def test_an_original_whose_card_lies_beside_it_keeps_its_int8_until_that_card_changes(
        self, program: Path, slide: Path
    ) -> None:
        bare, card = onnx.load(str(program)), read_card(ModelSpec(str(program)))
        del bare.metadata_props[:]
        onnx.save(bare, str(program))
        beside = program.with_name("card.json")
        beside.write_text(card.to_json())
        export_model(asked(program, slide, precision="int8", max_dice_loss=1.0))
        wanted = ModelSpec(str(program), precision="int8")
        assert load_predictor(wanted).card.precision == "int8"
        beside.write_text(card.replaced(description="told in other words").to_json())
        assert read_card(wanted).precision == "int8"
        beside.write_text(card.replaced(mean=(0.1, 0.2, 0.3)).to_json())
        with pytest.raises(ModelLoadError, match=r"another mean than unet\.int8\.onnx"):
            read_card(wanted)

    def test_weights_in_another_file_are_part_of_the_original(self, program: Path, slide: Path) -> None:
        onnx.save(
            onnx.load(str(program)), str(program), save_as_external_data=True, location="unet.bin", size_threshold=0
        )
        export_model(asked(program, slide, precision="int8", max_dice_loss=1.0))
        wanted = ModelSpec(str(program), precision="int8")
        assert read_card(wanted).precision == "int8"
        weights = program.with_name("unet.bin")
        weights.write_bytes(weights.read_bytes()[:-4] + np.float32(0.5).tobytes())
        with pytest.raises(ModelLoadError, match=r"was not made from unet\.onnx as it is now"):
            read_card(wanted)

    def test_programs_of_raw_pixels_and_of_fixed_batches_are_calibrated(self, program: Path, slide: Path) -> None:
        model, stored = onnx.load(str(program)), read_card(ModelSpec(str(program)))
        image = model.graph.input[0]
        taker = next(node for node in model.graph.node if image.name in node.input)
        taker.input[list(taker.input).index(image.name)] = "converted"
        model.graph.node.insert(0, helper.make_node("Cast", [image.name], ["converted"], to=onnx.TensorProto.FLOAT))
        image.type.tensor_type.elem_type = onnx.TensorProto.UINT8
        for port in (image, model.graph.output[0]):
            port.type.tensor_type.shape.dim[0].dim_value = 2
        card = json.loads(stored.replaced(halo=None).to_json())
        helper.set_model_props(model, {METADATA_KEY: json.dumps({**card, "mean": [0] * 3, "std": [1 / 255] * 3})})
        onnx.save(model, str(program))
        report = export_model(asked(program, slide, precision="int8", max_dice_loss=1.0))
        assert load_predictor(ModelSpec(str(program), precision="int8")).fixed_input[0] == 2
        assert all(verdict.agreement is not None for verdict in report.verdicts)

    def test_biases_stay_float_and_weights_are_per_channel(self, program: Path, slide: Path) -> None:
        report = export_model(asked(program, slide, precision="int8", max_dice_loss=1.0))
        graph = onnx.load(str(report.out)).graph
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        quantised = [name for name, value in stored.items() if value.dtype == np.int8 and value.ndim == 4]
        assert quantised
        readers = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in quantised]
        scales = {node.input[0]: stored[node.input[1]] for node in readers}
        assert all(scales[weight].size == stored[weight].shape[0] for weight in quantised)
        assert not [name for name, value in stored.items() if value.dtype == np.int32 and value.ndim == 1]
        zero_points = [
            stored[node.input[2]]
            for node in graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in quantised
        ]
        assert not any(value.any() for value in zero_points)

    def test_tensorrt_gets_signed_activations_around_zero(self, program: Path, slide: Path) -> None:
        card = read_card(ModelSpec(str(program)))
        tiles = draw_tiles([slide], card, 3, 0, None).calibration
        for symmetric, kind in ((True, np.int8), (False, np.uint8)):
            content = Quantiser(program, card, tiles, "minmax", symmetric).quantised()
            graph = onnx.ModelProto.FromString(content).graph
            stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
            points = [stored[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
            assert {point.dtype for point in points} == {np.dtype(kind)}
            assert symmetric != any(point.any() for point in points)

    @pytest.mark.parametrize("method", ["percentile", "entropy"])
    def test_ranges_from_histograms_run_too(self, program: Path, slide: Path, method: str) -> None:
        report = export_model(asked(program, slide, precision="int8", method=method, max_dice_loss=0.05))
        assert all(verdict.agreement is not None for verdict in report.verdicts)

    def test_a_bad_calibration_is_rejected_and_leaves_nothing(self, program: Path, tmp_path: Path, slide: Path) -> None:
        even = _flat(tmp_path)  # nothing of what tissue does to activations
        with pytest.raises(ParityError, match="worst class loses"):
            export_model(asked(program, even, precision="int8", judged_on=(slide,)))
        assert not program.with_name("unet.int8.onnx").exists()

    def test_a_slide_does_not_calibrate_and_judge(self, program: Path, slide: Path) -> None:
        with pytest.raises(UsageError, match="what calibrates does not judge"):
            asked(program, slide, precision="int8", judged_on=(slide.parent / ".." / slide.parent.name / slide.name,))

    def test_without_slides_it_is_refused(self, program: Path) -> None:
        with pytest.raises(UsageError, match="calibrated on tissue"):
            ExportRequest(str(program), precision="int8")


def _flat(folder: Path) -> Path:
    """A slide whose tissue is one even colour."""
    import tifffile

    path = folder / "flat.tif"
    pixels = np.full((1024, 1024, 3), 245, np.uint8)
    pixels[100:900, 100:900] = (200, 120, 170)
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", resolution=(20000, 20000), resolutionunit=3)
    return path


class TestFormats:
    @pytest.mark.parametrize(("to", "precision"), [("onnx", "fp32"), ("openvino", "fp32"), ("openvino", "fp16")])
    def test_a_program_keeps_its_values(self, program: Path, slide: Path, to: str, precision: str) -> None:
        out = program.with_name(f"copy{FORMATS[to]}")
        report = export_model(asked(program, slide, to=to, precision=precision, out=out))
        assert all(v.agreement is not None and v.agreement.argmax_agreement >= 0.999 for v in report.verdicts)
        card = read_card(ModelSpec(str(out)))
        assert (card.name, card.precision) == ("unet-4-2", precision)
        assert card.halo == read_card(ModelSpec(str(program))).halo

    def test_what_does_not_agree_is_not_written(self, program: Path, slide: Path) -> None:
        with pytest.raises(ParityError, match=r"of the pixels keep their class, 1 must"):
            export_model(asked(program, slide, precision="fp16", min_agreement=1.0))
        assert [path.name for path in program.parent.iterdir()] == ["unet.onnx"]
        export_model(asked(program, slide, precision="fp16"))
        assert load_predictor(ModelSpec(str(program), precision="fp16")).facts.precision == "fp16"

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_a_factory_becomes_a_torch_program(self, tmp_path: Path, slide: Path, precision: str) -> None:
        pytest.importorskip("torch")
        request = asked(
            "tests.infer.torch_models:Tiny", slide, to="torch", precision=precision, out=tmp_path / "tiny.pt2",
            min_agreement=0.99,
        )  # fmt: skip
        report = export_model(request)
        assert report.verdicts[0].agreement is not None
        card = load_predictor(ModelSpec(str(report.out))).card
        assert (card.name, card.activation, card.precision) == ("tiny", "probabilities", precision)

    def test_a_factory_becomes_onnx_with_its_softmax_inside(self, tmp_path: Path, slide: Path) -> None:
        pytest.importorskip("onnxscript")
        report = export_model(asked("tests.infer.torch_models:Tiny", slide, out=tmp_path / "tiny.onnx"))
        assert onnx.load(str(report.out)).graph.node[-1].op_type == "Softmax"
        assert report.card.activation == "probabilities"

    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    def test_a_stride_that_no_card_states_is_measured_for_the_export_too(
        self, program: Path, slide: Path, precision: str
    ) -> None:
        model = onnx.load(program)
        (entry,) = (item for item in model.metadata_props if item.key == METADATA_KEY)
        card = json.loads(entry.value)
        stride = card.pop("output_stride")
        assert stride > 1
        entry.value = json.dumps(card)
        onnx.save(model, program)
        to = "openvino" if precision == "fp32" else "onnx"
        report = export_model(asked(program, slide, to=to, precision=precision))
        assert load_predictor(ModelSpec(str(program))).card.output_stride == stride
        assert load_predictor(ModelSpec(str(report.out))).card.output_stride == report.card.output_stride == stride

    def test_results_are_not_replaced_unasked(self, program: Path, slide: Path) -> None:
        with pytest.raises(OutputExistsError):
            export_model(asked(program, slide))
        with pytest.raises(UsageError, match=r"ends in \.xml"):
            export_model(asked(program, slide, to="openvino", out=program.with_name("m.onnx")))

    def test_what_has_lost_something_is_no_original(self, program: Path, slide: Path) -> None:
        report = export_model(asked(program, slide, precision="int8", max_dice_loss=1.0))
        with pytest.raises(ModelLoadError, match="fp32 original"):
            export_model(asked(report.out, slide, to="openvino", out=program.with_name("x.xml")))

    def test_a_torch_format_needs_a_torch_module(self, program: Path, slide: Path) -> None:
        with pytest.raises(UsageError, match="made from a torch module"):
            export_model(asked(program, slide, to="torch"))

    def test_the_report_reads(self, program: Path, slide: Path) -> None:
        report = export_model(asked(program, slide, to="openvino"))
        content = json.loads(report.to_json())
        assert content["verdicts"][0]["agreement"]["argmax_agreement"] > 0.999
        assert "% of pixels keep their class" in report.describe()


def _resize(mode: str, frame: str, nearest: str, scales: tuple[float, ...] = (1, 1, 2, 2)) -> bytes:
    options = {"mode": mode, "coordinate_transformation_mode": frame} | ({"nearest_mode": nearest} if nearest else {})
    graph = helper.make_graph(
        [helper.make_node("Resize", ["x", "", "s"], ["y"], **options)], "g",
        [helper.make_tensor_value_info("x", 1, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("y", 1, ["N", 3, "H2", "W2"])],
        [numpy_helper.from_array(np.array(scales, np.float32), "s")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def _run(content: bytes, x: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime as ort

    (y,) = ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    return np.asarray(y)


class TestUnjudged:
    """A program that no runtime here runs has not passed."""

    def test_fp16_that_nothing_loads_is_not_written(
        self, program: Path, slide: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("wsi_seg.infer.program.half.to_half", lambda _: b"no program")
        with pytest.raises(ParityError, match=r"openvino does not run it .* onnxruntime does not run it"):
            export_model(asked(program, slide, precision="fp16"))
        assert not program.with_name("unet.fp16.onnx").exists()

    def test_int8_that_nothing_loads_is_not_written(
        self, program: Path, slide: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Quantiser, "quantised", lambda *_: b"no program")
        with pytest.raises(ParityError, match="onnxruntime does not run it"):
            export_model(asked(program, slide, precision="int8", n_tiles=1))
        assert not program.with_name("unet.int8.onnx").exists()


class TestOriginals:
    """What an export is made from is never written over."""

    def test_weights_beside_the_program_are_no_place_for_those_of_an_openvino_export(
        self, program: Path, slide: Path
    ) -> None:
        model = onnx.load(str(program))
        onnx.save(model, str(program), save_as_external_data=True, location="unet.bin", size_threshold=0)
        weights = program.with_name("unet.bin")
        before = file_sha256(weights)
        for overwrite in (False, True):
            with pytest.raises(OutputExistsError, match="belongs to the original"):
                export_model(asked(program, slide, to="openvino", overwrite=overwrite))
        assert file_sha256(weights) == before
        assert not program.with_suffix(".xml").exists()

    def test_nor_the_program_itself_even_where_replacing_is_allowed(self, program: Path, slide: Path) -> None:
        before = file_sha256(program)
        for options in ({}, {"precision": "int8", "out": program}):
            with pytest.raises(OutputExistsError, match="belongs to the original"):
                export_model(asked(program, slide, overwrite=True, **options))
        assert file_sha256(program) == before

    def test_a_copy_that_fails_leaves_the_old_program_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made, out = tmp_path / "made.mlpackage", tmp_path / "out.mlpackage"
        for folder, text in ((made, "new"), (out, "old"), (tmp_path / ".out.mlpackage.partial", "of a killed export")):
            folder.mkdir()
            (folder / "weights").write_text(text)

        def stopped(_source: Path, target: Path) -> None:
            target.mkdir()
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(exporting.shutil, "copytree", stopped)
            with pytest.raises(KeyboardInterrupt):
                exporting._publish(made, out)
        assert {path.name for path in tmp_path.iterdir()} == {"made.mlpackage", "out.mlpackage"}
        assert (out / "weights").read_text() == "old"
        assert exporting._publish(made, out) == 3
        assert (out / "weights").read_text() == "new"

    def test_a_strangers_bin_is_not_replaced_unasked(self, program: Path, slide: Path) -> None:
        other = program.with_suffix(".bin")
        other.write_bytes(b"of something else")
        with pytest.raises(OutputExistsError, match=r"unet\.bin exists"):
            export_model(asked(program, slide, to="openvino"))
        assert other.read_bytes() == b"of something else"


class TestTransposed:
    @pytest.mark.parametrize(
        ("mode", "frame", "nearest"),
        [
            ("linear", "half_pixel", ""),
            ("linear", "pytorch_half_pixel", ""),
            ("nearest", "asymmetric", "floor"),
            ("nearest", "half_pixel", "round_prefer_floor"),
            ("nearest", "half_pixel", "round_prefer_ceil"),
        ],
    )
    @pytest.mark.parametrize("size", [(2, 2), (3, 5), (8, 7)])
    def test_it_gives_the_values_of_resizing(self, mode: str, frame: str, nearest: str, size: tuple[int, int]) -> None:
        content = _resize(mode, frame, nearest)
        changed, replaced, left = transposed(content)
        assert (replaced, left) == (1, 0)
        x = np.random.default_rng(0).normal(size=(2, 3, *size)).astype(np.float32)
        assert np.allclose(_run(changed, x), _run(content, x), atol=1e-6)

    @pytest.mark.parametrize(
        "content",
        [
            _resize("linear", "align_corners", ""),
            _resize("linear", "asymmetric", ""),
            _resize("cubic", "half_pixel", ""),
            _resize("nearest", "asymmetric", "ceil"),
            _resize("linear", "half_pixel", "", (1, 1, 4, 4)),
        ],
        ids=["align corners", "asymmetric linear", "cubic", "ceil", "by four"],
    )
    def test_what_it_cannot_be_stays(self, content: bytes) -> None:
        assert transposed(content)[1:] == (0, 1)

    def test_whole_numbers_are_no_convolution(self) -> None:
        model = onnx.ModelProto.FromString(_resize("nearest", "asymmetric", "floor"))
        for port in (*model.graph.input, *model.graph.output):
            port.type.tensor_type.elem_type = onnx.TensorProto.INT64
        assert transposed(model.SerializeToString())[1:] == (0, 1)

    def test_an_export_has_none_left(self, program: Path, slide: Path) -> None:
        report = export_model(asked(program, slide, upsample="transposed", out=program.with_name("t.onnx")))
        assert "Resize" not in {node.op_type for node in onnx.load(str(report.out)).graph.node}
        assert "2 resizes" in report.notes[0]
        assert all(v.agreement is not None and v.agreement.max_abs < 1e-4 for v in report.verdicts)


class TestARuntimeThatLoadsAndFails:
    @pytest.fixture(autouse=True)
    def failing(self, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
        """ONNX Runtime fails from now on: on all tiles, or on those that are not the made-up one of loading."""
        from wsi_seg.infer.runtime.onnxruntime_predictor import OnnxRuntimeProgram

        run, always = OnnxRuntimeProgram.run, [True]

        def failing(self: object, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
            if always[0] or tuple(batch[0, 0, 0]) != (128, 64, 160):
                raise PredictorError("ONNX Runtime stumbled") from RuntimeError("no kernel")
            return run(self, batch)

        monkeypatch.setattr(OnnxRuntimeProgram, "run", failing)
        return always

    @pytest.mark.parametrize("always", [True, False])
    def test_the_report_says_so(self, program: Path, slide: Path, failing: list[bool], always: bool) -> None:
        failing[0] = always
        report = export_model(asked(program, slide, precision="fp16", n_tiles=2))
        failed = {verdict.runtime: verdict.failed for verdict in report.verdicts}
        assert failed == {"openvino": False, "onnxruntime": True}
        assert (
            "onnxruntime: FAILED: it loads the program and cannot run it (ONNX Runtime stumbled)" in report.describe()
        )
        assert "onnxruntime cannot run this program; it was judged on openvino alone" in report.notes
        assert [entry["failed"] for entry in json.loads(report.to_json())["verdicts"]] == [False, True]

    def test_none_that_runs_it_is_no_export(
        self, program: Path, slide: Path, failing: list[bool], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from wsi_seg.export import judging

        monkeypatch.setitem(judging.RUNTIMES, "onnx", ("onnxruntime",))
        with pytest.raises(ParityError, match="onnxruntime does not run it"):
            export_model(asked(program, slide, precision="fp16", n_tiles=2))

    def test_answers_that_are_no_probabilities_are_worse(
        self, program: Path, slide: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They would be a mask in a program that does not check them."""
        from wsi_seg.infer.runtime.onnxruntime_predictor import OnnxRuntimeProgram

        monkeypatch.setattr(OnnxRuntimeProgram, "run", lambda _, batch: np.full((len(batch), 3, SIDE, SIDE), np.nan))
        with pytest.raises(PredictorError, match="probabilities are finite"):
            export_model(asked(program, slide, precision="fp16", n_tiles=2))
