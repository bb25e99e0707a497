"""Slides that end, or hold up, the process that reads a certain place."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.geometry import Box
from wsi_seg.slide import ArraySlide


class DeadlySlide(ArraySlide):
    """Whoever reads a place (level-0 px) is killed, hangs, or takes all memory, as `how` says.

    `at_once`: it is so already for the thumbnail, before there is a plan.
    """

    def __init__(
        self, pixels: NDArray[np.uint8], places: tuple[Box, ...], how: str = "kill", *, at_once: bool = False
    ) -> None:
        super().__init__(pixels, mpp=0.5)
        self.places, self.how, self.at_once = places, how, at_once

    def read_region(self, box: Box, level: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        # Large reads are the thumbnail's: the plan is made, and only then somebody comes too near.
        if (self.at_once or max(box.size) <= 600) and any(not box.intersect(place).is_empty for place in self.places):
            self._strike()
        return super().read_region(box, level, out)

    def _strike(self) -> None:
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "hang":
            time.sleep(3600)
        hog = [np.ones(1 << 24, np.uint8)]
        while True:
            hog.append(hog[-1].copy())
            time.sleep(0.01)

    def fingerprint(self) -> str:
        return "0" * 64

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), at_once=self.at_once), (self._pixels[0], self.places, self.how)
