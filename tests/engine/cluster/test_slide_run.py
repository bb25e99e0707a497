"""A slide's tasks come tier by tier, each once, without those that are done."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from wsi_seg.engine.cluster.slide_run import SlideRun
from wsi_seg.engine.schedule import all_tasks
from wsi_seg.geometry import PyramidLayout


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([256, 512, 1024]), st.randoms())
def test_tiers_hold_every_task_that_is_left_once(height: int, width: int, block: int, chance: Any) -> None:
    layout = PyramidLayout((height, width), block)
    everything = list(all_tasks(layout))
    done = {key for key in everything if chance.random() < 0.5}
    slide = SlideRun(0, None, layout=layout)  # type: ignore[arg-type]
    slide.plan_tiers(done)
    given_out = []
    while tier := slide.next_tier():
        assert len({key.tier for key in tier}) == 1
        given_out += tier
        assert [slide.task_done() for _ in tier] == [False] * (len(tier) - 1) + [True]
    assert given_out == [key for key in everything if key not in done]
    assert slide.spent().resumed == done


def test_what_it_holds_is_let_go_of() -> None:
    class Folder:
        closed = 0

        def close(self) -> None:
            self.closed += 1

    folder = Folder()
    slide = SlideRun(0, None, folder=folder, prepared=object(), job=object())  # type: ignore[arg-type]
    slide.release()
    slide.release()
    assert (folder.closed, slide.folder, slide.prepared, slide.job) == (1, None, None, None)


def test_the_clock_starts_once() -> None:
    slide = SlideRun(0, None)  # type: ignore[arg-type]
    slide.start_clock()
    began = slide.began
    slide.start_clock()
    assert slide.began == began > 0
