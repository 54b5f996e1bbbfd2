"""The GPT in u-muP: one learning rate serves every width and depth.

Unit-scaled maximal update parametrisation (Blake et al. 2024, arXiv:2407.17465) by its authors'
package `unit-scaling`: every weight starts with unit variance, every product is scaled by a
constant so that activations and gradients keep it, and the optimizer divides the rate of a matrix
by the square root of its fan-in, and of a block's weights by that of the depth. Pre-norm, rotary
positions, GELU, RMSNorm without a gain, untied head.

The rates are near 1, not near 0.001. Its weight decay is independent of the rate: each step takes
`weight_decay` times the schedule's factor off a weight, so 1e-4 is a usual value and 0.1 is not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

try:
    import unit_scaling as uu
    from unit_scaling import functional as scaled
    from unit_scaling.core.functional import transformer_residual_scaling_rule
    from unit_scaling.optim import lr_scale_func_adam, scaled_parameters
except ModuleNotFoundError as error:
    if error.name != "unit_scaling":
        raise
    raise ModuleNotFoundError(
        "the u-muP models need the package `unit-scaling`: pip install 'flops-fit[umup]'",
        name=error.name,
    ) from None

from flops_fit.zoo.gpt import check_shape, rotary_angles, rotary_turns, rotate
from flops_fit.zoo.losses import count_targets


class GPTuMuP(nn.Module):
    """A decoder-only transformer in u-muP; `d_model` is its size.

    Args:
        d_model: width; a multiple of twice `num_heads`.
        num_layers: blocks.
        context: the longest sequence, in tokens.
        vocab_size: how many different tokens there are.
        num_heads: attention heads.

    Raises:
        ValueError: the heads do not divide the width into even parts, or a count is not positive.
    """

    angles: torch.Tensor

    def __init__(
        self,
        d_model: int,
        num_layers: int = 2,
        context: int = 64,
        vocab_size: int = 256,
        num_heads: int = 2,
    ) -> None:
        super().__init__()
        check_shape(d_model, num_layers, context, vocab_size, num_heads)
        self.embedding = uu.Embedding(vocab_size, d_model)
        share = transformer_residual_scaling_rule()
        self.blocks = uu.DepthModuleList(
            ScaledBlock(
                d_model,
                num_heads,
                attention_share=share(2 * index, 2 * num_layers),
                mlp_share=share(2 * index + 1, 2 * num_layers),
            )
            for index in range(num_layers)
        )
        self.norm = uu.RMSNorm(d_model)
        self.head = uu.LinearReadout(d_model, vocab_size)
        self.register_buffer("angles", rotary_angles(context, d_model // num_heads), False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits for the token after each position.

        Args:
            tokens: int64, shape (batch, time), time no longer than `context`.

        Returns:
            float, shape (batch, time, vocab_size).
        """
        turns = rotary_turns(self.angles[: tokens.shape[1]])
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, turns)
        logits: torch.Tensor = self.head(self.norm(x))
        return logits

    def num_params(self, non_embedding: bool = False) -> int:
        """Trainable parameters; without the embedding's if `non_embedding`."""
        count = sum(p.numel() for p in self.parameters() if p.requires_grad)
        return count - self.embedding.weight.numel() if non_embedding else count

    def configure_optimizers(
        self,
        learning_rate: float,
        weight_decay: float,
        betas: tuple[float, float],
        eps: float,
        device_type: str,
    ) -> torch.optim.Optimizer:
        """AdamW with u-muP's rate for each weight, and decay that does not depend on the rate.

        Weights of one rate and decay make one group, which a fused step handles at once.

        Source: Blake et al. 2024 (arXiv:2407.17465), as `unit_scaling.optim` holds it.
        """
        single: list[dict[str, Any]] = scaled_parameters(
            self.parameters(), lr_scale_func_adam, lr=learning_rate, weight_decay=weight_decay
        )
        groups: dict[tuple[float, float], dict[str, Any]] = {}
        for entry in single:
            kind = (float(entry["lr"]), float(entry["weight_decay"]))
            if kind in groups:
                groups[kind]["params"] += entry["params"]
            else:
                groups[kind] = entry
        return torch.optim.AdamW(
            list(groups.values()), betas=betas, eps=eps, fused=device_type in ("cpu", "cuda")
        )


class ScaledBlock(nn.Module):
    """Attention and MLP, each behind a norm and mixed into the stream by its share."""

    def __init__(
        self, d_model: int, num_heads: int, *, attention_share: float, mlp_share: float
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_share = attention_share
        self.mlp_share = mlp_share
        self.attention_norm = uu.RMSNorm(d_model)
        self.query_key_value = uu.Linear(d_model, 3 * d_model)
        self.attention_out = uu.Linear(d_model, d_model)
        self.mlp_norm = uu.RMSNorm(d_model)
        self.mlp_in = uu.Linear(d_model, 4 * d_model)
        self.mlp_out = uu.Linear(4 * d_model, d_model)

    def forward(self, x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
        """Return the stream after this block; x: float, shape (batch, time, d_model)."""
        branch, skip = scaled.residual_split(x, tau=self.attention_share)
        x = scaled.residual_add(self._attend(branch, turns), skip, tau=self.attention_share)
        branch, skip = scaled.residual_split(x, tau=self.mlp_share)
        hidden = scaled.gelu(self.mlp_in(self.mlp_norm(branch)))
        out: torch.Tensor = scaled.residual_add(self.mlp_out(hidden), skip, tau=self.mlp_share)
        return out

    def _attend(self, x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
        batch, time, width = x.shape
        split = self.query_key_value(self.attention_norm(x))
        split = split.view(batch, time, 3, self.num_heads, width // self.num_heads)
        # A rotation keeps lengths, so queries and keys stay at unit scale.
        turned = rotate(split[:, :, :2], turns).transpose(1, 3)
        value = split[:, :, 2].transpose(1, 2)
        mixed = scaled.scaled_dot_product_attention(
            turned[:, :, 0], turned[:, :, 1], value, is_causal=True
        )
        out: torch.Tensor = self.attention_out(mixed.transpose(1, 2).reshape(batch, time, width))
        return out


def unit_scaled_cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats per target, whose gradient for the logits has unit scale.

    The value is that of plain cross-entropy. As gradients are near 1 in each element instead of
    near 1 in sum, `clip_norm` would cut every step: set it to 0.

    Args:
        outputs: logits, float, shape (batch, ..., classes).
        targets: class numbers, int64, shape (batch, ...).
    """
    loss: torch.Tensor = scaled.cross_entropy(outputs.flatten(0, -2), targets.flatten())
    return loss


unit_scaled_cross_entropy.count = count_targets  # type: ignore[attr-defined]
