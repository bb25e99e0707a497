"""Fixtures of the tests of the Python interface."""

from __future__ import annotations

from tests.whole_runs import quick_runs, tmp_path

__all__ = ["quick_runs", "tmp_path"]
