"""Windows over any length, their shift mask and position bias, against literal cases and a naive oracle."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from wsi_seg.model.position_encoding import axis_encoding, position_encoding  # noqa: E402
from wsi_seg.model.window_attention import WindowAttention, lay_windows, relative_index  # noqa: E402

STRATEGIES = ("pad", "overlap", "fit")


def test_relative_index_of_a_2x2_window() -> None:
    # Liu et al.: row (dy + 1) * 3 + (dx + 1) of the table for query minus key
    assert relative_index(2, 2, 2).tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def test_windows_as_they_lie() -> None:
    windows = lay_windows(4, 2, "pad", shifted=False)
    assert windows.index.tolist() == [0, 1, 2, 3]
    assert windows.allowed.all()
    assert windows.first.tolist() == windows.last.tolist() == [0, 1, 2, 3]


def test_the_shift_mask_parts_what_went_around_the_end() -> None:
    windows = lay_windows(8, 4, "pad", shifted=True)
    assert windows.index.tolist() == [2, 3, 4, 5, 6, 7, 0, 1]
    assert windows.allowed[0].all()
    t, f = True, False
    assert windows.allowed[1].tolist() == [[t, t, f, f], [t, t, f, f], [f, f, t, t], [f, f, t, t]]


def test_padding_may_not_be_attended_to() -> None:
    windows = lay_windows(5, 4, "pad", shifted=False)
    assert windows.index.tolist() == [0, 1, 2, 3, 4, 4, 4, 4]
    assert windows.allowed[1].tolist() == [[True, False, False, False]] * 4


def test_overlapping_windows_stay_inside() -> None:
    windows = lay_windows(7, 4, "overlap", shifted=False)
    assert windows.index.tolist() == [0, 1, 2, 3, 3, 4, 5, 6]
    assert windows.first.tolist() == [0, 1, 2, 3, 5, 6, 7]
    assert windows.last.tolist() == [0, 1, 2, 4, 5, 6, 7]


def test_fitted_windows_shrink() -> None:
    windows = lay_windows(9, 8, "fit", shifted=False)
    assert (windows.count, windows.side) == (2, 5)
    assert (lay_windows(3, 8, "fit", shifted=True).count, lay_windows(3, 8, "fit", shifted=True).side) == (1, 3)


@given(length=st.integers(1, 40), window=st.integers(1, 9), strategy=st.sampled_from(STRATEGIES), shifted=st.booleans())
def test_every_token_is_found_where_it_was_put(length: int, window: int, strategy: str, shifted: bool) -> None:
    windows = lay_windows(length, window, strategy, shifted)
    assert windows.side <= window
    assert windows.index[windows.first].tolist() == windows.index[windows.last].tolist() == list(range(length))
    for place in (windows.first, windows.last):  # a token may attend to itself, and its place is no padding
        assert windows.allowed[place // windows.side, place % windows.side, place % windows.side].all()
    distance = (windows.index.view(-1, windows.side)[:, :, None] - windows.index.view(-1, 1, windows.side)).abs()
    assert (distance[windows.allowed] < windows.side).all(), "attends across the end"


def naive(attention: Any, x: Any, groups_y: list[int], groups_x: list[int]) -> Any:
    """Token by token: attend to every token of the same group in y and x, with the bias of their offset."""
    _, height, width, channels = x.shape
    heads, size = attention.n_heads, channels // attention.n_heads
    out = torch.zeros_like(x)
    q, k, v = attention.qkv(x[0]).view(height, width, 3, heads, size).unbind(2)
    for y in range(height):
        for z in range(width):
            keys = [
                (a, b)
                for a in range(height)
                for b in range(width)
                if groups_y[a] == groups_y[y] and groups_x[b] == groups_x[z]
            ]
            for head in range(heads):
                logits = torch.stack(
                    [
                        q[y, z, head] @ k[a, b, head] * size**-0.5
                        + attention.bias[(y - a + attention.window - 1) * (2 * attention.window - 1)
                                         + z - b + attention.window - 1, head]
                        for a, b in keys
                    ]
                )  # fmt: skip
                weights = torch.softmax(logits, 0)
                values = torch.stack([v[a, b, head] for a, b in keys])
                out[0, y, z, head * size : (head + 1) * size] = weights @ values
    return attention.proj(out)


@pytest.mark.parametrize(
    ("strategy", "shifted", "groups_y", "groups_x"),
    [
        ("pad", False, [0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1, 2]),
        ("pad", True, [0, 1, 1, 1, 2], [0, 1, 1, 1, 2, 2, 2]),
        ("fit", False, [0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1, 2]),
        ("overlap", False, [0, 0, 0, 1, 1, 1], [0, 0, 0]),
        ("overlap", True, [0, 1, 1, 1, 2, 2], [0, 0, 0]),
    ],
)
def test_attention_is_the_sum_over_the_window(
    strategy: str, shifted: bool, groups_y: list[int], groups_x: list[int]
) -> None:
    torch.manual_seed(0)
    attention = WindowAttention(64, 3, strategy, shifted).double()
    torch.nn.init.normal_(attention.bias)
    x = torch.randn(1, len(groups_y), len(groups_x), 64).double()
    with torch.inference_mode():
        torch.testing.assert_close(attention(x), naive(attention, x, groups_y, groups_x))


@settings(max_examples=15)
@given(height=st.integers(1, 12), width=st.integers(1, 12), strategy=st.sampled_from(STRATEGIES))
def test_equal_tokens_get_equal_answers(height: int, width: int, strategy: str) -> None:
    torch.manual_seed(0)
    attention = WindowAttention(8, 4, strategy, shifted=True)
    with torch.inference_mode():
        y = attention(torch.ones(1, height, width, 8))
    torch.testing.assert_close(y, y[:, :1, :1].expand_as(y))  # averages of equal values, padding leaks nothing


def test_axis_encoding_is_sine_and_cosine_in_turn() -> None:
    code = axis_encoding(torch.tensor([0.0, 2.0]), 4)
    expected = [[0, 1, 0, 1], [0.90930, -0.41615, 0.02000, 0.99980]]
    torch.testing.assert_close(code, torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 7, 64])
@pytest.mark.parametrize("size", [(1, 1), (3, 7), (16, 5)])
def test_position_encoding_has_any_size_and_tells_places_apart(size: tuple[int, int], channels: int) -> None:
    code = position_encoding(size, channels, (16, 16))
    assert code.shape == (*size, channels)
    assert code.abs().max() <= 1
    if channels >= 3:
        places = code.reshape(-1, channels)
        apart = torch.cdist(places, places) + torch.eye(len(places))
        assert apart.min() > 1e-3


def test_position_encoding_codes_y_before_x() -> None:
    code = position_encoding((4, 6), 7, (4, 6))
    assert (code[:, :, :4] == code[:, :1, :4]).all()
    assert (code[:, :, 4:] == code[:1, :, 4:]).all()
    torch.testing.assert_close(code[:, 0, 0], torch.sin(torch.arange(4.0)))
    torch.testing.assert_close(code[0, :, 4], torch.sin(torch.arange(6.0)))


def test_position_encoding_stretches_with_the_size() -> None:
    coarse, fine = (axis_encoding_of(size) for size in (8, 24))
    torch.testing.assert_close(fine[1::3], coarse)  # the middle one of three has the centre of the one


def test_position_encoding_follows_the_resolution_where_it_is_known() -> None:
    reference = position_encoding((8, 8), 6, (8, 8))
    torch.testing.assert_close(position_encoding((12, 12), 6, (8, 8), mpp_ratio=1.0)[:8, :8], reference)
    finer = position_encoding((16, 16), 6, (8, 8), mpp_ratio=0.5)
    torch.testing.assert_close(finer, position_encoding((16, 16), 6, (8, 8)))


def axis_encoding_of(size: int) -> Any:
    return position_encoding((size, 1), 6, (8, 1))[:, 0, :3]
