"""`import wsi_seg` is cheap and offers what it says."""

from __future__ import annotations

import subprocess
import sys

import pytest

import wsi_seg

HEAVY = ["numpy", "zarr", "dask", "numba", "PIL", "typer", "wsi_seg.engine", "wsi_seg.output"]


def test_importing_imports_nothing_heavy() -> None:
    script = f"import sys, wsi_seg\ndir(wsi_seg)\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_all_names_are_there_and_listed() -> None:
    for name in wsi_seg.__all__:
        assert getattr(wsi_seg, name) is not None
        assert name in dir(wsi_seg)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = wsi_seg.nothing  # type: ignore[attr-defined]


def test_star_import() -> None:
    names: dict[str, object] = {}
    exec("from wsi_seg import *", names)
    assert set(wsi_seg.__all__) <= set(names)
