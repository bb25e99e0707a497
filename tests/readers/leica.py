"""The XML of a Leica SCN file, as far as OpenSlide and Bio-Formats read it."""

from __future__ import annotations

_SCN = """<?xml version="1.0"?>
<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">
<collection name="glass" sizeX="{glass[1]}" sizeY="{glass[0]}">
<image name="macro"><device model="Leica SCN400" version="1"/>
<pixels sizeX="64" sizeY="96"><dimension sizeX="64" sizeY="96" r="0" ifd="0"/></pixels>
<view sizeX="{glass[1]}" sizeY="{glass[0]}" offsetX="0" offsetY="0"/>{settings}</image>
<image name="image_0"><device model="Leica SCN400" version="1"/>
<pixels sizeX="{size[1]}" sizeY="{size[0]}">
<dimension sizeX="{size[1]}" sizeY="{size[0]}" r="0" ifd="1"/>
<dimension sizeX="{half[1]}" sizeY="{half[0]}" r="1" ifd="2"/></pixels>
<view sizeX="{view[1]}" sizeY="{view[0]}" offsetX="{at[1]}" offsetY="{at[0]}"/>{settings}</image>
</collection></scn>"""
_SETTINGS = (
    "<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>"
    "<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource>"
    "</illuminationSettings></scanSettings>"
)


def scn_xml(size: tuple[int, int], corner: tuple[int, int], margins: tuple[int, int], nm: int) -> str:
    """Description of a file whose second and third page are the scan and its half; `corner` and `margins` in px."""
    glass = [nm * (c + s + m) for c, s, m in zip(corner, size, margins, strict=True)]
    view, at = [nm * side for side in size], [nm * side for side in corner]
    half = [side // 2 for side in size]
    return _SCN.format(glass=glass, size=size, half=half, view=view, at=at, settings=_SETTINGS)
