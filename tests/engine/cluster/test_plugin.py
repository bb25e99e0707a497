"""What is done once to every worker process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from distributed import Client, LocalCluster

from wsi_seg.engine.cluster import plugin
from wsi_seg.engine.cluster.plugin import WsiSegPlugin


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=1, processes=False, protocol="inproc", dashboard_address="127.0.0.1:0", silence_logs=50
    ) as cluster:
        yield cluster


@pytest.mark.parametrize("safe", [True, False])
def test_the_profiler_that_may_lock_a_process_up_is_stopped(
    safe: bool, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "_SAMPLING_IS_SAFE", safe)
    (worker,) = cluster.workers.values()
    sampling = worker.periodic_callbacks["profile"]
    with Client(cluster, set_as_default=False) as client:
        client.register_plugin(WsiSegPlugin())
    assert ("profile" in worker.periodic_callbacks) == safe
    assert sampling.is_running() == safe
