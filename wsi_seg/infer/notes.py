"""What a user should know of a model before the run, in words; owns these sentences, changes nothing.

Read from the program's file and from what was measured on it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wsi_seg.infer.loading import read_found
from wsi_seg.infer.program.output_forms import none_of_them
from wsi_seg.infer.protocol import ModelSpec, Predictor, Signature


def model_notes(spec: ModelSpec, predictor: Predictor, halo: int | None) -> tuple[str, ...]:
    """Sentences about predictions that depend on the whole tile, fixed tiles, labels that vote, overlapping classes.

    `halo`: context per side in px, as measured or stated; None: unknown or unbounded. Empty for most models, and for
    torch programs, whose operations are not looked at. Raises as `read_card`.
    """
    told: dict[str, None] = {}  # each sentence once, for models of an ensemble too
    for found in filter(None, map(read_found, spec.single)):
        signature = found.signature
        told |= dict.fromkeys((*_seams(signature, halo), *_small_tiles(predictor, halo)))
        told |= dict.fromkeys((*_votes(signature), *_overlaps(signature, predictor)))
    return tuple(told)


def _seams(signature: Signature, halo: int | None) -> Iterator[str]:
    if not signature.tile_wide:
        return
    yield (
        f"the model looks at whole tiles ({', '.join(signature.tile_wide)}): what it answers for a px depends on the "
        "tile around it, so two neighbouring tiles may disagree where they meet; "
        "a larger --tile, --overlap of half a tile and --window cosine soften such seams"
    )
    if halo is not None:
        yield f"its halo of {halo} px is therefore not exact, and labels change with the tile size"


def _small_tiles(predictor: Predictor, halo: int | None) -> Iterator[str]:
    side = predictor.fixed_input[1] or predictor.fixed_input[2]
    if side is not None and halo is not None and 4 * halo > side:
        yield (
            f"the model takes tiles of {side} px and no others, which leaves no room for its halo of {halo} px on both "
            "sides; exported with dynamic height and width, it could run on larger tiles, exactly"
        )


def _votes(signature: Signature) -> Iterator[str]:
    if signature.gives_labels:
        yield (
            "the model answers class indices, not probabilities: overlapping tiles vote by their weights, "
            "and probabilities are 0 or 1 before the vote"
        )


def _overlaps(signature: Signature, predictor: Predictor) -> Iterator[str]:
    card, n_channels = predictor.card, predictor.n_channels
    independent = card.activation == "sigmoid" or signature.last_operation == "Sigmoid"
    if not independent or n_channels == 1:
        return
    if _has_none_of_them(predictor):
        yield (
            f"classes are independent and may overlap: a px gets the most probable one, or "
            f"{card.classes[0].name!r} where all are below {card.threshold:g}; --probabilities keeps all"
        )
    else:
        yield (
            "classes are independent and each has a channel: every px gets the most probable one, however improbable; "
            "name one class more, before the others, for px below --threshold"
        )


def _has_none_of_them(predictor: Predictor) -> bool:
    """Whether class 0 is the constant of `NoneOfThem`, by one prediction."""
    count, side = predictor.fixed_input[0] or 1, predictor.card.tile_size
    first = predictor.predict(np.full((count, side, side, 3), predictor.card.background, np.uint8))[:, 0]
    return bool((first == none_of_them(predictor.card.threshold)).all())
