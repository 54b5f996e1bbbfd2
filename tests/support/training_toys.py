"""Small models, data sets and trials for the tests of the training wing."""

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    TensorDataset,
    WeightedRandomSampler,
)
from trials_of_one_call import train

from flops_fit.manifest.trials import Size, Trial
from flops_fit.training.data.batches import load_data


class Mlp(nn.Module):
    """A two-layer network on vectors of 4; `width` is its size."""

    def __init__(self, width, dropout=0.0):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, 1)
        )

    def forward(self, inputs):
        return self.layers(inputs)

    def num_params(self):
        return sum(p.numel() for p in self.parameters())


class Idle(Mlp):
    """The same, with a layer that nothing passes through."""

    def __init__(self, width):
        super().__init__(width)
        self.idle = nn.Linear(4, width)


class Routed(nn.Module):
    """Four experts, one an example: in a small batch some get no example, and no gradient."""

    def __init__(self, width):
        super().__init__()
        self.gate = nn.Linear(4, 4)
        self.experts = nn.ModuleList(Mlp(width) for _ in range(4))

    def forward(self, inputs):
        shares = self.gate(inputs).softmax(-1)
        outputs = torch.zeros(len(inputs), 1)
        for number, expert in enumerate(self.experts):
            (mine,) = torch.where(shares.argmax(-1) == number)
            if len(mine):
                weighted = expert(inputs[mine]) * shares[mine, number : number + 1]
                outputs = outputs.index_put((mine,), weighted)
        return outputs

    def num_params(self):
        return sum(p.numel() for p in self.parameters())


def mse(outputs, targets):
    return functional.mse_loss(outputs, targets)


def pairs(count, seed=0):
    """Inputs of 4 numbers and a smooth target."""
    inputs = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, inputs.sin().sum(1, keepdim=True))


class Counting(Dataset):
    """A map-style set that remembers which examples were asked for."""

    def __init__(self, dataset):
        self.dataset = dataset
        self.drawn = []

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        self.drawn.append(index)
        return self.dataset[index]


class Endless(IterableDataset):
    """A stream that draws from torch's global generator, as augmentation does."""

    def __init__(self, length, noise=0.0):
        self.length = length
        self.noise = noise
        self.yielded = 0

    def __iter__(self):
        dataset = pairs(self.length, seed=5)
        for inputs, targets in dataset:
            self.yielded += 1
            jitter = self.noise * torch.randn(4) if self.noise else 0.0
            yield {"inputs": inputs + jitter, "targets": targets}


def sampled_loader():
    """A loader of 100 examples whose sampler draws from torch's global generator."""
    sampler = WeightedRandomSampler(torch.ones(100), 100)
    return DataLoader(pairs(100), batch_size=10, sampler=sampler)


def toy_data(train=None, heldout=None):
    return load_data((train or pairs(200), heldout or pairs(64, seed=9)), seed=0)


def toy_trial(*, width=8, steps=30, batch=8, seed=0, units=1):
    params = Mlp(width).num_params()
    size = Size(width, params, params, 6.0 * params)
    tokens = steps * batch * units
    return Trial.of(
        budget_flops=6.0 * params * tokens,
        size=size,
        tokens=tokens,
        batch_tokens=batch * units,
        seed=seed,
    )


def trained(build, folder, recipe):
    """The loss of a trial of 60 steps of 8 examples, and its model."""
    kept = []
    outcome = train(
        toy_trial(steps=60, batch=8), build=lambda width: kept.append(build(width)) or kept[-1],
        data=toy_data(pairs(100)), loss=mse, recipe=recipe, directory=folder, device="cpu",
    )  # fmt: skip
    return outcome.loss, kept[-1]


class Tagger(nn.Module):
    """Scores of 16 classes for each place of a sequence."""

    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Embedding(16, width), nn.Linear(width, 16))

    def forward(self, inputs):
        return self.layers(inputs)

    def num_params(self):
        return sum(p.numel() for p in self.parameters())


def padded(count, seed=0):
    """Sequences of 1 to 8 targets; the rest is -100. Long ones are noise, short ones a rule."""
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randint(0, 16, (count, 8), generator=draw)
    lengths = torch.randint(1, 9, (count, 1), generator=draw)
    noise = torch.randint(0, 16, (count, 8), generator=draw)
    targets = torch.where(lengths > 4, noise, (3 * inputs + 1) % 16)
    return TensorDataset(inputs, torch.where(torch.arange(8) < lengths, targets, -100))


def bare_cross_entropy(outputs, targets):
    """The mean over targets that are not ignored, without a word of how many they are."""
    return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def counted_cross_entropy(outputs, targets):
    return bare_cross_entropy(outputs, targets)


counted_cross_entropy.count = lambda targets: (targets != -100).sum()
