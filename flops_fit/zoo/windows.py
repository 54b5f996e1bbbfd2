"""Windows over one long row of tokens, each with the token after every position as its target."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Dataset


class Windows(Dataset[dict[str, torch.Tensor]]):
    """Windows of `context` tokens, side by side, with the token after each as its target.

    Args:
        text: an integer type, shape (tokens,).
        context: tokens in a window.
        starts: int64, shape (windows,): where each window begins; None: one after the other.
    """

    def __init__(
        self, text: torch.Tensor, *, context: int, starts: torch.Tensor | None = None
    ) -> None:
        self.text = text
        self.context = context
        self.starts = torch.arange(0, len(text) - context, context) if starts is None else starts

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        start = int(self.starts[index])
        window = self.text[start : start + self.context + 1].long()
        return {"inputs": window[:-1], "targets": window[1:]}

    def batch_of(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """Many windows at once, straight out of memory; indices: int64, shape (batch,)."""
        reach = torch.arange(self.context + 1, device=self.text.device)
        starts = self.starts[indices.to(self.starts.device)]
        windows = self.text[starts.unsqueeze(1) + reach].long()
        return {"inputs": windows[:, :-1], "targets": windows[:, 1:]}

    @property
    def num_bytes(self) -> int:
        """Memory that the windows take."""
        return sum(t.numel() * t.element_size() for t in (self.text, self.starts))

    def to(self, device: torch.device | str) -> Windows:
        """Return the same windows with their tokens on a device."""
        return Windows(self.text.to(device), context=self.context, starts=self.starts.to(device))


def spaced_windows(
    text: torch.Tensor, *, context: int, count: int, trained_on: Windows | None = None
) -> Windows:
    """At most `count` windows, evenly spaced over the text: a held-out set of a stated size.

    Args:
        text: an integer type, shape (tokens,), longer than `context`.
        context: tokens in a window.
        count: how many windows.
        trained_on: none of these is taken; text that many files begin with is in both.
    """
    starts = Windows(text, context=context).starts
    if trained_on is not None:
        known = set(_rows(trained_on))
        is_new = [row not in known for row in _rows(Windows(text, context=context))]
        starts = starts[torch.tensor(is_new)]
    kept = min(count, len(starts))
    return Windows(text, context=context, starts=starts[torch.arange(kept) * len(starts) // kept])


def _rows(windows: Windows) -> Iterator[bytes]:
    """Each window's tokens and the one after, as bytes."""
    raw, wide = windows.text.contiguous().numpy().tobytes(), windows.text.element_size()
    length = (windows.context + 1) * wide
    for start in windows.starts.tolist():
        yield raw[start * wide : start * wide + length]
