"""The FLOP counter against the textbook, on models that are not ours, and what it cannot see."""

import inspect
import resource
import time

import architectures as people
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from flops_fit.errors import PluginError
from flops_fit.training.counting.flops import count_flops
from flops_fit.training.counting.params import counted, params_of
from flops_fit.training.counting.sizes import describe_sizes
from flops_fit.training.data.batches import load_data
from flops_fit.zoo.gpt import GPT

WIDTH = 32


def gpt(width, context=people.CONTEXT):
    return GPT(width, num_layers=2, context=context, vocab_size=people.VOCAB)


def gpt_forward_flops(width):
    per_token = 2 * (2 * 12 * width**2 + people.VOCAB * width) + 2 * 4 * people.CONTEXT * width
    return people.CONTEXT * per_token


FAMILIES = {
    "gpt": (gpt, gpt_forward_flops, people.Text, "meta"),
    "vit": (people.Vit, people.Vit.forward_flops, people.Pictures, "meta"),
    "cnn": (people.Cnn, people.Cnn.forward_flops, people.Pictures, "meta"),
    "lstm": (people.Lstm, people.Lstm.forward_flops, people.Text, "meta"),
    "moe": (people.mixtral, people.mixtral_forward_flops, people.Text, "meta"),
    "llama": (people.llama, people.llama_forward_flops, people.Text, "meta"),
    # It asks which tokens go to which expert, which no device without values can say.
    "routed by value": (people.Moe, people.Moe.forward_flops, people.Text, "cpu"),
}


def example_of(data):
    return next(iter(torch.utils.data.DataLoader(data().train, batch_size=1)))


def tally(build, example, loss=None, width=WIDTH):
    return count_flops(build, width, example, loss)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_counted_as_the_textbook_says(family):
    build, by_hand, data, device = FAMILIES[family]
    example = example_of(data)
    tally(build, example)  # what torch and transformers load once is no part of a size's time
    for width in (32, 64, 128):
        began = time.process_time()
        found = tally(build, example, people.cross_entropy, width)
        assert time.process_time() - began < 2
        assert found.device == device
        assert found.tally.products == pytest.approx(by_hand(width), rel=0.01)
        assert found.tally.training_flops == 3 * found.tally.products
        assert (found.tally.unknown, found.loss_error) == ([], None)


@pytest.mark.parametrize("build", ["gpt", "llama", "moe"])
def test_a_size_of_70_billion_params_is_counted_without_its_weights(build):
    shapes = {
        "gpt": lambda width: GPT(width, num_layers=88, num_heads=64),
        "llama": lambda width: counted(people.llama)(width, heads=64, layers=80),
        "moe": lambda width: counted(people.mixtral)(width, layers=15, experts=12),
    }
    tally(shapes[build], example_of(people.Text), width=512)  # loads what is loaded once
    data = load_data(people.Text(), seed=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    [size], _ = describe_sizes(shapes[build], [8192], data, count="counted")
    assert time.process_time() - began < 4  # built twice: to count params, and FLOPs
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # of kB
    assert size.params > 70e9
    assert 5 * (size.params_active or size.params) < size.flops_per_token


def test_heads_that_serve_only_in_training_are_counted_and_batch_norm_takes_one_example():
    class Helped(people.Cnn):
        def forward(self, pictures):
            out = super().forward(pictures)
            return out + self.head(self.body(pictures).flatten(1)) if self.training else out

    found = tally(Helped, example_of(people.Pictures))
    assert found.tally.products == 2 * people.Cnn.forward_flops(WIDTH)


def test_a_head_that_is_fused_into_the_loss_is_counted():
    head = torch.randn(people.VOCAB, WIDTH, device="meta")

    def loss(outputs, targets):
        return functional.cross_entropy((outputs @ head.T).flatten(0, 1), targets.flatten())

    found = tally(lambda width: nn.Embedding(people.VOCAB, width), example_of(people.Text), loss)
    assert found.tally.products == 2 * people.CONTEXT * WIDTH * people.VOCAB


def test_products_that_torchs_own_counter_leaves_out_are_counted():
    class Rare(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.both = nn.Bilinear(width, width, 3, bias=False)
            self.matrix = nn.Parameter(torch.randn(5, width))

        def forward(self, x):
            return self.both(x, x), self.matrix @ x[0], torch.cdist(x[None], self.matrix[None])

    found = tally(Rare, (torch.randn(4, WIDTH), torch.zeros(4)))
    bilinear, vector, distances = 3 * 4 * 3 * WIDTH**2, 2 * 5 * WIDTH, 3 * 4 * 5 * WIDTH
    assert found.tally.products == bilinear + vector + distances


def test_a_fourier_transform_costs_one_more_backward_and_not_two():
    class Mixing(nn.Module):
        def __init__(self, width):
            super().__init__()

        def forward(self, x):
            return torch.fft.ifft(torch.fft.fft(x))

    found = tally(Mixing, (torch.randn(1, 1024, dtype=torch.complex64), torch.zeros(1)))
    assert found.tally.transforms == 2 * 5 * 1024 * 10
    assert found.tally.training_flops == 2 * found.tally.transforms


@torch.library.custom_op("flops_fit_tests::scan", mutates_args=())
def scan(x: torch.Tensor, decay: torch.Tensor) -> torch.Tensor:
    out = [x[:, 0]]
    for step in range(1, x.shape[1]):
        out.append(out[-1] * decay + x[:, step])
    return torch.stack(out, 1)


@scan.register_fake
def _(x, decay):
    return torch.empty_like(x)


class Mixer(nn.Module):
    """A block with a linear map and something that the counter may not know."""

    def __init__(self, width, mix):
        super().__init__()
        self.decay = nn.Parameter(torch.full((width,), 0.9))
        self.linear = nn.Linear(width, width, bias=False)
        self.mix = mix

    def forward(self, x):
        return self.linear(self.mix(x, self.decay))


def model_with(mix, blocks=2):
    def build(width):
        model = nn.Sequential(
            nn.Embedding(people.VOCAB, width), *(Mixer(width, mix) for _ in range(blocks))
        )
        return counted(lambda: model)()

    return build


def notes_of(build, loss=None, **options):
    _, notes = describe_sizes(
        build, [WIDTH], load_data(people.Text(), seed=0), count="counted", loss=loss, **options
    )
    return {note.code: note.message for note in notes}


def test_an_operation_without_a_formula_is_named_with_its_modules_and_a_bound():
    found = tally(model_with(scan), example_of(people.Text))
    [unknown] = found.tally.unknown
    assert (unknown.operation, unknown.module) == ("flops_fit_tests::scan", "*")
    numbers = people.CONTEXT * WIDTH
    assert unknown.calls == 2
    assert unknown.most_flops == 2 * 2 * numbers * (numbers + WIDTH)
    assert unknown.most_flops > 2 * 2 * numbers  # what the scan really does
    assert found.tally.products == 2 * 2 * people.CONTEXT * WIDTH**2
    told = notes_of(model_with(scan))["flops_uncounted"]
    assert "`flops_fit_tests::scan` in `*` (2 calls a pass)" in told
    assert "between 0 and 33 times of the counted FLOPs" in told
    assert 'count = "model"' in told


def test_a_custom_autograd_function_made_of_torch_operations_is_counted():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(context, x, decay):
            return x @ x.transpose(1, 2) @ x

        @staticmethod
        def backward(context, gradient):
            return gradient, None

    found = tally(model_with(Square.apply), example_of(people.Text))
    square = 4 * people.CONTEXT**2 * WIDTH
    assert found.tally.products == 2 * (square + 2 * people.CONTEXT * WIDTH**2)
    assert found.tally.unknown == []


def through_numpy(x, decay):
    return torch.from_numpy(np.cumsum(x.detach().numpy(), 1)) + x


def into_empty_memory(x, decay):
    out = torch.empty(x.shape)
    out.numpy()[...] = np.cumsum(x.detach().numpy(), 1)  # as a compiled extension fills it
    return out + x


@pytest.mark.parametrize("mix", [through_numpy, into_empty_memory])
def test_work_behind_torchs_back_is_named(mix):
    found = tally(model_with(mix), example_of(people.Text))
    [unknown] = found.tally.unknown
    assert (unknown.operation, unknown.calls) == ("work outside torch", 2)
    assert "nothing bounds its FLOPs" in notes_of(model_with(mix))["flops_uncounted"]


def test_constants_and_memory_that_torch_fills_are_no_work_behind_its_back():
    constant = torch.randn(people.CONTEXT, WIDTH)

    def mix(x, decay):
        filled = torch.empty(x.shape).normal_()
        assert x.device.type != "meta"
        return x * constant.numpy().sum().item() + filled + constant

    assert tally(model_with(mix), example_of(people.Text)).tally.unknown == []


def test_much_element_wise_work_is_told():
    def unrolled(x, decay):
        state, out = torch.zeros_like(x[:, 0, :, None].expand(-1, -1, 64)), []
        for step in range(x.shape[1]):
            state = state * decay[:, None] + x[:, step, :, None]
            out.append(state.sum(-1))
        return torch.stack(out, 1)

    told = notes_of(model_with(unrolled))["elementwise_large"]
    assert "at size 32" in told
    assert "elementwise_large" not in notes_of(gpt)


def test_a_loss_that_cannot_run_without_values_is_told():
    def loss(outputs, targets):
        return outputs.mean() if outputs.mean().item() > 0 else outputs.sum()

    assert "not counted" in notes_of(gpt, loss)["loss_uncounted"]
    assert notes_of(gpt, people.cross_entropy) == {}


def test_a_model_too_large_for_the_cpu_is_refused_before_it_fills_the_memory():
    class Asking(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.weight = nn.Parameter(torch.empty(width, width))

        def forward(self, x):
            return x * self.weight.sum().item()

    with pytest.raises(PluginError, match=r"too large to run it here") as caught:
        tally(Asking, example_of(people.Text), width=1_000_000)
    assert 'count = "model"' in caught.value.hint


def test_a_plugins_own_count_is_of_one_example_and_is_given_in_units():
    asked = []

    def count(model, batch):
        asked.append((type(model), batch[0].shape, batch[0].device.type))
        return 6e6

    data = load_data(people.Text(), seed=0)
    [size], notes = describe_sizes(counted(gpt), [WIDTH], data, count=count)
    assert size.flops_per_token == 6e6 / people.CONTEXT
    assert asked == [(GPT, (1, people.CONTEXT), "meta")]
    assert notes == []
    with pytest.raises(PluginError, match="returned 0 at size 32: expected a positive"):
        describe_sizes(counted(gpt), [WIDTH], data, count=lambda model, batch: 0)


def test_flops_per_token_may_ask_for_the_context():
    class Told(GPT):
        def flops_per_token(self, sequence_length):
            return 1000.0 * sequence_length

    data = load_data(people.Text(), seed=0)
    [size], _ = describe_sizes(Told, [WIDTH], data, count="model")
    assert size.flops_per_token == 1000 * people.CONTEXT


def test_params_are_counted_three_ways():
    moe = params_of(people.Moe(WIDTH))
    expert = 8 * WIDTH**2 + 5 * WIDTH
    assert moe.params - moe.active == 2 * expert
    assert moe.params - moe.non_embedding == people.VOCAB * WIDTH
    assert params_of(GPT(WIDTH)).active is None


def test_counted_adds_the_count_to_any_factory_and_keeps_its_arguments():
    build = counted(people.llama)
    assert list(inspect.signature(build).parameters) == ["width", "heads", "layers"]
    model = build(WIDTH)
    assert model.num_params() == sum(p.numel() for p in model.parameters())
    assert params_of(people.llama(WIDTH)).params == model.num_params()  # without it, too
    assert counted(people.Moe)(WIDTH).num_params(active=True) == params_of(people.Moe(WIDTH)).active


def test_counted_tells_the_active_params_of_experts_by_configuration_or_by_word():
    model = counted(people.mixtral)(WIDTH)
    routed = 2 * 8 * 3 * 2 * WIDTH * WIDTH
    has = params_of(model)
    assert has.active == has.params - routed * 6 // 8
    said = params_of(counted(people.llama, active=lambda model: 17)(WIDTH))
    assert said.active == 17
