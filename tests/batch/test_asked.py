"""What a batch was asked for, against what it is asked for now."""

from __future__ import annotations

from typing import Any

from wsi_seg.batch.asked import Asked, differences
from wsi_seg.engine.options import RunOptions


def asked(**options: Any) -> dict[str, Any]:
    return Asked().of(RunOptions(model="constant:1/2", **options), tiff=False)


def test_what_changed_is_named_with_both_values() -> None:
    assert differences(asked(), asked()) == []
    assert differences(asked(tta="none"), asked(tta="d4")) == ["tta: 'none', now 'd4'"]


def test_a_record_from_before_an_option_was_known_means_its_default() -> None:
    older = asked()
    del older["decode"]
    assert differences(older, asked()) == []
    assert differences(older, asked(decode="fast")) == ["decode: 'exact', now 'fast'"]
