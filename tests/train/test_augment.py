"""The composition: identity, reproducibility, and dropout."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wsi_seg.annotation.protocol import IGNORE
from wsi_seg.errors import UsageError
from wsi_seg.train.augmentation.augment import Augment
from wsi_seg.train.config import AugmentConfig

torch.set_num_threads(1)

STILL: dict[str, Any] = {"flip": False, "rotate90": False}
EVERYTHING: dict[str, Any] = {
    "rotate": 180.0, "scale": (0.7, 1.4), "elastic": 4.0, "grid": 0.2, "gamma": (0.7, 1.4), "brightness": 0.1,
    "contrast": 0.2, "stain": 0.2, "stain_shift": 0.05, "hue": 0.05, "saturation": 0.2, "blur": 1.0, "noise": 0.02,
    "dropout": 0.7,
}  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int = 6, size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randint(0, 256, (n, 3, size, size), generator=generator(5), dtype=torch.uint8)
    return images, torch.randint(0, 3, (n, size, size), generator=generator(6))


def augmented(seed: int = 0, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = batch()
    result: tuple[torch.Tensor, torch.Tensor] = Augment(AugmentConfig(**options), 32)(images, labels, generator(seed))
    return result


def test_everything_off_is_pixel_over_255_exactly() -> None:
    images, labels = batch()
    pixels, kept = augmented(**STILL)
    assert torch.equal(pixels, images.float() / 255)
    assert torch.equal(kept, labels)


def test_flips_and_turns_alone_only_move_pixels() -> None:
    images, labels = batch()
    pixels, moved = augmented()
    assert not torch.equal(moved, labels)
    for i in range(len(images)):
        assert torch.equal((pixels[i] * 255).round().flatten(1).sort()[0], images[i].float().flatten(1).sort()[0])
        assert torch.equal(moved[i].flatten().sort()[0], labels[i].flatten().sort()[0])


def test_a_batch_is_a_function_of_the_generator_alone() -> None:
    images, labels = batch()
    torch.manual_seed(1)
    first = augmented(7, **EVERYTHING)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = augmented(7, **EVERYTHING)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], augmented(8, **EVERYTHING)[0])
    assert all(torch.equal(a, b) for a, b in zip(batch(), (images, labels), strict=True))


def test_types_and_ranges_with_everything_on() -> None:
    pixels, labels = augmented(**EVERYTHING)
    assert (pixels.dtype, pixels.shape) == (torch.float32, (6, 3, 32, 32))
    assert (labels.dtype, labels.shape) == (torch.int64, (6, 32, 32))
    assert 0 <= float(pixels.min()) < float(pixels.max()) <= 1
    assert set(labels.unique().tolist()) <= {0, 1, 2, IGNORE}
    assert len(pixels.flatten(1).unique(dim=0)) == 6


def test_autocast_around_it_changes_nothing() -> None:
    plain = augmented(**EVERYTHING)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = augmented(**EVERYTHING)
    assert torch.equal(plain[0], cast[0])
    assert torch.equal(plain[1], cast[1])


@pytest.mark.parametrize("name", [*EVERYTHING, "flip", "rotate90"])
def test_every_key_alone_changes_the_batch(name: str) -> None:
    images, _ = batch()
    pixels, _ = augmented(**{**STILL, name: EVERYTHING.get(name, True)})
    assert not torch.equal(pixels, images.float() / 255)


def test_patches_of_another_side_are_refused() -> None:
    images, labels = batch()
    with pytest.raises(UsageError, match=r"\(6, 3, 32, 32\).*patches are 64 x 64 px"):
        Augment(AugmentConfig(), 64)(images, labels, generator())


def test_photometric_changes_leave_every_pixel_in_its_place() -> None:
    images = torch.full((4, 3, 20, 28), 0.8)  # any size
    images[:, :, 5:9, 11:17] = 0.3
    options = {name: value for name, value in EVERYTHING.items() if name not in ("blur", "noise")}
    after = Augment(AugmentConfig(**options), 32).photometric(images, generator())
    assert not torch.equal(after, images)
    inside = torch.zeros(20, 28, dtype=torch.bool)
    inside[5:9, 11:17] = True
    for part in (inside, ~inside):
        pixels = after[:, :, part]
        torch.testing.assert_close(pixels, pixels[:, :, :1].expand_as(pixels), atol=1e-4, rtol=0)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_dropped_rectangles_are_the_mean_colour_and_ignored(share: float) -> None:
    images = torch.randint(0, 256, (200, 3, 40, 40), generator=generator(), dtype=torch.uint8)
    labels = torch.zeros(200, 40, 40, dtype=torch.int64)
    config = AugmentConfig(**STILL, dropout=share, dropout_holes=2, dropout_size=0.25)
    pixels, kept = Augment(config, 40)(images, labels, generator())
    dropped = kept == IGNORE
    original = images.float() / 255
    hit = dropped.flatten(1).any(dim=1)
    assert abs(float(hit.float().mean()) - share) < 0.12
    assert float(dropped.flatten(1).sum(dim=1).max()) <= 2 * 10 * 10
    assert torch.equal(pixels.permute(0, 2, 3, 1)[~dropped], original.permute(0, 2, 3, 1)[~dropped])
    mean = original.mean(dim=(2, 3))[:, :, None, None].expand_as(pixels)
    torch.testing.assert_close(pixels.permute(0, 2, 3, 1)[dropped], mean.permute(0, 2, 3, 1)[dropped])


def test_dropout_reaches_every_edge() -> None:
    images = torch.zeros(400, 3, 8, 8, dtype=torch.uint8)
    config = AugmentConfig(**STILL, dropout=1.0, dropout_size=0.5)
    _, kept = Augment(config, 8)(images, torch.zeros(400, 8, 8, dtype=torch.int64), generator())
    lost = (kept == IGNORE).float().mean(dim=0)
    assert (lost > 0.02).all()


@pytest.mark.gpu
def test_on_a_gpu_labels_come_out_as_on_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    options = {name: value for name, value in EVERYTHING.items() if name != "noise"}
    augment = Augment(AugmentConfig(**options), 32)
    images, labels = batch()
    near = augment(images, labels, generator())
    far = augment(images.cuda(), labels.cuda(), generator())
    torch.testing.assert_close(far[0].cpu(), near[0], atol=1e-4, rtol=0)
    assert float((far[1].cpu() == near[1]).float().mean()) > 0.999
