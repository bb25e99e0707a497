"""MONAI: WSIReader and SlidingWindowInferer; the image and its probabilities are in memory as a whole."""

from __future__ import annotations

import numpy as np
import torch
from monai.data import WSIReader
from monai.inferers import SlidingWindowInferer

from benchmarks.peers import torch_network
from benchmarks.peers.job import asked

BAND = 1024


def main() -> None:
    """Do the job of the command line."""
    job = asked()
    torch.set_num_threads(job.threads)
    network = torch_network.load(job.weights, job.precision)
    reader = WSIReader(backend="openslide", level=0)
    picture, _ = reader.get_data(reader.read(str(job.slide)))
    dtype = torch.bfloat16 if job.precision == "bf16" else torch.float32
    image = torch.from_numpy(np.ascontiguousarray(picture)).to(dtype)[None]
    del picture
    image.mul_(1 / (255 * job.std)).sub_(job.mean / job.std)
    white = (1 - job.mean) / job.std
    inferer = SlidingWindowInferer(
        job.tile, sw_batch_size=torch_network.BATCH, overlap=job.overlap / job.tile, cval=white
    )
    labels = np.lib.format.open_memmap(job.out, mode="w+", dtype=np.uint8, shape=tuple(image.shape[2:]))
    with torch.inference_mode():
        found = inferer(image, lambda tiles: network(tiles.contiguous(memory_format=torch.channels_last)))[0]
        for top in range(0, found.shape[1], BAND):
            labels[top : top + BAND] = found[:, top : top + BAND].argmax(dim=0).numpy()
    labels.flush()


if __name__ == "__main__":
    main()
