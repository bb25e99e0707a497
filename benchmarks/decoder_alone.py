"""How fast a slide's level 0 is decoded when its bytes lie in memory: `python -m benchmarks.decoder_alone SLIDE`.

As many threads as cores decode its JPEG tiles, each into one buffer of its own, until all are done. No tile is taken
for another that has the same bytes. Prints JSON {mpx_per_s, n_tiles, repeated}: `repeated` is the share of tiles whose
bytes are those of the tile before.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import numpy as np
import simplejpeg

from wsi_seg.engine.cores import usable_cores
from wsi_seg.slide.tiff_layout import read_layout
from wsi_seg.slide.tile_codec import JPEG

ROUNDS = 3


def measured(path: Path) -> dict[str, float]:
    """The fastest of some rounds over the whole level."""
    table = read_layout(path).tables[0]
    if table.codec.compression != JPEG or table.offsets.shape[0] != 1:
        raise SystemExit(f"{path} has no JPEG tiles of all colours")
    with path.open("rb") as file:
        payloads = []
        for offset, count in zip(table.offsets.ravel().tolist(), table.counts.ravel().tolist(), strict=True):
            file.seek(offset)
            payloads.append(table.codec.jpeg_prefix + file.read(count)[2:])
    n_threads = usable_cores()
    shares = [payloads[n::n_threads] for n in range(n_threads)]

    def decode(share: list[bytes]) -> None:
        buffer = np.empty((*table.tile, 3), np.uint8)
        for payload in share:
            simplejpeg.decode_jpeg(payload, "RGB", buffer=buffer)

    best = 0.0
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in range(ROUNDS):
            started = perf_counter()
            list(pool.map(decode, shares))
            best = max(best, len(payloads) * table.tile[0] * table.tile[1] / 1e6 / (perf_counter() - started))
    repeated = sum(one == other for one, other in pairwise(payloads)) / max(1, len(payloads) - 1)
    return {"mpx_per_s": best, "n_tiles": len(payloads), "repeated": repeated}


if __name__ == "__main__":
    print(json.dumps(measured(Path(sys.argv[1]))))
