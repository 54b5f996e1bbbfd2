"""A vision transformer: patches in, class logits out; its width, and by default its depth, scale.

Pre-norm encoder with GELU and a four times wider MLP, learned positions, LayerNorm without bias,
mean over patches before the head. Each block's two output projections and the head start at zero,
so that every size starts from a blind guess. Source of the architecture: Dosovitskiy et al. 2021
(arXiv:2010.11929); the mean instead of a class token: Zhai et al. 2022 (arXiv:2106.04560).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class ViT(nn.Module):
    """A vision transformer over square images; `d_model` is its size.

    Args:
        d_model: width; a multiple of `num_heads`.
        num_layers: blocks; None: one for every `aspect_ratio` channels of width, at least one, so
            that depth grows with the size.
        aspect_ratio: width over depth where `num_layers` is None.
        num_heads: attention heads, the same at every size: a number that jumps from one width to
            the next makes the loss jump with it.
        image_size: height and width of an image, in pixels.
        patch_size: of a patch, in pixels; divides `image_size`.
        channels: of an image.
        num_classes: how many classes there are.

    Raises:
        ValueError: patches do not tile the image, the heads do not divide the width, or a count is
            not positive.
    """

    def __init__(
        self,
        d_model: int,
        num_layers: int | None = None,
        aspect_ratio: float = 16.0,
        num_heads: int = 2,
        image_size: int = 16,
        patch_size: int = 4,
        channels: int = 1,
        num_classes: int = 62,
    ) -> None:
        super().__init__()
        layers = max(1, round(d_model / aspect_ratio)) if num_layers is None else num_layers
        if min(d_model, layers, num_heads, image_size, patch_size, channels, num_classes) < 1:
            raise ValueError(
                "`d_model`, `num_layers`, `num_heads`, `image_size`, `patch_size`, `channels` and "
                "`num_classes` start at 1"
            )
        if image_size % patch_size:
            raise ValueError(
                f"`image_size` is {image_size} and `patch_size` {patch_size}: expected patches "
                "that tile the image"
            )
        if d_model % num_heads:
            raise ValueError(
                f"`d_model` is {d_model}: expected a multiple of `num_heads` = {num_heads}"
            )
        self.patch_size = patch_size
        patches = (image_size // patch_size) ** 2
        patch_values = channels * patch_size**2
        self.patch_in = nn.Linear(patch_values, d_model)
        self.position = nn.Embedding(patches, d_model)
        self.blocks = nn.ModuleList(EncoderBlock(d_model, num_heads) for _ in range(layers))
        self.norm = nn.LayerNorm(d_model, bias=False)
        self.head = nn.Linear(d_model, num_classes)
        nn.init.normal_(self.patch_in.weight, std=patch_values**-0.5)
        nn.init.zeros_(self.patch_in.bias)
        # Near the scale of a patch: where a stroke lies says as much as what it looks like.
        nn.init.normal_(self.position.weight, std=0.5)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of each image's class.

        Args:
            images: float, shape (batch, channels, image_size, image_size), near unit variance.

        Returns:
            float, shape (batch, num_classes).
        """
        side = self.patch_size
        batch, channels, height, width = images.shape
        tiles = images.view(batch, channels, height // side, side, width // side, side)
        patches = tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        x = self.patch_in(patches) + self.position.weight
        for block in self.blocks:
            x = block(x)
        logits: torch.Tensor = self.head(self.norm(x).mean(dim=1))
        return logits

    def num_params(self, non_embedding: bool = False) -> int:
        """Trainable parameters; without the positions' and the patches' if `non_embedding`."""
        count = sum(p.numel() for p in self.parameters() if p.requires_grad)
        embedding = self.position.weight.numel() + sum(
            p.numel() for p in self.patch_in.parameters()
        )
        return count - embedding if non_embedding else count


class EncoderBlock(nn.Module):
    """Attention over all patches and an MLP, each behind a norm and added to the stream."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(d_model, bias=False)
        self.query_key_value = nn.Linear(d_model, 3 * d_model, bias=False)
        self.attention_out = nn.Linear(d_model, d_model, bias=False)
        self.mlp_norm = nn.LayerNorm(d_model, bias=False)
        self.mlp_in = nn.Linear(d_model, 4 * d_model, bias=False)
        self.mlp_out = nn.Linear(4 * d_model, d_model, bias=False)
        for layer in (self.query_key_value, self.mlp_in):
            nn.init.normal_(layer.weight, std=d_model**-0.5)
        nn.init.zeros_(self.attention_out.weight)
        nn.init.zeros_(self.mlp_out.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the stream after this block; x: float, shape (batch, patches, d_model)."""
        batch, patches, width = x.shape
        split = self.query_key_value(self.attention_norm(x))
        split = split.view(batch, patches, 3, self.num_heads, width // self.num_heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.attention_out(mixed.transpose(1, 2).reshape(batch, patches, width))
        hidden = functional.gelu(self.mlp_in(self.mlp_norm(x)))
        out: torch.Tensor = x + self.mlp_out(hidden)
        return out
