"""FLOPs of what is trained: the count equals torch's own, around a real forward and backward."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from flops_fit.training.counting.flops import count_flops

VOCAB, TIME = 96, 32


class Block(nn.Module):
    def __init__(self, width, *, is_causal=True):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.is_causal = is_causal

    def attend(self, x, seen):
        shape = (x.shape[0], -1, 4, x.shape[-1] // 4)
        q, _, _ = self.qkv(x).chunk(3, -1)
        _, k, v = self.qkv(seen).chunk(3, -1)
        q, k, v = (t.reshape(shape).transpose(1, 2) for t in (q, k, v))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal)
        return self.out(y.transpose(1, 2).reshape(x.shape))

    def forward(self, x, seen=None):
        h = self.norms[0](x)
        x = x + self.attend(h, h if seen is None else seen)
        return x + self.down(functional.gelu(self.up(self.norms[1](x))))


class Dense(nn.Module):
    """A GPT; its variants freeze, adapt, tie or recompute parts."""

    def __init__(self, width, *, depth=4, tied=False, frozen=0, recompute=False, adapters=False):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(depth)])
        self.head = nn.Linear(width, VOCAB, bias=False)
        self.recompute = recompute
        if tied:
            self.head.weight = self.embed.weight
        if frozen:
            for part in (self.embed, *self.blocks[:frozen]):
                part.requires_grad_(requires_grad=False)
        if adapters:
            self.requires_grad_(requires_grad=False)
            for block in self.blocks:
                block.up = Adapted(block.up, rank=2)

    def forward(self, x):
        h = self.embed(x)
        for block in self.blocks:
            h = checkpoint(block, h, use_reentrant=False) if self.recompute else block(h)
        return self.head(h)


class Adapted(nn.Module):
    """A frozen layer with a trained low-rank path beside it."""

    def __init__(self, layer, rank):
        super().__init__()
        self.layer = layer
        self.a = nn.Linear(layer.in_features, rank, bias=False)
        self.b = nn.Linear(rank, layer.out_features, bias=False)

    def forward(self, x):
        return self.layer(x) + self.b(self.a(x))


class Experts(nn.Module):
    """A mixture of experts, each of which sees the tokens routed to it."""

    def __init__(self, width):
        super().__init__()
        self.embed, self.gate = nn.Embedding(VOCAB, width), nn.Linear(width, 4)
        self.experts = nn.Parameter(torch.randn(4, width, 2 * width) / width**0.5)
        self.back = nn.Parameter(torch.randn(4, 2 * width, width) / width**0.5)
        self.head = nn.Linear(width, VOCAB)

    def forward(self, x):
        h = self.embed(x)
        weight, place = self.gate(h).softmax(-1).topk(1, -1)
        groups = h.reshape(4, -1, h.shape[-1])  # equal shares, so that the shapes are known
        made = torch.bmm(functional.gelu(torch.bmm(groups, self.experts)), self.back)
        return self.head(h + weight * made.reshape(h.shape) + 0.0 * place)


class EncoderDecoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, width)
        self.encoder = nn.ModuleList([Block(width, is_causal=False) for _ in range(2)])
        self.decoder, self.cross = Block(width), Block(width, is_causal=False)
        self.head = nn.Linear(width, VOCAB)

    def forward(self, x):
        seen = self.embed(x)
        for block in self.encoder:
            seen = block(seen)
        return self.head(self.cross(self.decoder(self.embed(x)), seen))


class Images(nn.Module):
    """A CNN whose stem may be frozen."""

    def __init__(self, width, *, frozen):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3))
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(width, 2 * width, 3, stride=2), nn.ReLU())
        self.head = nn.Linear(2 * width, VOCAB)
        self.stem.requires_grad_(requires_grad=not frozen)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((-1, -2)))


def tokens(count=TIME):
    drawn = torch.randint(VOCAB, (1, count + 1), generator=torch.Generator().manual_seed(0))
    return drawn[:, :-1], drawn[:, 1:]


def images():
    return torch.randn(1, 3, 20, 20), torch.tensor([3])


CASES = {
    "dense": (Dense, {}, tokens),
    "frozen half": (Dense, {"frozen": 2}, tokens),
    "only the head": (Dense, {"frozen": 4}, tokens),
    "adapters": (Dense, {"adapters": True}, tokens),
    "tied": (Dense, {"tied": True}, tokens),
    "recomputed": (Dense, {"recompute": True}, tokens),
    "recomputed and frozen": (Dense, {"recompute": True, "frozen": 2}, tokens),
    "experts": (Experts, {}, tokens),
    "encoder and decoder": (EncoderDecoder, {}, tokens),
    "frozen stem": (Images, {"frozen": True}, images),
    "another length": (Dense, {}, lambda: tokens(20)),
}


def loss_of(outputs, targets):
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def real_flops(model, inputs, targets):
    """torch's count around a forward and a backward pass on the CPU."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    counter = FlopCounterMode(display=False)
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH), counter:
        warnings.simplefilter("ignore")
        loss_of(model(inputs), targets).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("case", CASES)
def test_the_count_is_that_of_a_real_forward_and_backward(case):
    kind, options, make = CASES[case]
    inputs, targets = make()

    def build(width):
        return kind(width, **options)

    counted = count_flops(build, 32, (inputs, targets), loss_of)
    assert counted.loss_error is None
    real = real_flops(build(32), inputs, targets)
    assert counted.tally.training_flops == pytest.approx(real, rel=0.01)


def test_a_frozen_tower_costs_its_forward_pass_only():
    def flops(frozen):
        return count_flops(lambda width: Dense(width, frozen=frozen), 32, tokens(), loss_of).tally

    whole, half = flops(0), flops(2)
    assert half.products == whole.products
    assert half.training_flops < 0.75 * whole.training_flops


def test_inputs_without_a_gradient_save_nothing_where_all_is_trained():
    """As in 6 N D: a product costs three times its forward pass, also in the first layer."""
    inputs, targets = images()
    tally = count_flops(lambda w: Images(w, frozen=False), 32, (inputs, targets), loss_of).tally
    assert tally.training_flops == 3 * tally.products
    real = real_flops(Images(32, frozen=False), inputs, targets)
    first = 2 * 18 * 18 * 3 * 9 * 32
    assert tally.training_flops == pytest.approx(real + first, rel=1e-6)


def test_a_fully_trained_gpt_costs_three_forward_passes():
    tally = count_flops(Dense, 32, tokens(), loss_of).tally
    assert tally.training_flops == 3 * tally.products


def test_a_backward_pass_that_fails_is_counted_as_two_forward_passes():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise NotImplementedError("no gradient on this device")

    class Odd(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.embed, self.head = nn.Embedding(VOCAB, width), nn.Linear(width, VOCAB)

        def forward(self, x):
            return self.head(Once.apply(self.embed(x)))

    tally = count_flops(Odd, 32, tokens(), loss_of).tally
    assert tally.backward is None
    assert tally.training_flops == 3 * tally.products
