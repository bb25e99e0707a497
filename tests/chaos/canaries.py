"""R23: what names a patient does not leave the slide: words and pictures planted in it are looked for in every output.

By default a result says the name of its slide's file, and messages say its path, since the user gave both; nothing
else of a slide goes out, and the folder never enters a result. Where the file goes by a link of another name, not even
its name does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from unittest.mock import patch

import typer.main

from tests.chaos.fault import Fault, Figures
from tests.chaos.planted import Canaries, Planted, plant_all
from tests.chaos.scene import Scene, Wrong
from tests.chaos.searching import found_in_tree, words_in
from tests.chaos.warm import wsi_seg
from wsi_seg import infer

OPTIONS = ("--model", "he-stain", "--tile", "128", "--block", "256", "--no-skip", "--workers", "1", "--quiet")
NAMED = ("zarr.json", "summary.json", "summary.csv", "provenance.json", ".ome.tif")
"""Files of a result that say the name of the slide's file."""
REPORTS = ("report.html", "report.csv", "areas.csv", ".wsi-seg-batch/")
"""Files of a batch that say names and paths of its slides."""
SAID = "what it said"


@dataclass(frozen=True, slots=True)
class Planting:
    """All slides, and what is hidden in them."""

    slides: tuple[Planted, ...]
    canaries: Canaries


@dataclass(frozen=True, slots=True)
class Case:
    """A slide, under the path that the program is given, and a folder for what it writes."""

    slide: Planted
    given: Path
    folder: Path
    chance: Random

    @property
    def named(self) -> bool:
        """Whether the path given says the slide's own name."""
        return self.given == self.slide.path


def planted(scene: Scene) -> Planting:
    """The slides of a scene."""

    def make() -> Planting:
        canaries = Canaries()
        return Planting(plant_all(scene.folder / "planted", canaries), canaries)

    made: Planting = scene.kept("planted", make)
    return made


@contextlib.contextmanager
def warm_commands() -> Iterator[None]:
    """As `warm_program`, but pictures are drawn."""
    with (
        patch.object(typer.main, "get_command", cache(typer.main.get_command)),
        patch.object(infer, "rough_throughput", lambda *_, **__: 1e9),
    ):
        yield


def heard(*arguments: object) -> str:
    """All that `wsi-seg` says, by Python or past it; a traceback too, where one is asked for."""
    with tempfile.TemporaryFile() as file, _descriptors(file.fileno()):
        try:
            said = wsi_seg(*arguments).said
        except Exception:
            said = traceback.format_exc()
        file.seek(0)
        return said + file.read().decode(errors="replace")


@contextlib.contextmanager
def _descriptors(to: int) -> Iterator[None]:
    """Both streams of this process, and of those it starts, into a file."""
    kept = [os.dup(number) for number in (1, 2)]
    try:
        for number in (1, 2):
            os.dup2(to, number)
        yield
    finally:
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)


def a_zarr(case: Case) -> str:
    """A result, and what is told of it."""
    out = case.folder / "x.seg.zarr"
    said = heard("run", case.given, "--out", out, *OPTIONS, "--probabilities")
    if not out.is_dir():
        raise Wrong(f"no result: {said[-300:]}")
    said += heard("run", case.given, "--out", out, *OPTIONS) + heard("info", out) + heard("info", out, "--json")
    return said + heard("verify", out) + heard("verify", out, "--json")


def a_tiff(case: Case) -> str:
    """A TIFF result."""
    said = heard("run", case.given, "--out", case.folder / "x.ome.tif", *OPTIONS, "--json")
    if not (case.folder / "x.ome.tif").is_file():
        raise Wrong(f"no result: {said[-300:]}")
    return said


def default_name(case: Case) -> str:
    """A result that nobody named."""
    with contextlib.chdir(case.folder):
        return heard("run", case.given, *OPTIONS)


def only_looked_at(case: Case) -> str:
    """Nothing is written."""
    plan = ("plan", case.given, "--model", "he-stain")
    return "".join(
        heard(*words) for words in (plan, (*plan, "--json"), ("info", case.given), ("info", case.given, "--json"))
    )


def refused(case: Case) -> str:
    """Mistakes of the user's, with and without a traceback."""
    out = case.folder / "x.seg.zarr"
    wrong = (("--model", "no-such"), ("--roi", "no-such.geojson"), ("--window", "no"), ("--mpp", "-1"))
    said = [
        heard(*case.chance.choice(((), ("--debug",))), "run", case.given, "--out", out, *OPTIONS, *w) for w in wrong
    ]
    return "".join([*said, heard("--debug", "verify", case.given), heard("--debug", "info", case.given / "x")])


def damaged_tiles(case: Case) -> str:
    """Some tiles cannot be read: the result says which."""
    return _damaged(case, at_least=0.3, pieces=40)


def damaged_head(case: Case) -> str:
    """Bytes anywhere, tags among them, are others."""
    return _damaged(case, at_least=0.0, pieces=case.chance.choice((1, 4, 30)))


def cut_off(case: Case) -> str:
    """The end is missing."""
    return _damaged(case, at_least=0.5, pieces=0)


def _damaged(case: Case, *, at_least: float, pieces: int) -> str:
    """Work on a damaged copy under the same name. `pieces` 0: it is cut instead."""
    kept = case.slide.path.with_name("kept")
    shutil.move(case.slide.path, kept)
    try:
        (shutil.copytree if kept.is_dir() else shutil.copy)(kept, case.slide.path)
        _damage(_file_of(case.slide.path, case.chance), case.chance, at_least, pieces)
        out, debug = case.folder / "x.seg.zarr", case.chance.choice(((), ("--debug",)))
        return heard(*debug, "run", case.given, "--out", out, *OPTIONS) + heard(*debug, "info", case.given)
    finally:
        if case.slide.path.is_dir():
            shutil.rmtree(case.slide.path)
        shutil.move(kept, case.slide.path)


def _file_of(path: Path, chance: Random) -> Path:
    return path if path.is_file() else chance.choice(sorted(file for file in path.rglob("*") if file.is_file()))


def _damage(path: Path, chance: Random, at_least: float, pieces: int) -> None:
    content = bytearray(path.read_bytes())
    first = int(at_least * len(content))
    if not pieces:
        del content[chance.randrange(first, len(content)) :]
    for _ in range(pieces):
        content[chance.randrange(first, len(content))] = chance.randrange(256)
    path.write_bytes(content)


STEPS: tuple[Callable[[Case], str], ...] = (
    a_zarr, a_tiff, default_name, only_looked_at, refused, damaged_tiles, cut_off,
)  # fmt: skip
KINDS = 4


def one_case(scene: Scene, chance: Random, number: int) -> Figures:
    """Every step with every slide, under its own name and by a link; then two batches; then damage."""
    scene.kept("warm commands", warm_commands)
    planting = planted(scene)
    of_steps = 2 * KINDS * len(STEPS)
    folder = scene.folder / f"canaries{number}"
    folder.mkdir()
    try:
        if of_steps <= number < of_steps + 2:
            return _batch(planting, folder, linked=number > of_steps)
        slide = planting.slides[number % KINDS]
        linked = number // KINDS % 2 == 1
        step = STEPS[number // (2 * KINDS)] if number < of_steps else damaged_head
        given = _link(slide, scene.folder / "links", number) if linked else slide.path
        case = Case(slide, given, folder, chance)
        said = step(case)
        own = {slide.name, slide.folder} if case.named else set[str]()
        return _judged(planting, folder, said, own, f"{slide.kind}, {step.__name__}, {'link' if linked else 'name'}")
    finally:
        shutil.rmtree(folder)


def _link(slide: Planted, folder: Path, number: int) -> Path:
    """A path to the slide that says nothing of its name."""
    folder.mkdir(exist_ok=True)
    link = folder / f"slide{number}{slide.path.name.removeprefix(slide.name)}"
    link.symlink_to(slide.path)
    return link


def _batch(planting: Planting, folder: Path, *, linked: bool) -> Figures:
    """All slides and one that is cut off, by their folders or by links."""
    links, out = folder.with_name(f"{folder.name}.links"), folder / "out"
    links.mkdir()
    given = [_link(s, links, n) if linked else s.path for n, s in enumerate(planting.slides)]
    broken = links / "broken.svs" if linked else planting.slides[0].path.with_name(f"{planting.slides[0].name}b.svs")
    broken.write_bytes(planting.slides[0].path.read_bytes()[:-30_000])
    try:
        with contextlib.chdir(folder):
            said = heard("batch", *given, broken, "--out", out, *OPTIONS)
            said += heard("status", out) + heard("status", out, "--json")
    finally:
        broken.unlink()
        shutil.rmtree(links, ignore_errors=True)
    if len(list(out.glob("*.seg.zarr"))) != KINDS:
        raise Wrong(f"not {KINDS} results: {said[-600:]}")
    own = set[str]() if linked else {word for slide in planting.slides for word in (slide.name, slide.folder)}
    return _judged(planting, out, said, own, f"batch, {'links' if linked else 'names'}")


def _judged(planting: Planting, folder: Path, said: str, own: set[str], words: str) -> Figures:
    """Raises Wrong where anything is found that the user did not give, or is found where it is not documented."""
    found = {*found_in_tree(folder), *((word, SAID) for word in words_in(said.encode()))}
    folders = {slide.folder for slide in planting.slides}
    wrong = sorted(
        f"{planting.canaries.words.get(word, word)} in {place}"
        for word, place in found
        if word not in own or not _may_say(place, is_folder=word in folders)
    )
    if wrong:
        raise Wrong(f"{words}: {'; '.join(wrong[:6])}")
    n_files = sum(1 for path in folder.rglob("*") if path.is_file())
    return {"files": n_files, "own": Counter(_kind(place) for _, place in found)}


def _may_say(place: str, *, is_folder: bool) -> bool:
    """Whether the slide's name, or that of its folder, may stand at a place."""
    if place == SAID or place.startswith(REPORTS):
        return True
    return not is_folder and (place.startswith("name of ") or place.endswith(NAMED))


def _kind(place: str) -> str:
    return "names of results" if place.startswith("name of ") else place.rpartition("/")[2]


def told_of_canaries(figures: Sequence[Figures]) -> str:
    """How much was searched, and where names of files were found."""
    own: Counter[str] = sum((figure["own"] for figure in figures), Counter())
    files = sum(figure["files"] for figure in figures)
    return f"{files} files searched; the name of the slide's file in: {', '.join(sorted(own))}"


N_DAMAGED = 40
"""Slides with bytes changed anywhere, at the default size."""


def n_cases(_: Scene) -> int:
    """All steps, both batches, and some damage."""
    return 2 * KINDS * len(STEPS) + 2 + N_DAMAGED


FAULTS = (
    Fault("canaries", "R23", "patients' names looked for in all output", 0, one_case, told_of_canaries, count=n_cases),
)
