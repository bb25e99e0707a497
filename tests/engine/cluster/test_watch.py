"""Whoever makes no progress is overdue; whoever does is not, however long the task."""

from __future__ import annotations

from wsi_seg.engine.cluster.watch import SLOWER, Watch


class Scene:
    def __init__(self) -> None:
        self.now, self.words = 0.0, list[str]()
        self.watch = Watch(self.words.append, lambda: self.now)


def test_a_task_without_a_pulse_is_overdue_after_its_limit() -> None:
    scene = Scene()
    with scene.watch.over("the task", 60):
        scene.now = 60.0
        assert not scene.watch.look()
        scene.now = 61.0
        assert scene.watch.look()
    assert scene.words == ["the task has made no progress for 61 s"]


def test_pulses_keep_a_long_task() -> None:
    scene = Scene()
    with scene.watch.over("the task", 60):
        for _ in range(100):
            scene.now += 50
            scene.watch.pulse()
            assert not scene.watch.look()


def test_slow_steps_that_were_seen_lengthen_the_limit() -> None:
    scene = Scene()
    with scene.watch.over("the task", 60):
        scene.now = 40.0
        scene.watch.pulse()
        scene.now = 40.0 + 40 * SLOWER
        assert not scene.watch.look()
        scene.now += 1
        assert scene.watch.look()


def test_what_is_over_is_not_watched() -> None:
    scene = Scene()
    with scene.watch.over("the task", 1):
        scene.now = 0.5
        assert scene.watch.running() == {"the task": 0.5}
    scene.now = 100.0
    assert not scene.watch.look()
    assert scene.watch.running() == {}
    scene.watch.pulse()
