"""Every task is handed out once, along stretches, the largest slides first, whoever comes and goes."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
from hypothesis import given

from wsi_seg.engine.cluster.work_queue import Work, WorkQueue
from wsi_seg.engine.job import TaskKey

WORKERS = ("a", "b", "c")


def keys(n: int, tier: int = 0) -> list[TaskKey]:
    return [TaskKey(tier, 0, column) for column in range(n)]


def drain(queue: WorkQueue, *workers: str) -> list[tuple[str, Work]]:
    """Take in turns until nothing is left."""
    taken = []
    while len(queue):
        taken += [(worker, work) for worker in workers if (work := queue.take(worker)) is not None]
    return taken


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 9), st.booleans()),
        st.tuples(st.sampled_from(["take", "take", "take", "release"]), st.sampled_from(WORKERS)),
    ),
    max_size=60,
)


@given(steps)
def test_every_task_is_handed_out_exactly_once_whoever_comes_and_goes(story: list[tuple[object, ...]]) -> None:
    queue, added, taken = WorkQueue(), [], []
    for number, (what, *rest) in enumerate(story):
        if what == "add":
            n, first = rest
            new = keys(int(n), tier=int(first))
            queue.add(number, new, first=bool(first))
            added += [(number, key) for key in new]
        elif what == "take":
            left = len(queue)
            work = queue.take(str(rest[0]))
            assert (work is None) == (left == 0), "nobody is idle while there is work"
            taken += [] if work is None else [work]
        else:
            queue.release(str(rest[0]))
        assert len(queue) == len(added) - len(taken)
    taken += [work for _, work in drain(queue, *WORKERS)]
    assert len(taken) == len(set(taken))
    assert set(taken) == set(added)


@given(steps, st.integers(0, 60))
def test_a_dropped_slide_is_forgotten_and_no_other(story: list[tuple[object, ...]], dropped: int) -> None:
    queue, left = WorkQueue(), set()
    for number, (what, *rest) in enumerate(story):
        if what == "add":
            new = keys(int(rest[0]), tier=int(rest[1]))
            queue.add(number, new, first=bool(rest[1]))
            left |= {(number, key) for key in new}
        elif what == "take" and (work := queue.take(str(rest[0]))) is not None:
            left.remove(work)
    queue.drop(dropped)
    assert {work for _, work in drain(queue, *WORKERS)} == {work for work in left if work[0] != dropped}


def test_a_worker_goes_along_its_slide() -> None:
    queue = WorkQueue()
    for slide in range(3):
        queue.add(slide, keys(20))
    taken = drain(queue, *WORKERS)
    for worker in WORKERS:
        mine = [work for who, work in taken if who == worker]
        assert len({slide for slide, _ in mine}) == 1
        assert all(b.column == a.column + 1 for (_, a), (_, b) in pairwise(mine))


def test_the_largest_is_begun_first() -> None:
    queue = WorkQueue()
    for slide, n in enumerate((3, 9, 5)):
        queue.add(slide, keys(n))
    assert [queue.take(worker)[0] for worker in WORKERS] == [1, 2, 0]  # type: ignore[index]


def test_whoever_has_nothing_takes_the_second_half_of_the_longest() -> None:
    queue = WorkQueue()
    queue.add(0, keys(4))
    queue.add(1, keys(11))
    assert queue.take("a") == (1, TaskKey(0, 0, 0))
    assert queue.take("b") == (0, TaskKey(0, 0, 0))
    # Ten are left to a, three to b: c gets the last five of a.
    assert [queue.take("c") for _ in range(5)] == [(1, TaskKey(0, 0, column)) for column in range(6, 11)]
    assert queue.take("a") == (1, TaskKey(0, 0, 1))


def test_what_is_first_goes_before_all() -> None:
    queue = WorkQueue()
    queue.add(0, keys(5))
    queue.take("a")
    queue.add(1, keys(2, tier=1), first=True)
    assert [queue.take("a"), queue.take("b")] == [(1, TaskKey(1, 0, 0)), (1, TaskKey(1, 0, 1))]


def test_what_a_lost_worker_had_left_is_anybodys() -> None:
    queue = WorkQueue()
    queue.add(0, keys(4))
    queue.take("a")
    assert queue.n_unclaimed == 0
    queue.release("a")
    assert queue.n_unclaimed == 1
    assert [queue.take("b") for _ in range(4)] == [*((0, TaskKey(0, 0, column)) for column in (1, 2, 3)), None]


def test_a_slide_is_dropped_wherever_its_tasks_are() -> None:
    queue = WorkQueue()
    queue.add(0, keys(3))
    queue.take("a")
    queue.add(0, keys(3))
    queue.add(0, keys(3, tier=1), first=True)
    assert len(queue) == 8
    queue.drop(0)
    assert (len(queue), queue.n_unclaimed, queue.take("a"), queue.take("b")) == (0, 0, None, None)
