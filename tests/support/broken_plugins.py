"""Plugins that each break their contract in one way, for `tests/test_check.py`."""

import random

import torch
from architectures import CONTEXT, VOCAB, Lstm, Text, cross_entropy, sequences
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset


class Unshifted(Text):
    """Its targets are its inputs."""

    def pairs(self, rows):
        return TensorDataset(rows[:, :-1], rows[:, :-1])


class Bidirectional(Lstm):
    """Reads the sequence from both ends."""

    def __init__(self, width):
        super().__init__(width)
        self.layers = nn.LSTM(width, width // 2, batch_first=True, bidirectional=True)


class BidirectionalAtStart(nn.Module):
    """Looks ahead by a layer that passes nothing on before training."""

    def __init__(self, width):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, width)
        self.mix = nn.Linear(CONTEXT, CONTEXT)
        self.head = nn.Linear(width, VOCAB)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, tokens):
        x = self.embedding(tokens)
        return self.head(x + self.mix(x.transpose(1, 2)).transpose(1, 2))

    def num_params(self):
        return sum(p.numel() for p in self.parameters())


def detached(outputs, targets):
    return cross_entropy({"logits": outputs["logits"].detach()}, targets)


def rewarding(outputs, targets):
    return (outputs["logits"].softmax(-1).square().sum(-1) * 0).mean() + 1.0


class EndsEarly(IterableDataset):
    """Says that it holds a thousand examples, and yields ten."""

    unit, units_per_example = "token", CONTEXT

    def __init__(self, count=10):
        self.rows = sequences(count)

    def __len__(self):
        return 1000

    def __iter__(self):
        for row in self.rows:
            yield {"inputs": row[:-1], "targets": row[1:]}


def ends_early():
    return EndsEarly(), Text().heldout


def loader_ends_early():
    return DataLoader(EndsEarly(), batch_size=4), Text().heldout


def read_once():
    generator = ({"inputs": row[:-1], "targets": row[1:]} for row in sequences(100))
    return {"train": generator, "heldout": Text().heldout, "units_per_example": CONTEXT}


class LyingLength(TensorDataset):
    def __len__(self):
        return 2 * super().__len__()


def lying_length():
    rows = sequences(100)
    return LyingLength(rows[:, :-1], rows[:, 1:]), Text().heldout


def same_width(width, hidden=16):
    return Lstm(hidden)


def shrinking(width):
    return Lstm(128 - width)


def refuses_48(width):
    if width == 48:
        raise ValueError("48 is no power of two")
    return Lstm(width)


class Guessing(Lstm):
    def num_params(self):
        return random.randint(1000, 10**9)


class Understated(Lstm):
    def num_params(self):
        return 1000 + super().num_params() // 2


def wants_a_tensor(outputs, targets):
    return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


class NanAtOnce(Lstm):
    def forward(self, tokens):
        logits = super().forward(tokens)["logits"]
        return {"logits": logits - (logits - logits).log() * 0}


class NanInTheGradient(Lstm):
    """A norm of exact zeros: finite forward, nan backward."""

    def forward(self, tokens):
        logits = super().forward(tokens)["logits"]
        return {"logits": logits + ((logits - logits) ** 2).sum(-1, keepdim=True).sqrt()}


class Shared(Text):
    """Its held-out examples are among those of training."""

    def __init__(self):
        super().__init__()
        rows = sequences(256, 0)
        self.heldout = self.pairs(rows[100:160])


def one_set_twice():
    train = Text().train
    return train, train


def overlapping_subsets():
    base = Text().train
    return torch.utils.data.Subset(base, range(200)), torch.utils.data.Subset(base, range(190, 256))


class Restless(IterableDataset):
    """Other examples each time, by a generator of its own that nobody seeds."""

    units_per_example = CONTEXT

    def __iter__(self):
        for row in sequences(64, seed=random.Random().randint(0, 10**9)):
            yield {"inputs": row[:-1], "targets": row[1:]}


def restless_heldout():
    return Text().train, Restless()


class Unused(Lstm):
    def __init__(self, width):
        super().__init__(width)
        self.forgotten = nn.Linear(width, width)


def shifting_loss(outputs, targets):
    """Shifts targets that the data has shifted already."""
    return cross_entropy({"logits": outputs["logits"][:, :-1]}, targets[:, 1:])


class Rows(Text):
    """Rows that are inputs and targets at once, as a loss that shifts wants them."""

    def pairs(self, rows):
        return TensorDataset(rows[:, :-1])


class Undeclared(Text):
    causal = False
