"""TIAToolbox: the SemanticSegmentor engine, whole-slide mode, result as Zarr."""

from __future__ import annotations

import shutil

import numpy as np
import torch
from tiatoolbox.models.engine.io_config import IOSegmentorConfig
from tiatoolbox.models.engine.semantic_segmentor import SemanticSegmentor
from tiatoolbox.models.models_abc import ModelABC

from benchmarks.peers import torch_network
from benchmarks.peers.job import Job, asked

BASELINE = {"units": "baseline", "resolution": 1.0}


class Model(ModelABC):
    """The network as the engine calls it: batches (N, H, W, 3) in, probabilities (N, H, W, C) out."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.network = torch_network.load(job.weights, job.precision)
        self.dtype = torch.bfloat16 if job.precision == "bf16" else torch.float32
        self.scale, self.shift = 1 / (255 * job.std), job.mean / job.std

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return self.network(tiles)

    @staticmethod
    def infer_batch(model: Model, batch_data: torch.Tensor, *, device: str) -> np.ndarray:  # noqa: ARG004
        """(N, H, W, 3) of 0 to 255 -> probabilities (N, H, W, C)."""
        tiles = batch_data.permute(0, 3, 1, 2).to(model.dtype).mul(model.scale).sub_(model.shift)  # channels last
        with torch.inference_mode():
            return model(tiles).permute(0, 2, 3, 1).float().numpy()

    @staticmethod
    def postproc(image: np.ndarray) -> np.ndarray:
        """Probabilities (H, W, C), lazy -> labels (H, W)."""
        return image.argmax(axis=-1)


def main() -> None:
    """Do the job of the command line."""
    job = asked()
    torch.set_num_threads(job.threads)
    shape = [job.tile, job.tile]
    config = IOSegmentorConfig(
        input_resolutions=[BASELINE],
        output_resolutions=[BASELINE],
        patch_input_shape=shape,
        patch_output_shape=shape,
        stride_shape=[job.step, job.step],
        save_resolution=BASELINE,
    )
    engine = SemanticSegmentor(Model(job), batch_size=torch_network.BATCH, num_workers=0, device="cpu", verbose=False)
    folder = job.out.with_suffix(".run")
    shutil.rmtree(folder, ignore_errors=True)
    found = engine.run([job.slide], ioconfig=config, patch_mode=False, save_dir=folder, output_type="zarr",
                       auto_get_mask=False)  # fmt: skip
    found[job.slide].rename(job.out)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
