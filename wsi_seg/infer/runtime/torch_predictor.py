"""torch on CPU or GPU, for `.pt2`, TorchScript and `module:factory`.

Owns loading without unpickling, inference mode, autocast, and conversion of pixels to tensors, which happens on the
device. A program file never brings code of its own.
Knows no architecture and checks no result.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_seg.card import ModelCard
from wsi_seg.errors import ModelLoadError, PredictorError, WsiSegError
from wsi_seg.infer.device.device_blend import TorchBlend, TorchTile
from wsi_seg.infer.device.lanes import GPU_LANES, Lanes
from wsi_seg.infer.device.torch_device import Lane, device_name, open_device
from wsi_seg.infer.location import Location
from wsi_seg.infer.program.output_forms import output_layout
from wsi_seg.infer.program.torch_archive import read_clean_archive, read_clean_script
from wsi_seg.infer.protocol import ModelSpec, Port, RuntimeFacts, Signature
from wsi_seg.infer.runtime.torch_factory import make_module

_AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}
_WARM_UP_CALLS = 3  # before a graph is recorded, so that kernels are chosen and workspaces are there
_CPU_LANES = 64  # calls at once on a CPU: more than there are threads
_RECORDING = threading.Lock()  # one thread records at a time
_FILE_OPERATIONS = ("aten::from_file", "aten::save", "aten::load", "prim::PythonOp")


def open_module(location: Location, spec: ModelSpec) -> tuple[Any, Signature]:
    """The callable of a torch program and what it says of itself. Raises ModelLoadError."""
    try:
        if location.kind == "torch-export":
            return _exported(location.path)
        if location.kind == "torchscript":
            return _scripted(location.path), Signature()
        return make_module(location, spec)
    except WsiSegError:
        raise
    except Exception as error:  # torch raises anything from RuntimeError to KeyError on a broken file
        raise ModelLoadError(
            f"torch cannot load {location.name}: {_reason(error)}",
            rule="a program is whole, and of this version of torch or an older one",
            remedy="export the model again",
        ) from error


class TorchProgram:
    """A torch callable; pixels go to its device as bytes, and everything else happens there.

    On a CPU calls run side by side as they come; a GPU has `GPU_LANES`, each with a stream and pinned buffers.
    """

    def __init__(self, module: Any, card: ModelCard, spec: ModelSpec) -> None:
        if torch.get_num_threads() != spec.threads:
            torch.set_num_threads(spec.threads)  # holds for the whole process
        self._device = open_device("cpu" if spec.device == "auto" else spec.device)
        self._records = spec.cuda_graphs
        gpu = self._device.type != "cpu"
        if self._records and not gpu:
            raise ModelLoadError(f"CUDA graphs for {spec.model} on a CPU", rule="--cuda-graphs needs --device cuda")
        precision = card.precision if spec.precision == "auto" else spec.precision
        self._autocast = None if precision == card.precision else _AUTOCAST.get(precision)
        self._module, self._card, self._name = _placed(module, self._device), card, spec.model
        self._mean = torch.tensor(card.mean, device=self._device) * 255
        self._std = torch.tensor(card.std, device=self._device) * 255
        self._lanes = Lanes(lambda: _TorchLane(self._device), GPU_LANES if gpu else _CPU_LANES)
        self.device_blend = TorchBlend(self._device)
        self.facts = RuntimeFacts("torch", str(torch.__version__), device_name(self._device), precision)

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        """(N, H, W, 3) uint8 -> (N, C, H, W) float32."""
        with self._lane(batch) as (lane, output):
            return lane.download(output)

    def run_on_device(self, batch: NDArray[np.uint8]) -> list[TorchTile]:
        """As `run`, each tile left on the device, finished."""
        with self._lane(batch) as (lane, output):
            kept = output.clone() if self._records else output  # what was recorded is overwritten by the next call
            lane.finish()
            return [TorchTile(values) for values in kept]

    @contextmanager
    def _lane(self, batch: NDArray[np.uint8]) -> Iterator[tuple[Lane, torch.Tensor]]:
        """A lane on which the network's answer to a batch is under way."""
        module = self._module
        if module is None:
            raise PredictorError(f"{self._name} is closed")
        try:
            with torch.inference_mode(), self._lanes.one() as lane, lane.active():
                yield lane, self._answer(module, lane, lane.upload(batch))
        except PredictorError:
            raise
        except Exception as error:  # a torch program may raise anything
            raise PredictorError(f"torch failed on {self._name}, batch {batch.shape}: {_reason(error)}") from error

    def _answer(self, module: Any, lane: _TorchLane, pixels: torch.Tensor) -> torch.Tensor:
        if self._records:
            return lane.replayed(pixels, lambda: self._forward(module, pixels))
        return self._forward(module, pixels)

    def _forward(self, module: Any, pixels: torch.Tensor) -> torch.Tensor:
        """Probabilities (N, C, H, W) float32 of uint8 pixels (N, H, W, 3), all on the device."""
        values = pixels.float()
        if self._card.channels == "BGR":
            values = values.flip(3)
        values = values.sub_(self._mean).div_(self._std)
        planar = self._card.layout == "NCHW"
        with torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None):
            output = module(values.permute(0, 3, 1, 2) if planar else values)  # a channels_last view, nothing is moved
        output = tensor_of(output, self._card.output, self._name).float()
        if output.ndim == 3:
            output = output.unsqueeze(1)
        elif output.ndim == 4 and output_layout(output.shape, self._card) == "NHWC":
            output = output.permute(0, 3, 1, 2)
        if self._card.activation == "softmax":
            output = output.softmax(1)
        elif self._card.activation == "sigmoid":
            output = output.sigmoid()
        return output.contiguous()

    def close(self) -> None:
        """Drop the module and the buffers."""
        self._module = None
        self._lanes.clear()


class _TorchLane(Lane):
    """A lane that can record a network for one batch shape and replay it."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._recorded: tuple[torch.Tensor, Any, torch.Tensor] | None = None

    def replayed(self, pixels: torch.Tensor, forward: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What `forward` makes of the pixels that lie in this lane's buffer now, without launching its kernels singly.

        Recorded the first time that a buffer is seen; the result is overwritten by the next call.
        """
        if self._recorded is None or self._recorded[0] is not pixels:
            with _RECORDING:
                for _ in range(_WARM_UP_CALLS):
                    forward()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                    result = forward()
            self._recorded = (pixels, graph, result)
        _, graph, result = self._recorded
        graph.replay()
        return result


def _placed(module: Any, device: torch.device) -> Any:
    """The module on its device, convolution weights in the order that images have."""
    if device.type == "cpu":
        return module
    torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32; TF32 keeps 11 bits
    torch.backends.cudnn.deterministic = True  # a resumed run gives the bits of an uninterrupted one
    return module.to(device, memory_format=torch.channels_last)


def tensor_of(output: Any, wanted: str, name: str) -> Any:
    """The tensor that a program returned, or the one that the card names of several. Raises PredictorError."""
    if isinstance(output, torch.Tensor) and not wanted:
        return output
    several = dict(enumerate(output)) if isinstance(output, tuple | list) else output
    tensors = {str(key): value for key, value in several.items()} if isinstance(several, dict) else {}
    if not isinstance(tensors.get(wanted), torch.Tensor):
        listed = ", ".join(f"{key} {tuple(getattr(value, 'shape', ()))}" for key, value in tensors.items())
        raise PredictorError(
            f"{name} returns a {type(output).__name__}" + (f" of {listed}" if listed else ""),
            rule="a segmentation model returns one tensor, or several of which one is named",
            remedy="name it with --output or in the card: its key, or its position from 0" if listed else "",
        )
    return tensors[wanted]


def _exported(path: Path) -> tuple[Any, Signature]:
    archive, card = read_clean_archive(path)
    program = torch.export.load(archive)
    names = set(program.graph_signature.user_inputs)
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    last = next(node for node in program.graph.nodes if node.op == "output").args[0]
    if len(values) != 1:
        raise ModelLoadError(
            f"{path} has {len(values)} inputs",
            rule="a segmentation model takes one image",
            remedy="export it with the others as constants inside the program",
        )
    several = len(last) > 1
    ports = tuple(_port(str(number) if several else "", node) for number, node in enumerate(last))
    signature = Signature(input_shape=_dims(values[0]), input_type=_type(values[0]), card_json=card, outputs=ports)
    return program.module(), signature


def _port(name: str, node: Any) -> Port:
    """One output of an exported program; of several, the name is the position."""
    target = str(getattr(node, "target", ""))
    known = {"softmax": "Softmax", "sigmoid": "Sigmoid", "argmax": "ArgMax"}
    operation = next((operation for word, operation in known.items() if word in target), None)
    return Port(name, _dims(node.meta["val"]), _type(node.meta["val"]), operation)


def _type(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.")


def _dims(value: Any) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in value.shape)


def _scripted(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # old, but what many models are published as
            module = torch.jit.load(read_clean_script(path), map_location="cpu").eval()
    except RuntimeError as error:
        raise ModelLoadError(
            f"{path} is not a TorchScript program: {_reason(error)}",
            rule="a .pt or .ts file is what torch.jit.save writes",
            remedy="weights alone need their architecture: --model module:factory --weights file.safetensors",
        ) from error
    graph = str(getattr(module, "inlined_graph", ""))
    if used := [operation for operation in _FILE_OPERATIONS if operation + "(" in graph or operation + "[" in graph]:
        rule, remedy = "a program must not touch files", "export the model to ONNX"
        raise ModelLoadError(f"{path} uses {', '.join(used)}", rule=rule, remedy=remedy)
    return module


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:400]
