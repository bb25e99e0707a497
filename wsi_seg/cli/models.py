"""`wsi-seg models`: what the package brings, and what a model's card says."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def models(
    model: Annotated[str | None, typer.Argument(help="Built-in name or path; default: list the built-in ones.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the models, or show one card."""
    from wsi_seg.cli.tables import print_sections
    from wsi_seg.infer import ModelSpec, builtin_models, read_card

    names = list(builtin_models()) if model is None else [model]
    cards = {name: read_card(ModelSpec(model=name)) for name in names}
    if as_json:
        print(json.dumps({name: json.loads(card.to_json()) for name, card in cards.items()}, indent=2))
        return
    print_sections(
        (
            name,
            [
                *([("description", card.description)] if card.description else []),
                ("classes", ", ".join(entry.name for entry in card.classes)),
                ("resolution", f"{card.mpp:g} um/px"),
                ("tile", f"{card.tile_size} px, output stride {card.output_stride}, halo {_halo(card.halo)}"),
                ("licence", card.licence or "not stated"),
                ("training data", card.training_data or "not stated"),
            ],
        )
        for name, card in cards.items()
    )


def _halo(halo: int | None) -> str:
    return "measured before each run" if halo is None else f"{halo} px"
