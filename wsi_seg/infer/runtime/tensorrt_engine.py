"""Building TensorRT engines from ONNX programs: profile, precision as stored, timings, and the file they are kept in.

An engine is machine code for one library version and one kind of GPU. The file made here says which, carries the card,
and is refused before TensorRT sees it where something does not fit. Building needs no GPU with `tensorrt_rtx`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from wsi_seg.card import ModelCard
from wsi_seg.errors import CardError, ModelLoadError
from wsi_seg.infer.device.lanes import GPU_BATCH_PX
from wsi_seg.infer.program.onnx_pixels import PIXELS, from_pixels
from wsi_seg.infer.protocol import ModelSpec, Signature
from wsi_seg.infer.runtime.tensorrt_library import load_library, make_logger, make_network

ENGINE_SUFFIX = ".engine"
_MAGIC = b"wsi-seg engine 1\n"
WORKSPACE_BYTES = 4 << 30
"""Memory of the GPU that a layer may take for itself while it runs."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Input shapes (N, H, W) that an engine takes: at least, tuned for, at most."""

    least: tuple[int, int, int]
    best: tuple[int, int, int]
    most: tuple[int, int, int]

    def covers(self, shape: tuple[int, ...]) -> bool:
        """Whether a batch (N, H, W, …) may be predicted."""
        return all(low <= size <= high for low, size, high in zip(self.least, shape[:3], self.most, strict=True))


def profile_for(height: int, width: int, count: int = 1) -> Profile:
    """Batches of 1 up to what a GPU gets by default of one tile size, or up to `count` where that is more.

    >>> profile_for(512, 512).most, profile_for(2048, 2048).most
    ((8, 512, 512), (1, 2048, 2048))
    """
    most = max(count, GPU_BATCH_PX // (height * width), 1)
    return Profile((1, height, width), (most, height, width), (most, height, width))


@dataclass(frozen=True, slots=True)
class EngineHead:
    """What an engine file says of its engine."""

    library: str
    """`tensorrt` or `tensorrt_rtx`."""
    version: str
    profile: Profile
    card: ModelCard
    sha256: str
    """Of the engine's bytes."""


def build_engine(content: bytes | Path, card: ModelCard, profile: Profile | None = None) -> bytes:
    """An engine file of an ONNX program, in the precision that the program is stored in.

    `content` takes one float32 image as `card` says; the engine takes uint8 (N, H, W, 3) RGB and gives float32
    probabilities (N, C, H, W). The default profile is for tiles of the card's size. Strongly typed: fp16 programs are
    made by `wsi_seg.infer.program.half.to_half`, int8 ones hold Q/DQ nodes with symmetric ranges. Raises
    ModelLoadError with what TensorRT said.
    """
    program = content.read_bytes() if isinstance(content, Path) else content
    library = load_library()
    wanted = profile or profile_for(card.tile_size, card.tile_size)
    engine = _built(library, from_pixels(program, card), wanted, None)
    return engine_file(library, engine, wanted, card)


def engine_file(library: Any, engine: bytes, profile: Profile, card: ModelCard) -> bytes:
    """An engine behind the head that says what it is."""
    head = {
        "library": library.__name__, "version": library.__version__, "profile": asdict(profile),
        "card": card.to_json(), "sha256": sha256(engine).hexdigest(),
    }  # fmt: skip
    return _MAGIC + json.dumps(head, sort_keys=True).encode() + b"\n" + engine


def read_engine_file(content: bytes, name: str) -> tuple[EngineHead, bytes]:
    """Head and engine of what `engine_file` made. Raises ModelLoadError, CardError."""
    head, _, engine = content.removeprefix(_MAGIC).partition(b"\n")
    try:
        if not content.startswith(_MAGIC):
            raise ValueError("it does not start as one")
        stored = json.loads(head)
        least, best, most = (_shape(stored["profile"][key]) for key in ("least", "best", "most"))
        card = ModelCard.from_json(stored["card"], name)
        found = EngineHead(stored["library"], stored["version"], Profile(least, best, most), card, stored["sha256"])
    except CardError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(
            f"{name} is not an engine of wsi-seg: {error}",
            rule="engines of other programs tell neither their normalisation nor their classes",
            remedy="name the ONNX program: its engine is built here and kept",
        ) from error
    if sha256(engine).hexdigest() != found.sha256:
        raise ModelLoadError(f"{name} is damaged: its engine has another SHA-256 than it says", remedy="build it again")
    return found, engine


def read_signature(path: Path, spec: ModelSpec) -> Signature:
    """Shapes and card of an engine file. Raises ModelLoadError where the user does not trust it."""
    if not spec.trust_engine:
        raise ModelLoadError(
            f"{path} is a TensorRT engine", rule="engines are executable: loading one runs code of whoever built it",
            remedy="name the ONNX program, whose engine is built here; or, if you trust this file, --trust-engine",
        )  # fmt: skip
    head, _ = read_engine_file(read_engine(path), str(path))
    pairs = zip(head.profile.least, head.profile.most, strict=True)
    count, height, width = (low if low == high else None for low, high in pairs)
    planar = head.card.layout == "NCHW"
    shape = (count, 3, height, width) if planar else (count, height, width, 3)
    return Signature(shape, card_json=head.card.to_json())


def _shape(values: Any) -> tuple[int, int, int]:
    count, height, width = (int(value) for value in values)
    return count, height, width


def read_engine(path: Path) -> bytes:
    """An engine file's content. Raises ModelLoadError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelLoadError(f"cannot read {path}: {error.strerror}") from error


def build_timed(content: bytes, card: ModelCard, profile: Profile, timing: bytes | None) -> tuple[bytes, bytes | None]:
    """As `build_engine`, with the timings of earlier builds; answers the file and the timings as they are now.

    None for a library that times nothing, or refuses the timings it is given.
    """
    library = load_library()
    timings = [timing or b""]
    engine = _built(library, from_pixels(content, card), profile, timings)
    return engine_file(library, engine, profile, card), timings[0] or None


def _built(library: Any, program: bytes, profile: Profile, timings: list[bytes] | None) -> bytes:
    """The engine's bytes; `timings`, one entry, is read and replaced."""
    logger = make_logger(library)
    builder = library.Builder(logger)
    if builder is None:
        raise ModelLoadError(f"{library.__name__} makes no builder: {logger.reason()}")
    network = make_network(library, builder)
    parser = library.OnnxParser(network, logger)
    if not parser.parse(program):
        told = [str(parser.get_error(index).desc()) for index in range(parser.num_errors)]
        reason = "; ".join(told)[:600] or logger.reason()
        raise ModelLoadError(
            f"{library.__name__} {library.__version__} cannot read this program: {reason}",
            remedy="use --runtime onnxruntime; int8 programs for TensorRT are exported with --to tensorrt, which makes "
            "their ranges symmetric",
        )
    config = builder.create_builder_config()
    config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.clear_flag(library.BuilderFlag.TF32)  # fp32 is fp32: TF32 keeps 11 bits
    _add_profile(builder, config, network, profile)
    cache = None if library.__name__ == "tensorrt_rtx" else _timing_cache(config, timings)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ModelLoadError(
            f"{library.__name__} {library.__version__} builds no engine for batches {profile.best}: {logger.reason()}",
            remedy="use --runtime onnxruntime, or a smaller --tile or --batch-size",
        )
    if timings is not None:
        timings[0] = b"" if cache is None else bytes(config.get_timing_cache().serialize())
    return bytes(engine)


def _add_profile(builder: Any, config: Any, network: Any, profile: Profile) -> None:
    """Bounds of the free axes; those that the program fixes stay as they are."""
    (image,) = (network.get_input(index) for index in range(network.num_inputs))
    fixed = tuple(image.shape)
    if all(size > 0 for size in fixed):
        return
    bounds = [
        tuple(own if own > 0 else asked for own, asked in zip(fixed, (*shape, 3), strict=True))
        for shape in (profile.least, profile.best, profile.most)
    ]
    made = builder.create_optimization_profile()
    made.set_shape(PIXELS, *bounds)
    config.add_optimization_profile(made)


def _timing_cache(config: Any, timings: list[bytes] | None) -> Any:
    """The cache in use; None where none is wanted. RTX has none: it times nothing before it runs."""
    if timings is None:
        return None
    cache = config.create_timing_cache(timings[0]) or config.create_timing_cache(b"")
    return cache if cache is not None and config.set_timing_cache(cache, False) else None
