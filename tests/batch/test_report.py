"""The reports take any name, link to what is there, and give the exit code."""

from __future__ import annotations

from pathlib import Path

from wsi_seg.batch.record import SlideRecord
from wsi_seg.batch.report import BatchReport, to_csv, to_html, write_reports


def _record(name: str, folder: Path, state: str = "done", n_failed: int = 0) -> SlideRecord:
    out = str(folder.absolute() / f"{name}.seg.zarr")
    return SlideRecord(name, f"/in/{name}.svs", state, result=out, n_failed_tiles=n_failed)


def test_hostile_names_are_text_in_the_page_and_in_the_tables(tmp_path: Path) -> None:
    names = ("<script>x</script>", "=1+1", "javascript:x", "$rows", "n\udcff")
    report = BatchReport(tmp_path, tuple(_record(name, tmp_path) for name in names), ("<b>",), 1.0)
    write_reports(tmp_path, report)
    page = to_html(report).decode()
    assert "<script>x" not in page
    assert 'href="javascript:' not in page
    assert "<b><b>" not in page
    assert "\n'=1+1," in to_csv(report).decode()
    assert 'href="n%FF.seg.zarr/overview.png"' in page


def test_the_exit_code_says_the_worst(tmp_path: Path) -> None:
    done, parts, failed = (_record("a", tmp_path), _record("b", tmp_path, "done", 2), _record("c", tmp_path, "failed"))
    assert BatchReport(tmp_path, (done,), (), 0).exit_code == 0
    assert BatchReport(tmp_path, (done, parts), (), 0).exit_code == 3
    assert BatchReport(tmp_path, (done, parts, failed), (), 0).exit_code == 1
    assert BatchReport(tmp_path, (done,), ("d",), 0).exit_code == 1
