"""Makes the Paddle models beside this file, and what Paddle answers for one image.

Paddle is no package that tests need: it is large, and what it exported lies here. Made with Python 3.11 and

    pip install paddlepaddle==3.3.1 paddle2onnx==2.1.0 packaging setuptools
    python tests/models_of_others/make_paddle.py

A small network in the way of PaddleSeg's: convolution, batch norm, an encoder step, bilinear up-sampling to the size of
the input. Exported by `paddle.onnx.export` as PaddleSeg's export tool does it: with a softmax, and (its default) with
the argmax in the graph, with free and with fixed axes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional

HERE = Path(__file__).parent
SIDE = 128
FREE = [None, 3, None, None]


class Network(nn.Layer):  # type: ignore[misc]
    """Three classes, output of the input's size; `last` is `softmax` or `argmax`."""

    def __init__(self, last: str) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2D(3, 8, 3, padding=1), nn.BatchNorm2D(8), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv2D(8, 8, 3, stride=2, padding=1), nn.BatchNorm2D(8), nn.ReLU())
        self.classes = nn.Conv2D(16, 3, 1)
        self.last = last

    def forward(self, image: Any) -> Any:
        fine = self.fine(image)
        coarse = functional.interpolate(self.coarse(fine), paddle.shape(fine)[2:], mode="bilinear")
        logits = self.classes(paddle.concat([fine, coarse], 1))
        return paddle.argmax(logits, 1, dtype="int32") if self.last == "argmax" else functional.softmax(logits, 1)


def main() -> None:
    """Write three programs and the answers."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    image = paddle.to_tensor(((pixels / 255 - 0.5) / 0.5).astype(np.float32).transpose(0, 3, 1, 2))
    answers: dict[str, Any] = {}
    for name, last, shape in (
        ("softmax", "softmax", FREE), ("argmax", "argmax", FREE), ("argmax_fixed", "argmax", [1, 3, SIDE, SIDE])
    ):  # fmt: skip
        paddle.seed(3)
        network = Network(last)
        network.eval()
        answers[name] = network(image).numpy()[..., : SIDE // 4, : SIDE // 4]
        port = paddle.static.InputSpec(shape, "float32", "x")
        paddle.onnx.export(network, str(HERE / f"paddle_{name}"), input_spec=[port], opset_version=17)
    np.savez_compressed(HERE / "paddle_answers.npz", **answers)


if __name__ == "__main__":
    main()
