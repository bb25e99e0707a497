"""Changes on the command line, and what a configuration may not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_seg.errors import ConfigError
from wsi_seg.train.config import TrainConfig, read_config

_PLAIN = "{name: n, classes: [a, b], mpp: 0.5, data: {train: [{slide: s.svs}]}, model: {}, semi: null}"


def _changed(folder: Path, *changes: str) -> TrainConfig:
    (folder / "c.yaml").write_text(_PLAIN)
    return read_config(folder / "c.yaml", list(changes))


def test_a_change_reaches_into_a_section_that_is_empty(tmp_path: Path) -> None:
    config = _changed(tmp_path, "model.width=16", "semi.sources=[{slide: u.svs}]", "semi.mean_teacher=true")
    assert config.model.width == 16
    assert config.semi is not None
    assert config.semi.mean_teacher


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("name.x=1", "name is a value, not a section"),
        ("data.train.².mpp=1", "must be a number below 1"),
        ("model.widht=8", r"model\.widht: there is no such key; did you mean model\.width\?"),
        (
            "data.train.0.lables=x",
            r"data\.train\.0\.lables: there is no such key; did you mean data\.train\[\]\.labels\?",
        ),
        ("epochs=two", r"epochs: must be a valid integer \(given: 'two'\); `wsi-seg train --keys`"),
        ("data.train.0={labels: l}", r"data\.train\.0: give `images`"),
        ("data.train.0={slide: s.svs, images: i}", r"0\.images: .* in a source with `slide`; images are a source of"),
        (f"classes={[str(i) for i in range(256)]}", "at most 255 items"),
    ],
)
def test_what_cannot_be_changed_is_told(tmp_path: Path, change: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _changed(tmp_path, change)
