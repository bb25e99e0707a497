"""Factories for `module:factory`; imported by name, skipped where torch is not installed."""

import torch

from wsi_seg.card import ModelCard, named_classes

CARD = ModelCard("tiny", 0.5, named_classes(["a", "b"]), 64, halo=1, activation="softmax", mean=(0.5, 0.4, 0.3))


class Tiny(torch.nn.Module):
    card = CARD

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 2, 3, padding=1)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Dictionary(Tiny):
    """As the networks of torchvision: the classes, and an auxiliary head."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": self.conv(x), "aux": self.conv(x)[..., ::2, ::2]}


class Deep(Tiny):
    """Deep supervision: coarse first."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.conv(x)[..., ::2, ::2], self.conv(x)


class Indices(Tiny):
    """Class indices without a channel axis."""

    card = CARD.replaced(activation="probabilities")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).argmax(1)


def no_module() -> int:
    return 3
