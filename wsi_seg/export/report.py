"""What an export says: what was written, and how far it agrees with the original."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_seg.card import ModelCard
from wsi_seg.export.judging import Verdict


@dataclass(frozen=True, slots=True)
class ExportReport:
    """The outcome of an export."""

    out: Path
    n_bytes: int
    card: ModelCard
    verdicts: tuple[Verdict, ...]
    n_tiles: tuple[int, int]
    """Tiles calibrated on and tiles judged on."""
    kept: tuple[str, ...] = ()
    """Layers left in float."""
    kept_share: float = 0.0
    """Their share of the multiply-adds."""
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The report for machines."""
        content: dict[str, Any] = {
            "out": str(self.out),
            "bytes": self.n_bytes,
            "card": json.loads(self.card.to_json()),
            "tiles": dict(zip(("calibrated", "judged"), self.n_tiles, strict=True)),
            "kept_in_float": {"layers": list(self.kept), "share_of_macs": round(self.kept_share, 4)},
            "verdicts": [verdict.to_mapping() for verdict in self.verdicts],
            "notes": list(self.notes),
        }
        return json.dumps(content, indent=2)

    def describe(self) -> str:
        """The report for people."""
        lines = [f"{self.out}  {self.n_bytes / 1e6:.2f} MB, {self.card.precision}"]
        if self.card.precision == "int8":
            kept = f"{len(self.kept)} layers stay in float, {self.kept_share:.1%} of the multiply-adds"
            names = f": {', '.join(self.kept)}" if self.kept else ""
            lines.append(f"  calibrated on {self.n_tiles[0]} tiles; {kept}{names}")
        lines.append(f"  against the original, on {self.n_tiles[1]} tiles of tissue:")
        for verdict in self.verdicts:
            lines += [f"    {text}" for text in self._told(verdict)]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    def _told(self, verdict: Verdict) -> list[str]:
        result = verdict.agreement
        if verdict.failed:
            return [f"{verdict.runtime}: FAILED: it loads the program and cannot run it ({verdict.problem})"]
        if result is None:
            return [f"{verdict.runtime}: not judged here ({verdict.problem})"]
        lines = [
            f"{verdict.runtime}: {100 * result.argmax_agreement:.3f} % of pixels keep their class; "
            f"probabilities differ by {result.mean_abs:.2g} on average, {result.max_abs:.2g} at most"
        ]
        for entry, dice, loss in zip(self.card.classes, result.dice, result.dice_loss, strict=True):
            figures = (
                "too few pixels" if dice is None else f"Dice with the original {dice:.4f}, Dice lost {plain_loss(loss)}"
            )
            lines.append(f"  {entry.name}: {figures}")
        return lines


def plain_loss(loss: float | None) -> str:
    """A loss with four digits; gains, which are noise, as they are, but nothing as minus nothing."""
    return f"{0.0 if loss is None or abs(loss) < 5e-5 else loss:.4f}"
