"""Fixtures of the tests of other people's models; what makes the Paddle ones needs Paddle, and is no test."""

from tests.infer.conftest import tissue_like
from tests.whole_runs import quick_runs, tmp_path, wsi_seg

__all__ = ["quick_runs", "tissue_like", "tmp_path", "wsi_seg"]

collect_ignore = ["make_paddle.py"]
