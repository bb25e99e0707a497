"""Which runtime runs on which device: what `--device` means on this machine.

Owns the rule. `auto` is a GPU where one answers and a runtime can use it, else the CPU. Who asks for CUDA gets CUDA or
an error that names what is missing. Imports a runtime only where a GPU is in question.
"""

from __future__ import annotations

from importlib.util import find_spec

from wsi_seg.errors import ModelLoadError
from wsi_seg.infer.device.cuda_driver import gpu_names
from wsi_seg.infer.protocol import ModelSpec

_ON_CPU = ("openvino", "onnxruntime", "torch")
_ON_GPU = ("onnxruntime", "torch", "tensorrt", "onnxruntime-tensorrt")
"""In order of preference: an engine takes minutes to build, so TensorRT is measured against ONNX Runtime, not first."""

Place = tuple[str, str]
"""(runtime, device): device `cpu` or `cuda:N`."""


def places(able: tuple[str, ...], spec: ModelSpec, name: str) -> list[Place]:
    """Where a program may run that the runtimes `able` take, best first. Raises ModelLoadError.

    `able` is in order of preference on a CPU; a runtime that the spec states is the only one in it.
    """
    on_cpu = [(runtime, "cpu") for runtime in able if runtime in _ON_CPU]
    if spec.device == "cpu":
        return on_cpu or _refuse(able, spec, name, [f"{runtime} runs on a GPU only" for runtime in able])
    asked = spec.device.startswith("cuda")
    if not asked and not gpu_names():
        return on_cpu or _refuse(able, spec, name, ["no NVIDIA GPU answers here"])
    device = f"cuda:{device_number(spec.device)}"
    reasons = {runtime: missing_for_gpu(runtime) for runtime in _ON_GPU if runtime in able}
    on_gpu = [(runtime, device) for runtime, reason in reasons.items() if not reason]
    if on_gpu or (on_cpu and not asked):
        return on_gpu if asked else [*on_gpu, *on_cpu]
    told = [reason for reason in reasons.values() if reason]
    return _refuse(able, spec, name, told or [f"{' and '.join(able)} cannot use CUDA here"])


def device_number(device: str) -> int:
    """N of `cuda:N`, 0 where none is stated.

    >>> device_number("cuda:2"), device_number("cuda"), device_number("auto")
    (2, 0, 0)
    """
    return int(device.partition(":")[2] or 0)


def missing_for_gpu(runtime: str) -> str:
    """What a runtime lacks to run on a GPU here, in words; empty where nothing is known to be missing."""
    if not gpu_names():
        return "no NVIDIA GPU answers here (driver library libcuda)"
    if runtime == "onnxruntime":
        from wsi_seg.infer.runtime.onnxruntime_predictor import has_cuda

        return "" if has_cuda() else "this onnxruntime is the CPU build; onnxruntime-gpu is missing"
    if runtime == "onnxruntime-tensorrt":
        from wsi_seg.infer.runtime.onnxruntime_predictor import has_tensorrt

        return "" if has_tensorrt() else "this onnxruntime has no TensorRT provider; onnxruntime-gpu has one"
    if find_spec("torch") is None:
        return f"{runtime} needs torch, which is not installed"
    from wsi_seg.infer.device.torch_device import missing_for_cuda

    if runtime == "torch" or missing_for_cuda():
        return missing_for_cuda()
    from wsi_seg.infer.runtime.tensorrt_library import installed

    return "" if installed() else "neither tensorrt nor tensorrt-rtx is installed"


def _refuse(able: tuple[str, ...], spec: ModelSpec, name: str, reasons: list[str]) -> list[Place]:
    stated = spec.runtime != "auto"
    if set(able) & set(_ON_CPU):
        remedy = "use --device cpu"
    elif stated:
        remedy = "leave --runtime out to run on the CPU"
    else:
        remedy = "name the ONNX program that it was made from"
    what = f"runtime {spec.runtime} for {name}" if stated else f"device {spec.device} for {name}"
    raise ModelLoadError(what, rule="; ".join(dict.fromkeys(reasons)), remedy=remedy)
