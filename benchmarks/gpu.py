"""What a GPU gives: `python benchmarks/gpu.py`; prints tables, writes nothing outside a temporary folder.

Makes its own inputs: U-Nets of random weights, the built-in `nuclei`, a synthetic slide. Every runtime that can use the
GPU is compared with the CPU in fp32, then timed: images per second of batches that lie ready, Mpx per second of whole
runs, share of time in which the GPU is busy, its memory. Without a GPU it says so and ends well; `--cpu` goes the same
way on a CPU, at toy sizes, to try the command itself.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("", "kernels")]

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from benchmarks import networks  # noqa: E402
from benchmarks.measure import table  # noqa: E402
from wsi_seg.card import METADATA_KEY, ModelCard, named_classes  # noqa: E402
from wsi_seg.engine.options import RunOptions  # noqa: E402
from wsi_seg.engine.run import run_slide  # noqa: E402
from wsi_seg.errors import WsiSegError  # noqa: E402
from wsi_seg.infer import (  # noqa: E402
    ModelSpec,
    Predictor,
    agreement,
    builtin_models,
    default_batch,
    load_predictor,
    read_card,
    throughput,
)
from wsi_seg.infer.device.cuda_driver import gpu_names  # noqa: E402
from wsi_seg.sample import write_synthetic  # noqa: E402

STREAMS = 4
SAMPLE_S = 0.1
LARGE = networks.UnetShape(base_channels=32, depth=4, tile_size=512)
SMALL = networks.UnetShape(base_channels=4, depth=2, tile_size=128)
HEADER = (
    "model",
    "runtime",
    "precision",
    "labels as CPU",
    "largest diff.",
    "images/s",
    "busy",
    "GPU memory",
    "run Mpx/s",
)


@dataclass
class Usage:
    """What nvidia-smi said while something ran."""

    busy: list[float] = field(default_factory=list)
    """Share of time in which a kernel ran, 0-100."""
    memory_mib: list[float] = field(default_factory=list)
    """Of the whole GPU."""

    def told(self) -> tuple[str, str]:
        """Mean share and peak memory, `-` where nvidia-smi gave nothing."""
        if not self.busy:
            return "-", "-"
        return f"{np.mean(self.busy):.0f} %", f"{max(self.memory_mib):.0f} MiB"


@dataclass(frozen=True)
class Setup:
    """What is measured."""

    device: str
    network: networks.UnetShape
    slide_side: int
    seconds: float

    @property
    def side(self) -> int:
        """Of a tile, px."""
        return self.network.tile_size

    @property
    def title(self) -> str:
        """The device and the shape of the work."""
        name = "CPU" if self.device == "cpu" else gpu_names()[int(self.device.partition(":")[2])]
        batch = default_batch(self.device, self.side)
        return f"{name}, tiles of {self.side} px, batches of {batch}, slide of {self.slide_side:,}² px"


@dataclass(frozen=True)
class Entry:
    """One line of the table."""

    model: str
    spec: ModelSpec

    @property
    def names(self) -> tuple[str, str, str]:
        """Model, runtime and precision."""
        return self.model, "torch" if ":" in self.spec.model else self.spec.runtime, self.spec.precision


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 0 also where there is nothing to measure, 1 where nothing ran."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=int, default=0, help="number of the GPU")
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement")
    parser.add_argument("--slide", type=int, default=8192, help="side of the synthetic slide, px")
    parser.add_argument("--cpu", action="store_true", help="try the command without a GPU, at toy sizes")
    given = parser.parse_args(arguments)
    if not given.cpu and given.device >= len(gpu_names()):
        print(f"no NVIDIA GPU {given.device} answers here: nothing to measure")
        return 0
    setup = (
        Setup("cpu", SMALL, 512, 0.1) if given.cpu else Setup(f"cuda:{given.device}", LARGE, given.slide, given.seconds)
    )
    with TemporaryDirectory(prefix="wsi-seg-gpu-") as folder:
        rows = list(_rows(Path(folder), setup))
    print(table(setup.title, HEADER, rows, log=Path(os.devnull)))
    return 0 if any(len(row) == len(HEADER) for row in rows) else 1


def _rows(folder: Path, setup: Setup) -> Iterator[tuple[str, ...]]:
    slide = folder / "slide.tif"
    mpp = read_card(ModelSpec("nuclei")).mpp
    write_synthetic(slide, (setup.slide_side, setup.slide_side), mpp=mpp, seed=0, tissue_fraction=0.9)
    for entry in entries(folder, setup):
        try:
            yield measured(entry, slide, setup)
        except WsiSegError as error:
            print(f"{' '.join(entry.names)}: {error}", file=sys.stderr)
            yield (*entry.names, "does not run")


def entries(folder: Path, setup: Setup) -> Iterator[Entry]:
    """Every model, runtime and precision worth trying; what is not installed says so when it is loaded."""
    unet, nuclei = networks.unet(folder / "unet.onnx", setup.network), folder / "nuclei.onnx"
    nuclei.write_bytes(builtin_models()["nuclei"].read_bytes())
    runtimes = ("onnxruntime",) if setup.device == "cpu" else ("onnxruntime", "tensorrt", "onnxruntime-tensorrt")
    for name, path in (("U-Net", unet), ("nuclei", nuclei)):
        halved(path)
        for runtime, precision in product(runtimes, ("fp32", "fp16")):
            spec = ModelSpec(str(path), runtime=runtime, precision=precision, device=setup.device, streams=STREAMS)
            yield Entry(name, spec)
    factory = "benchmarks.gpu:" + ("large_unet" if setup.network == LARGE else "small_unet")
    for precision in ("fp32", "fp16", "bf16"):
        yield Entry("U-Net", ModelSpec(factory, precision=precision, device=setup.device, streams=STREAMS))
    if setup.device != "cpu":
        spec = ModelSpec(factory, precision="fp16", device=setup.device, streams=STREAMS, cuda_graphs=True)
        yield Entry("U-Net, CUDA graphs", spec)


def halved(path: Path) -> Path:
    """The fp16 program beside an ONNX file, as `wsi-seg export --precision fp16` names and marks it."""
    import onnx

    from wsi_seg.infer.location import file_sha256, variant_path
    from wsi_seg.infer.program.half import to_half

    model = onnx.load_from_string(to_half(path.read_bytes()))
    card = read_card(ModelSpec(str(path))).replaced(precision="fp16", derived_from=file_sha256(path), weights_sha256="")
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {METADATA_KEY: card.to_json()})
    target = variant_path(path, "fp16")
    target.write_bytes(model.SerializeToString())
    return target


def large_unet() -> Any:
    """A factory for `--model`."""
    return _torch_unet(LARGE)


def small_unet() -> Any:
    """A factory for `--model`."""
    return _torch_unet(SMALL)


def _torch_unet(shape: networks.UnetShape) -> Any:
    """A torch U-Net as large as the ONNX one, with random weights and a card."""
    import torch

    from wsi_seg.model.building import build_network
    from wsi_seg.model.network import Probabilities

    torch.manual_seed(0)
    network = build_network("unet", shape.n_classes, width=shape.base_channels, depth=shape.depth)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)  # so that the classes differ
    module = Probabilities(network).eval()
    classes = named_classes([f"class {index}" for index in range(shape.n_classes)])
    module.card = ModelCard(
        "torch-unet", 0.5, classes, shape.tile_size, halo=networks.unet_halo(shape.depth),
        output_stride=network.output_stride, licence="Apache-2.0",
    )  # fmt: skip
    return module


def reference(spec: ModelSpec) -> Predictor:
    """The same model in fp32 on the CPU."""
    runtime = "torch" if ":" in spec.model else "onnxruntime"
    return load_predictor(
        spec.replaced(runtime=runtime, precision="fp32", device="cpu", cuda_graphs=False, streams=1, threads=4)
    )


def tissue(n: int, side: int) -> NDArray[np.uint8]:
    """(n, side, side, 3) uint8 tiles of synthetic tissue."""
    rng = np.random.default_rng(0)
    image = np.full((n, side, side, 3), (220.0, 150.0, 190.0))
    for scale, strength in ((1, 8), (4, 25), (16, 40)):
        grain = rng.normal(size=(n, -(-side // scale), -(-side // scale), 3)) * strength
        image += grain.repeat(scale, 1).repeat(scale, 2)[:, :side, :side]
    return np.clip(image, 0, 255).astype(np.uint8)


def measured(entry: Entry, slide: Path, setup: Setup) -> tuple[str, ...]:
    """A row. Raises WsiSegError."""
    tiles = tissue(4, setup.side)
    predictor = load_predictor(entry.spec)
    exact = reference(entry.spec)
    try:
        found = agreement(exact, predictor, tiles[:2])
        with watched(setup.device) as usage:
            rate = throughput(predictor, tiles, STREAMS, setup.seconds) * 1e6 / setup.side**2
    finally:
        exact.close()
        predictor.close()
    told = f"{100 * found.argmax_agreement:.3f} %", f"{found.max_abs:.1e}", f"{rate:.0f}", *usage.told()
    return (*entry.names, *told, f"{_run(entry.spec, slide, setup):.1f}")


def _run(spec: ModelSpec, slide: Path, setup: Setup) -> float:
    """Mpx per second of a whole run, the second of two: the first one builds and compiles."""
    options = RunOptions(
        model=spec.model, runtime=spec.runtime, precision=spec.precision, device=spec.device,
        cuda_graphs=spec.cuda_graphs, skip_background=False, tile=setup.side, overlap=32, overwrite=True,
    )  # fmt: skip
    elapsed = 0.0
    for _ in range(2):
        started = perf_counter()
        run_slide(slide, options, out=slide.with_name("result.seg.zarr"))
        elapsed = perf_counter() - started
    return setup.slide_side**2 / 1e6 / elapsed


@contextmanager
def watched(device: str) -> Iterator[Usage]:
    """Sample a GPU through nvidia-smi while the body runs; nothing for a CPU."""
    usage, done = Usage(), threading.Event()
    command = [
        "nvidia-smi",
        f"--id={device.partition(':')[2]}",
        "--query-gpu=utilization.gpu,memory.used",
        "--format=csv,noheader,nounits",
    ]

    def sample() -> None:
        while not done.wait(SAMPLE_S):
            try:
                line = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
                busy, memory = (float(part) for part in line.split(","))
            except (OSError, ValueError, subprocess.SubprocessError):
                return
            usage.busy.append(busy)
            usage.memory_mib.append(memory)

    sampler = threading.Thread(target=sample, daemon=True)
    if device != "cpu":
        sampler.start()
    try:
        yield usage
    finally:
        done.set()
        if device != "cpu":
            sampler.join()


if __name__ == "__main__":
    sys.exit(main())
