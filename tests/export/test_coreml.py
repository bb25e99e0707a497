"""Core ML packages: what is written is read again, since no tile can judge it here; skipped without coremltools."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.export.conftest import asked
from wsi_seg.card import METADATA_KEY
from wsi_seg.errors import ModelLoadError
from wsi_seg.export import export_model

pytest.importorskip("coremltools", reason="pip install 'wsi-seg[coreml]'")
pytestmark = pytest.mark.filterwarnings("default")  # coremltools warns of itself when it is imported


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_it_is_told_as_not_judged_and_what_was_checked(
    precision: str, tmp_path: Path, slide: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "t.mlpackage"
    request = asked("tests.infer.torch_models:Tiny", slide, to="coreml", precision=precision, out=out, n_tiles=1)
    report = export_model(request)
    assert report.verdicts[0].agreement is None
    assert "coreml: not judged here (no runtime of wsi-seg takes this format)" in report.describe()
    shapes = "image (1, 3, 64, 64), probabilities (1, 2, 64, 64)"
    read = f"The package was read again: {shapes}, {precision}, card as made"
    assert report.notes == (f"Core ML was not run: it predicts on macOS only. {read}",)
    assert capfd.readouterr() == ("", "")


def test_a_package_that_is_not_what_was_asked_for_is_not_kept(
    tmp_path: Path, slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsi_seg.export import coreml_package

    def without_card(traced: object, card: object, precision: str, path: Path) -> None:
        convert(traced, card.replaced(mpp=9.0), precision, path)  # type: ignore[attr-defined]

    convert = coreml_package._convert
    monkeypatch.setattr(coreml_package, "_convert", without_card)
    out = tmp_path / "t.mlpackage"
    with pytest.raises(ModelLoadError, match="and another card"):
        export_model(asked("tests.infer.torch_models:Tiny", slide, to="coreml", out=out, n_tiles=1))
    assert not out.exists()


def test_the_card_is_in_the_package(tmp_path: Path, slide: Path) -> None:
    import coremltools

    report = export_model(
        asked("tests.infer.torch_models:Tiny", slide, to="coreml", out=tmp_path / "t.mlpackage", n_tiles=1)
    )
    model = coremltools.models.MLModel(str(report.out), skip_model_load=True)
    assert json.loads(model.user_defined_metadata[METADATA_KEY])["name"] == "tiny"
