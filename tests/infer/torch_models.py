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


class Marked(torch.nn.Module):
    """Three classes from blurred colours; NaN in the first of them where a pixel is red, green 1 and blue 2."""

    card = ModelCard("marked", 0.5, named_classes(["a", "b", "c"]), 64, halo=2, activation="softmax")
    n_channels = 3

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.conv = torch.nn.Conv2d(3, self.n_channels, 5, padding=2, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.randn(self.conv.weight.shape, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv(x).float().clone()
        out[:, 0][self.marked(x)[:, 0]] = torch.nan
        return out

    def marked(self, x: torch.Tensor) -> torch.Tensor:
        """Where the pixels are of that colour, (N, 1, H, W)."""
        wanted = torch.tensor([255.0, 1.0, 2.0])[None, :, None, None]
        return (torch.round(x * 255) == wanted).all(1, keepdim=True)


class Raising(Marked):
    """Raises where a pixel has that colour."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.marked(x).any():
            raise RuntimeError("what a colour")
        return self.conv(x)


class MarkedAlone(Marked):
    """One channel, separated by a threshold."""

    card = Marked.card.replaced(classes=named_classes(["a", "b"]), activation="sigmoid", threshold=0.37)
    n_channels = 1


class MarkedApart(Marked):
    """Three classes that may overlap, and none of them."""

    card = Marked.card.replaced(
        classes=named_classes(["none", "a", "b", "c"]), activation="sigmoid", threshold=0.6
    )  # fmt: skip


class MarkedOverlapping(Marked):
    """Three classes that may overlap, the most probable one taken."""

    card = Marked.card.replaced(activation="sigmoid")


class Overflowing(Marked):
    """Beyond what half precision holds where a pixel has that colour."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        factor = 1 + 1e6 * self.marked(x).float()
        return self.conv(x * factor) / factor
