"""A `.pt2` archive, read so that loading it cannot run code; owns that check, imports no torch.

`torch.export.load` (2.13, `torch/_export/serde/serialize.py`) falls back to full unpickling, evaluates shape
expressions with sympy, executes guards as Python, looks up operators by attribute path below `torch`, and writes
names into generated source. So the archive is taken apart here. Kept are raw tensors, the graph and the versions;
sample inputs, guards and node metadata are dropped; operators and expressions must match a narrow grammar, and every
other string is a plain name. What is loaded is the copy made here, never the file, so that two zip readers cannot see
two archives.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

from wsi_seg.card import METADATA_KEY
from wsi_seg.errors import ModelLoadError

_KEPT = re.compile(
    r"archive_format|archive_version|byteorder|\.data/version|models/model\.json|data/(weights|constants)/"
    r"(model_(weights|constants)_config\.json|weight_\d+|tensor_\d+)"
)
_SAMPLES = "data/sample_inputs/model.pt"
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims)\.(?!from_file|save|load)[a-z_0-9]+\.[A-Za-z_0-9]+"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|le|lt|ge|gt|and_|or_|not_)"
    r"|torch\.sym_[a-z]+|math\.(trunc|ceil|floor|sqrt)"
)
_EXPRESSION = re.compile(
    r"(?:Symbol\('[a-z]+\d+'|(?:Integer|Rational|Mul|Add|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv)\("
    r"|(?:positive|nonnegative|integer)=True|True|False|[a-z]+\d+|\d+|[-+*/(), <>=])*"
)
_TREE = re.compile(
    r'(?:"(?:type|context|children_spec|null|builtins\.(?:tuple|list|dict)|\[\])"|null|\d+|[\[\]{}:, ])*'
)
_NAME = re.compile(r"[A-Za-z0-9_.+-]*")
_GRAMMAR = {"expr_str": _EXPRESSION, "symbol": _EXPRESSION, "in_spec": _TREE, "out_spec": _TREE, "target": _OPERATOR}
_CARD = f"extra/{METADATA_KEY}"


def read_clean_archive(path: Path) -> tuple[io.BytesIO, str | None]:
    """A copy of the archive that holds nothing executable, and the card it carries in its extra files, if any.

    Raises ModelLoadError naming the first thing found that a plain convolutional network does not need.
    """
    try:
        with zipfile.ZipFile(path) as source:
            return _clean(source, path)
    except ModelLoadError:  # is an OSError
        raise
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, KeyError) as error:
        raise ModelLoadError(
            f"{path} is not a torch.export archive: {error}", remedy="export the model again"
        ) from error


def _clean(source: zipfile.ZipFile, path: Path) -> tuple[io.BytesIO, str | None]:
    card = None
    copy = io.BytesIO()
    if len(source.namelist()) != len(set(source.namelist())):
        raise ValueError("it holds two files of one name")
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            root, _, inner = name.partition("/")
            if inner == _CARD:
                card = source.read(name).decode()
            if not _KEPT.fullmatch(inner):
                continue
            content = source.read(name)
            if inner.endswith(".json"):
                parsed = _without_code(json.loads(content))
                _check(parsed, "", inner, path)
                content = json.dumps(parsed).encode()
            target.writestr(name, content)
            if inner == "models/model.json":
                target.writestr(f"{root}/{_SAMPLES}", b"")
    copy.seek(0)
    return copy, card


def _without_code(content: Any) -> Any:
    """The JSON without guards and without metadata of nodes, which only debugging needs."""
    if isinstance(content, dict):
        dropped: dict[str, Any] = {"guards_code": [], "metadata": {}}
        return {key: dropped[key] if key in dropped else _without_code(value) for key, value in content.items()}
    return [_without_code(value) for value in content] if isinstance(content, list) else content


def _check(content: Any, key: str, inner: str, path: Path) -> None:
    """Refuse strings that could become code; `key` is the name under which `content` was found."""
    if isinstance(content, dict):
        for name, value in content.items():
            _check(name, "symbol" if key == "range_constraints" else "", inner, path)
            _check(value, name, inner, path)
    elif isinstance(content, list):
        for value in content:
            _check(value, key, inner, path)
    elif isinstance(content, str) and not _GRAMMAR.get(key, _NAME).fullmatch(content):
        raise _refusal(path, f"{key or 'name'} {content[:80]!r} in {inner}")
    elif isinstance(content, str) and key == "path_name" and not re.fullmatch(r"(weight|tensor)_\d+", content):
        raise _refusal(path, f"stored object {content[:80]!r}")
    elif key == "use_pickle" and content:
        raise _refusal(path, f"a pickle, announced in {inner}")


def _refusal(path: Path, what: str) -> ModelLoadError:
    return ModelLoadError(
        f"{path} holds {what}",
        rule="a .pt2 program consists of plain tensors and aten operators; anything else could run code",
        remedy="export the model to ONNX",
    )
