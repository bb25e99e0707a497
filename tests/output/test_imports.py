"""A light command pays for no library that it does not use, and a worker that writes shards needs no zarr."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("zarr", "tifffile", "PIL", "numcodecs", "google_crc32c", "numba", "torch", "dask", "obstore")


@pytest.mark.parametrize(
    ("module", "needed"),
    [
        ("wsi_seg.output", ()),
        ("wsi_seg.output.summary", ()),
        ("wsi_seg.output.shard_writer", ("numcodecs", "google_crc32c")),
        ("wsi_seg.output.run_directory", ("numcodecs", "google_crc32c")),
        ("wsi_seg.output.overview", ("PIL",)),
    ],
)
def test_a_module_loads_only_its_own_library(module, needed):
    code = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= set(needed)
