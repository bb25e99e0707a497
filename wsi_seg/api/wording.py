"""Errors in Python's words: where a message says `--memory 2GB`, who writes Python reads `memory='2GB'`.

Owns the translation of messages, nothing else: class, exit code and traceback of an error stay what they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from wsi_seg.api.wishes import FLAGS, KNOWN
from wsi_seg.errors import WsiSegError

_OPTION = re.compile(r"--(?P<no>no-)?(?P<name>[a-z][a-z-]*)(?: (?P<value>'[^']*'|[^\s,;)]*[^\s,;:.)]))?")
_PROGRAMS = ("wsi-seg ", "vips ", "dask scheduler")
_CHOICES = (
    r"auto|none|cpu|cuda(:\d+)?|onnxruntime(-tensorrt)?|openvino|torch|tensorrt|fp32|bf16|fp16|int8|exact|fast|host|device"
    r"|linear|cosine|gaussian|crop|openslide|tiff|zarr|flips|rotations|d4|softmax|sigmoid|RGB|BGR|NCHW|NHWC"
)
_VALUE = re.compile(rf"({_CHOICES})|['\d/].*|.*[./:].*")
"""What is a value after an option, and not the next word of the sentence."""


@contextmanager
def in_python_words() -> Iterator[None]:
    """Errors that leave the `with` speak of arguments, not of options of a command line."""
    try:
        yield
    except WsiSegError as error:
        error.what, error.rule, error.remedy = map(translated, (error.what, error.rule, error.remedy))
        error.args = ("; ".join(part for part in (error.what, error.rule, error.remedy) if part),)
        raise


def translated(text: str) -> str:
    """A message with arguments for options; command lines of programs stay as they are.

    >>> translated("--overwrite, or another --out")
    'overwrite=True, or another out'
    >>> translated("use --memory 1.3GB, --tile 512 or --no-skip; leave --runtime out, or --device cpu")
    "use memory='1.3GB', tile=512 or skip=False; leave runtime out, or device='cpu'"
    >>> translated("wsi-seg export nuclei --precision int8 makes one")
    'wsi-seg export nuclei --precision int8 makes one'
    """
    return text if any(program in text for program in _PROGRAMS) else _OPTION.sub(_argument, text)


def _argument(match: re.Match[str]) -> str:
    name, value = match["name"].replace("-", "_"), match["value"]
    if name not in KNOWN | {"out", "model"}:
        return match[0]
    after = "" if value is None else f" {value}"
    if name in FLAGS:
        return f"{name}={match['no'] is None}{after}"
    if value is None or not _VALUE.fullmatch(value):
        return f"{name}{after}"
    return f"{name}={value}" if value[0] == "'" or re.fullmatch(r"\d+(\.\d+)?", value) else f"{name}={value!r}"
