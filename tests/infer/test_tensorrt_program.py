"""What surrounds a TensorRT engine: which is built, which is kept, which is loaded, and what is told when it fails."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.infer import fake_tensorrt  # noqa: E402
from wsi_seg.card import ModelCard, named_classes  # noqa: E402
from wsi_seg.errors import ModelLoadError, PredictorError  # noqa: E402
from wsi_seg.infer import ModelSpec  # noqa: E402
from wsi_seg.infer.runtime import engine_cache, tensorrt_engine, tensorrt_library, tensorrt_predictor  # noqa: E402
from wsi_seg.infer.runtime.tensorrt_engine import (  # noqa: E402
    Profile,
    engine_file,
    profile_for,
    read_engine_file,
    read_signature,
)
from wsi_seg.infer.runtime.tensorrt_predictor import TensorrtProgram  # noqa: E402

CARD = ModelCard("red", 0.5, named_classes(["a", "b"]), 32)
SPEC = ModelSpec("m.onnx", runtime="tensorrt", device="cpu")


class Builds:
    """Stands in for the builder: counts, and makes engines whose content it is told."""

    def __init__(self, library: object) -> None:
        self.library, self.content, self.shapes, self.timings = library, b"engine", [], []

    def __call__(self, program: bytes, card: ModelCard, profile: Profile, timings: bytes | None) -> tuple[bytes, bytes]:
        self.shapes.append(profile.best)
        self.timings.append(timings)
        return engine_file(self.library, self.content, profile, card), b"timed"


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builds:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    library = fake_tensorrt.make()
    builds = Builds(library)
    monkeypatch.setattr(tensorrt_predictor, "load_library", lambda: builds.library)
    monkeypatch.setattr(tensorrt_predictor, "build_timed", builds)
    monkeypatch.setattr(tensorrt_predictor, "read_whole", Path.read_bytes)
    return builds


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"program")
    return path


def _pixels(n: int, side: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), np.uint8)


def _expected(batch: np.ndarray) -> np.ndarray:
    high = (batch[..., 0] >= 128).astype(np.float32)
    return np.stack([1 - high, high], axis=1)


def test_one_engine_serves_every_batch_of_a_tile_size(builds: Builds, model: Path) -> None:
    program = TensorrtProgram(model, CARD, SPEC)
    for n, side in ((1, 32), (3, 32), (1, 48), (2, 32)):
        np.testing.assert_array_equal(program.run(_pixels(n, side)), _expected(_pixels(n, side)))
    assert [shape[1] for shape in builds.shapes] == [32, 48]
    assert program.facts.as_dict() == {
        "runtime": "tensorrt", "version": "tensorrt 11.4.0", "device": "CPU", "precision": "fp32",
    }  # fmt: skip


def test_results_are_the_callers_own_in_every_thread(builds: Builds, model: Path) -> None:
    program = TensorrtProgram(model, CARD, SPEC)
    batches = [_pixels(2, seed=seed) for seed in range(24)]
    with ThreadPoolExecutor(8) as pool:
        for got, batch in zip(list(pool.map(program.run, batches)), batches, strict=True):
            np.testing.assert_array_equal(got, _expected(batch))
    assert len(builds.shapes) == 1


def test_the_second_run_builds_nothing(builds: Builds, model: Path, tmp_path: Path) -> None:
    TensorrtProgram(model, CARD, SPEC).run(_pixels(1))
    TensorrtProgram(model, CARD, SPEC).run(_pixels(1))
    assert len(builds.shapes) == 1
    folder = tmp_path / "cache/wsi-seg/engines"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert sorted(path.suffix for path in folder.iterdir()) == [".engine", ".timing"]
    TensorrtProgram(model, CARD, SPEC).run(_pixels(1, 64))
    assert builds.timings == [None, b"timed"]


def test_every_fact_an_engine_follows_from_is_in_its_name() -> None:
    def name(program=b"p", card=CARD, where=("t", "11", "H 9.0"), n=1):
        return engine_cache.engine_name(program, card, where, profile_for(64, 64, n))

    others = [
        name(b"q"), name(card=CARD.replaced(mean=(0.1, 0, 0))), name(card=CARD.replaced(precision="int8")),
        name(where=("tensorrt_rtx", "11", "H 9.0")), name(where=("t", "11.1", "H 9.0")),
        name(where=("t", "11", "L 8.9")), name(n=10_000),
    ]  # fmt: skip
    assert name() == name()
    assert len({name(), *others}) == 1 + len(others)


@pytest.mark.parametrize("harm", ["writable folder", "writable file", "link"])
def test_what_others_could_have_written_is_not_loaded(harm: str, builds: Builds, model: Path, tmp_path: Path) -> None:
    TensorrtProgram(model, CARD, SPEC).run(_pixels(1))
    folder = tmp_path / "cache/wsi-seg/engines"
    (engine,) = folder.glob("*.engine")
    if harm == "writable folder":
        folder.chmod(0o770)
    elif harm == "writable file":
        engine.chmod(0o602)
    else:
        elsewhere = engine.rename(tmp_path / "elsewhere.engine")
        engine.symlink_to(elsewhere)
    with pytest.raises(ModelLoadError, match="yours alone"):
        TensorrtProgram(model, CARD, SPEC).run(_pixels(1))


def test_a_cache_that_cannot_be_written_costs_only_time(
    builds: Builds, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("not a folder")
    np.testing.assert_array_equal(TensorrtProgram(model, CARD, SPEC).run(_pixels(1)), _expected(_pixels(1)))
    assert "not kept" in caplog.text


def test_a_damaged_engine_is_built_again(builds: Builds, model: Path, tmp_path: Path) -> None:
    TensorrtProgram(model, CARD, SPEC).run(_pixels(1))
    (engine,) = (tmp_path / "cache/wsi-seg/engines").glob("*.engine")
    engine.write_bytes(engine.read_bytes()[:-1] + b"x")
    np.testing.assert_array_equal(TensorrtProgram(model, CARD, SPEC).run(_pixels(1)), _expected(_pixels(1)))
    assert len(builds.shapes) == 2


def test_an_answer_of_none_becomes_the_loggers_reason(builds: Builds, model: Path) -> None:
    builds.library = fake_tensorrt.make(loads=False)
    with pytest.raises(ModelLoadError, match="unknown compute capability"):
        TensorrtProgram(model, CARD, SPEC).run(_pixels(1))


@pytest.mark.parametrize(
    ("content", "message"), [(b"refuses", "does not run.*out of patience"), (b"no context", "context")]
)
def test_an_engine_that_does_not_run_says_why(content: bytes, message: str, builds: Builds, model: Path) -> None:
    builds.content = content
    with pytest.raises(PredictorError, match=message):
        TensorrtProgram(model, CARD, SPEC).run(_pixels(1))


def test_nothing_runs_after_close(builds: Builds, model: Path) -> None:
    program = TensorrtProgram(model, CARD, SPEC)
    program.close()
    with pytest.raises(PredictorError, match="closed"):
        program.run(_pixels(1))


def test_another_precision_than_the_stored_one_is_refused(builds: Builds, model: Path) -> None:
    with pytest.raises(ModelLoadError, match="strongly typed"):
        TensorrtProgram(model, CARD, SPEC.replaced(precision="bf16"))


class TestEngineFiles:
    @pytest.fixture
    def engine(self, builds: Builds, tmp_path: Path) -> Path:
        path = tmp_path / "m.engine"
        path.write_bytes(engine_file(builds.library, b"engine", Profile((1, 32, 32), (2, 32, 32), (2, 32, 32)), CARD))
        return path

    def test_only_a_trusted_file_is_read(self, engine: Path) -> None:
        with pytest.raises(ModelLoadError, match="--trust-engine"):
            read_signature(engine, SPEC)
        signature = read_signature(engine, SPEC.replaced(trust_engine=True))
        assert signature.input_shape == (None, 3, 32, 32)
        assert ModelCard.from_json(signature.card_json, "") == CARD

    def test_it_runs_within_its_profile(self, engine: Path, builds: Builds) -> None:
        program = TensorrtProgram(engine, CARD, SPEC.replaced(trust_engine=True))
        np.testing.assert_array_equal(program.run(_pixels(2)), _expected(_pixels(2)))
        with pytest.raises(PredictorError, match="this engine takes"):
            program.run(_pixels(3))
        assert builds.shapes == []

    def test_another_version_is_refused(self, engine: Path, builds: Builds) -> None:
        builds.library = fake_tensorrt.make("10.3.0")
        with pytest.raises(ModelLoadError, match=r"built with tensorrt 11\.4\.0; this machine has tensorrt 10\.3\.0"):
            TensorrtProgram(engine, CARD, SPEC.replaced(trust_engine=True))

    @pytest.mark.parametrize(
        "content", [b"", b"ftrt raw engine", b"wsi-seg engine 1\n{}\nx", b"wsi-seg engine 1\n[1]\n"]
    )
    def test_engines_of_others_are_refused(self, content: bytes) -> None:
        with pytest.raises(ModelLoadError, match="not an engine of wsi-seg"):
            read_engine_file(content, "m.engine")

    def test_loading_by_name_asks_for_trust_and_for_a_gpu(self, engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from wsi_seg.infer import load_predictor, places

        monkeypatch.setattr(places, "gpu_names", lambda: ())
        with pytest.raises(ModelLoadError, match="--trust-engine"):
            load_predictor(ModelSpec(str(engine)))
        with pytest.raises(ModelLoadError, match="no NVIDIA GPU answers"):
            load_predictor(ModelSpec(str(engine), trust_engine=True))
        # Where one answers it runs like any other program; the GPU is the CPU here.
        monkeypatch.setattr(places, "gpu_names", lambda: ("GPU",))
        monkeypatch.setattr(places, "missing_for_gpu", lambda runtime: "")
        monkeypatch.setattr(tensorrt_predictor, "open_device", lambda name: torch.device("cpu"))
        predictor = load_predictor(ModelSpec(str(engine), trust_engine=True))
        assert predictor.fixed_input == (None, 32, 32)
        np.testing.assert_array_equal(predictor.predict(_pixels(2)), _expected(_pixels(2)))


class TestLibrary:
    def test_which_flavour_is_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        there = {
            "tensorrt": fake_tensorrt.make("8.6.1"),
            "tensorrt_rtx": SimpleNamespace(__name__="rtx", __version__="1"),
        }

        def importing(name: str) -> object:
            if name not in there:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return there[name]

        monkeypatch.setattr(tensorrt_library.importlib, "import_module", importing)
        assert tensorrt_library.load_library() is there["tensorrt_rtx"]  # the other one is too old
        del there["tensorrt_rtx"]
        with pytest.raises(ModelLoadError, match=r"8\.6\.1 is older than 10"):
            tensorrt_library.load_library()
        there["tensorrt"] = fake_tensorrt.make()
        assert tensorrt_library.load_library() is there["tensorrt"]
        there.clear()
        assert not tensorrt_library.installed()

    def test_a_broken_installation_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(name: str) -> object:
            raise ImportError("libnvinfer.so.11: cannot open shared object file")

        monkeypatch.setattr(tensorrt_library.importlib, "import_module", broken)
        with pytest.raises(ModelLoadError, match=r"libnvinfer\.so\.11"):
            tensorrt_library.load_library()

    @pytest.mark.parametrize(("version", "flags"), [("10.13.0", 2), ("11.4.0", 0), ("12.0", 0)])
    def test_only_version_10_is_told_to_be_strongly_typed(self, version: str, flags: int) -> None:
        library = fake_tensorrt.make(version)
        library.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
        assert tensorrt_library.make_network(library, SimpleNamespace(create_network=lambda given: given)) == flags


def test_timings_of_another_device_are_begun_anew() -> None:
    """`set_timing_cache` answers False for a cache that does not fit, `create_timing_cache` None for noise."""
    taken = []
    config = SimpleNamespace(
        create_timing_cache=lambda content: None if content == b"noise" else content or b"new",
        set_timing_cache=lambda cache, ignore: taken.append((cache, ignore)) or cache != b"other",
    )
    assert tensorrt_engine._timing_cache(config, [b"kept"]) == b"kept"
    assert tensorrt_engine._timing_cache(config, [b"noise"]) == b"new"
    assert tensorrt_engine._timing_cache(config, [b"other"]) is None
    assert tensorrt_engine._timing_cache(config, None) is None
    assert {ignore for _, ignore in taken} == {False}


def test_only_files_of_this_user_are_loaded(builds: Builds, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TensorrtProgram(model, CARD, SPEC).run(_pixels(1))
    stranger = os.getuid() + 1
    monkeypatch.setattr(engine_cache.os, "getuid", lambda: stranger)
    with pytest.raises(ModelLoadError, match="another user"):
        TensorrtProgram(model, CARD, SPEC).run(_pixels(1))
