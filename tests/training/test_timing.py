from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset
from training_toys import Endless, Mlp, mse, toy_data, toy_trial
from trials_of_one_call import time_size

from flops_fit.errors import PluginError
from flops_fit.experiment.checks.contract import check_contract
from flops_fit.manifest.recipe import Recipe
from flops_fit.training.counting.sizes import count_params, describe_sizes
from flops_fit.training.data.batches import load_data
from flops_fit.training.measuring.timing import find_device
from flops_fit.zoo.gpt import GPT
from flops_fit.zoo.losses import cross_entropy


def tokens(count=8, context=64, units=64):
    rows = torch.randint(0, 256, (count, context + 1))
    made = (TensorDataset(rows[:, :-1], rows[:, 1:]),) * 2
    return load_data(made, seed=0, overrides={"units_per_example": units})


def images(count=8):
    made = (TensorDataset(torch.randn(count, 3, 16, 16), torch.zeros(count, dtype=torch.int64)),)
    return load_data(made * 2, seed=0)


class Cnn(nn.Module):
    def __init__(self, width, groups=1):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.body = nn.Conv2d(width, width, 3, padding=1, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 10, bias=False)

    def forward(self, inputs):
        hidden = functional.relu(self.norm(self.body(self.stem(inputs))))
        return self.head(hidden.mean((2, 3)))

    def num_params(self):
        return sum(p.numel() for p in self.parameters())


@pytest.mark.parametrize("width", [8, 24, 96])
def test_a_gpt_is_counted_as_its_matrix_products(width):
    [size], _ = describe_sizes(GPT, [width], tokens(), count="counted")
    layers, vocab, context = 2, 256, 64
    forward = 2 * (12 * layers * width**2 + vocab * width) + 4 * layers * context * width
    assert size.flops_per_token == 3 * forward
    assert size.params == 12 * layers * width**2 + vocab * width + (2 * layers + 1) * width
    assert size.params_non_embedding == size.params - vocab * width
    [own], _ = describe_sizes(GPT, [width], tokens(), count="model")
    assert own == size


@pytest.mark.parametrize("groups", [1, 4, 16])
def test_a_cnn_is_counted_exactly_with_grouped_convolutions_too(groups):
    [size], _ = describe_sizes(lambda w: Cnn(w, groups), [16], images(), count="counted")
    forward = 2 * 256 * 9 * (3 * 16 + 16 * 16 // groups) + 2 * 16 * 10
    assert size.flops_per_token == 3 * forward
    assert size.params_non_embedding == size.params


def test_six_n_counts_six_for_each_parameter():
    [size], _ = describe_sizes(Mlp, [8], toy_data(), count="6nd")
    assert size.flops_per_token == 6 * Mlp(8).num_params()


def test_a_model_that_the_meta_device_cannot_run_is_counted_on_the_cpu():
    class Asking(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.scale = torch.ones(1, device="cpu")
            self.lookup = nn.Embedding(256, width)
            self.attention = nn.MultiheadAttention(width, 2, batch_first=True, bias=False)

        def forward(self, inputs):
            x = self.lookup(inputs) * (2.0 if self.scale.item() > 0 else 1.0)
            return self.attention(x, x, x, need_weights=False)[0]

        def num_params(self):
            return sum(p.numel() for p in self.parameters())

    [size], _ = describe_sizes(Asking, [16], tokens(), count="counted")
    assert size.flops_per_token == 3 * (2 * 4 * 16**2 + 4 * 64 * 16)


def test_no_weights_are_allocated_to_count_a_large_model():
    [size], _ = describe_sizes(
        lambda width: GPT(width, num_layers=48, num_heads=16), [12_288], tokens(1), count="counted"
    )
    assert size.params > 80e9


def broken_model(**methods):
    return type("Broken", (Mlp,), methods)


def check(build=Mlp, data=None, loss=mse):
    check_contract(
        build, data or toy_data(), loss, smallest=4, recipe=Recipe(),
        names=("my-model", "my-data", "my-loss"),
    )  # fmt: skip


def test_plugins_that_keep_the_contract_pass():
    check()
    check(data=toy_data(Endless(20)))
    check(broken_model(num_params=None))  # Then its trainable parameters are counted.


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"build": broken_model(num_params=lambda self: 1 / 0)}, r"`my-model`.*ZeroDivision"),
        ({"build": broken_model(num_params=lambda self: "many")}, r"`my-model`.*returned 'many'"),
        ({"build": lambda depth, width=None: Mlp(width)}, r"`my-model`.*cannot be built"),
        ({"build": lambda width: width}, r"`my-model`.*expected a torch.nn.Module"),
        ({"build": broken_model(forward=lambda self: 1)}, r"`my-model`.*forward. failed"),
        ({"data": "empty"}, r"`my-data`.*yields nothing"),
        ({"data": "triple"}, r"`my-data`.*tuple of 3"),
        ({"loss": lambda outputs, targets: 1.0}, r"`my-loss`.*returned a `float`"),
        ({"loss": lambda outputs, targets: outputs}, r"`my-loss`.*shape"),
        ({"loss": lambda outputs, targets: targets.mean()}, r"`my-loss`.*without a gradient"),
        (
            {"loss": lambda outputs, targets: targets.mean() * torch.ones(()).requires_grad_()},
            r"`my-loss`.*no gradient for any parameter",
        ),
        ({"loss": lambda outputs, targets: 1 / 0}, r"`my-loss`.*ZeroDivisionError"),
    ],
)  # fmt: skip
def test_a_broken_plugin_is_named_with_what_it_lacks_and_how_to_mend_it(broken, says):
    data = {
        "empty": toy_data(Endless(0)),
        "triple": toy_data(TensorDataset(*[torch.zeros(9, 4)] * 3)),
    }
    if "data" in broken:
        broken = {"data": data[broken["data"]]}
    with pytest.raises(PluginError, match=says) as caught:
        check(**broken)
    assert caught.value.hint


def test_a_model_without_flops_of_its_own_is_told_so():
    with pytest.raises(PluginError, match="flops_per_token"):
        describe_sizes(Mlp, [8], toy_data(), count="model")


def test_a_model_without_a_matrix_product_is_refused_rather_than_counted_as_free():
    class Scale(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, inputs):
            return inputs * self.weight

        def num_params(self):
            return 4

    with pytest.raises(PluginError, match="no FLOPs were counted"):
        describe_sizes(Scale, [8], toy_data(), count="counted")


def test_checking_leaves_the_random_state_as_it_was():
    before = torch.get_rng_state()
    check()
    assert torch.equal(before, torch.get_rng_state())


def test_params_are_counted_by_the_models_own_word():
    assert count_params(broken_model(num_params=lambda self: 17), 4) == 17
    assert find_device("cpu") == ("cpu", 0)


def test_a_timing_is_of_the_trials_own_step_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    timing = time_size(
        toy_trial(batch=8), build=Mlp, data=toy_data(), loss=mse, recipe=Recipe(), device="cpu",
        seconds=0.1,
    )  # fmt: skip
    assert timing.batch_tokens == 8
    assert 0 < timing.seconds_per_step < 0.1
    assert timing.evaluation_seconds > 0
    assert timing.memory_bytes > 50e6
    assert timing.matmul_flops_per_second > 1e8
    assert timing.nominal_flops_per_second is None  # nobody lists this processor
    assert list(tmp_path.iterdir()) == []


def test_facts_and_loss_of_the_example_plugins_fit_each_other():
    rows = torch.randint(0, 256, (40, 65))
    made = SimpleNamespace(
        train=TensorDataset(rows[:, :-1], rows[:, 1:]),
        heldout=TensorDataset(rows[:, :-1], rows[:, 1:]),
        units_per_example=64,
    )
    check(GPT, load_data(made, seed=0), cross_entropy)
