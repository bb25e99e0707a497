"""`module:factory`: each thing that may go wrong with a user's code is one message with what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
from wsi_seg.errors import ModelLoadError
from wsi_seg.infer import ModelSpec, load_predictor

SOURCE = """
import torch
seven = 7
class Net(torch.nn.Conv2d):
    def __init__(self, width):
        super().__init__(3, width, 1)
def three():
    return 3
def broken():
    raise ValueError("no weights\\nhere")
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "users_own.py").write_text(SOURCE)
    (tmp_path / "users_broken.py").write_text("import nowhere_at_all")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("users_own", "users_broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("model", "what", "remedy"),
    [
        ("users_missing:Net", "module 'users_missing' cannot be found", "PYTHONPATH=FOLDER"),
        ("users_own.py:Net", "module 'users_own.py' cannot be found", "without its suffix: users_own;"),
        (
            "users_broken:Net",
            "module 'users_broken' cannot be imported: ModuleNotFoundError: No module named 'nowhere_at_all' "
            "(users_broken.py, line 1)",
            "install what it needs",
        ),
        ("users_own:Nett", "module 'users_own' has no 'Nett'", "it has Net, three, broken"),
        ("users_own:seven", "users_own:seven is a value of type int, which cannot be called", "write a function"),
        ("users_own:three", "users_own:three made a value of type int", "return the module itself"),
        ("users_own:broken", "users_own:broken raises ValueError: no weights here (users_own.py, line 10)", "without"),
        ("users_own:Net", "users_own:Net raises TypeError: ", "write a factory that fills them in"),
    ],
)
def test_it_is_told(model: str, what: str, remedy: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        load_predictor(ModelSpec(model))
    assert what in caught.value.what
    assert "module:factory" in caught.value.rule
    assert remedy in caught.value.remedy
