"""Folders, patterns and manifests become one list of slides; nothing is dropped or doubled silently."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_seg.batch.inputs import find_slides
from wsi_seg.errors import BatchError


def _touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def _names(*inputs: Path | str) -> list[str]:
    return [slide.name for slide in find_slides([str(one) for one in inputs]).slides]


def _manifest(folder: Path, content: bytes, suffix: str = ".csv") -> Path:
    path = folder / f"list{suffix}"
    path.write_bytes(content)
    return path


def test_a_folder_gives_what_lies_below_named_by_its_folders(tmp_path: Path) -> None:
    """Hidden files, other files and the folder of a .mrxs are no slides; a DICOM or Zarr folder is one."""
    _touch(tmp_path / "a.svs", tmp_path / "b" / "c.tif", tmp_path / ".d.svs", tmp_path / "e.txt")
    _touch(tmp_path / "m.mrxs", tmp_path / "m" / "Data0000.dat", tmp_path / "s" / "1.dcm", tmp_path / "s" / "2.dcm")
    _touch(tmp_path / "z.zarr" / "zarr.json", tmp_path / "z.zarr" / "x.tif")
    assert sorted(_names(tmp_path)) == ["a", "b/c", "m", "s", "z"]


def test_a_loop_of_links_gives_every_slide_once(tmp_path: Path) -> None:
    _touch(tmp_path / "b" / "a.svs")
    (tmp_path / "b" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert _names(tmp_path) == ["b/a"]


def test_a_batch_into_the_folder_of_its_slides_finds_them_again(tmp_path: Path) -> None:
    """Its own TIFF results are no slides; a slide that is called .ome.tif is one."""
    _touch(tmp_path / "a.svs", tmp_path / "a.ome.tif", tmp_path / "b.ome.tif")
    _touch(tmp_path / ".wsi-seg-batch" / "slides" / "a.json")
    assert _names(tmp_path) == ["a", "b.ome"]


def test_results_of_another_batch_below_are_no_slides(tmp_path: Path) -> None:
    _touch(tmp_path / "a.svs", tmp_path / "out" / "a.ome.tif", tmp_path / "out" / ".wsi-seg-batch" / "batch.json")
    assert _names(tmp_path) == ["a"]


def test_patterns_with_and_without_stars_for_folders(tmp_path: Path) -> None:
    _touch(tmp_path / "a.svs", tmp_path / "b" / "c.svs")
    assert _names(tmp_path / "*.svs") == ["a"]
    assert _names(tmp_path / "**" / "*.svs") == ["a", "c"]


def test_one_name_for_two_slides_is_refused(tmp_path: Path) -> None:
    _touch(tmp_path / "a.svs", tmp_path / "A.tif")
    with pytest.raises(BatchError, match="would both be written"):
        find_slides([str(tmp_path)])


def test_a_csv_with_a_mark_quotes_empty_lines_and_windows_ends(tmp_path: Path) -> None:
    text = '\ufeffslide,name,mpp,stain\r\n"a,b.svs",x/y,0.25,HE\r\n\r\nc.svs,,,\r\n'
    found = find_slides([str(_manifest(tmp_path, text.encode()))])
    assert [(one.path.name, one.name, one.mpp) for one in found.slides] == [
        ("a,b.svs", "x/y", 0.25),
        ("c.svs", "c", None),
    ]
    assert found.slides[0].path.parent == tmp_path
    assert found.notes == ("list.csv: columns that are not used: stain",)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("slide,names\na.svs,x\n", "did you mean"),
        ("slide\na.svs,b\n", "line 2: more cells"),
        ("slide,mpp\na.svs,nan\n", "mpp"),
        ("slide,mpp\na.svs,-1\n", "mpp"),
        ("slide,name\na.svs,../x\n", "name '../x'"),
        ("slide,name\na.svs,x/../y\n", "name"),
        ("slide,name\na.svs,/x\n", "name"),
        ("slide,name\na.svs,x/.y\n", "name"),
        ("slide,name\na.svs,x\na.svs,y\n", "line 3: .*again"),
        ("name\nx\n", "line 2: no slide"),
    ],
)
def test_a_row_that_is_not_sound_is_refused_by_its_line(tmp_path: Path, content: str, told: str) -> None:
    with pytest.raises(BatchError) as caught:
        find_slides([str(_manifest(tmp_path, content.encode()))])
    assert caught.match(told)


def test_a_manifest_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match="UTF-8"):
        find_slides([str(_manifest(tmp_path, "slide\nä.svs\n".encode("latin-1")))])


@pytest.mark.parametrize("line", ["{", "[1]", "[" * 100_000])
def test_json_lines_are_refused_by_their_number(tmp_path: Path, line: str) -> None:
    path = _manifest(tmp_path, f'{{"slide": "a.svs"}}\n\n{line}\n'.encode(), ".jsonl")
    with pytest.raises(BatchError, match="line 3"):
        find_slides([str(path)])


def test_a_line_separator_within_a_json_string_ends_no_line(tmp_path: Path) -> None:
    path = _manifest(tmp_path, '{"slide": "a\u2028b.svs"}\r\n'.encode(), ".jsonl")
    assert _names(path) == ["a\u2028b"]


def test_a_pattern_passes_over_ordinary_folders_and_takes_a_series_once(tmp_path: Path) -> None:
    _touch(tmp_path / "a.svs", tmp_path / "b" / "c.svs", tmp_path / "s" / "1.dcm", tmp_path / "s" / "2.dcm")
    _touch(tmp_path / "z.zarr" / "zarr.json", tmp_path / "z.zarr" / "0" / "x.tif", tmp_path / "empty" / "x.txt")
    _touch(tmp_path / "r.seg.zarr" / "zarr.json", tmp_path / "q.partial" / "zarr.json")
    assert sorted(_names(tmp_path / "*")) == ["a", "s", "z"]
    assert sorted(_names(tmp_path / "**" / "*")) == ["a", "c", "s", "x", "z"]
    assert _names(tmp_path / "s" / "*.dcm") == ["s"]
    assert _names(tmp_path / "s" / "1.dcm") == ["1"]


def test_files_that_are_taken_for_one_slide_are_said_to_be(tmp_path: Path) -> None:
    _touch(tmp_path / "s" / "1.dcm", tmp_path / "s" / "2.dcm", tmp_path / "t" / "1.dcm")
    for given in (tmp_path, tmp_path / "*"):
        [note] = find_slides([str(given)]).notes
        assert "2 .dcm files are taken for one slide" in note


def test_a_pattern_that_matches_no_slide_is_refused(tmp_path: Path) -> None:
    _touch(tmp_path / "empty" / "x.txt")
    with pytest.raises(BatchError, match=r"no slide matches .*e\*.*check the pattern"):
        find_slides([str(tmp_path / "e*")])
    with pytest.raises(BatchError, match="empty holds no slide"):
        find_slides([str(tmp_path / "empty")])
