"""A process that loads models it is told of, line by line, and says what became of each: `python -m`, no arguments.

Answers a JSON object a line: what was raised, and the most memory it has held.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import traceback
import warnings
from typing import Any

import numpy as np

from wsi_seg.card import named_classes
from wsi_seg.errors import WsiSegError
from wsi_seg.infer import CardOverrides, ModelSpec, load_predictor, model_sha256


def outcome(asked: dict[str, Any]) -> dict[str, Any]:
    """What came of loading, predicting and hashing."""
    card = CardOverrides(0.5, named_classes(["a", "b", "c"]), 32) if asked.get("card") else CardOverrides()
    spec = ModelSpec(asked["model"], weights=asked.get("weights"), runtime=asked.get("runtime", "auto"), card=card)
    try:
        predictor = load_predictor(spec)
        with contextlib.closing(predictor):
            side = predictor.card.tile_size
            if side <= 256:
                predictor.predict(np.zeros((1, side, side, 3), np.uint8))
        model_sha256(spec)
    except WsiSegError as error:
        return {"raised": type(error).__name__, "what": error.what, "rule": error.rule, "remedy": error.remedy}
    except BaseException:
        return {"raised": "", "what": traceback.format_exc(limit=-6)}
    return {}


MOST_ADDRESSES = 16 << 30
"""Bytes of address space; torch and both runtimes reserve about 5 GB."""


def main() -> None:
    """Until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    with contextlib.suppress(BrokenPipeError):
        for line in sys.stdin:
            told = outcome(json.loads(line))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(json.dumps({**told, "peak_mb": peak // 1024}), file=answers, flush=True)


if __name__ == "__main__":
    main()
