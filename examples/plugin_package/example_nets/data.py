"""The data: the answers of a fixed random network, drawn from a seed; nothing is downloaded."""

from dataclasses import dataclass

import torch
from torch.utils.data import TensorDataset


@dataclass
class Answers:
    """A training and a held-out set, and what flops-fit should know of them."""

    train: TensorDataset
    heldout: TensorDataset
    unit: str = "example"
    units_per_example: int = 1
    loss_unit: str = "nats per example"


def teacher(examples=200_000, heldout=4_096, features=16, classes=8, seed=0):
    """Vectors whose coordinates matter less and less, with a class drawn from a teacher's odds."""
    generator = torch.Generator().manual_seed(seed)
    count = examples + heldout
    vectors = torch.randn(count, features, generator=generator)
    fading = torch.arange(1, features + 1) ** -0.5
    inner = torch.randn(features, 512, generator=generator) * fading[:, None] * 0.5
    outer = torch.randn(512, classes, generator=generator) * 512**-0.5 * 12
    logits = torch.cat([torch.sin(part @ inner) @ outer for part in vectors.split(16_384)])
    drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
    train, held = slice(0, examples), slice(examples, count)
    return Answers(
        TensorDataset(vectors[train], drawn[train]), TensorDataset(vectors[held], drawn[held])
    )
