"""Workers in jobs of a queueing system: SLURM, PBS, LSF or SGE, through dask-jobqueue.

Owns the YAML file that says which jobs, and notices when none of them will ever bring a worker: dask-jobqueue submits
jobs and looks no further.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from wsi_seg.engine.cluster.connecting import LOOPBACK, PATIENCE, SETTINGS, Connection
from wsi_seg.errors import ClusterError, UsageError

_KEYS = {"": ("system", "jobs", "job"), "jobs": ("minimum", "maximum")}
_BEFORE_WALLTIME = 0.1
"""Part of the walltime after which workers hand over and leave by themselves, at most 10 minutes before the end."""
_LOOK_S = 5.0
"""Seconds between two looks at the queue."""
_ASKED = 4
"""Jobs that are asked after in one look."""
_IN_VAIN = 3
"""Jobs in a row that bring no worker, after which such jobs are not replaced."""


@dataclass(frozen=True, slots=True)
class _System:
    cluster: str
    """Class of dask-jobqueue."""
    submit: str
    query: tuple[str, ...]
    """Command that, with a job's number behind, fails or prints nothing of use when the job is not there any more."""
    gone: str = r"\A\s*\Z"
    """What it prints then, where it does not fail."""


_SYSTEMS = {
    "slurm": _System("SLURMCluster", "sbatch", ("squeue", "-h", "-j")),
    "pbs": _System("PBSCluster", "qsub", ("qstat",)),
    "lsf": _System("LSFCluster", "bsub", ("bjobs", "-noheader", "-o", "stat"), r"\A\s*\Z|EXIT|DONE"),
    "sge": _System("SGECluster", "qsub", ("qstat", "-j")),
}


_PATIENT = [f"export DASK_{key.upper().replace('.', '__')}={value}" for key, value in PATIENCE.items()]
"""Lines of a job script: workers must be as patient with the network as the scheduler is."""


@contextmanager
def queued_workers(path: Path) -> Iterator[Connection]:
    """Workers in jobs of SLURM, PBS, LSF or SGE, as many as there is work for, encrypted.

    The YAML file has `system`, `jobs` (`minimum`, `maximum`) and `job`: the arguments of dask-jobqueue's class, at
    least `cores`, `memory` and `walltime`. Raises UsageError, ClusterError.
    """
    import dask
    from distributed import Client

    wanted = _read(path)
    system, jobs, job = _SYSTEMS[wanted["system"]], wanted["jobs"], dict(wanted["job"])
    processes = job.setdefault("processes", 1)
    job["worker_extra_args"] = [*job.get("worker_extra_args", ()), *_lifetime(job["walltime"])]
    job.setdefault("shared_temp_directory", str(path.absolute().parent))
    job["job_script_prologue"] = [*_PATIENT, *job.get("job_script_prologue", ())]
    said: dict[str, str] = {}
    with (
        dask.config.set(SETTINGS | {"distributed.scheduler.allowed-failures": 10}),
        _cluster(path, system, job, said) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        # A run has something to do until its end: with nobody there, nothing is handed out, and nobody is asked for.
        cluster.adapt(minimum_jobs=jobs.get("minimum", 1), maximum_jobs=jobs["maximum"], wait_count=6)
        threads = max(1, job["cores"] // processes) * processes
        watch = _Jobs(cluster, system, said, path)
        yield Connection(client, threads * jobs["maximum"], watch.look)


def _cluster(path: Path, system: _System, job: dict[str, Any], said: dict[str, str]) -> Any:
    """The cluster, its scheduler started, without any job yet."""
    try:
        import dask_jobqueue
    except ImportError as error:
        raise UsageError(
            "--jobqueue needs dask-jobqueue, which is not installed", remedy="pip install 'wsi-seg[cluster]'"
        ) from error
    if shutil.which(system.submit) is None:
        raise UsageError(
            f"--jobqueue {path}: there is no {system.submit} here",
            rule="jobs are submitted from this machine",
            remedy="run on a host that submits jobs, and look at PATH",
        )
    host = job.pop("scheduler_host", None)
    options = {"dashboard_address": f"{LOOPBACK}:0"} | ({"host": host} if host else {})
    kind = getattr(dask_jobqueue, system.cluster)
    try:
        return kind(
            job_cls=_telling(kind.job_cls, said), security=True, protocol="tls://", scheduler_options=options, **job
        )
    except ImportError as error:
        raise UsageError(
            "--jobqueue needs cryptography, for the certificates of the run", remedy="pip install 'wsi-seg[cluster]'"
        ) from error
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"--jobqueue {path}: job: {error}",
            rule=f"the arguments of dask_jobqueue.{system.cluster}",
            remedy="see the guide on clusters",
        ) from error
    except (OSError, RuntimeError) as error:
        cause = error.__cause__ or error
        raise ClusterError(f"no scheduler could be started for the jobs: {cause}", remedy=f"compare {path}") from error


def _telling(job_class: Any, said: dict[str, str]) -> Any:
    """The class, of jobs that say why they could not be submitted: `said`, by name.

    Their state is kept as Dask expects it: it refuses to close a cluster with jobs that it takes to be running, and
    dask-jobqueue never says that they are not.
    """
    from distributed import Status

    class Telling(job_class):  # type: ignore[misc]
        async def start(self) -> None:
            try:
                await super().start()
            except (OSError, RuntimeError, ValueError) as error:
                said[str(self.name)] = _told_by(str(error))
                self.status = Status.failed
                raise

        async def close(self) -> None:
            await super().close()
            self.status = Status.closed

    return Telling


def _told_by(error: str) -> str:
    r"""What a command said, out of dask-jobqueue's account of its failure.

    >>> _told_by("Command exited ...\nCommand:\nsbatch x\nstdout:\n\nstderr:\nno such partition\n\n")
    'no such partition'
    """
    match = re.search(r"stderr:\n(.*)", error, re.DOTALL)
    return " ".join((match.group(1).strip() or error if match else error).split())


@dataclass(slots=True)
class _Jobs:
    """What became of the jobs that were submitted.

    One that ended is forgotten, so that another takes its place: nodes fail, and at its walltime every job ends.
    """

    cluster: Any
    system: _System
    said: Mapping[str, str]
    path: Path
    _looked: float = field(default_factory=monotonic)
    _arrived: set[Any] = field(default_factory=set)
    """Names of the jobs that have brought a worker."""
    _ended: dict[Any, str] = field(default_factory=dict)
    """Why jobs bring no worker any more, by name; those that were replaced are not among them."""
    _in_vain: int = 0
    """Jobs replaced, since the last that brought a worker, that brought none."""

    def look(self, anybody_there: bool) -> None:
        """Have jobs that ended replaced. Raise ClusterError where no worker is there and jobs bring none."""
        if monotonic() - self._looked < _LOOK_S:
            return
        self._looked = monotonic()
        wanted = self.cluster.worker_spec
        self._ask_after(self._without_worker(dict(wanted)))
        vain = [fate for name, fate in self._ended.items() if name not in self._arrived]
        if vain and not anybody_there and self._ended.keys() >= wanted.keys():
            raise self._nobody(vain)
        for name in list(self._ended):
            if name in self._arrived or self._in_vain < _IN_VAIN:
                self._in_vain += name not in self._arrived
                del self._ended[name]
                self.cluster.loop.add_callback(wanted.pop, name, None)  # which Dask takes for one to be started

    def _without_worker(self, wanted: Mapping[Any, Any]) -> list[Any]:
        """Names of the jobs that have none now; those that have one are noted."""
        there = {str(worker["name"]) for worker in self.cluster.scheduler_info["workers"].values()}
        have = {name for name, spec in wanted.items() if there & {f"{name}{x}" for x in spec.get("group", ("",))}}
        if have - self._arrived:
            self._in_vain = 0
        self._arrived |= have
        return [name for name in wanted if name not in have and name not in self._ended]

    def _ask_after(self, names: list[Any]) -> None:
        """Look what became of a few jobs: a queueing system is not to be asked a hundred questions at once."""
        for name in random.sample(names, min(_ASKED, len(names))):
            if fate := self._fate(name):
                self._ended[name] = fate

    def _fate(self, name: Any) -> str:
        """Why a job brings no worker any more; empty where it still may."""
        if str(name) in self.said:
            return f"{self.system.submit}: {self.said[str(name)]}"
        job = self.cluster.workers.get(name)
        if job is None:  # not submitted yet, or its worker left for so long that Dask has taken the job for ended
            return "its worker has left" if name in self._arrived else ""
        if job.job_id is None or not self._is_gone(job.job_id):
            return ""
        return f"job {job.job_id} has ended without one{_last_words(job.log_directory, job.job_id)}"

    def _nobody(self, fates: list[str]) -> ClusterError:
        more = f", and {len(fates) - 1} more" if len(fates) > 1 else ""
        return ClusterError(
            f"no job brings a worker: {fates[0]}{more}",
            rule="a job starts a worker that reaches this machine",
            remedy=f"look at the job's output; compare {self.path}; log_directory in it says where output lies",
        )

    def _is_gone(self, number: str) -> bool:
        try:
            asked = subprocess.run([*self.system.query, number], capture_output=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return False  # a queue that does not answer is no proof
        return asked.returncode != 0 or re.search(self.system.gone, asked.stdout.decode(errors="replace")) is not None


def _last_words(folder: str | None, number: str) -> str:
    """The last line of a job's output, where that lies in a folder that is known."""
    if folder is None:
        return ""
    for path in sorted(Path(folder).glob(f"*{number}*")):
        try:
            lines = path.read_text(errors="backslashreplace").strip().splitlines()
        except OSError:
            continue
        if lines:
            return f": {lines[-1]}"
    return ""


def _read(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(f"--jobqueue {path}: {error}", rule="a YAML file") from error
    if problem := _problem(content):
        raise UsageError(
            f"--jobqueue {path}: {problem}",
            rule="system (slurm, pbs, lsf or sge), jobs: {maximum: N}, job: {cores, memory, walltime, …}",
            remedy="see the guide on clusters",
        )
    return dict(content)


def _problem(content: Any) -> str:
    if not isinstance(content, dict):
        return "no mapping"
    jobs, job = content.get("jobs"), content.get("job")
    for place, mapping in (("", content), ("jobs", jobs)):
        if unknown := sorted(map(str, set(mapping) - set(_KEYS[place]))) if isinstance(mapping, dict) else []:
            return f"unknown {', '.join(f'{place}.{name}' if place else name for name in unknown)}"
    if content.get("system") not in _SYSTEMS:
        return f"system {content.get('system')!r}"
    if not isinstance(jobs, dict) or not _whole(jobs.get("maximum"), 1):
        return "jobs has no maximum, a whole number above 0"
    if not _whole(jobs.get("minimum", 1), 1) or jobs.get("minimum", 1) > jobs["maximum"]:
        return f"jobs.minimum {jobs.get('minimum')!r}"
    return _problem_of_job(job) if isinstance(job, dict) else "no job"


def _problem_of_job(job: Mapping[Any, Any]) -> str:
    if missing := [key for key in ("cores", "memory", "walltime") if key not in job]:
        return f"job lacks {', '.join(missing)}"
    if bad := [key for key in job if not isinstance(key, str)]:
        return f"unknown job.{bad[0]}"
    for name in ("cores", "processes"):
        if not _whole(job.get(name, 1), 1):
            return f"job.{name} {job[name]!r}, not a whole number above 0"
    for name in ("memory", "walltime"):
        if not isinstance(job[name], str):
            return f"job.{name} {job[name]!r}, not text: put it in quotes"
    extra = job.get("worker_extra_args", [])
    if not isinstance(extra, list) or not all(isinstance(part, str) for part in extra):
        return f"job.worker_extra_args {extra!r}, not a list of texts"
    return ""


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _lifetime(walltime: str) -> list[str]:
    """Arguments that make a worker hand over before its job is ended.

    >>> _lifetime("01:00:00")
    ['--lifetime', '3240s', '--lifetime-stagger', '60s']
    >>> _lifetime("2-00:00:00")[1], _lifetime("24:00")[1]
    ('172200s', '85800s')
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?", walltime)
    if match is None:
        raise UsageError(f"walltime {walltime!r}", rule="HH:MM:SS, D-HH:MM:SS or HH:MM", remedy="in quotes, for YAML")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    left = total - min(600, int(_BEFORE_WALLTIME * total))
    return ["--lifetime", f"{left}s", "--lifetime-stagger", f"{min(60, total // 60)}s"]
