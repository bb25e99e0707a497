"""Run by an interpreter that has napari: how it shows results, as JSON on standard output.

    python tests/readers/napari_sees.py REQUEST.json

The request lists results, each with points: (y, x) in µm in napari's world. Two ways of opening each: the snippet of
the README, executed as it stands there but for the name of the file and the window, and the plugin `napari-ome-zarr`.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np


def by_the_readme(path: str) -> Any:
    """The layer that the README's snippet makes, in a viewer without a window."""
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    (snippet,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "import napari" in block]
    snippet = snippet.replace("CMU-1-Small-Region.seg.zarr", path).replace("napari.run()", "")
    names: dict[str, Any] = {}
    exec(snippet.replace("napari.Viewer()", "napari.components.ViewerModel()"), names)
    return names["viewer"].layers[-1]


def by_the_plugin(path: str) -> Any:
    """The layer of labels that the plugin makes of the whole result."""
    from napari.components import ViewerModel
    from npe2 import PluginManager

    PluginManager.instance().discover()
    layers = ViewerModel().open(path, plugin="napari-ome-zarr")
    return next(layer for layer in layers if type(layer).__name__ == "Labels")


def shown(layer: Any, points: list[list[float]]) -> dict[str, Any]:
    """Levels of a layer, place of the corners of the first, and the values at points of the world, level by level."""
    assert type(layer).__name__ == "Labels"
    layer.visible = True  # the plugin adds labels invisible
    levels = [np.asarray(level) for level in layer.data]
    corners = [layer.data_to_world((-0.5, -0.5)), layer.data_to_world([side - 0.5 for side in levels[0].shape])]
    values = []
    for n in range(len(levels)):
        layer.corner_pixels = np.array([[0, 0], np.subtract(levels[n].shape, 1)])  # all of it is in sight
        layer.data_level = n
        layer.refresh()
        values.append([_value(layer.get_value(point, world=True)) for point in points])
    return {
        "shapes": [level.shape for level in levels],
        "dtype": str(levels[0].dtype),
        "corners": [[float(side) for side in corner] for corner in corners],
        "values": values,
    }


def _value(found: Any) -> int | None:
    """A multiscale layer answers (level, value)."""
    value = found[1] if isinstance(found, tuple) else found
    return None if value is None else int(value)


def main(request: Path) -> None:
    asked = json.loads(request.read_text())
    answers = []
    with contextlib.redirect_stdout(io.StringIO()):  # the plugin prints what it reads
        for one in asked:
            answers.append(
                {
                    "readme": shown(by_the_readme(one["path"]), one["points"]),
                    "plugin": shown(by_the_plugin(one["path"]), one["points"]),
                }
            )
    print(json.dumps(answers))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
