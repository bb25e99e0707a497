"""Where the steps of a run get loaded models from: anew for a single run, kept from slide to slide by a worker.

Owns which loaded models live. Knows no slide.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsi_seg.infer import ModelSpec, Predictor

ModelKey = tuple["ModelSpec", str]
"""(spec, SHA-256 of the program behind it): a file that was replaced is another model."""


class Models:
    """Loads models; keeps the last `keep` of them. For several threads."""

    def __init__(self, keep: int = 0) -> None:
        self._keep = keep
        self._kept: OrderedDict[ModelKey, Predictor] = OrderedDict()
        self._lock = threading.Lock()

    def load(self, spec: ModelSpec) -> Predictor:
        """The predictor of a spec. Raises ModelLoadError, CardError, PredictorError."""
        from wsi_seg.infer import load_predictor, model_sha256

        if not self._keep:
            return load_predictor(spec)
        key = (spec, model_sha256(spec))
        with self._lock:  # whoever comes second wants the model that the first one is loading
            predictor = self._kept.pop(key, None) or load_predictor(spec)
            self._kept[key] = predictor
            # Let go of, not closed: another thread may be predicting with it.
            while len(self._kept) > self._keep:
                self._kept.popitem(last=False)
            return predictor

    def discard(self, predictor: Predictor) -> None:
        """Take back a predictor that its user no longer wants; closed unless it is kept."""
        if not self._keep:
            predictor.close()
