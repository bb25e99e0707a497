"""Jobs of queueing systems: stand-ins for their commands start the job scripts as processes of this machine."""

from __future__ import annotations

import gc
import os
import shlex
import signal
import stat
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.engine.runs import SMALL
from wsi_seg.batch import BatchOptions, BatchReport, BatchSlide, run_batch
from wsi_seg.engine.cluster import queueing
from wsi_seg.engine.cluster.queueing import queued_workers
from wsi_seg.engine.options import RunOptions
from wsi_seg.errors import ClusterError, UsageError

COMMANDS = {
    "slurm": ("sbatch", "scancel", "squeue"),
    "pbs": ("qsub", "qdel", "qstat"),
    "sge": ("qsub", "qdel", "qstat"),
    "lsf": ("bsub", "bkill", "bjobs"),
}
_SUBMIT = """#!/bin/bash
cd {folder}
n=$(( $(cat number 2>/dev/null || echo 100) + 1 )); echo $n > number
cat "${{1:-/dev/stdin}}" > $n.sh
setsid bash $n.sh > $n.out 2>&1 < /dev/null & echo $! > $n.pid
echo "job <$n> is submitted"
"""
_CANCEL = """#!/bin/bash
kill -- -$(cat {folder}/$1.pid)
"""
_QUERY = """#!/bin/bash
kill -0 $(cat {folder}/${{@: -1}}.pid) && echo RUN
"""


class Queue:
    """A queueing system that starts what is submitted at once."""

    def __init__(self, folder: Path, system: str) -> None:
        self.folder, self.system = folder, system
        folder.mkdir()
        for name, text in zip(COMMANDS[system], (_SUBMIT, _CANCEL, _QUERY), strict=True):
            self.command(name, text.format(folder=shlex.quote(str(folder))))

    def command(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def file(self, maximum: int = 2, **job: Any) -> Path:
        asked = {
            "cores": 1, "memory": "3GB", "walltime": "01:00" if self.system == "lsf" else "01:00:00",
            "python": sys.executable, "scheduler_host": "127.0.0.1", "log_directory": str(self.folder), **job,
        }  # fmt: skip
        path = self.folder / "queue.yaml"
        path.write_text(yaml.safe_dump({"system": self.system, "jobs": {"maximum": maximum}, "job": asked}))
        return path

    @property
    def scripts(self) -> list[str]:
        return [path.read_text() for path in self.folder.glob("*.sh")]

    def pids(self) -> list[int]:
        return [int(path.read_text()) for path in self.folder.glob("*.pid")]


@pytest.fixture
def queue(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue]:
    pytest.importorskip("cryptography", reason="certificates for the jobs need cryptography")
    pytest.importorskip("dask_jobqueue")
    made = Queue(tmp_path / "queue", getattr(request, "param", "slurm"))
    monkeypatch.setenv("PATH", f"{made.folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(queueing, "_LOOK_S", 0.5)
    yield made
    with warnings.catch_warnings():
        # dask-jobqueue leaves its temporary files to the garbage collector: now, while their folder is there.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def _batch(slide: Path, out: Path, file: Path) -> BatchReport:
    options = BatchOptions(RunOptions(**SMALL), file)
    return run_batch([BatchSlide(slide, "a")], out, options)


@pytest.mark.parametrize("queue", COMMANDS, indirect=True)
def test_a_batch_runs_in_jobs_that_end_before_their_walltime(queue: Queue, tiny_slide: Path, tmp_path: Path) -> None:
    report = _batch(tiny_slide, tmp_path / "out", queue.file())
    assert report.exit_code == 0, report.describe()
    assert 1 <= len(queue.scripts) <= 2
    for script in queue.scripts:
        assert "--lifetime 3240s --lifetime-stagger 60s" in script
        assert "tls://127.0.0.1:" in script
    end = time.monotonic() + 20
    while any(psutil.pid_exists(pid) for pid in queue.pids()) and time.monotonic() < end:
        time.sleep(0.1)
    assert not [pid for pid in queue.pids() if psutil.pid_exists(pid)]


def test_a_job_that_ends_while_there_is_work_is_replaced(queue: Queue, small_slide: Path, tmp_path: Path) -> None:
    out, killed = tmp_path / "out", []

    def kill_the_first() -> None:
        end = time.monotonic() + 60
        while not list(out.rglob("done/0/*.json")) and time.monotonic() < end:
            time.sleep(0.01)
        killed.append(queue.pids()[0])
        os.killpg(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_the_first)
    killer.start()
    report = _batch(small_slide, out, queue.file(maximum=1, memory="3GB"))
    killer.join()
    assert report.exit_code == 0, report.describe()
    assert killed
    assert len(queue.scripts) == 2


def test_jobs_that_die_at_once_are_an_error_with_their_last_words(
    queue: Queue, tiny_slide: Path, tmp_path: Path
) -> None:
    file = queue.file(job_script_prologue=["echo no such module >&2", "exit 1"])
    with pytest.raises(ClusterError, match=r"job 10\d has ended without one: no such module"):
        _batch(tiny_slide, tmp_path / "out", file)


def test_jobs_that_cannot_be_submitted_are_an_error_with_what_the_queue_said(
    queue: Queue, tiny_slide: Path, tmp_path: Path
) -> None:
    queue.command("sbatch", "#!/bin/bash\necho 'invalid partition: night' >&2\nexit 1\n")
    with pytest.raises(ClusterError, match="sbatch: invalid partition: night"):
        _batch(tiny_slide, tmp_path / "out", queue.file())


def test_a_host_that_submits_no_jobs_is_refused(queue: Queue) -> None:
    file = queue.file()
    (queue.folder / "sbatch").unlink()
    with pytest.raises(UsageError, match="no sbatch here"), queued_workers(file):
        pass


@pytest.mark.parametrize(
    "job",
    [{"partition": "x"}, {"memory": "much"}, {"walltime": "long"}, {"cores": 1.5}, {"cores": "1"}, {"cores": 0},
     {"processes": "x"}, {"processes": True}, {"walltime": 3600}, {"memory": 3}, {"worker_extra_args": "--a b"},
     {"worker_extra_args": [1]}, {"scheduler_host": 7}, {"shared_temp_directory": "/no/such"}],
)  # fmt: skip
def test_a_job_that_is_not_sound_is_refused_in_words(queue: Queue, job: dict[str, Any]) -> None:
    with pytest.raises((UsageError, ClusterError)) as caught, queued_workers(queue.file(**job)):
        pass
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("text", "told"),
    [("[1]", "no mapping"), ("{system: loadleveler}", "system 'loadleveler'"), ("system: slurm", "jobs has no maximum"),
     ("{system: slurm, jobs: {maximum: 1, most: 2}}", "unknown jobs.most"),
     ("{system: slurm, jobs: {maximum: many}}", "jobs has no maximum"), ("{system: slurm, x: 1}", "unknown x"),
     ("{system: slurm, jobs: {maximum: 1, minimum: 2}}", "jobs.minimum 2"),
     ("{system: slurm, jobs: {maximum: 1, minimum: 0}}", "jobs.minimum 0"), ("a: [", "expected"),
     ("{system: slurm, jobs: {maximum: 1}}", "no job"),
     ("{system: slurm, jobs: {maximum: 1}, job: {cores: 1}}", "job lacks memory, walltime")],
)  # fmt: skip
def test_a_file_that_is_not_sound_is_refused_in_words(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "queue.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught, queued_workers(path):
        pass
    assert told in caught.value.what
