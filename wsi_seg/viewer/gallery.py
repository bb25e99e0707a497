"""What a server shows: finds results, the slides that belong to them, and gives each an opaque id.

Owns how a place on the command line becomes a `Shown`. Looks at the disk at the start, and again when asked.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from wsi_seg.errors import CorruptOutputError, SlideError, UsageError, WsiSegError
from wsi_seg.output.result_spec import ResultSpec
from wsi_seg.output.store import Url, location_of
from wsi_seg.viewer.regions import RegionFile
from wsi_seg.viewer.sampling import Picture, SlidePicture, SmallPicture
from wsi_seg.viewer.shown import Shown
from wsi_seg.viewer.sources import LabelSource, StoredLabels
from wsi_seg.viewer.tiff_result import TiffResult, tiff_facts

if TYPE_CHECKING:
    from wsi_seg.engine.options import RunOptions
    from wsi_seg.slide import Slide

_RESULT, _PARTIAL = ".zarr", ".partial"


@dataclass(slots=True)
class Wishes:
    """What the user asked to see."""

    places: Sequence[str]
    """Results, folders of results, or slides."""
    slides: Sequence[Path] = ()
    """Slides, or folders of slides, that results belong to."""
    annotations: Path | None = None
    """Where regions are kept."""
    live: RunOptions | None = None
    """Predict slides on demand with these."""
    mpp: float | None = None
    """µm per px of level 0 of slides, over what they say."""


@dataclass(slots=True)
class Gallery:
    """Everything that a server shows, by id."""

    wishes: Wishes
    _shown: dict[str, Shown] = field(default_factory=dict)
    _ids: dict[str, str] = field(default_factory=dict)
    _regions: RegionFile | None = None
    _refreshing: Lock = field(default_factory=Lock)

    @classmethod
    def open(cls, wishes: Wishes) -> Gallery:
        """Open all that was asked for. Raises WsiSegError where a place that was named cannot be shown."""
        gallery = cls(wishes)
        if missing := [path for path in wishes.slides if not path.exists()]:
            raise UsageError(f"--slide {missing[0]} does not exist", rule="a slide, or a folder of slides")
        if wishes.annotations is not None:
            gallery._regions = RegionFile(wishes.annotations)
        for place in wishes.places:
            for found in _expanded(place):
                gallery._add(found, named=found == place)
        if not gallery._shown:
            where = ", ".join(map(str, wishes.places))
            raise UsageError(
                f"no result in {where}", rule="folders hold NAME.seg.zarr", remedy="name a result or a slide"
            )
        return gallery

    def refresh(self) -> None:
        """Take in results that have come into folders since; others that cannot be opened yet are left out."""
        if not self._refreshing.acquire(blocking=False):  # another thread is at it
            return
        try:
            for place in self.wishes.places:
                with suppress(WsiSegError):
                    for found in _expanded(place):
                        self._add(found, named=False)
        finally:
            self._refreshing.release()

    def __iter__(self) -> Iterator[Shown]:
        return iter(list(self._shown.values()))

    def __getitem__(self, shown_id: str) -> Shown:
        return self._shown[shown_id]

    def _add(self, place: str, *, named: bool) -> None:
        key = place.removesuffix(_PARTIAL)
        if key in self._ids:
            return
        try:
            shown = self._opened(place)
        except WsiSegError:
            if named:
                raise
            return
        self._give_regions(shown)
        self._ids[key] = shown.id
        self._shown[shown.id] = shown

    def _give_regions(self, shown: Shown) -> None:
        """The file holds the regions of one slide, the first that is shown: in another they would lie anywhere."""
        first = next(iter(self), shown)
        if (first.l0_size, first.l0_origin) == (shown.l0_size, shown.l0_origin):
            shown.regions = self._regions
        elif self._regions is not None:
            shown.notes.append(f"The file of --annotations is for the regions of {first.name}.")

    def _opened(self, place: str) -> Shown:
        if _is_result(place):
            return self._result(StoredLabels(place), place)
        if place.startswith(tuple(f"{kind}://" for kind in ("s3", "gs", "az", "http", "https"))):
            raise UsageError(f"{place} is no result", rule="a URL names NAME.seg.zarr")
        if tiff_facts(Path(place)):
            return self._tiff(TiffResult(Path(place)), place)
        return self._slide(Path(place))

    def _result(self, labels: StoredLabels, place: str) -> Shown:
        spec, notes = labels.spec, list[str]()
        slide = self._slide_of(spec, place)
        picture: Picture | None = None if slide is None else SlidePicture(slide)
        if slide is None:
            notes.append("The slide is not here: give it with --slide. What is shown is a small picture of it.")
            picture = _thumbnail(labels)
        elif _is_another(labels, slide):
            notes.append("This slide is not the one that the result was made from: their contents differ.")
        return replace(_of_spec(spec, labels, picture), notes=notes, result=_shown_name(place))

    def _tiff(self, labels: TiffResult, place: str) -> Shown:
        slide = self._slide_of(labels.spec, place)
        notes = [] if slide else ["The slide is not here: give it with --slide. A TIFF result says no name of it."]
        picture = None if slide is None else SlidePicture(slide)
        return replace(_of_spec(labels.spec, labels, picture), notes=notes, result=_shown_name(place))

    def _slide(self, path: Path) -> Shown:
        """A slide, with labels that are predicted where somebody looks if a model was named."""
        from wsi_seg.slide import open_slide

        slide = open_slide(path, mpp=self.wishes.mpp)
        if self.wishes.live is not None:
            from wsi_seg.viewer.live import open_live

            labels = open_live(slide, self.wishes.live)
            return replace(_of_spec(labels.spec, labels, SlidePicture(slide)), predict_in=labels.predict_in)
        bounds = slide.bounds
        return Shown(
            _new_id(), path.name, slide.levels[0].size, slide.mpp, (bounds.y0, bounds.x0), SlidePicture(slide), None
        )

    def _slide_of(self, spec: ResultSpec, place: str) -> Slide | None:
        """The slide of a result: the one that was named, or one of its name where slides were said to be, or beside."""
        from wsi_seg.slide import open_slide

        for path in self._candidates(spec.name, place):
            given = path in self.wishes.slides and place in self.wishes.places
            try:
                slide = open_slide(path, mpp=self.wishes.mpp)
            except SlideError:
                if given:
                    raise
                continue
            if slide.levels[0].size == spec.l0_size:
                return slide
            slide.close()
            if given and len(self.wishes.places) == 1:
                found, expected = slide.levels[0].size, spec.l0_size
                raise UsageError(
                    f"--slide {path} is {found[0]} x {found[1]} px, the result's {expected[0]} x {expected[1]}",
                    rule="the result's own slide (height x width of level 0)",
                    remedy=f"its name was {spec.name}",
                )
        return None

    def _candidates(self, name: str, place: str) -> Iterator[Path]:
        for path in sorted(self.wishes.slides, key=lambda path: path.name != name):
            if not path.is_dir() or path.suffix == _RESULT:
                yield path
            elif _holds(path, name):
                yield path / name
        location = location_of(place)
        if not isinstance(location, Url):
            for folder in (location.parent, location.parent.parent, Path()):
                if _holds(folder, name) and folder / name != location:
                    yield folder / name


def _shown_name(place: str) -> str:
    """The last part of a place, as text that any answer can carry."""
    return location_of(place).name.encode(errors="replace").decode().removesuffix(_PARTIAL)


def _of_spec(spec: ResultSpec, labels: LabelSource, picture: Picture | None) -> Shown:
    return Shown(_new_id(), spec.name, spec.l0_size, spec.l0_mpp, spec.l0_bounds, picture, labels)


def _holds(folder: Path, name: str) -> bool:
    """Whether there is something of a name in a folder; a way out of the folder is no name."""
    try:
        return Path(name).name == name != "" and (folder / name).exists()
    except (OSError, ValueError):  # longer than names can be, or of characters that they cannot have
        return False


def _new_id() -> str:
    return secrets.token_hex(8)


def _expanded(place: str) -> Iterator[str]:
    """The place itself, or the results in a folder: finished ones, and those that are being made."""
    location = location_of(place)
    if isinstance(location, Url) or _is_result(place) or not location.is_dir() or _is_zarr(location):
        yield place
        return
    try:
        inside = list(location.iterdir())
    except OSError as error:
        raise UsageError(f"{place} cannot be listed: {error.strerror}", rule="a folder that may be read") from error
    found = [path for path in inside if _is_result(str(path)) or tiff_facts(path)]
    names = {path.name.removesuffix(_PARTIAL) for path in found}
    for name in sorted(names):
        yield str(location / name)


def _is_result(place: str) -> bool:
    """Whether a place is a result by its name: what else ends in `.zarr` is a slide."""
    location = location_of(place)
    name = location.name.removesuffix(_PARTIAL)
    if name.endswith(f".seg{_RESULT}"):
        return True
    if not name.endswith(_RESULT) or isinstance(location, Url):
        return location.name.endswith(f"{_RESULT}{_PARTIAL}")
    try:
        StoredLabels(place)
    except CorruptOutputError:
        return False
    return True


def _is_zarr(path: Path) -> bool:
    return any((path / name).exists() for name in ("zarr.json", ".zattrs", ".zgroup"))


def _thumbnail(labels: StoredLabels) -> Picture | None:
    """The picture that a finished result keeps of its slide."""
    attributes: Any = labels.result.attributes
    return SmallPicture.of_result(labels.result.thumbnail, labels.spec) if "thumbnail_mpp" in attributes else None


def _is_another(labels: StoredLabels, slide: Slide) -> bool:
    """Whether the slide is certainly not the one that a finished result was made from."""
    from wsi_seg.engine.same_slide import compare_slide

    if not labels.result.run_id or slide.path is None:
        return False
    try:
        return not compare_slide(labels.result.path, slide.path).is_same
    except WsiSegError:  # no record to compare with
        return False
