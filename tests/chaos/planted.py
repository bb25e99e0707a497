"""Slides full of canaries: words and pictures that name a patient, wherever the formats have room for one.

Owns which canaries there are and where each is put. Each is a word that stands nowhere else; pictures that must not be
looked at (label, macro, embedded thumbnail) are of one colour that tissue never has.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import ImageCms

SIZE = (400, 500)
MPP = 0.5
COLOUR = (0, 255, 40)
"""Of pictures that nobody may read."""
_TAGS = {
    "document name": 269, "make": 271, "model": 272, "page name": 285, "software": 305, "date": 306, "artist": 315,
    "host computer": 316, "copyright": 33432, "unique image id": 42016,
}  # fmt: skip
_BYTE_TAGS = {"xmp": 700, "iptc": 33723, "photoshop": 34377}
_APERIO = (
    "Patient", "Filename", "Date", "Time", "User", "ScanScope ID", "Title", "ImageID", "Slide Label", "Barcode",
    "Operator", "Case",
)  # fmt: skip


@dataclass(slots=True)
class Canaries:
    """Words that have been put somewhere: word -> what it stands for."""

    words: dict[str, str] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    def word(self, place: str) -> str:
        """A new word for a place."""
        made = f"cny{sha256(f'{place} {next(self._numbers)}'.encode()).hexdigest()[:12]}"
        self.words[made] = place
        return made

    def picture(self, place: str, height: int = 64, width: int = 96) -> NDArray[np.uint8]:
        """A picture that must not be seen again, uint8 (height, width, 3)."""
        self.pictures.append(place)
        return np.full((height, width, 3), COLOUR, np.uint8)

    def __len__(self) -> int:
        return len(self.words) + len(self.pictures)


@dataclass(frozen=True, slots=True)
class Planted:
    """A slide, and the words that its own path consists of."""

    kind: str
    path: Path
    name: str
    """Word in the name of the file."""
    folder: str
    """Word in the name of its folder."""


def plant_all(folder: Path, canaries: Canaries) -> tuple[Planted, ...]:
    """One slide of each format."""
    pixels = _tissue()
    return tuple(
        _planted(folder, kind, suffix, lambda path, write=write: write(path, pixels, canaries), canaries)
        for kind, suffix, write in (
            ("svs", ".svs", write_svs),
            ("generic tiff", ".tif", write_generic),
            ("ome-tiff", ".ome.tif", write_ome),
            ("ome-zarr", ".zarr", write_zarr),
        )
    )


def _planted(folder: Path, kind: str, suffix: str, write: Callable[[Path], None], canaries: Canaries) -> Planted:
    name, place = canaries.word(f"{kind}: file name"), canaries.word(f"{kind}: folder name")
    (folder / place).mkdir(parents=True)
    path = folder / place / f"{name}{suffix}"
    write(path)
    return Planted(kind, path, name, place)


def _tissue() -> NDArray[np.uint8]:
    """Something pink on white, uint8 (400, 500, 3)."""
    noise = np.random.default_rng(3).normal(0, 12, (*SIZE, 3))
    image = np.full((*SIZE, 3), 243.0)
    image[60:340, 70:430] = (205, 130, 180)
    return np.clip(image + noise, 60, 250).astype(np.uint8)


def _extra(kind: str, page: str, canaries: Canaries) -> list[tuple[Any, ...]]:
    """Tags with a word each."""
    place = f"{kind}, {page}: "
    words = [(code, "s", 0, canaries.word(place + name), True) for name, code in _TAGS.items()]
    packed = [(name, code, canaries.word(place + name).encode()) for name, code in _BYTE_TAGS.items()]
    return words + [(code, "B", len(content), content, True) for _, code, content in packed]


def _profile(kind: str, canaries: Canaries) -> bytes:
    """An ICC profile whose description is a word."""
    word = canaries.word(f"{kind}: ICC description")
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    start = profile.find("sRGB built-in".encode("utf-16-be"))
    if start < 0:
        start = profile.find(b"sRGB built-in")
        return bytes(profile) + word.encode() if start < 0 else _written_over(profile, start, word.encode())
    return _written_over(profile, start, word[:13].encode("utf-16-be")) + word.encode()


def _written_over(profile: bytearray, start: int, content: bytes) -> bytes:
    profile[start : start + len(content)] = content
    return bytes(profile)


def _pyramid(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], ...]:
    return pixels, np.ascontiguousarray(pixels[::4, ::4])


def write_svs(path: Path, pixels: NDArray[np.uint8], canaries: Canaries) -> None:
    """As a scanner of Aperio writes: level, thumbnail, level, label, macro."""
    height, width = SIZE
    told = "|".join(f"{key} = {canaries.word(f'svs: Aperio {key}')}" for key in _APERIO)
    head = f"Aperio Image Library v11.2.1 \r\n{width}x{height} [0,0 {width}x{height}] (128x128) JPEG/RGB Q=90"
    tiles: dict[str, Any] = {"tile": (128, 128), "compression": "jpeg", "photometric": "rgb", "metadata": None}
    first, second = _pyramid(pixels)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            first, **tiles, description=f"{head}|AppMag = 20|MPP = {MPP}|{told}", software=False,
            extratags=_extra("svs", "level 0", canaries), iccprofile=_profile("svs", canaries),
        )  # fmt: skip
        _write_picture(tiff, "svs", "thumbnail", canaries, description=f"{head} -> 96x64 - |", subfiletype=0)
        tiff.write(second, **tiles, description=f"{head} -> 125x100 JPEG/RGB Q=90", software=False)
        _write_picture(tiff, "svs", "label", canaries, description="Aperio Image Library\r\nlabel 96x64", subfiletype=1)
        _write_picture(tiff, "svs", "macro", canaries, description="Aperio Image Library\r\nmacro 96x64", subfiletype=9)


def _write_picture(
    tiff: tifffile.TiffWriter, kind: str, page: str, canaries: Canaries, *, description: str, subfiletype: int
) -> None:
    tiff.write(
        canaries.picture(f"{kind}: {page}"), photometric="rgb", metadata=None, subfiletype=subfiletype, software=False,
        description=f"{description} {canaries.word(f'{kind}, {page}: description')}",
        extratags=[(315, "s", 0, canaries.word(f"{kind}, {page}: artist"), True)],
    )  # fmt: skip


def write_generic(path: Path, pixels: NDArray[np.uint8], canaries: Canaries) -> None:
    """A tiled pyramid of no vendor, and a label after it."""
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate(_pyramid(pixels)):
            per_cm = 1e4 / (MPP * 4**number)
            first = number == 0
            tiff.write(
                level, tile=(128, 128), compression="jpeg", photometric="rgb", metadata=None, software=False,
                subfiletype=int(number > 0), resolution=(per_cm, per_cm), resolutionunit="CENTIMETER",
                description=canaries.word(f"generic tiff, level {number}: description"),
                extratags=_extra("generic tiff", "level 0", canaries) if first else (),
                iccprofile=_profile("generic tiff", canaries) if first else None,
            )  # fmt: skip
        _write_picture(tiff, "generic tiff", "label", canaries, description="label", subfiletype=1)


def write_ome(path: Path, pixels: NDArray[np.uint8], canaries: Canaries) -> None:
    """OME-XML with everything it can say of people, and a macro as second image."""

    def word(place: str) -> str:
        return canaries.word(f"ome-tiff: {place}")

    height, width = SIZE
    xml = f"""<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"
 Creator="{word("creator")}" UUID="urn:uuid:{word("uuid")}">
 <Experimenter ID="Experimenter:0" FirstName="{word("first name")}" LastName="{word("last name")}"
  Email="{word("email")}" UserName="{word("user")}" Institution="{word("institution")}"/>
 <Instrument ID="Instrument:0"><Microscope SerialNumber="{word("serial number")}"/></Instrument>
 <Image ID="Image:0" Name="{word("image name")}"><AcquisitionDate>{word("acquisition date")}</AcquisitionDate>
  <Description>{word("image description")}</Description>
  <Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="{width}" SizeY="{height}" SizeC="3" SizeZ="1"
   SizeT="1" Interleaved="true" PhysicalSizeX="{MPP}" PhysicalSizeXUnit="µm" PhysicalSizeY="{MPP}"
   PhysicalSizeYUnit="µm"><Channel ID="Channel:0:0" SamplesPerPixel="3" Name="{word("channel name")}"/>
   <TiffData IFD="0" PlaneCount="1"><UUID FileName="{word("tiff data file name")}">urn:uuid:1</UUID></TiffData></Pixels>
 </Image>
 <StructuredAnnotations><XMLAnnotation ID="Annotation:0"><Value><P>{word("xml annotation")}</P></Value></XMLAnnotation>
  <CommentAnnotation ID="Annotation:1"><Value>{word("comment annotation")}</Value></CommentAnnotation>
  <MapAnnotation ID="Annotation:2"><Value><M K="patient">{word("map annotation")}</M></Value></MapAnnotation>
 </StructuredAnnotations></OME>"""
    first, second = _pyramid(pixels)
    tiles: dict[str, Any] = {"tile": (128, 128), "compression": "jpeg", "photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path, ome=False) as tiff:
        tiff.write(
            first, **tiles, subifds=1, description=xml.encode(), software=False,
            extratags=_extra("ome-tiff", "level 0", canaries), iccprofile=_profile("ome-tiff", canaries),
        )  # fmt: skip
        tiff.write(second, **tiles, subfiletype=1, software=False)
        _write_picture(tiff, "ome-tiff", "macro", canaries, description="macro", subfiletype=9)


def write_zarr(path: Path, pixels: NDArray[np.uint8], canaries: Canaries) -> None:
    """OME-Zarr 0.5 with attributes at every place, and a label beside the levels."""
    import zarr

    def word(place: str) -> str:
        return canaries.word(f"ome-zarr: {place}")

    levels = _pyramid(pixels)
    datasets = [
        {"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": [1.0, MPP * 4**n, MPP * 4**n]}]}
        for n in range(len(levels))
    ]
    axes: list[dict[str, str]] = [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    multiscales = {
        "name": word("multiscales name"), "axes": axes, "datasets": datasets, "type": word("multiscales type"),
        "metadata": {"description": word("multiscales metadata")},
    }  # fmt: skip
    ome = {
        "version": "0.5", "multiscales": [multiscales], "patient": word("ome attribute"),
        "omero": {"name": word("omero name"), "channels": [{"label": word("omero channel")}]},
    }  # fmt: skip
    root = zarr.create_group(path, zarr_format=3, attributes={"ome": ome, "patient": word("root attribute")})
    for number, level in enumerate(levels):
        array = root.create_array(
            str(number), shape=(3, *level.shape[:2]), chunks=(3, 128, 128), dtype="uint8",
            attributes={"patient": word(f"attribute of level {number}")},
        )  # fmt: skip
        array[:] = level.transpose(2, 0, 1)
    (path / "label.json").write_text(json.dumps({"patient": word("file beside the levels")}))
    picture = canaries.picture("ome-zarr: label").transpose(2, 0, 1)
    label = root.create_array("label", shape=picture.shape, chunks=picture.shape, dtype="uint8")
    label[:] = picture


def png_of(picture: NDArray[np.uint8], text: str) -> bytes:
    """A PNG with a text chunk, to try the search with."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    chunk, out = PngInfo(), io.BytesIO()
    chunk.add_text("Comment", text, zip=True)
    Image.fromarray(picture).save(out, "PNG", pnginfo=chunk)
    return out.getvalue()
