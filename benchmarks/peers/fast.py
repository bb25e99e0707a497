"""FAST: importer, patches, network in OpenVINO, stitcher, pyramid TIFF, each in C++; here they are only connected.

FAST gives no way to choose a precision: its OpenVINO takes bf16 where the processor has it. For fp32, oneDNN is told
to overlook that; fp32 without this would be bf16 in truth. int8 is a quantised file.
"""

from __future__ import annotations

import os
from itertools import pairwise

from benchmarks.peers.job import asked

NO_BF16 = "AVX512_CORE_VNNI"


def main() -> None:
    """Do the job of the command line."""
    job = asked()
    if job.precision == "fp32":
        os.environ["ONEDNN_MAX_CPU_ISA"] = NO_BF16
    import fast

    fast.Reporter.setGlobalReportMethod(fast.Reporter.NONE)
    shape = fast.TensorShape([1, 3, job.tile, job.tile])  # FAST wants to be told the sizes that a model leaves open
    slide = fast.WholeSlideImageImporter.create(str(job.slide))
    # The share is of the tile and per side.
    patches = fast.PatchGenerator.create(job.tile, job.tile, level=0, overlapPercent=job.overlap / 2 / job.tile)
    network = fast.SegmentationNetwork.create(
        str(job.model),
        meanIntensity=255 * job.mean,
        standardDeviationIntensity=255 * job.std,
        threshold=0.0,
        inputNodes=[fast.NeuralNetworkNode("image", fast.NodeType_IMAGE, shape, 0)],
        outputNodes=[fast.NeuralNetworkNode("probabilities", fast.NodeType_TENSOR, shape, 0)],
        inferenceEngine="OpenVINO",
    )
    stitcher = fast.PatchStitcher.create(patchesAreCropped=False, forceImagePyramidOutput=True)
    exporter = fast.TIFFImagePyramidExporter.create(str(job.out))
    stages = slide, patches, network, stitcher, fast.RunUntilFinished.create(), exporter
    for source, target in pairwise(stages):
        target.connect(source)
    exporter.run()


if __name__ == "__main__":
    main()
