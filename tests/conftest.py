"""What all tests share: the `--slow` switch, the real files beside the checkout, a small synthetic slide."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer.main
from hypothesis import settings

settings.register_profile("wsi-seg", deadline=None)  # time is measured in benchmarks; machines are shared
settings.load_profile("wsi-seg")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if any(item.get_closest_marker("gpu") for item in items):
        from wsi_seg.infer.device.cuda_driver import gpu_names

        if not gpu_names():
            for item in items:
                if item.get_closest_marker("gpu"):
                    item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU answers here"))
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes minutes: run with --slow"))


@pytest.fixture(scope="session", autouse=True)
def _commands_are_read_once() -> Iterator[None]:
    """Typer reads the types of all options at each call: as long as most of what tests ask of a command takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real slides and models; tests that need it are skipped without it."""
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here: real slides and third-party models cannot be tried")
    return SHARED


@pytest.fixture(scope="session")
def small_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic JPEG pyramid of 1500 x 1100 px (width x height), 0.5 um/px."""
    from wsi_seg.sample import write_synthetic

    path = tmp_path_factory.mktemp("slide") / "small.tif"
    write_synthetic(path, (1100, 1500), mpp=0.5, seed=3, tissue_fraction=0.7)
    return path
