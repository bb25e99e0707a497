"""Batches: many slides into one folder, on this machine or a cluster, resumed by the same command.

inputs    which slides, from folders, patterns and manifests
asked     what must not change when a batch goes on
folder    the folder of a batch: lock, what was asked, records
record    what became of one slide
batch     which slides are to be done, and the doing
tally     how it is getting on
report    what it says at the end
status    what a folder says at any time
"""

from wsi_seg.batch.batch import BatchOptions, run_batch
from wsi_seg.batch.inputs import BatchSlide, Inputs, find_slides
from wsi_seg.batch.report import BatchReport
from wsi_seg.batch.status import batch_status
from wsi_seg.batch.tally import Tally
from wsi_seg.engine.cluster.connecting import LocalWorkers

__all__ = [
    "BatchOptions",
    "BatchReport",
    "BatchSlide",
    "Inputs",
    "LocalWorkers",
    "Tally",
    "batch_status",
    "find_slides",
    "run_batch",
]
