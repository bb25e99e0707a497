"""Where a result goes and in what form: an OME-Zarr folder, or a TIFF pyramid with its companions.

Owns names, refusals before the work, and the last steps after it. The Zarr store is always the working form.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.receipt import Receipt, WorkDone
from wsi_seg.engine.report import RunReport
from wsi_seg.engine.stages import added
from wsi_seg.engine.stopping import check_stop
from wsi_seg.engine.versions import REPORTED, versions_of
from wsi_seg.engine.warm_up import peak_bytes
from wsi_seg.errors import OutputExistsError, UsageError, WsiSegError

if TYPE_CHECKING:
    from wsi_seg.engine.prepare import Planned
    from wsi_seg.output.label_store import Result
    from wsi_seg.output.result_spec import ResultSpec, Thumbnail
    from wsi_seg.output.run_directory import RunDirectory
    from wsi_seg.output.site import Site
    from wsi_seg.output.store import Location
    from wsi_seg.output.summary import Summary
    from wsi_seg.slide import Slide


@dataclass(frozen=True, slots=True)
class Target:
    """The result asked for."""

    out: Location
    tiff: bool
    flat_tiff: bool
    overwrite: bool

    @classmethod
    def of(cls, source: Path | Slide, out: str | Location | None, options: RunOptions) -> Target:
        """The target that `out` names; None: the slide's name with `.seg.zarr`, in the current folder."""
        from wsi_seg.output.store import location_of

        if out is None:
            path = Path(source) if isinstance(source, str | Path) else source.path
            if path is None:
                raise UsageError("a slide in memory has no name for its result", remedy="give out=…")
            out = Path(f"{path.stem}.seg.zarr")
        out = location_of(out)
        tiff = out.suffix.lower() in (".tif", ".tiff")
        if not tiff and out.suffix.lower() != ".zarr":
            raise UsageError(f"--out {out}", rule="NAME.seg.zarr or NAME.ome.tif", remedy=f"--out {out.name}.seg.zarr")
        if tiff and not isinstance(out, Path):
            raise UsageError(
                f"--out {out}", rule="a TIFF result is a file of a file system", remedy="--out …/NAME.seg.zarr"
            )
        if tiff and options.probabilities:
            raise UsageError(
                "--probabilities with a TIFF result", rule="TIFF holds labels only", remedy="--out NAME.seg.zarr"
            )
        return cls(out, tiff, options.flat_tiff, options.overwrite)

    @property
    def store(self) -> Location:
        """The Zarr result that the run builds."""
        return self.out.with_name(f"{self.out.name}.seg.zarr") if self.tiff else self.out

    @property
    def site(self) -> Site:
        """Where the Zarr result is built."""
        from wsi_seg.output.site import site_at

        return site_at(self.store)

    @property
    def codec(self) -> str:
        """How the chunks of that are compressed: so that a TIFF takes them over, where it is for one."""
        from wsi_seg.output.result_spec import GZIP, ZSTD

        return GZIP if self.tiff else ZSTD

    @property
    def _file(self) -> Path:
        """The TIFF result."""
        assert isinstance(self.out, Path)
        return self.out

    def check(self) -> None:
        """Refuse what can be refused before any work. Raises OutputExistsError, UsageError, WriteError."""
        from wsi_seg.output.run_directory import refuse_held

        site = self.site
        site.check_place()
        if self.tiff and self._file.exists():
            self._check_file()
        site.refuse_existing(overwrite=self.overwrite)
        refuse_held(self.store)

    def _check_file(self) -> None:
        """Never replace a slide, or any TIFF that is not a label map of ours, nor one of these unasked."""
        from wsi_seg.output.tiff_writer import is_label_tiff

        if not self.overwrite:
            raise OutputExistsError(
                f"{self.out} exists", rule="results are never replaced unasked", remedy="--overwrite, or another --out"
            )
        if not is_label_tiff(self._file):
            raise OutputExistsError(
                f"{self.out} exists and is no result of wsi-seg",
                rule="--overwrite replaces results only",
                remedy="choose another --out, or remove it yourself",
            )

    def resuming(self, options: RunOptions) -> RunOptions:
        """The options with what the half-done result that is there was begun with, where `auto` leaves it open.

        Else a run resumed with other workers or memory would choose another block or batch, and one resumed where the
        speeds are others another runtime, and be refused.
        """
        from wsi_seg.infer.protocol import PRECISIONS, RUNTIMES
        from wsi_seg.output.run_directory import stored_identity

        stored = None if options.restart else stored_identity(self.site.unfinished)
        if stored is None:
            return options
        program = stored.fields["model"]
        return replace(
            options,
            begun_with_tile=stored.fields["grid"]["tile"],
            block=options.block or stored.fields["layout"]["block"],
            batch=options.batch or stored.fields["batch"],
            runtime=_begun_with(options.runtime, program["runtime"], RUNTIMES),
            precision=_begun_with(options.precision, program["precision"], PRECISIONS),
            device=program["device"].split()[0].lower() if options.device == "auto" else options.device,
        )

    def finished(self) -> RunReport | None:
        """The report of the finished result that is there; None where none is, or where it cannot be read."""
        from wsi_seg.output.store import store_at
        from wsi_seg.output.summary import Summary

        there = self._file.exists() if self.tiff else self.site.exists()
        if not there:
            return None
        summary, picture = self._companion("summary.json"), self._companion("overview.png")
        try:
            told = Summary.from_json(store_at(summary.parent).read(summary.name))
        except FileNotFoundError:
            return None
        except WsiSegError:  # a store that does not answer has not said that there is no result
            raise
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return RunReport(self.out, picture, told, told.notes)

    def commit(self, run: RunDirectory, spec: ResultSpec, planned: Planned, work: WorkDone, stop: Event) -> RunReport:
        """Write companions and metadata and give the result its name; a long copy looks at `stop`."""
        from wsi_seg.output.commit import commit_run
        from wsi_seg.output.label_store import open_result

        run.confirm()
        tiles = _statuses(work.receipts, spec)
        thumbnail = _thumbnail(planned)
        summary = _summary(spec, planned, work, tiles)
        picture = _overview(open_result(run.path, partial=True), spec, thumbnail, summary)
        if self.tiff:
            self._commit_tiff(run, spec, (summary, picture), stop)
            return RunReport(self.out, self._companion("overview.png"), summary, summary.notes)
        for name, content in (
            ("overview.png", picture),
            ("summary.json", summary.to_json()),
            ("summary.csv", summary.to_csv()),
        ):
            run.attach(name, content)
        out = commit_run(run, spec, tiles=tiles, thumbnail=thumbnail, facts=summary.facts())
        return RunReport(out, out / "overview.png", summary, summary.notes)

    def _companion(self, name: str) -> Location:
        """`overview.png` or the like: in a Zarr result, beside a TIFF."""
        if not self.tiff:
            return self.out / name
        return self.out.with_name(f"{self.out.name.removesuffix(self.out.suffix).removesuffix('.ome')}.{name}")

    def _commit_tiff(self, run: RunDirectory, spec: ResultSpec, told: tuple[Summary, bytes], stop: Event) -> None:
        """The TIFF from the working store, which is then removed.

        The TIFF gets its name last but for that: where it is there, all of the result is.
        """
        from wsi_seg.output.durable import mapped_errors, publish
        from wsi_seg.output.label_store import Result
        from wsi_seg.output.store import store_at
        from wsi_seg.output.tiff_writer import write_ome_tiff

        assert isinstance(run.path, Path)
        result, beside = Result(run.path, spec, {"run_id": run.run_id}), store_at(self.out.parent)
        copy, (summary, picture) = run.path / self.out.name, told
        write_ome_tiff(result, copy, flat=self.flat_tiff, overwrite=True, progress=lambda *_: check_stop(stop))
        beside.write(self._companion("overview.png").name, picture)
        beside.write(self._companion("summary.json").name, summary.to_json())
        beside.write(self._companion("summary.csv").name, summary.to_csv())
        with mapped_errors(self._file, 0):
            publish(copy, self._file)
        run.close()
        shutil.rmtree(run.path, ignore_errors=True)


def _begun_with(asked: str, stored: str, known: Sequence[str]) -> str:
    return stored if asked == "auto" and stored in known else asked


def _statuses(receipts: Sequence[Receipt], spec: ResultSpec) -> NDArray[np.uint8]:
    """Final status of every tile, uint8 (rows, columns)."""
    tiles = np.zeros(spec.tile_grid, np.uint8)
    for receipt in receipts:
        for key, status in receipt.statuses.items():
            tiles[key] = status
    return tiles


def _thumbnail(planned: Planned) -> Thumbnail:
    from wsi_seg.output.result_spec import Thumbnail

    plan = planned.plan
    assert plan.slide.l0_mpp is not None
    height, width = planned.thumbnail.shape[:2]
    l0_height, l0_width = plan.slide.l0_size
    return Thumbnail(planned.thumbnail, plan.slide.l0_mpp.scaled(l0_height / height, l0_width / width))


def _summary(spec: ResultSpec, planned: Planned, work: WorkDone, tiles: NDArray[np.uint8]) -> Summary:
    from wsi_seg.output.summary import Performance, make_summary

    blocks = [receipt for receipt in work.receipts if receipt.tier == 0]
    seconds = perf_counter() - work.started
    performance = Performance(
        seconds=seconds,
        mpx_per_s=work.mpx_per_s,
        peak_memory_bytes=peak_bytes(),
        n_predicted=sum(receipt.n_predicted for receipt in blocks),
        stages=added(receipt.stages for receipt in work.receipts),
        seconds_working=work.seconds_working,
        seconds_of_tasks=round(sum(receipt.seconds for receipt in work.receipts), 3),
        n_workers=work.n_workers,
        preparing=planned.preparing,
    )
    return make_summary(
        spec,
        planned.plan.run_id,
        [sum(column) for column in zip(*(receipt.counts for receipt in blocks), strict=True)],
        tiles,
        tissue_mm2=planned.plan.tissue_mm2,
        model=_model_facts(planned),
        versions=versions_of((*REPORTED, planned.plan.program.runtime)),
        performance=performance,
        slide_fingerprint=planned.plan.slide.fingerprint,
        slide_sha256=planned.slide_sha256,
        postprocessing=planned.plan.post.to_mapping(),
        problems=tuple(text for receipt in blocks for text in receipt.failures)[:20],
        notes=tuple(dict.fromkeys((*planned.plan.notes, *(text for receipt in blocks for text in receipt.notes)))),
    )


def _model_facts(planned: Planned) -> dict[str, Any]:
    card = planned.plan.card
    return {
        "name": card.name,
        "licence": card.licence,
        "training_data": card.training_data,
        "mpp": card.mpp,
        **planned.plan.program.to_mapping(),
    }


def _overview(result: Result, spec: ResultSpec, thumbnail: Thumbnail, summary: Summary) -> bytes:
    """PNG of slide and labels."""
    from wsi_seg.geometry import Box
    from wsi_seg.output.overview import overview_level, render_overview

    level = overview_level(spec)
    labels = result.read_labels(level, Box(0, 0, *spec.layout.level_size(level)))
    return render_overview(thumbnail, labels, spec, summary)
