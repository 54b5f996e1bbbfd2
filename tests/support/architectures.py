"""Models as people have them, with no word of this package in them, and their FLOPs by hand.

Each is built from one size; `forward_flops` gives what a forward pass over one example multiplies,
by the textbook.
"""

import torch
from torch import nn
from torch.nn import functional

CONTEXT, VOCAB = 32, 64
SIDE, CLASSES, PATCH = 16, 10, 4


def sequences(count=256, seed=0, vocab=VOCAB, context=CONTEXT):
    """Next-token data with a rule to learn: each token is the one before plus a small step."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randint(1, 4, (count, context + 1), generator=generator)
    first = torch.randint(0, vocab, (count, 1), generator=generator)
    return (first + steps.cumsum(1)) % vocab


class Text:
    """A training and a held-out set of next-token examples."""

    unit, causal = "token", True

    def __init__(self, context=CONTEXT, vocab=VOCAB):
        self.units_per_example = context
        self.train = self.pairs(sequences(256, 0, vocab, context))
        self.heldout = self.pairs(sequences(64, 1, vocab, context))

    def pairs(self, rows):
        return torch.utils.data.TensorDataset(rows[:, :-1], rows[:, 1:])


class Pictures:
    """A training and a held-out set of small pictures in classes."""

    unit = "image"

    def __init__(self):
        self.train, self.heldout = self.pairs(256, 0), self.pairs(64, 1)

    def pairs(self, count, seed):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, CLASSES, (count,), generator=generator)
        noise = torch.randn(count, 3, SIDE, SIDE, generator=generator)
        return torch.utils.data.TensorDataset(noise + labels[:, None, None, None] / 3, labels)


class Counted(nn.Module):
    def num_params(self):
        return sum(p.numel() for p in self.parameters())


class Vit(Counted):
    """A vision transformer of torch's own encoder layers, with a class token."""

    def __init__(self, width, depth=2):
        super().__init__()
        self.patches = nn.Conv2d(3, width, PATCH, PATCH)
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, (SIDE // PATCH) ** 2 + 1, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.1, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, pictures):
        x = self.patches(pictures).flatten(2).transpose(1, 2)
        x = torch.cat((self.first.expand(len(x), -1, -1), x), 1) + self.places
        return self.head(self.layers(x)[:, 0])

    @staticmethod
    def forward_flops(width, depth=2):
        squares = (SIDE // PATCH) ** 2
        time = squares + 1
        layer = 2 * time * 12 * width**2 + 4 * time**2 * width
        return 2 * squares * 3 * PATCH**2 * width + depth * layer + 2 * width * CLASSES


class Cnn(Counted):
    """Convolutions, one of them strided and one depthwise, batch norm, a linear head."""

    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width, bias=False),
            nn.AdaptiveAvgPool2d(1),
        )
        self.head = nn.Linear(2 * width, CLASSES)

    def forward(self, pictures):
        return self.head(self.body(pictures).flatten(1))

    @staticmethod
    def forward_flops(width):
        full, half = SIDE**2, (SIDE // 2) ** 2
        convolutions = full * 3 * width + half * width * 2 * width + half * 2 * width
        return 2 * 9 * convolutions + 2 * 2 * width * CLASSES


class Lstm(Counted):
    """A recurrent language model."""

    def __init__(self, width, layers=2, vocab=VOCAB):
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.layers = nn.LSTM(width, width, layers, batch_first=True, dropout=0.1)
        self.head = nn.Linear(width, vocab)

    def forward(self, tokens):
        hidden, _ = self.layers(self.embedding(tokens))
        return {"logits": self.head(hidden)}

    @staticmethod
    def forward_flops(width, layers=2, vocab=VOCAB, context=CONTEXT):
        return context * (layers * 2 * 8 * width**2 + 2 * width * vocab)


class Experts(nn.Module):
    """Each token visits the `visited` experts that its router likes best, none is dropped."""

    def __init__(self, width, experts, visited):
        super().__init__()
        self.visited = visited
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in range(experts)
        )

    def forward(self, x):
        flat = x.flatten(0, 1)
        weights, chosen = self.router(flat).softmax(-1).topk(self.visited)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            rows, slots = torch.where(chosen == number)
            out = out.index_add(0, rows, expert(flat[rows]) * weights[rows, slots, None])
        return out.view_as(x)


class Moe(Counted):
    """A causal language model whose one layer mixes experts; it routes by value."""

    def __init__(self, width, experts=4, visited=2, vocab=VOCAB):
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True, bias=False)
        self.mixture = Experts(width, experts, visited)
        self.head = nn.Linear(width, vocab, bias=False)

    def forward(self, tokens):
        x = self.embedding(tokens)
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], device=x.device)
        x = x + self.attention(x, x, x, attn_mask=mask, need_weights=False, is_causal=True)[0]
        return self.head(x + self.mixture(x))

    def num_params(self, active=False):
        count = sum(p.numel() for p in self.parameters())
        if not active:
            return count
        mixture = self.mixture
        idle = 1 - mixture.visited / len(mixture.experts)
        return count - round(idle * sum(p.numel() for p in mixture.experts.parameters()))

    @staticmethod
    def forward_flops(width, experts=4, visited=2, vocab=VOCAB, context=CONTEXT):
        attention = 2 * 4 * width**2 + 4 * context * width
        mixture = 2 * width * experts + visited * 2 * 8 * width**2
        return context * (attention + mixture + 2 * width * vocab)


def llama(width, heads=4, layers=2):
    """A transformers model made from its configuration; it has no `num_params`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            max_position_embeddings=CONTEXT,
        )
    )


def llama_forward_flops(width, layers=2, heads=4):
    layer = 2 * (3 * width**2 + 3 * 4 * width**2) + 4 * CONTEXT * width
    return CONTEXT * (layers * layer + 2 * width * VOCAB)


def mixtral(width, layers=2, experts=8, visited=2):
    """A transformers mixture of experts."""
    from transformers import MixtralConfig, MixtralForCausalLM

    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=VOCAB,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            num_local_experts=experts,
            num_experts_per_tok=visited,
        )
    )


def mixtral_forward_flops(width, layers=2, experts=8, visited=2):
    mixture = 2 * width * experts + visited * 3 * 2 * width * 2 * width
    layer = 2 * 4 * width**2 + 4 * CONTEXT * width + mixture
    return CONTEXT * (layers * layer + 2 * width * VOCAB)


def cross_entropy(outputs, targets):
    """Of whatever a model gives: a tensor, a mapping with `logits`, or a ModelOutput."""
    logits = outputs if isinstance(outputs, torch.Tensor) else outputs["logits"]
    return functional.cross_entropy(logits.flatten(0, -2), targets.flatten())
