"""Compiled pixel kernels of wsi-seg: NumPy arrays in, NumPy arrays out.

Imports numpy and numba only, and nothing of wsi_seg; no files, no logging, no configuration. Every public function
checks its arguments and then calls a compiled one that trusts them. Importing this package imports numba: import it
where it is used. Decisions and proofs: kernels/DESIGN.md.
"""

from wsi_kernels.blend import accumulate, accumulate_probabilities, are_probabilities, label_probabilities, quantise
from wsi_kernels.components import fill_holes, remove_small
from wsi_kernels.crf import FieldShape, mean_field
from wsi_kernels.label import count_labels, label_argmax, label_threshold, probabilities_uint8
from wsi_kernels.outline import simple_rings, trace_outlines
from wsi_kernels.pack import pack_nchw, pack_nhwc
from wsi_kernels.polygon import fill_polygons
from wsi_kernels.pyramid import halve_majority, halve_mean
from wsi_kernels.regions import Count, count_regions, label_regions
from wsi_kernels.resample import area_resample, area_source_box
from wsi_kernels.simplify import kept_corners
from wsi_kernels.tissue import otsu_threshold, tissue_mask
from wsi_kernels.window import axis_window

__all__ = [
    "Count",
    "FieldShape",
    "accumulate",
    "accumulate_probabilities",
    "are_probabilities",
    "area_resample",
    "area_source_box",
    "axis_window",
    "count_labels",
    "count_regions",
    "fill_holes",
    "fill_polygons",
    "halve_majority",
    "halve_mean",
    "kept_corners",
    "label_argmax",
    "label_probabilities",
    "label_regions",
    "label_threshold",
    "mean_field",
    "otsu_threshold",
    "pack_nchw",
    "pack_nhwc",
    "probabilities_uint8",
    "quantise",
    "remove_small",
    "simple_rings",
    "tissue_mask",
    "trace_outlines",
]
