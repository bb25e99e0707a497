"""Which slides a batch is about: folders, patterns, files and manifests become one list.

Owns how inputs are read and how results are named. Opens no slide.
"""

from __future__ import annotations

import csv
import difflib
import glob
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from wsi_seg.batch.folder import STATE
from wsi_seg.errors import BatchError

SLIDE_SUFFIXES = (
    ".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".czi", ".dcm",
)  # fmt: skip
"""What is taken for a slide in a folder; anything may be named by itself."""
MANIFEST_SUFFIXES = (".csv", ".jsonl")
COLUMNS = ("slide", "name", "mpp", "roi", "model")
"""Of a manifest; `slide` is needed. Others are carried along by nobody and said to be unused."""
MAX_MANIFEST_BYTES = 256 * 1024**2


@dataclass(frozen=True, slots=True)
class BatchSlide:
    """One slide of a batch."""

    path: Path
    name: str
    """Of the result, without suffix; may have folders in it, with slashes."""
    mpp: float | None = None
    """µm per px of level 0, over what the slide says."""
    roi: Path | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Inputs:
    """The slides of a batch, and what to tell the user about how they were found."""

    slides: tuple[BatchSlide, ...]
    notes: tuple[str, ...] = ()


def find_slides(inputs: Sequence[str]) -> Inputs:
    """The slides that `inputs` name, each once: slide files, folders (with all below), patterns, .csv and .jsonl files.

    A folder of `.dcm` files is one slide, as is a Zarr folder. Results are named after the file, below a folder with
    the folders in between. Raises BatchError where an input is missing or holds no slide, or two would get one name.
    """
    found: dict[Path, BatchSlide] = {}
    notes: list[str] = []
    for text in inputs:
        slides = list(_of_input(text, notes))
        if not slides:
            raise _nothing_in(text)
        for slide in slides:
            found[slide.path.absolute()] = slide
    if not found:
        raise BatchError("no inputs", rule="folders, patterns, slide files or manifests (.csv, .jsonl)")
    slides = list(found.values())
    _refuse_same_names(slides)
    return Inputs(tuple(slides), tuple(notes))


def _nothing_in(text: str) -> BatchError:
    if not Path(text).exists():
        return BatchError(
            f"no slide matches {text}", rule="** stands for any folders below", remedy="check the pattern"
        )
    rule = f"a folder is searched for {', '.join(SLIDE_SUFFIXES)} and Zarr folders"
    return BatchError(f"{text} holds no slide", rule=rule, remedy="name the files, or use a pattern")


def _of_input(text: str, notes: list[str]) -> Iterator[BatchSlide]:
    path = Path(text)
    if path.suffix.lower() in MANIFEST_SUFFIXES:
        yield from _of_manifest(path, notes)
    elif _is_slide_folder(path):
        yield _named(path)
    elif path.is_dir():
        yield from _below(path, notes)
    elif path.exists():
        yield _named(path)
    elif glob.has_magic(text):
        yield from _matching(text, notes)
    else:
        raise BatchError(f"{text}: no such file or folder", remedy="check the path; put patterns in quotes")


def _matching(pattern: str, notes: list[str]) -> Iterator[BatchSlide]:
    """What a pattern matches: files, Zarr folders, folders of a DICOM series; what lies in a Zarr folder is no slide.

    Other folders are passed over: `**/*` matches what lies in them anyhow.
    """
    series: dict[Path, list[str]] = {}
    for match in map(Path, sorted(glob.glob(pattern, recursive=True))):  # noqa: PTH207 - an absolute pattern, too
        if _is_ours(match) or any(_is_slide_folder(parent) for parent in match.parents):
            continue
        if match.suffix.lower() == ".dcm" and match.is_file():
            series.setdefault(match.parent, []).append(match.name)
        elif match.is_dir() and not _is_slide_folder(match):
            if found := sorted(path.name for path in match.iterdir() if path.suffix.lower() == ".dcm"):
                series[match] = found
        else:
            yield _named(match)
    for place, found in series.items():
        yield _series(place, found, place.absolute().name, notes)


def _series(place: Path, found: Sequence[str], name: str, notes: list[str]) -> BatchSlide:
    """One slide for the .dcm files of a folder."""
    if len(found) > 1:
        notes.append(f"{place}: {len(found)} .dcm files are taken for one slide; name files that are slides themselves")
    return _named(place / found[0], name)


def _is_slide_folder(path: Path) -> bool:
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray", ".zattrs"))


def _is_ours(path: Path) -> bool:
    """Whether a path is a result, finished or not, or belongs to one."""
    return path.name.endswith((".seg.zarr", ".partial", ".ome.tif.seg.zarr")) or path.name.startswith(".")


def _named(path: Path, name: str = "") -> BatchSlide:
    return BatchSlide(path, name or path.name.removesuffix(path.suffix))


def _below(folder: Path, notes: list[str]) -> Iterator[BatchSlide]:
    """All slides below a folder, in the order of their names."""
    seen: set[Path] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        place = Path(here)
        # A link may lead to where we have been; results of another batch are not slides.
        if place.resolve() in seen or (place != folder and (place / STATE).is_dir()):
            folders.clear()
            continue
        seen.add(place.resolve())
        zarrs = [name for name in folders if _is_slide_folder(place / name)]
        # What lies inside a Zarr folder, a result or a hidden folder is no slide of its own.
        folders[:] = sorted(name for name in folders if name not in zarrs and not _is_ours(place / name))
        kept = sorted(
            name for name in files if Path(name).suffix.lower() in SLIDE_SUFFIXES and not name.startswith(".")
        )
        series = [name for name in kept if name.lower().endswith(".dcm")]
        within = place.relative_to(folder)
        kept = [name for name in kept if not _is_recorded(folder, within, name)]
        for name in [*(name for name in zarrs if not _is_ours(place / name)), *(n for n in kept if n not in series)]:
            yield _named(place / name, (PurePosixPath(within) / Path(name).stem).as_posix())
        if series:
            own = within.as_posix() if within.parts else place.absolute().name
            yield _series(place, series, own, notes)


def _is_recorded(folder: Path, within: Path, name: str) -> bool:
    """Whether a file is the TIFF result of a batch that writes into the folder of its own slides."""
    result = name.removesuffix(".ome.tif")
    return result != name and (folder / STATE / "slides" / within / f"{result}.json").is_file()


def _of_manifest(path: Path, notes: list[str]) -> Iterator[BatchSlide]:
    rows = _rows(path)
    used: set[str] = set()
    first: dict[Path, tuple[int, BatchSlide]] = {}
    for number, row in rows:
        used |= row.keys()
        slide = _of_row(path, number, row)
        earlier, same = first.setdefault(slide.path.absolute(), (number, slide))
        if same != slide:
            rule = f"line {earlier} names it too, and says something else of it"
            raise BatchError(f"{path}, line {number}: {slide.path} again", rule=rule, remedy="one row per slide")
        yield slide
    if unused := sorted(used - set(COLUMNS)):
        for name in unused:
            if near := difflib.get_close_matches(name.lower(), COLUMNS, n=1, cutoff=0.6):
                raise BatchError(f"{path}: column {name!r}", rule=f"did you mean {near[0]!r}?", remedy="rename it")
        notes.append(f"{path.name}: columns that are not used: {', '.join(unused)}")


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BatchError(f"{path} has {path.stat().st_size:,} bytes", rule=f"at most {MAX_MANIFEST_BYTES:,}")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BatchError(f"{path} cannot be read: {error}", rule="a UTF-8 file") from error
    yield from _csv_rows(path, text) if path.suffix.lower() == ".csv" else _json_rows(path, text)


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", strict=True, skipinitialspace=True)
    try:
        for row in reader:
            if any(isinstance(value, list) for value in row.values()):
                raise BatchError(f"{path}, line {reader.line_num}: more cells than columns", rule="CSV with a header")
            yield reader.line_num, {k: v for k, v in row.items() if k}
    except csv.Error as error:
        raise BatchError(f"{path}, line {reader.line_num}: {error}", rule="CSV with a header") from error


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BatchError(f"{path}, line {number}: {error}", rule="a JSON object per line") from error
        if not isinstance(row, dict):
            raise BatchError(f"{path}, line {number}: no JSON object", rule="a JSON object per line")
        yield number, row


def _of_row(manifest: Path, number: int, row: Mapping[str, Any]) -> BatchSlide:
    where = f"{manifest}, line {number}"
    values = {name: str(row[name]).strip() for name in COLUMNS if row.get(name) not in (None, "")}
    if "slide" not in values:
        raise BatchError(f"{where}: no slide", rule=f"a column slide; also {', '.join(COLUMNS[1:])}")
    # Names in a manifest are relative to it, so that it can move together with its slides.
    path = manifest.parent / values["slide"]
    roi = manifest.parent / values["roi"] if "roi" in values else None
    slide = _named(path, _checked_name(values.get("name", ""), where))
    return replace(slide, mpp=_number(values.get("mpp"), where), roi=roi, model=_model(values.get("model"), manifest))


def _checked_name(name: str, where: str) -> str:
    parts = name.split("/")
    if name and (not name.isprintable() or any(not part or part.startswith(".") for part in parts)):
        raise BatchError(f"{where}: name {name!r}", rule="a name, or folders and a name, below --out")
    return name


def _number(text: str | None, where: str) -> float | None:
    if text is None:
        return None
    try:
        mpp = float(text)
    except ValueError:
        mpp = math.nan
    if not (math.isfinite(mpp) and mpp > 0):
        raise BatchError(f"{where}: mpp {text!r}", rule="um per px of the finest level, a number above 0")
    return mpp


def _model(text: str | None, manifest: Path) -> str | None:
    """A built-in's name as it is; a file or folder relative to the manifest."""
    if text is None:
        return None
    beside = manifest.parent / text
    return str(beside) if beside.exists() else text


def _refuse_same_names(slides: Sequence[BatchSlide]) -> None:
    first: dict[str, BatchSlide] = {}
    for slide in slides:
        key = slide.name.lower()  # some file systems know no difference
        if key in first:
            raise BatchError(
                f"{first[key].path} and {slide.path} would both be written to {slide.name}",
                rule="every slide has a result of its own",
                remedy="a manifest with a column `name`",
            )
        first[key] = slide
