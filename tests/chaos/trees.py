"""When two finished results are the same: which bytes must agree, and which may not on purpose.

Every file of the tree must be there in both, with the same bytes, but for what tells how long the work took:

* `summary.json`: `performance`;
* `provenance.json`: of each task `seconds`, `stages` and `n_predicted` (who predicts a tile that two blocks share is a
  matter of order); the records of `summary.json` and of itself;
* `.wsi-seg/`, which is removed after the result got its name: a process that dies in between leaves it. Nobody reads it
  then (`wsi-seg verify` is asked as well, always).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STATE = ".wsi-seg"
TIMINGS = ("seconds", "stages", "n_predicted")


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a result by key, timings taken out."""
    return untimed(
        {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    )


def untimed(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Files of a result, by key, without timings and without what a run keeps beside them."""
    return {key: _untimed(key, content) for key, content in files.items() if not key.startswith(STATE)}


def differences(expected: dict[str, bytes], found: dict[str, bytes]) -> list[str]:
    """Keys that differ, with how."""
    words = [f"{key} is missing" for key in sorted(expected.keys() - found.keys())]
    words += [f"{key} should not be there" for key in sorted(found.keys() - expected.keys())]
    words += [f"{key} has other bytes" for key in sorted(expected.keys() & found.keys()) if expected[key] != found[key]]
    return words


def _untimed(key: str, content: bytes) -> bytes:
    if key == "summary.json":
        return _as_bytes({**json.loads(content), "performance": None})
    if key == "provenance.json":
        record = json.loads(content)
        tasks = [{name: value for name, value in task.items() if name not in TIMINGS} for task in record["tasks"]]
        files = {name: value for name, value in record["files"].items() if name != "summary.json"}
        return _as_bytes({**record, "tasks": tasks, "files": files, "sha256": None})
    return content


def _as_bytes(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True).encode()
