"""The vendored library is the one that is stated, with its licence, and in the wheel's reach."""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files

STATIC = files("wsi_seg.viewer").joinpath("static")
NPM_SHA256 = "14d587cd3ee7c4861f1a41077ce642029364a21029956ba635bd8fb1202cf9ad"
"""Of build/openseadragon/openseadragon.min.js in npm's openseadragon 6.1.1."""
SOURCE_MAP = b"//# sourceMappingURL=openseadragon.min.js.map"


def test_openseadragon_is_npms_but_for_the_source_map() -> None:
    assert sha256(STATIC.joinpath("openseadragon.min.js").read_bytes() + SOURCE_MAP).hexdigest() == NPM_SHA256


def test_its_licence_is_beside_it() -> None:
    text = STATIC.joinpath("openseadragon.LICENSE.txt").read_text()
    assert "Redistributions in binary form must reproduce" in text
