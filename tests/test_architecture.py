"""The house rules that a machine can check: sizes, names, confinement of libraries, cheap imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(ROOT / "wsi_seg").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])
NAMES = [str(path.relative_to(ROOT)) for path in SOURCES]

FORBIDDEN_NAMES = {
    "utils",
    "helpers",
    "common",
    "misc",
    "manager",
    "handler",
    "processor",
    "base",
    "core",
    "info",
    "data",
}
ALLOWED_MODULES = {"wsi_seg/cli/info.py"}  # named after the command it is

CONFINED = {
    "openslide": {"wsi_seg/slide/openslide_handle.py"},
    "safetensors": {"wsi_seg/infer/runtime/torch_factory.py", "wsi_seg/model/weights.py"},
    "torch": {
        "wsi_seg/infer/runtime/torch_predictor.py",
        "wsi_seg/infer/device/torch_device.py",
        "wsi_seg/infer/runtime/torch_factory.py",
        "wsi_seg/infer/device/device_blend.py",
        "wsi_seg/infer/runtime/tensorrt_predictor.py",
        "wsi_seg/infer/program/torch_archive.py",
        "wsi_seg/model/",
        "wsi_seg/train/",
        "wsi_seg/export/torch_module.py",
        "wsi_seg/export/coreml_package.py",
    },
    "onnxruntime": {"wsi_seg/infer/runtime/onnxruntime_predictor.py", "wsi_seg/export/quantisation.py"},
    "openvino": {"wsi_seg/infer/runtime/openvino_predictor.py", "wsi_seg/export/writing.py"},
    "ctypes": {"wsi_seg/infer/device/cuda_driver.py"},
    "coremltools": {"wsi_seg/export/coreml_package.py"},
    "shapely": {
        "wsi_seg/plan/roi.py",
        "wsi_seg/convert/outlines.py",
        "wsi_seg/convert/shapes.py",
        "wsi_seg/convert/simplification.py",
        "wsi_seg/convert/geojson_file.py",
    },
    "highdicom": {"wsi_seg/convert/dicom_seg.py", "wsi_seg/convert/dicom_source.py"},
    "pydicom": {"wsi_seg/convert/dicom_seg.py", "wsi_seg/convert/dicom_source.py"},
    "dask": {
        "wsi_seg/api/result.py",
        "wsi_seg/engine/on_demand_array.py",
        "wsi_seg/engine/schedule.py",
        "wsi_seg/engine/cluster/connecting.py",
        "wsi_seg/engine/cluster/queueing.py",
    },
    "distributed": {
        "wsi_seg/engine/cluster/connecting.py",
        "wsi_seg/engine/cluster/queueing.py",
        "wsi_seg/engine/cluster/plugin.py",
        "wsi_seg/engine/cluster/worker.py",
        "wsi_seg/engine/cluster/verdict.py",
    },
    "dask_jobqueue": {"wsi_seg/engine/cluster/queueing.py"},
    "typer": {"wsi_seg/cli/"},
    "rich": {"wsi_seg/cli/progress.py", "wsi_seg/cli/train_progress.py", "wsi_seg/cli/batch_progress.py"},
    "matplotlib": {"wsi_seg/train/record/curves.py", "wsi_seg/evaluate/", "wsi_seg/api/"},
    "tensorboardX": {"wsi_seg/train/record/log.py"},
    "yaml": {"wsi_seg/train/config.py", "wsi_seg/engine/cluster/queueing.py"},
    "pydantic": {"wsi_seg/train/config.py"},
    "simplejpeg": {"wsi_seg/slide/tile_codec.py", "wsi_seg/sample/synthetic.py"},
    "imagecodecs": {"wsi_seg/slide/tile_codec.py", "wsi_seg/output/shard_codec.py"},
    "tifffile": {
        "wsi_seg/slide/tiff_layout.py",
        "wsi_seg/sample/synthetic.py",
        "wsi_seg/output/tiff_writer.py",
        "wsi_seg/evaluate/tiff_labels.py",
        "wsi_seg/annotation/pixel_files.py",
        "wsi_seg/annotation/label_map.py",
    },
    "scipy": {"wsi_seg/evaluate/surfaces.py", "wsi_seg/evaluate/objects.py"},
    "zarr": {
        "wsi_seg/slide/zarr_handle.py",
        "wsi_seg/output/label_store.py",
        "wsi_seg/output/store/posix.py",
        "wsi_seg/output/store/zarr_objects.py",
        "wsi_seg/annotation/label_map.py",
    },
    "obstore": {
        "wsi_seg/output/store/objects.py",
        "wsi_seg/output/store/refusals.py",
        "wsi_seg/output/store/zarr_objects.py",
    },
    "onnx": {
        "wsi_seg/infer/program/onnx_file.py",
        "wsi_seg/infer/program/onnx_trust.py",
        "wsi_seg/infer/program/half.py",
        "wsi_seg/infer/program/onnx_pixels.py",
        "wsi_seg/model/onnx_export.py",
        "wsi_seg/export/quantisation.py",
        "wsi_seg/export/writing.py",
    },
}
"""Library -> the files, or folders ending in a slash, that may import it."""


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _functions(tree: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def _body_lines(function: ast.FunctionDef) -> int:
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) and len(body) > 1:
        body = body[1:]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


@cache
def _imported(path: Path) -> frozenset[str]:
    modules: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module.partition(".")[0])
    return frozenset(modules)


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_a_file_is_at_most_500_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_a_function_is_at_most_60_lines_and_6_arguments(path: Path) -> None:
    # Kernels take flat arrays and offsets, and a command line has as many options as it has.
    limit = 99 if "cli" in path.parts or "kernels" in path.parts else 6
    for function in _functions(_tree(path)):
        assert _body_lines(function) <= 60, f"{function.name} has {_body_lines(function)} lines"
        arguments = [a.arg for a in function.args.args + function.args.kwonlyargs if a.arg not in ("self", "cls")]
        assert len(arguments) <= limit, f"{function.name} takes {arguments}"


def test_functions_are_short_as_a_rule() -> None:
    lengths = sorted(_body_lines(function) for path in SOURCES for function in _functions(_tree(path)))
    assert lengths[len(lengths) // 2] <= 10
    assert lengths[len(lengths) * 9 // 10] <= 30


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_a_file_says_what_it_owns_and_its_name_says_something(path: Path) -> None:
    tree = _tree(path)
    assert ast.get_docstring(tree), "a module docstring says what it owns"
    if str(path.relative_to(ROOT)) not in ALLOWED_MODULES:
        assert path.stem not in FORBIDDEN_NAMES
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            assert node.name.lower() not in FORBIDDEN_NAMES


@pytest.mark.parametrize("library", sorted(CONFINED))
def test_a_third_party_library_lives_in_few_files(library: str) -> None:
    users = {name for path, name in zip(SOURCES, NAMES, strict=True) if library in _imported(path)}
    allowed = tuple(CONFINED[library])
    assert not [name for name in users if not name.startswith(allowed)]
    assert users, f"{library} is confined but nobody imports it: drop it from the list"


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_nothing_is_printed_below_the_cli(path: Path) -> None:
    if "cli" in path.parts:
        return
    calls = [n for n in ast.walk(_tree(path)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    assert not [call.lineno for call in calls if call.func.id == "print"]


def test_help_imports_no_heavy_library() -> None:
    heavy = [
        "numpy",
        "zarr",
        "dask",
        "numba",
        "torch",
        "onnxruntime",
        "openvino",
        "tifffile",
        "openslide",
        "shapely",
        "obstore",
    ]
    script = (
        "import sys\nfrom wsi_seg.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stderr.strip().splitlines()[-1] == "[]"
