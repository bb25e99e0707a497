"""Runs on the workers of a Dask cluster: one slide or thousands, by one loop.

messages     what travels
worker       what runs on workers (watch: ends what hangs; isolation, isolated: what ends its process)
work_queue   which task next       fleet        who has room for it
slide_run    one slide's state     submissions  futures under way
verdict      what a failure means  loop         puts these together
connecting   where workers are     single       one slide behind a scheduler
"""

from wsi_seg.engine.cluster.single import run_on_scheduler

__all__ = ["run_on_scheduler"]
