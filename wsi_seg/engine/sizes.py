"""Sizes as people write them, for the command line and for Python alike."""

from __future__ import annotations

from wsi_seg.errors import UsageError

_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_bytes(text: str) -> int:
    """Bytes of `8G`, `512M`, a plain number (powers of 1000, as the plan prints them) or `1.5GiB` (powers of 1024).

    >>> parse_bytes("1.5G"), parse_bytes("1.5GiB")
    (1500000000, 1610612736)
    """
    number = text.strip().upper()
    step = 1024 if number.endswith("IB") else 1000
    number = number.removesuffix("IB").removesuffix("B")
    unit = number[-1:] if number[-1:] in _POWERS else ""
    try:
        amount = float(number.removesuffix(unit)) * step ** _POWERS[unit]
    except ValueError:
        amount = 0
    if not 0 < amount < float("inf"):
        raise UsageError(f"--memory {text!r}", rule="a size above 0", remedy="e.g. 8G or 512M")
    return int(amount)
