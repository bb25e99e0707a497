"""How fast and how right a candidate is: one runtime at one precision, asked on the same tiles as the others.

Owns what is a candidate and how it is timed. Knows no slide and no command; which candidate is taken is `choice`'s.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import ModelError
from wsi_seg.infer.device.lanes import default_batch
from wsi_seg.infer.loading import load_predictor
from wsi_seg.infer.location import ON_REQUEST, locate, variants
from wsi_seg.infer.parity import Agreement, agreement
from wsi_seg.infer.places import missing_for_gpu, places
from wsi_seg.infer.protocol import ModelSpec, Predictor, RuntimeFacts

_SECONDS = 0.4
_MIN_ROUNDS = 2
_WINDOWS = 3


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of a candidate."""

    spec: ModelSpec
    """With its runtime and precision made concrete."""
    facts: RuntimeFacts | None = None
    """None where it could not be loaded."""
    mpx_per_s: float = 0.0
    """Megapixels of tiles per second, all streams together; 0 where it did not run."""
    agreement: Agreement | None = None
    """With the reference; None for the reference itself."""
    problem: str = ""
    """Why it did not run."""
    peak_bytes: int = 0
    """Memory that the process took for it, runtime included; 0 where it was not measured."""
    notes: tuple[str, ...] = ()
    """What was warned of while it was loaded and timed, where that was listened to."""

    @property
    def runs(self) -> bool:
        """True where there are figures."""
        return not self.problem

    @property
    def failure(self) -> str:
        """In words what became of one that does not run.

        >>> Trial(ModelSpec("m.onnx"), problem="no such operator").failure
        'does not run (no such operator)'
        """
        told = "does not run" if self.facts is None else "loads the program, but fails to run it"
        return f"{told} ({self.problem})"

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "model": self.spec.model,
            "runtime": self.spec.runtime,
            "precision": self.spec.precision,
            "device": None if self.facts is None else self.facts.device,
            "mpx_per_s": round(self.mpx_per_s, 3),
            "peak_bytes": self.peak_bytes,
            "agreement": None if self.agreement is None else self.agreement.to_mapping(),
            "loaded": self.facts is not None,
            "problem": self.problem,
            "notes": list(self.notes),
        }


def candidates(spec: ModelSpec, *, thorough: bool = False) -> list[ModelSpec]:
    """Every runtime and precision that may run a spec here, in order of preference, the reference first.

    What the spec states is kept. On a GPU torch is tried in fp16 too. bf16 is a candidate where the CPU multiplies it
    in hardware; fp16 and int8 where a program of that precision lies beside the model. `thorough`: emulated bf16, and
    runtimes that `auto` leaves alone, too. Raises ModelLoadError.
    """
    location = locate(spec.replaced(precision="auto"))
    found = places(location.runtimes, spec, location.name)
    if thorough and spec.runtime == "auto" and spec.device != "cpu":
        able = tuple(runtime for runtime in ON_REQUEST.get(location.kind, ()) if not missing_for_gpu(runtime))
        found = [*found, *(places(able, spec, location.name) if able else [])]
    plain = [spec.replaced(runtime=runtime, device=device) for runtime, device in found]
    if spec.precision != "auto":
        return plain
    halved = [
        spec.replaced(runtime=runtime, device=device, precision="bf16" if device == "cpu" else "fp16")
        for runtime, device in found
        if (runtime == "openvino" and (thorough or _native_bf16())) or (runtime == "torch" and device != "cpu")
    ]
    stored = [item.replaced(precision=precision) for precision in variants(spec) for item in plain]
    return [*plain, *halved, *stored]


def try_candidate(spec: ModelSpec, tiles: NDArray[np.uint8], reference: Predictor | None) -> Trial:
    """Load, time and compare one candidate on `tiles` (n, T, T, 3) uint8; what fails is told, not raised."""
    try:
        predictor = load_predictor(spec)
    except ModelError as error:
        return Trial(spec, problem=str(error.what))
    try:
        speed = throughput(predictor, tiles, spec.streams)
        result = None if reference is None else agreement(reference, predictor, tiles)
    except ModelError as error:
        return Trial(concrete(spec, predictor), predictor.facts, problem=str(error.what))
    finally:
        predictor.close()
    return Trial(concrete(spec, predictor), predictor.facts, speed, result)


def concrete(spec: ModelSpec, predictor: Predictor) -> ModelSpec:
    """The spec with the runtime and the precision that its predictor really has."""
    facts = predictor.facts
    runtime = "auto" if facts.runtime == "numpy" else facts.runtime
    return spec.replaced(runtime=runtime, precision=facts.precision, device=facts.device.split()[0].lower())


def throughput(predictor: Predictor, tiles: NDArray[np.uint8], streams: int, seconds: float = _SECONDS) -> float:
    """Megapixels per second of tiles (n, T, T, 3) uint8 that lie ready, `streams` threads asking as a run's workers do.

    The best of `_WINDOWS` spans of `seconds`: what other programs take meanwhile is not the candidate's fault. The
    first prediction of each thread is not counted. Raises PredictorError.
    """
    count = predictor.fixed_input[0] or default_batch(predictor.facts.device, tiles.shape[1])
    batches = [np.ascontiguousarray(np.broadcast_to(tile, (count, *tile.shape))) for tile in tiles]

    def work(number: int, started: float) -> int:
        rounds = 0
        while rounds < _MIN_ROUNDS or perf_counter() - started < seconds:
            predictor.predict(batches[(number + rounds) % len(batches)])
            rounds += 1
        return rounds

    def rate(pool: ThreadPoolExecutor) -> float:
        started = perf_counter()
        rounds = sum(pool.map(work, range(streams), [started] * streams))
        return rounds / (perf_counter() - started)

    with ThreadPoolExecutor(streams) as pool:
        list(pool.map(predictor.predict, batches[:1] * streams))
        best = max(rate(pool) for _ in range(_WINDOWS))
    return best * batches[0][..., 0].size / 1e6


def rough_throughput(predictor: Predictor, tiles: NDArray[np.uint8], streams: int) -> float:
    """As `throughput`, from the second of two predictions by one thread: what costs little and decides little."""
    count = predictor.fixed_input[0] or default_batch(predictor.facts.device, tiles.shape[1])
    batch = np.ascontiguousarray(np.broadcast_to(tiles[0], (count, *tiles[0].shape)))
    predictor.predict(batch)
    started = perf_counter()
    predictor.predict(batch)
    return streams * batch[..., 0].size / 1e6 / max(1e-9, perf_counter() - started)


def _native_bf16() -> bool:
    from wsi_seg.infer.runtime.openvino_predictor import has_native_bf16

    return has_native_bf16()
