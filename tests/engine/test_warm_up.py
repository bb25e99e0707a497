"""What is measured before the plan."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from wsi_seg.engine.warm_up import peak_bytes


def test_a_process_does_not_count_what_its_parent_held() -> None:
    much = np.ones(400_000_000, np.uint8)
    asked = "from wsi_seg.engine.warm_up import peak_bytes; print(peak_bytes())"
    child = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert peak_bytes() > much.nbytes
    assert 1_000_000 < int(child.stdout) < 300_000_000
