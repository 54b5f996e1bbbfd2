"""A GPT: the language model of the quickstart, and of larger experiments by its arguments.

Pre-norm decoder with causal attention, GELU and a four times wider MLP; rotary or learned
positions, LayerNorm or RMSNorm without bias, a head that is tied to the embedding or not. Each
block's two output projections start at zero, so that the untrained model passes its embedding
through and every size starts from the same loss.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional


class GPT(nn.Module):
    """A decoder-only transformer over `vocab_size` tokens; `d_model` is its size.

    Args:
        d_model: width; a multiple of twice `num_heads`.
        num_layers: blocks.
        context: the longest sequence, in tokens.
        vocab_size: how many different tokens there are.
        num_heads: attention heads, the same at every width: a number that jumps from one width to
            the next makes the loss jump with it.
        positions: `rotary` turns queries and keys by their positions; `learned` adds a trained
            vector for each position to the embedding.
        norm: `layer` (LayerNorm without bias) or `rms` (RMSNorm).
        tie_head: whether the output head is the embedding's own weight.

    Raises:
        ValueError: the heads do not divide the width into even parts, a count is not positive, or
            a choice is none of those above.
    """

    angles: torch.Tensor

    def __init__(
        self,
        d_model: int,
        num_layers: int = 2,
        context: int = 64,
        vocab_size: int = 256,
        num_heads: int = 2,
        positions: Literal["rotary", "learned"] = "rotary",
        norm: Literal["layer", "rms"] = "layer",
        tie_head: bool = True,
    ) -> None:
        super().__init__()
        _check_choice("positions", positions, ("rotary", "learned"))
        _check_choice("norm", norm, ("layer", "rms"))
        check_shape(d_model, num_layers, context, vocab_size, num_heads)
        self.context = context
        self.num_layers = num_layers
        self.d_model = d_model
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.blocks = nn.ModuleList(Block(d_model, num_heads, norm) for _ in range(num_layers))
        self.norm = make_norm(norm, d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        if tie_head:
            self.head.weight = self.embedding.weight
        else:
            nn.init.normal_(self.head.weight, std=0.02)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.position: nn.Embedding | None = None
        if positions == "learned":
            self.position = nn.Embedding(context, d_model)
            nn.init.normal_(self.position.weight, std=0.02)
        angles = rotary_angles(context, d_model // num_heads)
        self.register_buffer("angles", angles, persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits for the token after each position.

        Args:
            tokens: int64, shape (batch, time), time no longer than `context`.

        Returns:
            float, shape (batch, time, vocab_size).
        """
        x = self.embedding(tokens)
        turns = None
        if self.position is None:
            turns = rotary_turns(self.angles[: tokens.shape[1]])
        else:
            x = x + self.position.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, turns)
        logits: torch.Tensor = self.head(self.norm(x))
        return logits

    def num_params(self, non_embedding: bool = False) -> int:
        """Trainable parameters, a tied embedding once; without embeddings if `non_embedding`."""
        count = sum(p.numel() for p in self.parameters() if p.requires_grad)
        if not non_embedding:
            return count
        tables = [self.embedding] if self.position is None else [self.embedding, self.position]
        return count - sum(table.weight.numel() for table in tables)

    def flops_per_token(self) -> float:
        """Forward and backward FLOPs of one token in a full context, matrix products only.

        Six for each weight that multiplies, the head included and the embedding look-up free, and
        12 * layers * context * d_model for attention scores and their use on values, the causal
        half not subtracted. Source: Kaplan et al. 2020 (arXiv:2001.08361), table 1, with the
        forward pass of attention 4 * layers * context * d_model as matrix products are computed.
        """
        linear = [module for module in self.modules() if isinstance(module, nn.Linear)]
        matrices = sum(module.weight.numel() for module in linear)
        return 6.0 * matrices + 12.0 * self.num_layers * self.context * self.d_model


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to the stream."""

    def __init__(self, d_model: int, num_heads: int, norm: str = "layer") -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = make_norm(norm, d_model)
        self.query_key_value = nn.Linear(d_model, 3 * d_model, bias=False)
        self.attention_out = nn.Linear(d_model, d_model, bias=False)
        self.mlp_norm = make_norm(norm, d_model)
        self.mlp_in = nn.Linear(d_model, 4 * d_model, bias=False)
        self.mlp_out = nn.Linear(4 * d_model, d_model, bias=False)
        for layer in (self.query_key_value, self.mlp_in):
            nn.init.normal_(layer.weight, std=d_model**-0.5)
        nn.init.zeros_(self.attention_out.weight)
        nn.init.zeros_(self.mlp_out.weight)

    def forward(self, x: torch.Tensor, turns: torch.Tensor | None) -> torch.Tensor:
        """Return the stream after this block; x: float, shape (batch, time, d_model).

        `turns` are those of `rotary_turns`; None where the stream itself knows positions.
        """
        batch, time, width = x.shape
        split = self.query_key_value(self.attention_norm(x))
        split = split.view(batch, time, 3, self.num_heads, width // self.num_heads)
        turned = split[:, :, :2] if turns is None else rotate(split[:, :, :2], turns)
        turned = turned.transpose(1, 3)
        query, key = turned[:, :, 0], turned[:, :, 1]
        value = split[:, :, 2].transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attention_out(mixed.transpose(1, 2).reshape(batch, time, width))
        hidden = functional.gelu(self.mlp_in(self.mlp_norm(x)))
        out: torch.Tensor = x + self.mlp_out(hidden)
        return out


def make_norm(norm: str, width: int) -> nn.Module:
    """Return the norm of that name, with a gain and without bias."""
    return nn.RMSNorm(width, eps=1e-5) if norm == "rms" else nn.LayerNorm(width, bias=False)


def check_shape(
    d_model: int, num_layers: int, context: int, vocab_size: int, num_heads: int
) -> None:
    """Refuse a shape that no decoder with rotated heads can have.

    Raises:
        ValueError: a count is not positive, or the heads do not divide the width into even parts.
    """
    if min(d_model, num_layers, context, vocab_size, num_heads) < 1:
        raise ValueError(
            "`d_model`, `num_layers`, `context`, `vocab_size` and `num_heads` start at 1"
        )
    if d_model % (2 * num_heads):
        raise ValueError(
            f"`d_model` is {d_model}: expected a multiple of {2 * num_heads}, so that "
            f"{num_heads} heads have an even number of channels each"
        )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` is {value!r}: expected {' or '.join(map(repr, choices))}")


def rotary_angles(context: int, head_size: int) -> torch.Tensor:
    """Angle of each position and pair of channels: float32, shape (context, head_size / 2).

    Source: Su et al. 2021 (arXiv:2104.09864), section 3.2.2, base 10000.
    """
    frequencies = 10000.0 ** (-torch.arange(0, head_size, 2) / head_size)
    return torch.arange(context)[:, None] * frequencies[None, :]


def rotary_turns(angles: torch.Tensor) -> torch.Tensor:
    """Return the factors of `rotate`.

    One complex product is the cheapest form on a CPU in eager mode; elsewhere cosines and sines
    are fused.

    Returns:
        complex64, shape (time, 1, 1, channels), or float32, shape (2, time, 1, 1, channels).
    """
    angles = angles[:, None, None, :]
    if angles.is_cpu and not torch.compiler.is_compiling():
        return torch.polar(torch.ones_like(angles), angles)
    return torch.stack((angles.cos(), angles.sin()))


def rotate(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Turn each pair of channels by its position's angle.

    Args:
        x: float, shape (batch, time, 2, heads, head_size).
        turns: from `rotary_turns`.
    """
    pairs = x.float().view(*x.shape[:-1], -1, 2)
    if turns.is_complex():
        turned = torch.view_as_real(torch.view_as_complex(pairs) * turns)
    else:
        even, odd = pairs.unbind(-1)
        cos, sin = turns
        turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)
