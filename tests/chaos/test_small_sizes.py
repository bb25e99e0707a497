"""Each fault at a few points; `make chaos` tries them all. And the harness itself must be able to say no."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.chaos.catalogue import FAULTS
from tests.chaos.fault import Fault, Skipped, carry_out
from tests.chaos.planted import Canaries, plant_all, png_of
from tests.chaos.scene import Scene, Wrong
from tests.chaos.searching import PICTURE, found_in_tree
from tests.chaos.tracing import Trace
from tests.chaos.trees import differences
from tests.whole_runs import folder_in_memory

POINTS = {
    "driver": 1, "objects": 2, "calls": 8, "bit-flips": 20, "power": 1, "mutated": 12, "tile-faults": 1,
    "canaries": 2, "attacks": 3, "malformed": 20,
}  # fmt: skip
BY_NAME = {fault.name: fault for fault in FAULTS}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with folder_in_memory(tmp_path_factory.mktemp("chaos")) as folder, Scene(folder) as made:
        yield made


SLOW = {"objects"}
"""Left to `--slow`: what they try is tried elsewhere without processes of their own."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in sorted(POINTS)]
)
def test_the_result_is_the_undisturbed_one(scene: Scene, name: str) -> None:
    outcome = carry_out(BY_NAME[name], scene, seed=Random().randrange(10_000), points=POINTS[name])
    if outcome.skipped:
        pytest.skip(outcome.skipped)
    assert outcome.tried == POINTS[name]
    assert not outcome.wrong, "\n".join([outcome.line(), *outcome.repeats()])


def test_a_result_does_not_say_in_which_folder_a_damaged_slide_lay(scene: Scene) -> None:
    outcome = carry_out(BY_NAME["canaries"], scene, seed=1, only=40)
    assert not outcome.wrong, outcome.wrong


def test_canaries_are_found_where_they_are(tmp_path: Path) -> None:
    canaries = Canaries()
    word, picture = canaries.word("text of a picture"), canaries.picture("pixels")
    (tmp_path / "a.png").write_bytes(png_of(picture, word))
    plant_all(tmp_path / "slides", canaries)
    found = {word for word, _ in found_in_tree(tmp_path)}
    assert found >= canaries.words.keys() | {PICTURE}
    assert len(canaries) >= 60


def test_names_are_each_one_fault() -> None:
    assert len(BY_NAME) == len(FAULTS)


def test_what_is_wrong_is_told_with_how_to_repeat_it(scene: Scene) -> None:
    def odd_ones_fail(_: Scene, __: Random, number: int) -> dict[str, int]:
        if number % 2:
            raise Wrong(f"number {number}")
        return {}

    outcome = carry_out(Fault("odd", "R0", "odd numbers", 4, odd_ones_fail), scene, seed=7)
    assert "R0 odd numbers: 4 tried, 2 right" in outcome.line()
    assert "python -m tests.chaos odd --seed 7 --only 3" in outcome.repeats()[1]


def test_what_cannot_be_tried_is_told_with_the_reason(scene: Scene) -> None:
    def refused(*_: object) -> dict[str, int]:
        raise Skipped("mount: no")

    outcome = carry_out(Fault("disk", "R0", "a disk", 4, refused), scene, seed=7)
    assert outcome.line() == "R0 a disk: skipped: mount: no"


def test_trees_differ_where_a_byte_does() -> None:
    tree = {"a": b"1", "b": b"2"}
    assert differences(tree, dict(tree)) == []
    assert differences(tree, {"a": b"x", "c": b"3"}) == ["b is missing", "c should not be there", "a has other bytes"]


def test_half_a_line_of_a_trace_is_not_read(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("begin 1.5 7 0 1 2\ndone 1.6 7 0 1 2\nbegin 1.7 7 0 1")
    trace = Trace.read(log)
    assert [event.kind for event in trace.events] == ["begin", "done"]
    assert trace.acknowledged() == {(0, 1, 2)}
    assert not trace.in_flight()
