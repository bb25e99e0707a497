"""The garbage collector is off while libraries are imported, on while work is done, and as it was afterwards."""

from __future__ import annotations

import gc

import pytest

from wsi_seg.cli.collector import collecting_from_the_start_of_work
from wsi_seg.engine.events import Event, Note, RunStarted

STARTED = RunStarted(1, 0, 1, 0, 1, 1.0)


def test_it_works_from_the_start_of_work_on() -> None:
    heard: list[Event] = []
    with collecting_from_the_start_of_work(heard.append) as listener:
        assert not gc.isenabled()
        listener(Note("n"))
        assert not gc.isenabled()
        listener(STARTED)
        assert gc.isenabled()
    assert heard == [Note("n"), STARTED]
    assert gc.isenabled()
    gc.unfreeze()


def test_it_works_after_a_preparation_that_failed() -> None:
    with pytest.raises(ValueError, match="broken"), collecting_from_the_start_of_work(lambda _: None):
        raise ValueError("broken")
    assert gc.isenabled()


def test_it_stays_off_where_it_was_off() -> None:
    gc.disable()
    try:
        with collecting_from_the_start_of_work(lambda _: None) as listener:
            listener(STARTED)
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
