"""An export from beginning to end: original, tiles, program, verdict, and only then the file under its name.

Owns the order. A program that fails the gate never gets its name.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from wsi_seg.card import ModelCard
from wsi_seg.errors import OutputExistsError, ParityError, UsageError
from wsi_seg.export.judging import Judge, Verdict, warnings
from wsi_seg.export.original import Original, Source, check_precision, find_source, open_original
from wsi_seg.export.packages import check_packages
from wsi_seg.export.report import ExportReport
from wsi_seg.export.request import FORMATS, MODULE_FORMATS, ExportRequest
from wsi_seg.export.sensitivity import MAX_FLOAT_SHARE, Kept, find_kept_layers
from wsi_seg.export.tissue_tiles import TileSets, draw_tiles
from wsi_seg.infer import Predictor, load_predictor
from wsi_seg.infer.location import model_files
from wsi_seg.output.durable import mapped_errors, sync_folder

Tell = Callable[[str], None]

SEARCH_TILES = 8
"""Tiles on which layers are compared while it is searched which of them stay in float."""


def export_model(request: ExportRequest, tell: Tell = lambda _: None) -> ExportReport:
    """Write the program that is asked for, with its card, and judge it against the original on real tiles.

    `tell` hears what is being done. Raises ParityError where the program does not agree with the original, and nothing
    is left of it; ModelError, SlideError, UsageError, WriteError.
    """
    source = find_source(request)
    check_packages(request, source.location)
    check_precision(source)
    _check_out(source, request)
    tell("loading the original")
    reference = load_predictor(source.spec.replaced(precision="fp32"))
    try:
        return _judged(request, source, reference, tell)
    finally:
        reference.close()


def _judged(request: ExportRequest, source: Source, reference: Predictor, tell: Tell) -> ExportReport:
    """Make the program, compare it with the original that `reference` runs, and publish it."""
    with open_original(source, reference.card, request) as original, TemporaryDirectory(prefix="wsi-seg-") as folder:
        card = _card(original, request)
        tell("drawing tiles of tissue")
        tiles = _tiles(request, card)
        judge = Judge(reference, tiles.judging, request)
        made = _Export(original, request, card, tiles, judge)
        program = Path(folder) / f"program{FORMATS[request.to]}"
        kept, notes = made.write(program, tell)
        notes = (*notes, *_few_tiles(tiles, request))
        tell("comparing with the original")
        verdicts = judge.verdicts(program, request.to)
        if made.source is not None:
            verdicts += [replace(v, runtime=f"{v.runtime}, of its ONNX") for v in judge.of_onnx(made.source)]
        if broken := judge.failures(verdicts):
            raise ParityError(
                f"{source.out.name} does not agree with the original: {'; '.join(broken)}",
                rule="an export gives the same labels",
                remedy="other --calibrate slides, another --method or a higher precision; --max-dice-loss and "
                "--min-agreement set the limits",
            )
        n_bytes = _publish(program, source.out)
    notes = (*notes, *warnings(verdicts))
    n_tiles = (len(tiles.calibration) if request.precision == "int8" else 0, len(tiles.judging))
    names = tuple(layer.name for layer in kept.layers)
    return ExportReport(source.out, n_bytes, card, tuple(verdicts), n_tiles, names, kept.share, notes)


def _few_tiles(tiles: TileSets, request: ExportRequest) -> list[str]:
    """What a user must know of a calibration that had less tissue than it was to have."""
    if request.precision != "int8":
        return []
    notes = []
    if not tiles.apart:
        notes.append("judged on the tile that calibrated it: the slides have no other; give --judge")
    if len(tiles.calibration) < request.n_tiles:
        few = f"{len(tiles.calibration)} of {request.n_tiles} tiles: the slides have no more tissue"
        notes.append(f"calibrated on {few}; more slides make it safer")
    return notes


class _Export:
    """One program on its way."""

    def __init__(
        self, original: Original, request: ExportRequest, card: ModelCard, tiles: TileSets, judge: Judge
    ) -> None:
        self._original, self._request, self._card, self._tiles, self._judge = original, request, card, tiles, judge
        self.source: Path | None = None
        """The ONNX program that an engine was built from; it can be judged where no GPU is."""

    def write(self, path: Path, tell: Tell) -> tuple[Kept, tuple[str, ...]]:
        """Write the program; answer the layers left in float and what is worth knowing."""
        tell(f"writing {self._request.to} in {self._request.precision}")
        kept = Kept((), 0.0)
        if self._request.to in MODULE_FORMATS:
            return kept, self._write_module(path)
        content, notes = self._plain()
        if self._request.precision == "int8":
            content, kept = self._quantised(content, path.parent, tell)
        elif self._request.precision == "fp16" and self._request.to != "openvino":
            from wsi_seg.infer.program.half import to_half

            content = to_half(content)
        self._write_program(content, path)
        return kept, notes

    def _plain(self) -> tuple[bytes, tuple[str, ...]]:
        """The fp32 program with its new card."""
        from wsi_seg.export.writing import embed_card, transposed

        assert self._original.program is not None  # what is made from a module goes another way
        content = embed_card(self._original.program, self._card)
        if self._request.upsample == "trained":
            return content, ()
        content, replaced, left = transposed(content)
        if not replaced:
            raise UsageError(
                f"--upsample transposed of {self._request.model}",
                rule="it replaces resizing to twice the size, nearest or bilinear; this program has none",
            )
        note = f"{replaced} resizes are transposed convolutions now" + (f", {left} stayed" if left else "")
        return content, (note,)

    def _quantised(self, content: bytes, folder: Path, tell: Tell) -> tuple[bytes, Kept]:
        from wsi_seg.export.quantisation import Quantiser

        plain, trial = folder / "plain.onnx", folder / "trial.onnx"
        plain.write_bytes(content)
        tell(f"calibrating on {len(self._tiles.calibration)} tiles")
        quantiser = Quantiser(
            plain, self._card, self._tiles.calibration, self._request.method, self._request.signed_activations
        )
        some = self._tiles.judging[:SEARCH_TILES]

        def judged(program: bytes) -> list[Verdict]:
            trial.write_bytes(program)
            return self._judge.of_onnx(trial, some)

        def passes(program: bytes) -> bool:
            return not self._judge.failures(judged(program))

        def error(program: bytes) -> float:
            found = [verdict.agreement.mean_abs for verdict in judged(program) if verdict.agreement is not None]
            return max(found, default=float("inf"))

        tell("looking for layers that must stay in float")
        kept = find_kept_layers(quantiser, passes, error)
        if kept is None:
            broken = "; ".join(self._judge.failures(judged(quantiser.quantised())))
            raise ParityError(
                f"int8 of {self._request.model} does not agree with the original: {broken}",
                rule=f"at most {MAX_FLOAT_SHARE:.0%} of the multiply-adds may stay in float to pass",
                remedy="calibrate on tissue like that of the judging tiles, with another --method, or use fp16",
            )
        return quantiser.quantised([layer.name for layer in kept.layers], self._calibrated()), kept

    def _calibrated(self) -> ModelCard:
        """The card with where its ranges are from."""
        names = ", ".join(path.name for path in self._request.slides)
        told = f"int8, calibrated on {len(self._tiles.calibration)} tiles of {names}."
        return self._card.replaced(description=" ".join(part for part in (self._card.description, told) if part))

    def _write_program(self, content: bytes, path: Path) -> None:
        if self._request.to == "openvino":
            from wsi_seg.export.writing import write_openvino

            write_openvino(content, self._card, path, half=self._request.precision == "fp16")
        elif self._request.to == "tensorrt":
            from wsi_seg.infer.runtime.tensorrt_engine import build_engine

            self.source = path.with_name("source.onnx")
            self.source.write_bytes(content)
            path.write_bytes(build_engine(content, self._card))
        else:
            path.write_bytes(content)

    def _write_module(self, path: Path) -> tuple[str, ...]:
        """Write what is made from a torch module; answer what is worth knowing."""
        made = (self._original.module, self._card, self._request.precision, path)
        if self._request.to == "coreml":
            from wsi_seg.export.coreml_package import write_coreml

            return (write_coreml(*made),)
        from wsi_seg.export.torch_module import write_torch

        write_torch(*made)
        return ()


def _card(original: Original, request: ExportRequest) -> ModelCard:
    derived = original.sha256 if request.precision != "fp32" else ""
    return original.card.replaced(precision=request.precision, derived_from=derived, weights_sha256="")


def _tiles(request: ExportRequest, card: ModelCard) -> TileSets:
    """Tiles of the slides that calibrate and of those that judge; the sample slide judges where none is given."""

    def drawn(slides: tuple[Path, ...]) -> TileSets:
        return draw_tiles(slides, card, request.n_tiles, request.seed, request.slide_mpp)

    if not request.judged_on and not request.slides:
        from wsi_seg.sample import fetch_sample

        return draw_tiles((fetch_sample(),), card, request.n_tiles, request.seed, None)
    sets = drawn(request.slides or request.judged_on)
    return sets if not request.judged_on else replace(sets, judging=drawn(request.judged_on).judging, apart=True)


def _check_out(source: Source, request: ExportRequest) -> None:
    out = source.out
    if out.suffix != FORMATS[request.to]:
        raise UsageError(f"--out {out} --to {request.to}", rule=f"its name ends in {FORMATS[request.to]}")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: its folder does not exist", remedy="make the folder first")
    files = [path for path in (out, *_beside(out)) if path.exists()]
    own = [path for path in model_files(source.spec) if any(path.samefile(file) for file in files)]
    if own:
        raise OutputExistsError(
            f"{own[0]} belongs to the original",
            rule="an export never replaces what it is made from", remedy="another name with --out",
        )  # fmt: skip
    if files and not request.overwrite:
        raise OutputExistsError(f"{files[0]} exists", rule="programs are never replaced unasked", remedy="--overwrite")


def _beside(program: Path) -> tuple[Path, ...]:
    """Files that a format has besides the one that is named."""
    return (program.with_suffix(".bin"),) if program.suffix == ".xml" else ()


def _publish(program: Path, out: Path) -> int:
    """Give the program its name, with what belongs to it; answer its bytes."""
    parts = [*zip(_beside(program), _beside(out), strict=True), (program, out)]
    n_bytes = 0
    with mapped_errors(out, 0):
        for source, target in parts:
            n_bytes += _moved(source, target)
        sync_folder(out.absolute().parent)
    return n_bytes


def _moved(source: Path, target: Path) -> int:
    """Copy beside the target, then rename; whatever stops it, nothing half-done is left. Answers the bytes."""
    beside = target.with_name(f".{target.name}.partial")
    _removed(beside)
    try:
        if source.is_dir():
            shutil.copytree(source, beside)
            _removed(target)
        else:
            shutil.copyfile(source, beside)
        beside.replace(target)
    finally:
        _removed(beside)
    return sum(file.stat().st_size for file in (target, *target.rglob("*")) if file.is_file())


def _removed(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
