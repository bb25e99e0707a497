"""Files appear whole, in the right order, and the system's refusals are worded."""

from __future__ import annotations

import errno
import os

import pytest

from wsi_seg.errors import WriteError
from wsi_seg.output import durable
from wsi_seg.output.durable import TEMP_SUFFIX, remove_durably, sweep, write_durably


@pytest.fixture
def calls(monkeypatch):
    """The order of the system calls that make a write durable."""
    log: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def name_of(handle):
        return os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))  # noqa: PTH115, PTH119

    def logged_fsync(handle):
        log.append(("fsync", name_of(handle)))
        fsync(handle)

    def logged_replace(source, target, **options):
        log.append(("rename", os.path.basename(target)))  # noqa: PTH119
        replace(source, target, **options)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "replace", logged_replace)
    return log


def test_content_is_synced_before_it_gets_its_name_and_the_name_after(tmp_path, calls):
    write_durably(tmp_path / "a" / "b" / "shard", b"pixels")
    kinds = [(kind, "temp" if TEMP_SUFFIX in name else name) for kind, name in calls]
    assert kinds == [
        ("fsync", tmp_path.name),  # the new folder a
        ("fsync", "a"),  # the new folder b
        ("fsync", "temp"),
        ("rename", "shard"),
        ("fsync", "b"),
    ]
    assert (tmp_path / "a" / "b" / "shard").read_bytes() == b"pixels"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE])
def test_a_refused_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, code):
    path = tmp_path / "shard"
    write_durably(path, b"old")

    def refuse(handle):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(WriteError, match=os.strerror(code)) as caught:
        write_durably(path, b"new bytes")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["shard"]
    assert "run the same command again" in caught.value.remedy
    if code in (errno.ENOSPC, errno.EDQUOT):
        assert "needs 9 bytes" in caught.value.rule
        assert "bytes are free" in caught.value.rule


def test_exclusive_writes_never_replace(tmp_path):
    write_durably(tmp_path / "run.json", b"first", exclusive=True)
    with pytest.raises(FileExistsError):
        write_durably(tmp_path / "run.json", b"second", exclusive=True)
    assert (tmp_path / "run.json").read_bytes() == b"first"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_in_the_way_of_a_folder_is_a_write_error(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(WriteError, match=str(tmp_path)):
        write_durably(tmp_path / "a" / "b", b"")


def test_sweep_removes_unfinished_files_only(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / f".0.abc{TEMP_SUFFIX}").write_bytes(b"half")
    (tmp_path / "labels" / "0").write_bytes(b"whole")
    assert sweep(tmp_path) == 1
    assert [p.name for p in (tmp_path / "labels").iterdir()] == ["0"]


def test_removing_what_is_not_there_is_fine(tmp_path):
    remove_durably(tmp_path / "no" / "such")
    (tmp_path / "here").write_bytes(b"")
    remove_durably(tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_json_is_canonical():
    assert durable.json_bytes({"b": 1, "a": [2]}) == durable.json_bytes({"a": [2], "b": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        durable.json_bytes(float("nan"))
