"""What is temporary is removed when the system asks a command to end."""

from __future__ import annotations

import signal
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from wsi_seg.engine.signals import unwinding_on_sigterm


def test_sigterm_unwinds_and_is_given_back() -> None:
    before, folders = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with unwinding_on_sigterm(), TemporaryDirectory() as folder:
            folders.append(Path(folder))
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as left:
        work()
    assert left.value.code == 143
    assert not folders[0].exists()
    assert signal.getsignal(signal.SIGTERM) == before
