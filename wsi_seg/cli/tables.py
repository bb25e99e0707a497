"""How sections of names and values look in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def print_sections(sections: Iterable[tuple[str, Sequence[tuple[str, str]]]]) -> None:
    """Print (title, rows of (name, value)) with aligned names."""
    sections = [(title, list(rows)) for title, rows in sections]
    width = max((len(name) for _, rows in sections for name, _ in rows), default=0)
    for number, (title, rows) in enumerate(sections):
        print(("\n" if number else "") + title)
        for name, value in rows:
            print(f"  {name:<{width}}  {value}")
