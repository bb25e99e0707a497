"""Every benchmark of speed runs once, on next to nothing: a table that cannot be made is found here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import convert, decoder_alone, decoding, engine, growth, kernels, reader, viewer
from wsi_seg.sample import write_synthetic


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for slides, models and results."""
    for module in (engine, growth, viewer):
        monkeypatch.setattr(module, "INPUTS", tmp_path)
    for side in (600, 900):
        write_synthetic(tmp_path / f"synthetic-{side}-0.tif", (side, side), mpp=0.5, seed=0)
    return tmp_path


def _cells(text: str) -> list[list[str]]:
    return [row.strip("| ").split(" | ") for row in text.splitlines() if row.startswith("| ")][1:]


def test_the_reader_against_decoding_and_openslide(inputs: Path) -> None:
    row = reader.measured(inputs / "synthetic-900-0.tif", 512, rounds=1)
    assert len(row) == len(reader.HEADER)
    assert all(float(cell.rstrip(" %")) > 0 for cell in row[2:])


def test_fast_decoding_against_exact(
    inputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["decoding", "--side", "600", "--rounds", "1", "--log", str(inputs / "log.md")])
    decoding.main()
    *pixels, labels = [row for row in _cells(capsys.readouterr().out) if row[0] != "slide"]
    assert [row[1] for row in pixels] == ["1/2", "1/4", "1/8"]
    assert all(float(cell) > 0 for row in pixels for cell in row[2:])
    assert float(labels[1].rstrip(" %")) < 1
    assert decoding.measured(inputs / "synthetic-900-0.tif", 2, rounds=1)[2:] == ("-",) * 5  # that level is stored


def test_decoding_alone(inputs: Path) -> None:
    found = decoder_alone.measured(inputs / "synthetic-900-0.tif")
    assert found["mpx_per_s"] > 0
    assert found["n_tiles"] == 16
    assert 0 <= found["repeated"] < 1


def test_the_engine_against_decoding(inputs: Path) -> None:
    rows = _cells(engine.identity(900, 1, inputs / "log.md"))
    assert [len(row) for row in rows] == [8, 8, 8]
    wall_s, cpu_s, _, peak_mb, *_, decoding, share = (float(cell.rstrip(" %")) for cell in rows[0][1:])
    assert min(wall_s, cpu_s, peak_mb, decoding) > 0
    assert 0 <= share < 100


def test_growth(inputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    log = inputs / "log.md"
    words = ["growth", "area", "workers", "--sides", "600", "900", "--side", "600", "--repeats", "1", "--log", str(log)]
    monkeypatch.setattr(sys, "argv", words)
    growth.main()
    rows = _cells(capsys.readouterr().out)
    assert [row[0] for row in rows] == ["600²", "900²", "workers", "1", "2"]
    assert "cost against workers" in log.read_text()


def test_conversions(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["convert", "--side", "1500", "--log", str(tmp_path / "log.md")])
    convert.main()
    rows = _cells(capsys.readouterr().out)
    assert all(len(row) == len(convert.HEADER) for row in rows)
    exact = [row for row in rows if row[0] in ("geojson", "geojson --objects")]
    assert [row[-2:] for row in exact] == [["0", "0 %"]] * 2
    assert all(int(cell.replace(",", "")) > 0 for row in exact for cell in row[4:6])


def test_the_kernels_against_copying(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.setattr(kernels, "BLOCK", 640)
    rows = kernels.roofline(np.random.default_rng(0), rounds=1)
    assert [row[0] for row in rows] == ["accumulate, cosine 128", "accumulate_probabilities, cosine 128"]
    assert all(float(cell.rstrip(" %")) > 0 for row in rows for cell in row[1:])


def test_tiles_of_the_viewer(inputs: Path) -> None:
    rows = viewer.measured(900, 3)
    assert [row[:2] for row in rows] == [("slide", "1"), ("slide", "2"), ("labels", "1"), ("labels", "2")]
    assert all(len(row) == len(viewer.HEADER) and float(row[3]) > 0 for row in rows)
