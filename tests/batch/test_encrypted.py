"""Schedulers behind TLS: a stranger is told what is wrong; nothing listens but on loopback (R21)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import LocalCluster, Security

from tests.batch.conftest import Program
from tests.engine.runs import SMALL
from wsi_seg.batch import BatchOptions, BatchSlide, LocalWorkers, run_batch
from wsi_seg.engine.options import RunOptions, Scheduler
from wsi_seg.errors import ClusterError, UsageError


class Authority:
    """Signs one certificate, for everybody."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("no openssl here to make certificates with")
        folder.mkdir()
        self.ca, self.key, self.cert = folder / "ca.pem", folder / "key.pem", folder / "cert.pem"
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        _openssl("req", "-x509", *curve, "-keyout", folder / "ca.key", "-out", self.ca, "-days", "2", "-subj", "/CN=ca")
        _openssl("req", *curve, "-keyout", self.key, "-out", folder / "csr", "-subj", "/CN=dask")
        _openssl("x509", "-req", "-in", folder / "csr", "-CA", self.ca, "-CAkey", folder / "ca.key",
                 "-CAcreateserial", "-out", self.cert, "-days", "2")  # fmt: skip

    def security(self) -> Security:
        ours: dict[str, Any] = {"tls_ca_file": str(self.ca), "require_encryption": True}
        for role in ("scheduler", "worker", "client"):
            ours |= {f"tls_{role}_cert": str(self.cert), f"tls_{role}_key": str(self.key)}
        return Security(**ours)

    def scheduler(self, address: str) -> Scheduler:
        return Scheduler(address, self.ca, self.cert, self.key)


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "own")


@pytest.fixture(scope="module")
def address(authority: Authority) -> Iterator[str]:
    """Of a scheduler with a worker, in this process, behind TLS."""
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tls://", host="127.0.0.1",
        security=authority.security(), dashboard_address="127.0.0.1:0", silence_logs=60,
    ) as cluster:  # fmt: skip
        assert cluster.scheduler_address.startswith("tls://127.0.0.1:")
        yield cluster.scheduler_address


def test_a_batch_runs_behind_tls(authority: Authority, address: str, tiny_slide: Path, tmp_path: Path) -> None:
    options = BatchOptions(RunOptions(**SMALL), authority.scheduler(address))
    report = run_batch([BatchSlide(tiny_slide, "a")], tmp_path / "out", options)
    assert report.exit_code == 0, report.describe()


@pytest.mark.parametrize("who", ["plain", "another authority", "no certificate"])
def test_strangers_are_refused_in_words(
    who: str, address: str, authority: Authority, tiny_slide: Path, tmp_path: Path, wsi_seg: Program
) -> None:
    other = authority if who != "another authority" else Authority(tmp_path / "other")
    where = {
        "plain": ["--scheduler", address.replace("tls://", "tcp://")],
        "no certificate": ["--scheduler", address, "--tls-ca", other.ca],
    }.get(who, ["--scheduler", address, "--tls-ca", other.ca, "--tls-cert", other.cert, "--tls-key", other.key])
    ran = wsi_seg("batch", tiny_slide, "--out", tmp_path / "out", "--model", "he-stain", *where)
    assert ran.code == ClusterError("").exit_code
    assert f"error: no Dask scheduler at {where[1]}: " in ran.err
    assert "compare --tls-ca" in ran.err


def test_certificates_that_are_none_are_refused_in_words(address: str, tmp_path: Path, authority: Authority) -> None:
    from wsi_seg.engine.cluster.connecting import connected

    nothing = tmp_path / "nothing.pem"
    with pytest.raises(UsageError, match=r"tls-ca-file .*no such file"), connected(Scheduler(address, nothing)):
        pass
    nothing.write_text("nothing")
    with pytest.raises((UsageError, ClusterError)), connected(Scheduler(address, nothing, nothing, nothing)):
        pass


def test_open_schedulers_elsewhere_are_refused_unless_accepted(
    tiny_slide: Path, tmp_path: Path, wsi_seg: Program
) -> None:
    ran = wsi_seg("batch", tiny_slide, "--out", tmp_path, "--model", "he-stain", "--scheduler", "tcp://192.0.2.1:8786")
    assert ran.code == 2
    assert "is not encrypted" in ran.err


def test_a_local_batch_listens_on_loopback_only(tiny_slide: Path, tmp_path: Path) -> None:
    """Looked at while workers work: every socket of this process and its children that takes connections."""
    before = {connection.laddr for connection in _listening()}
    heard: list[Any] = []

    def watch(*_: Any) -> None:
        heard.extend(connection.laddr for connection in _listening() if connection.laddr not in before)

    options = BatchOptions(RunOptions(**SMALL), LocalWorkers(1, 2, 4 * 1024**3))
    report = run_batch([BatchSlide(tiny_slide, "a")], tmp_path / "out", options, watcher=watch)
    assert report.exit_code == 0, report.describe()
    sockets = set(heard)
    loopback = {address for address in sockets if address.ip in ("127.0.0.1", "::1")}
    print(f"{len(sockets)} sockets, {len(loopback)} loopback")  # noqa: T201 - the figure of R21
    assert len(sockets) >= 3  # scheduler, its pages, nanny or worker
    assert sockets == loopback


def _listening() -> list[Any]:
    tree = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = []
    for process in tree:
        try:
            found += process.net_connections(kind="inet")
        except psutil.Error:
            continue
    return [connection for connection in found if connection.status == psutil.CONN_LISTEN]
