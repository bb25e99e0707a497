"""pytorch-toolbelt: ImageSlicer and TileMerger; the image and its probabilities are in memory as a whole."""

from __future__ import annotations

import sys
from itertools import islice
from types import ModuleType

import numpy as np
import openslide
import torch

from benchmarks.peers import torch_network
from benchmarks.peers.job import asked, rgb


def without_torchvision() -> None:
    """pytorch-toolbelt imports one function of torchvision, for boxes, which tiles do not need.

    pip may bring a torchvision that does not match a torch for CPUs and fails when it is imported.
    """
    vision, ops = ModuleType("torchvision"), ModuleType("torchvision.ops")
    ops.box_iou = None  # type: ignore[attr-defined]
    sys.modules.update({"torchvision": vision, "torchvision.ops": ops})


def main() -> None:
    """Do the job of the command line."""
    without_torchvision()
    from pytorch_toolbelt.inference.tiles import ImageSlicer, TileMerger

    job = asked()
    torch.set_num_threads(job.threads)
    network = torch_network.load(job.weights, job.precision)
    with openslide.OpenSlide(job.slide) as slide:
        width, height = slide.dimensions
        image = rgb(slide, 0, 0, height, width)
    slicer = ImageSlicer(image.shape[:2], job.tile, job.step)
    merger = TileMerger(slicer.target_shape, 3, slicer.weight)
    dtype = torch.bfloat16 if job.precision == "bf16" else torch.float32
    with torch.inference_mode():
        source = slicer.iter_split(image, value=(255, 255, 255))
        while pairs := list(islice(source, torch_network.BATCH)):
            tiles = torch.from_numpy(np.stack([tile for tile, _ in pairs])).permute(
                0, 3, 1, 2
            )  # channels last in memory
            batch = tiles.to(dtype).mul_(1 / (255 * job.std)).sub_(job.mean / job.std)
            merger.integrate_batch(network(batch), [where for _, where in pairs])
        labels = merger.merge_().argmax(dim=0).to(torch.uint8).numpy()
    np.save(job.out, slicer.crop_to_orignal_size(labels))


if __name__ == "__main__":
    main()
