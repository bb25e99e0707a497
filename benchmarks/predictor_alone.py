"""How fast the predictor is when tiles lie ready: `python -m benchmarks.predictor_alone SLIDE MODEL PRECISION [TILE]`.

As many threads as cores call `predict` on prepared tiles, as the engine's workers do. TILE: their side,
else the card's. Prints JSON {tiles_per_s, cpu_s_per_tile}.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter, process_time

from wsi_seg.engine.cores import usable_cores
from wsi_seg.engine.prepare import N_PROBE_TILES, probe_tiles
from wsi_seg.infer import ModelSpec, load_predictor
from wsi_seg.plan import choose_scale
from wsi_seg.slide import open_slide

SECONDS = 15.0


def main() -> None:
    """Measure and print."""
    path, model, precision, *more = sys.argv[1:]
    n_threads = usable_cores()
    predictor = load_predictor(ModelSpec(model=model, precision=precision, threads=1, streams=n_threads))
    slide = open_slide(Path(path))
    assert slide.mpp is not None
    scale = choose_scale(slide.levels, slide.mpp, slide.bounds, predictor.card.mpp)
    tiles = probe_tiles(slide, scale, slide.thumbnail(1024), int(more[0]) if more else predictor.card.tile_size)
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(predictor.predict, [tiles[:1]] * n_threads))
        started, cpu_started = perf_counter(), process_time()

        def work(_: int) -> int:
            n = 0
            while perf_counter() - started < SECONDS:
                predictor.predict(tiles[n % N_PROBE_TILES : n % N_PROBE_TILES + 1])
                n += 1
            return n

        n_tiles = sum(pool.map(work, range(n_threads)))
        seconds = perf_counter() - started
        cpu_s = process_time() - cpu_started
    print(json.dumps({"tiles_per_s": n_tiles / seconds, "cpu_s_per_tile": cpu_s / n_tiles}))


if __name__ == "__main__":
    main()
