"""Attention within windows of a token grid of any size, and across their borders by shifting them.

Windows, cyclic shift and relative position bias of the Swin Transformer (Liu et al. 2021, DOI
10.1109/ICCV48922.2021.00986, arXiv:2103.14030). Owns how windows are laid over a length that is no multiple of them:

* `pad`: the last window is filled with tokens that nobody may attend to;
* `overlap`: windows stay inside and are laid evenly, their answers averaged where they overlap;
* `fit`: windows shrink to the smallest side that needs as many of them; what is still missing is padded.

Every index is computed from the length by tensor operations, so that an exported program works for any size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

FORBIDDEN = -1e4
"""Added to the logit of a pair that may not attend: its softmax weight is 0 in every float type, and never NaN."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows along one axis."""

    count: int
    side: int
    index: Tensor
    """(count * side,) int64: the token at each place of each window."""
    allowed: Tensor
    """(count, side, side) bool: whether a place may attend to another one of its window."""
    first: Tensor
    """(length,) int64: the place, counted over all windows, where a token is found."""
    last: Tensor
    """(length,) int64: another such place where windows overlap, else the same."""


def lay_windows(length: int, window: int, strategy: str, shifted: bool, device: torch.device | None = None) -> Windows:
    """Windows of at most `window` tokens over `length`; `shifted` moves them by half a side, around the end.

    Tokens brought together only by going around the end may not attend to each other. No shift where one window holds
    all.
    """
    count = (length + window - 1) // window
    side = (length + count - 1) // count if strategy == "fit" else window
    total = torch.sym_max(length, side) if strategy == "overlap" else count * side
    shift = torch.sym_min(side // 2, total - side) if shifted else 0
    start = torch.arange(count, device=device) * _scalar(total - side, device) // torch.sym_max(count - 1, 1)
    position = start[:, None] + torch.arange(side, device=device) + shift  # (count, side)
    wrapped = position >= total
    token = torch.where(wrapped, position - total, position)
    allowed = (wrapped[:, :, None] == wrapped[:, None]) & (token < length)[:, None]
    where = torch.arange(length, device=device) - shift
    where = torch.where(where < 0, where + total, where)
    first = last = where
    if strategy == "overlap":
        holds = (start <= where[:, None]) & (where[:, None] < start + side)  # (length, count)
        final = (start <= where[:, None]).sum(1) - 1
        initial = final - (holds.sum(1) - 1)
        first, last = (k * side + where - start[k] for k in (initial, final))
    return Windows(count, side, token.clamp(max=length - 1).reshape(-1), allowed, first, last)


def _scalar(value: int, device: torch.device | None) -> Tensor:
    """A length as a tensor: exporters do not multiply by a number that depends on the input's size."""
    return torch.full((), value, dtype=torch.int64, device=device)


def relative_index(side_y: int, side_x: int, window: int, device: torch.device | None = None) -> Tensor:
    """(T, T) int64, T = side_y * side_x: row of the bias table for query and key, by their offset in y and x.

    >>> relative_index(1, 2, 2).tolist()
    [[4, 3], [5, 4]]
    """
    y, x = torch.arange(side_y, device=device), torch.arange(side_x, device=device)
    dy = (y[:, None] - y + window - 1)[:, None, :, None]  # query y, -, key y, -
    dx = (x[:, None] - x + window - 1)[None, :, None, :]
    tokens = side_y * side_x
    return (dy * (2 * window - 1) + dx).reshape(tokens, tokens)


class WindowAttention(nn.Module):  # type: ignore[misc]
    """Multi-head self-attention within windows; softmax written out, which every exporter understands."""

    def __init__(self, channels: int, window: int, strategy: str, shifted: bool) -> None:
        super().__init__()
        self.window, self.strategy, self.shifted = window, strategy, shifted
        self.n_heads = n_heads(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, self.n_heads))
        nn.init.trunc_normal_(self.bias, std=0.02)
        self.register_buffer("index", relative_index(window, window, window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H, W, C)."""
        _, height, width, _ = x.shape
        rows = lay_windows(height, self.window, self.strategy, self.shifted, x.device)
        columns = lay_windows(width, self.window, self.strategy, self.shifted, x.device)
        tokens = _into_windows(x, rows, columns)
        attended = self._attend(tokens, rows, columns)
        y = _out_of_windows(attended, rows, columns)
        if self.strategy == "overlap":
            y = (y.index_select(1, rows.first) + y.index_select(1, rows.last)) / 2
            return (y.index_select(2, columns.first) + y.index_select(2, columns.last)) / 2
        return y.index_select(1, rows.first).index_select(2, columns.first)

    def _attend(self, tokens: Tensor, rows: Windows, columns: Windows) -> Tensor:
        """(N, windows, T, C) -> (N, windows, T, C)."""
        n, _, length, channels = tokens.shape
        windows = rows.count * columns.count
        parts = self.qkv(tokens).view(n, windows, length, 3, self.n_heads, channels // self.n_heads)
        q, k, v = parts.permute(3, 0, 1, 4, 2, 5).unbind(0)  # (N, windows, heads, T, C / heads)
        logits = (q * (channels // self.n_heads) ** -0.5) @ k.transpose(-2, -1)
        index = self.index
        if self.strategy == "fit":
            index = relative_index(rows.side, columns.side, self.window, tokens.device)
        logits = logits + self.bias[index.reshape(-1)].view(length, length, self.n_heads).permute(2, 0, 1)
        allowed = rows.allowed[:, None, :, None, :, None] & columns.allowed[None, :, None, :, None, :]
        forbidden = (~allowed).reshape(windows, 1, length, length)
        weights = torch.softmax(logits + forbidden * FORBIDDEN, dim=-1)
        return self.proj((weights @ v).transpose(2, 3).reshape(n, windows, length, channels))


def n_heads(channels: int) -> int:
    """The largest number of equal heads of at least 32 channels, or one.

    >>> [n_heads(channels) for channels in (24, 32, 48, 96, 192)]
    [1, 1, 1, 3, 6]
    """
    return next(n for n in range(max(channels // 32, 1), 0, -1) if channels % n == 0)


def _into_windows(x: Tensor, rows: Windows, columns: Windows) -> Tensor:
    """(N, H, W, C) -> (N, rows * columns, T, C)."""
    n, channels = x.shape[0], x.shape[3]
    x = x.index_select(1, rows.index).index_select(2, columns.index)
    x = x.view(n, rows.count, rows.side, columns.count, columns.side, channels)
    return x.transpose(2, 3).reshape(n, rows.count * columns.count, rows.side * columns.side, channels)


def _out_of_windows(x: Tensor, rows: Windows, columns: Windows) -> Tensor:
    """(N, rows * columns, T, C) -> (N, rows * side, columns * side, C): every place of every window."""
    n, channels = x.shape[0], x.shape[3]
    x = x.view(n, rows.count, columns.count, rows.side, columns.side, channels)
    return x.transpose(2, 3).reshape(n, rows.count * rows.side, columns.count * columns.side, channels)
