"""Factories without a card, as strangers' are; imported by name, skipped where torch is not installed."""

import torch


class Halved(torch.nn.Module):
    """Logits (N, 2, H, W) by way of half the resolution: output stride 2."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.down = torch.nn.Conv2d(3, 4, 2, stride=2)
        self.up = torch.nn.ConvTranspose2d(4, 2, 2, stride=2)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(torch.relu(self.down(x)))


class Last(Halved):
    """(N, H, W, 3) -> (N, H, W, 2)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Named(Halved):
    """Two outputs by name."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"coarse": self.down(x), "fine": super().forward(x)}


class Single(Halved):
    """One logit per px, without a channel axis."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[:, 1]


class Fixed(Halved):
    """Of one size only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + torch.ones(1, 1, 512, 512)
