"""wsi-seg: whole-slide pathology images to pyramidal label maps.

What the command line does, from Python. A slide, the default model, and a look at the result:

>>> import tempfile, wsi_seg
>>> from pathlib import Path
>>> from wsi_seg.sample import write_synthetic
>>> folder = tempfile.TemporaryDirectory()
>>> slide = Path(folder.name, "slide.tif")
>>> write_synthetic(slide, (512, 768), mpp=0.5, seed=3)
>>> result = wsi_seg.run(slide, "he-stain", out=slide.with_suffix(".seg.zarr"))
>>> [entry.name for entry in result.classes], result.mpp, result.n_levels
(['background', 'stroma', 'nuclei'], Mpp(y=0.5, x=0.5), 2)
>>> labels = result.labels(0)
>>> labels.shape, labels[100:104, 200:206].shape
((512, 768), (4, 6))
>>> areas = result.areas()
>>> bool(0 < areas["nuclei"].mm2 < areas.analysed_mm2)
True

A finished result is opened by its name, and never replaced unasked:

>>> wsi_seg.open_result(slide.with_suffix(".seg.zarr")).shape
(512, 768)
>>> wsi_seg.run(slide, "he-stain", out=slide.with_suffix(".seg.zarr"))  # doctest: +ELLIPSIS
Traceback (most recent call last):
wsi_seg.errors.OutputExistsError: ... exists; results are never replaced unasked; overwrite=True, or another out
>>> folder.cleanup()

Importing this costs nothing: names load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsi_seg.api.areas import Areas
    from wsi_seg.api.result import Result, open_result
    from wsi_seg.api.running import open_mask, run
    from wsi_seg.errors import WsiSegError

__version__ = "0.1.0"

__all__ = ["Areas", "Result", "WsiSegError", "__version__", "open_mask", "open_result", "run"]

_HOMES = {
    "Areas": "api.areas",
    "Result": "api.result",
    "WsiSegError": "errors",
    "open_mask": "api.running",
    "open_result": "api.result",
    "run": "api.running",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
