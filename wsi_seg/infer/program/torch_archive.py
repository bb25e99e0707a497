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
import struct
import zipfile
import zlib
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
_MOST_UNPACKED, _MOST_SLACK = 4, 1 << 20
_FILE_OPERATION = re.compile(rb"\b(?:torch|ops\.\w+)\.(?:\w*_file|save\w*|load\w*)\b")
_BROKEN = (
    OSError, zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, NotImplementedError, ValueError, EOFError, KeyError,
    RuntimeError, struct.error,
)  # fmt: skip
"""What damaged or encrypted archives raise."""


def read_clean_archive(path: Path) -> tuple[io.BytesIO, str | None]:
    """A copy of the archive that holds nothing executable, and the card it carries in its extra files, if any.

    Raises ModelLoadError naming the first thing found that a plain convolutional network does not need.
    """
    try:
        with zipfile.ZipFile(path) as source:
            return _clean(source, path)
    except ModelLoadError:  # is an OSError
        raise
    except (*_BROKEN, RecursionError) as error:
        raise ModelLoadError(
            f"{path} is not a torch.export archive: {error}",
            rule="a .pt2 file is what torch.export.save writes",
            remedy="export the model again",
        ) from error


def read_clean_script(path: Path) -> io.BytesIO:
    """A copy of a TorchScript archive whose code touches no file.

    Code of an archive runs while it is loaded (`__setstate__`), so that it is looked at before. Raises ModelLoadError.
    """
    try:
        with zipfile.ZipFile(path) as source:
            return _clean_script(source, path)
    except ModelLoadError:
        raise
    except _BROKEN as error:
        raise ModelLoadError(
            f"{path} is not a TorchScript program: {error}",
            rule="a .pt or .ts file is what torch.jit.save writes",
            remedy="weights alone need their architecture: --model module:factory --weights file.safetensors",
        ) from error


def _clean_script(source: zipfile.ZipFile, path: Path) -> io.BytesIO:
    _check_sizes(source, path)
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            content, inner = source.read(name), name.partition("/")[2]
            if inner == "model.json":  # of an older form, which another reader would take
                raise ValueError("its form is of torch 1.0")
            if inner.startswith("code/") and (used := _FILE_OPERATION.search(content)):
                raise ModelLoadError(
                    f"{path} uses {used[0].decode(errors='replace')} in {name}",
                    rule="a program must not touch files",
                    remedy="export the model to ONNX",
                )
            target.writestr(name, content)
    if not any("/code/" in name for name in source.namelist()):
        raise ValueError("it holds no code")
    copy.seek(0)
    return copy


def _check_sizes(source: zipfile.ZipFile, path: Path) -> None:
    """Refuse what would unpack to far more than the file. Raises ModelLoadError, ValueError."""
    if len(source.namelist()) != len(set(source.namelist())):
        raise ValueError("it holds two files of one name")
    unpacked, packed = sum(entry.file_size for entry in source.infolist()), path.stat().st_size
    if unpacked > _MOST_UNPACKED * packed + _MOST_SLACK:
        raise ModelLoadError(
            f"{path} has {packed} bytes and unpacks to {unpacked}",
            rule=f"torch packs nothing; at most {_MOST_UNPACKED} times the size is taken",
            remedy="export the model again",
        )


def _clean(source: zipfile.ZipFile, path: Path) -> tuple[io.BytesIO, str | None]:
    card = None
    copy = io.BytesIO()
    _check_sizes(source, path)
    copied = source.namelist()
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as target:
        for name in copied:
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
    if not any(name.endswith("/models/model.json") for name in copied):
        raise ValueError("it holds no program")
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
