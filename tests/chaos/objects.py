"""R1 in an object store: `kill -9` of the driver at random moments; the same command again gives a folder's bytes.

The store is an S3 service in this process. The oracle is the tree of an undisturbed run into a folder. At every third
kill the service refuses the next few requests with 503, as services under load do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from unittest.mock import patch

from tests.chaos.fault import Fault, Figures
from tests.chaos.killing import THREADS, TRIES, lost_work, told_of_kills
from tests.chaos.moments import must_live, wait_for_a_moment
from tests.chaos.scene import Attempt, Job, Scene, Undisturbed, Wrong
from tests.chaos.tracing import log_of
from tests.chaos.trees import differences, untimed
from tests.object_server import ObjectServer, object_server
from wsi_seg.output.result_spec import ROOT
from wsi_seg.output.store import Url
from wsi_seg.output.store.opening import forget_stores
from wsi_seg.output.verify import verify_result

BUCKET = "slides"


class ObjectAttempt(Attempt):
    """A result below a URL."""

    out: Url  # type: ignore[assignment]

    def __init__(self, scene: Scene, server: ObjectServer, folder: Path) -> None:
        super().__init__(scene, folder, (*scene.options, "--workers", str(THREADS)))
        self.server = server
        self.out = Url("s3", BUCKET, f"{folder.name}/x.seg.zarr")
        self.log = log_of(self.out, scene.folder)

    @contextmanager
    def started(self, **environment: str) -> Iterator[Job]:
        with super().started(**self.server.environment, **environment) as job:
            yield job

    @property
    def files(self) -> dict[str, bytes]:
        return self.server.contents(BUCKET, f"{self.out.path}/")

    def start_anew(self) -> None:
        self.server.held.buckets[BUCKET].clear()
        self.log.unlink(missing_ok=True)

    def finish(self) -> Job | None:
        if ROOT in self.files:
            return None
        job = self.run()
        if job.process.returncode:
            raise Wrong(f"the same command again: exit code {job.process.returncode}, {job.said[-600:]!r}")
        return job

    def judge(self, expected: dict[str, bytes]) -> None:
        if found := differences(expected, untimed(self.files)):
            raise Wrong(f"{len(found)} differences: {'; '.join(found[:4])}")
        with patch.dict(os.environ, self.server.environment):
            forget_stores()
            report = verify_result(self.out)
        if not report.is_sound or report.n_pending:
            raise Wrong(f"verify: {report.n_pending} pending, {[f'{p.key}: {p.cause}' for p in report.problems[:3]]}")


@contextmanager
def object_attempt(scene: Scene) -> Iterator[ObjectAttempt]:
    """A result of its own in the bucket, removed at the end."""
    server: ObjectServer = scene.kept("object server", object_server)
    with scene.attempt() as local:
        attempt = ObjectAttempt(scene, server, local.folder)
        try:
            yield attempt
        finally:
            attempt.start_anew()


def watched(scene: Scene) -> Undisturbed:
    """How long the phases of an undisturbed run into the bucket take."""
    with object_attempt(scene) as attempt:
        began = time.time()
        job = attempt.run()
        seconds = time.time() - began
        if job.process.returncode:
            raise Wrong(f"the undisturbed run failed: {job.said}")
        attempt.judge(scene.undisturbed.tree)
        first, last = attempt.trace.events[0].at, attempt.trace.events[-1].at
        return Undisturbed({}, attempt.trace, seconds, first - began, last - first)


def kill_the_driver(scene: Scene, chance: Random, number: int) -> Figures:
    """One attempt in three is killed twice."""
    usual: Undisturbed = scene.kept("usual on objects", lambda: (watched(scene), watched(scene))[1])
    with object_attempt(scene) as attempt:
        moments: list[str] = []
        wanted = chance.choice((1, 1, 2))
        for _ in range(TRIES * wanted):
            if len(moments) == wanted or (moments and ROOT in attempt.files):
                break
            if ROOT in attempt.files:  # the moment came too late
                attempt.start_anew()
            with attempt.started() as job:
                moment = wait_for_a_moment(chance, attempt, job, usual)
                must_live(job, moment)
                moments += [moment] if job.lives else []
            if number % 3 == 2:
                attempt.server.held.faults.unavailable = chance.randint(1, 6)
        if not moments:
            raise Wrong("every moment came too late")
        attempt.finish()
        attempt.judge(scene.undisturbed.tree)
        lost = attempt.trace.in_flight()
        return {"kills": len(moments), **lost_work(attempt.trace, lost, THREADS, moments)}


FAULTS = (Fault("objects", "R1", "kill -9 of the driver of an object store", 12, kill_the_driver, told_of_kills),)
