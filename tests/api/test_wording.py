"""Messages in Python's words; class, exit code and traceback stay."""

from __future__ import annotations

import pytest

from wsi_seg.api.wording import in_python_words, translated
from wsi_seg.errors import GridError, OutputExistsError

CASES = [
    ("--overwrite, or another --out", "overwrite=True, or another out"),
    ("--restart begins anew", "restart=True begins anew"),
    ("no tissue; --no-skip analyses everything", "no tissue; skip=False analyses everything"),
    ("use --memory 1.3GB", "use memory='1.3GB'"),
    ("--tile 512 --overlap 224 makes them so", "tile=512 overlap=224 makes them so"),
    ("use --runtime onnxruntime or --runtime torch", "use runtime='onnxruntime' or runtime='torch'"),
    ("leave --runtime out to run on the CPU", "leave runtime out to run on the CPU"),
    ("fewer --workers", "fewer workers"),
    ("--device cuda:1.", "device='cuda:1'."),
    ("give --model-mpp, --classes or complete the card", "give model_mpp, classes or complete the card"),
    ("--model module:factory --weights file.safetensors", "model='module:factory' weights='file.safetensors'"),
    ("--out /tmp/x.zarr: its folder does not exist", "out='/tmp/x.zarr': its folder does not exist"),
    ("--memory 'x'", "memory='x'"),
    ("programs are exported with --to tensorrt", "programs are exported with --to tensorrt"),
    ("wsi-seg export m --precision int8 makes one", "wsi-seg export m --precision int8 makes one"),
    ("", ""),
    ("nothing to say--really", "nothing to say--really"),
]


@pytest.mark.parametrize(("said", "expected"), CASES)
def test_translated(said: str, expected: str) -> None:
    assert translated(said) == expected


def test_the_error_stays_what_it_is() -> None:
    with pytest.raises(OutputExistsError) as raised, in_python_words():
        raise OutputExistsError("a exists", rule="never", remedy="--overwrite")
    assert str(raised.value) == "a exists; never; overwrite=True"
    assert raised.value.remedy == "overwrite=True"
    assert raised.value.__cause__ is None


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), in_python_words():
        raise KeyError("--tile 5")
    with pytest.raises(GridError, match="tile=5"), in_python_words():
        raise GridError("--tile 5")
