"""Whether a slide is still the one that a result was made from; owns what is compared, and how much that covers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_seg.errors import CorruptOutputError, SlideOpenError, UsageError, WsiSegError

if TYPE_CHECKING:
    from wsi_seg.output.store import Location
    from wsi_seg.slide import Slide


@dataclass(frozen=True, slots=True)
class SlideCheck:
    """What came of comparing a slide with a result's record of it."""

    is_same: bool
    """No difference was found in what was compared."""
    n_compared: int
    """Bytes that were compared; all of them where the run recorded a hash of the whole slide."""
    n_bytes: int
    """Bytes of the slide."""


def compare_slide(result: Location, slide: Path) -> SlideCheck:
    """Compare a slide with what the finished result at `result` was made from.

    By the SHA-256 of all its bytes where the run recorded that (`--full-hash`); else by the fingerprint: sizes,
    headers, tile tables and a sample of the content, which a change between the samples escapes.

    Raises SlideOpenError, RegionReadError; CorruptOutputError, UsageError where the result has no such record.
    """
    from wsi_seg.slide.fingerprint import full_sha256, sampled_bytes

    fingerprint, sha256 = _recorded(result)
    same, files = False, list[Path]()
    for opened in _openings(slide):
        files = _files(opened)
        if sha256:
            same = full_sha256(files) == sha256
            break
        if opened.fingerprint() == fingerprint:
            same = True
            break
    n_sampled, n_bytes = sampled_bytes(files)
    return SlideCheck(same, n_bytes if sha256 else n_sampled, n_bytes)


def whole_sha256(slide: Slide) -> str:
    """SHA-256 (hex) of all files of a slide; empty for one that has none. Raises RegionReadError."""
    from wsi_seg.slide.fingerprint import full_sha256

    files = _files(slide)
    return full_sha256(files) if files else ""


def _files(slide: Slide) -> list[Path]:
    """Files of a slide; a reader from elsewhere may not tell."""
    files = getattr(slide, "files", None)
    if files is not None:
        return list(files())
    return [slide.path] if slide.path is not None and slide.path.is_file() else []


def _recorded(result: Location) -> tuple[str, str]:
    """Fingerprint and hash of the slide in a result's summary."""
    from wsi_seg.output.store import store_at
    from wsi_seg.output.summary import Summary

    file, store = result / "summary.json", store_at(result)
    try:
        summary = Summary.from_json(store.read("summary.json"))
    except FileNotFoundError as error:
        raise UsageError(
            f"{file} is not there",
            rule="finished results say there which slide they were made from",
            remedy="finish the result with the same command, then compare",
        ) from error
    except WsiSegError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CorruptOutputError(f"{file} cannot be read: {error!r}", rule="it names the slide") from error
    if not summary.slide_fingerprint:
        raise UsageError(
            f"{result} does not say which slide it was made from",
            rule="results of earlier versions hold no fingerprint",
            remedy="make the result again",
        )
    return summary.slide_fingerprint, summary.slide_sha256


def _openings(path: Path) -> Iterator[Slide]:
    """The slide through each reader that opens it: a fingerprint belongs to the reader that the run had."""
    from wsi_seg.slide import READERS, open_slide

    refusal: SlideOpenError | None = None
    n_opened = 0
    for reader in READERS:
        try:
            opened = open_slide(path, mpp=1.0, reader=reader)
        except UsageError:
            continue  # a reader of other files
        except SlideOpenError as error:
            refusal = refusal or error
            continue
        n_opened += 1
        with opened:  # type: ignore[attr-defined]
            yield opened
    if not n_opened and refusal is not None:
        raise refusal
