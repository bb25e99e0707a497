"""Class names of an annotation file as class indices; owns the rules, knows no format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wsi_seg.annotation.protocol import IGNORE
from wsi_seg.errors import AnnotationError

IGNORED = "ignore"
"""A name that stands for `IGNORE`, where no class has it."""


@dataclass(frozen=True, slots=True)
class Naming:
    """Which class a name in a file means.

    >>> naming = Naming("a.geojson", ("background", "tumour"), {"Tumor": "tumour", "Fold": "ignore"})
    >>> naming.index("Tumor", "feature 0"), naming.index("background", "feature 1"), naming.index("Fold", "feature 2")
    (1, 0, 255)
    """

    source: str
    """The file, for messages."""
    classes: tuple[str, ...]
    names: Mapping[str, str]
    """Name in the file -> class, or `IGNORED`."""

    def knows(self, name: str) -> bool:
        """True where the name means a class or what is ignored."""
        return name in self.names or name in self.classes or name == IGNORED

    def index(self, name: str, where: str) -> int:
        """Class index of a name; `where` tells the place in the file. Raises AnnotationError."""
        named = self.names.get(name, name)
        if named in self.classes:
            return self.classes.index(named)
        if named == IGNORED:
            return IGNORE
        what, key = (f"{where} has class {name!r}", name) if name else (f"{where} has no class", '""')
        raise AnnotationError(
            f"{what} ({self.source})",
            rule=f"classes are {', '.join(self.classes)}",
            remedy=f"give `names: {{{key}: CLASS}}`, where `{IGNORED}` leaves it out",
        )


def checked_names(names: Mapping[str, str], classes: Sequence[str], source: str) -> Naming:
    """The naming of a file. Raises AnnotationError where a name is to mean a class that is not there."""
    for name, meant in names.items():
        if meant not in classes and meant != IGNORED:
            raise AnnotationError(
                f"names: {name} -> {meant!r} ({source})", rule=f"classes are {', '.join(classes)}, or `{IGNORED}`"
            )
    return Naming(source, tuple(classes), dict(names))
