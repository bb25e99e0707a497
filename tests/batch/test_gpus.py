"""A process per GPU: each sees its own, and nothing of the others."""

from __future__ import annotations

import os

import pytest

from wsi_seg.batch import LocalWorkers
from wsi_seg.cli.batch import gpus_of_processes
from wsi_seg.engine.cluster.connecting import local_workers


def test_each_process_sees_its_own_device() -> None:
    with local_workers(LocalWorkers(2, 1, 4 * 1024**3, devices=("3", "5"))) as connection:
        connection.client.wait_for_workers(2, timeout=60)
        seen = connection.client.run(lambda: os.environ.get("CUDA_VISIBLE_DEVICES"))
        assert sorted(seen.values()) == ["3", "5"]
        assert set(connection.client.nthreads().values()) == {1}


def test_devices_that_a_user_hides_stay_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-7")
    assert gpus_of_processes("auto", ["a", "b"], None) == ("2", "GPU-7")
    assert gpus_of_processes("cpu", ["a", "b"], None) == ()
