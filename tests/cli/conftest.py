"""The program, run in this process."""

from tests.whole_runs import Outcome, Program, quick_runs, tmp_path, wsi_seg

__all__ = ["Outcome", "Program", "quick_runs", "tmp_path", "wsi_seg"]
