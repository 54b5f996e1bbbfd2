import json
import math
import time
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from training_toys import Counting, Endless, Mlp, mse, pairs, toy_data, toy_trial
from trials_of_one_call import train

from flops_fit.errors import ManifestError, PluginError
from flops_fit.manifest.files import to_plain
from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.trials import Size, Trial
from flops_fit.training.data.batches import load_data
from flops_fit.zoo.gpt import GPT
from flops_fit.zoo.losses import cross_entropy

RECIPE = Recipe(learning_rate=1e-2, learning_rate_rule="constant")


def run(tmp_path, trial=None, *, build=Mlp, data=None, loss=mse, recipe=RECIPE, **more):
    return train(
        trial or toy_trial(),
        build=build,
        data=data or toy_data(),
        loss=loss,
        recipe=recipe,
        directory=tmp_path,
        device="cpu",
        **more,
    )


@pytest.mark.parametrize("micro", [None, 3])
def test_the_data_set_gives_out_exactly_the_planned_tokens(tmp_path, micro):
    source = Counting(pairs(100))
    data = load_data((source, pairs(64, seed=9)), seed=0, overrides={"units_per_example": 7})
    trial = toy_trial(steps=30, batch=8, units=7)
    outcome = run(tmp_path, trial, data=data, recipe=Recipe(micro_batch_examples=micro))
    assert len(source.drawn) * 7 == trial.tokens == outcome.tokens
    assert outcome.flops == trial.tokens * trial.size.flops_per_token
    # 240 draws from 100 examples: two whole epochs, and 40 of the third.
    counts = [source.drawn.count(index) for index in range(100)]
    assert (counts.count(2), counts.count(3)) == (60, 40)


def test_an_iterable_set_gives_out_exactly_the_planned_examples(tmp_path):
    source = Endless(10_000)
    outcome = run(tmp_path, toy_trial(steps=30, batch=8), data=toy_data(source))
    assert source.yielded == 240 == outcome.tokens


def test_the_loss_returned_is_that_of_the_trained_model_on_the_whole_held_out_set(tmp_path):
    built = []

    def build(width):
        built.append(Mlp(width, dropout=0.5))
        return built[-1]

    heldout = pairs(70, seed=9)
    outcome = run(tmp_path, build=build, data=toy_data(heldout=heldout))
    model = built[-1].eval()
    with torch.no_grad():
        expected = mse(model(heldout.tensors[0]), heldout.tensors[1]).item()
    assert outcome.status == "finished"
    assert outcome.loss == pytest.approx(expected, rel=1e-5)
    assert outcome.details.heldout_examples == 70


def test_held_out_examples_are_never_trained_on(tmp_path):
    whole = Counting(pairs(100))
    data = load_data(whole, seed=3)
    run(tmp_path, toy_trial(steps=40, batch=8), data=data)
    trained = {i for i in range(100) if whole.drawn.count(i) >= 3}
    heldout = set(data.heldout.indices)
    assert trained == set(range(100)) - heldout


def test_repeating_a_trial_gives_the_same_bits_whatever_ran_before(tmp_path):
    def build(width):
        return Mlp(width, dropout=0.2)

    first = run(tmp_path / "a", build=build)
    run(tmp_path / "b", toy_trial(width=16, seed=5), build=build)
    torch.manual_seed(123)
    again = run(tmp_path / "c", build=build)
    assert again.loss == first.loss
    assert run(tmp_path / "d", toy_trial(seed=1), build=build).loss != first.loss


def test_the_initial_weights_follow_from_the_seed_and_the_size_alone(tmp_path):
    weights = []

    def build(width):
        model = Mlp(width)
        weights.append(model.layers[0].weight.detach().clone())
        return model

    run(tmp_path / "a", toy_trial(width=8), build=build)
    run(tmp_path / "b", toy_trial(width=32), build=build)
    run(tmp_path / "c", toy_trial(width=8), build=build, data=toy_data(pairs(300)))
    assert torch.equal(weights[0], weights[2])


def test_accumulating_gradients_changes_the_loss_by_rounding_alone(tmp_path):
    whole = run(tmp_path / "a", recipe=RECIPE).loss
    for name, micro in (("b", 2), ("c", 3)):
        recipe = Recipe(learning_rate=1e-2, learning_rate_rule="constant",
                        micro_batch_examples=micro)  # fmt: skip
        assert run(tmp_path / name, recipe=recipe).loss == pytest.approx(whole, abs=1e-5)


def test_uniform_random_tokens_are_never_predicted_better_than_chance(tmp_path):
    vocab, context = 16, 8
    generator = torch.Generator().manual_seed(0)

    def noise(count):
        tokens = torch.randint(0, vocab, (count, context + 1), generator=generator)
        return TensorDataset(tokens[:, :-1], tokens[:, 1:])

    data = load_data((noise(4000), noise(2000)), seed=0, overrides={"units_per_example": context})
    params = GPT(16, context=context, vocab_size=vocab).num_params()
    size = Size(16, params, params, 6.0 * params)
    trial = Trial.of(budget_flops=1.0, size=size, tokens=250 * 128, batch_tokens=128, seed=0)
    outcome = run(
        tmp_path,
        trial,
        build=lambda width: GPT(width, context=context, vocab_size=vocab),
        data=data,
        loss=cross_entropy,
    )
    final = json.loads((tmp_path / "curve.jsonl").read_text().splitlines()[-1])["loss"]
    # The standard error of the mean over 16,000 targets is under 0.003.
    assert math.log(vocab) - 0.003 < final < math.log(vocab) + 0.05
    assert outcome.tokens == trial.tokens


def test_a_model_overfits_a_single_batch_to_nearly_nothing(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 16, (4, 9), generator=generator)
    batch = TensorDataset(tokens[:, :-1], tokens[:, 1:])
    data = load_data((batch, batch), seed=0, overrides={"units_per_example": 8})
    size = Size(32, 1000, 1000, 6000.0)
    trial = Trial.of(budget_flops=1.0, size=size, tokens=200 * 32, batch_tokens=32, seed=0)
    outcome = run(
        tmp_path,
        trial,
        build=lambda width: GPT(width, context=8, vocab_size=16),
        data=data,
        loss=cross_entropy,
    )
    # The first token says only so much of the second: equal beginnings leave a little entropy.
    assert outcome.status == "finished"
    assert outcome.loss < 0.25


def test_the_rate_follows_the_schedule_to_the_last_step(tmp_path):
    seen = []

    class Recording(torch.optim.SGD):
        def step(self, closure=None):
            seen.append(self.param_groups[0]["lr"])
            return super().step(closure)

    class Own(Mlp):
        def configure_optimizers(self, learning_rate):
            return Recording(self.parameters(), lr=learning_rate)

    recipe = Recipe(learning_rate=0.05, learning_rate_rule="constant", warmup_fraction=0.2)
    run(tmp_path, toy_trial(steps=10), build=Own, recipe=recipe)
    expected = [0.025, 0.05] + [0.05 * (1 - k / 9) for k in range(1, 9)]
    assert seen == pytest.approx(expected)


def test_a_models_own_optimizer_wins_and_what_learns_nothing_is_diverged(tmp_path):
    class Still(Mlp):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    class Wrong(Mlp):
        def configure_optimizers(self):
            return {"optimizer": torch.optim.SGD(self.parameters(), lr=0.1)}

    still = run(tmp_path / "a", build=Still)
    assert still.status == "diverged"
    assert still.loss == pytest.approx(still.details.untrained_loss, rel=1e-6)
    with pytest.raises(PluginError, match="expected one"):
        run(tmp_path / "b", build=Wrong)


def test_a_healthy_trial_is_kept_whatever_part_of_the_heldout_set_its_curve_uses(tmp_path):
    easy, hard = pairs(64, seed=9), pairs(192, seed=10)
    inputs = torch.cat([easy.tensors[0], hard.tensors[0]])
    targets = torch.cat([easy.tensors[1] * 0.01, hard.tensors[1] * 10])
    heldout = TensorDataset(inputs, targets)
    training = TensorDataset(hard.tensors[0], hard.tensors[1] * 10)
    for share in (0.001, 1.0):
        recipe = Recipe(heldout_batch=32, curve_share=share, learning_rate=1e-3)
        outcome = run(
            tmp_path / str(share),
            toy_trial(steps=60),
            data=toy_data(training, heldout),
            recipe=recipe,
        )
        assert outcome.status == "finished", outcome.error


@pytest.mark.parametrize("kind", ["not the optimizer's", "frozen at first"])
def test_no_parameter_keeps_its_gradient_into_the_next_step(tmp_path, kind):
    norms = []

    class Seeing(torch.optim.SGD):
        def step(self, closure=None):
            norms.append(float(self.first.grad.norm()) if self.first.grad is not None else 0.0)

    class Own(Mlp):
        def configure_optimizers(self):
            owned = self.layers[3] if kind == "not the optimizer's" else self
            optimizer = Seeing(owned.parameters(), lr=0.1)
            optimizer.first = self.layers[0].weight
            return optimizer

        def __init__(self, width):
            super().__init__(width)
            self.layers[0].requires_grad_(kind != "frozen at first")

        def forward(self, inputs):
            self.layers[0].requires_grad_(True)
            return super().forward(inputs)

    run(tmp_path, toy_trial(steps=8, batch=8), build=Own, data=toy_data(pairs(8)))
    assert norms[0] > 0
    assert norms == pytest.approx([norms[0]] * 8, rel=1e-4)


def test_decay_and_the_width_rule_touch_weight_matrices_alone(tmp_path):
    groups = []

    class Spying(torch.optim.AdamW):
        def __init__(self, params, **kwargs):
            super().__init__(params, **kwargs)
            groups.extend(self.param_groups)

    recipe = Recipe(learning_rate=0.01, learning_rate_rule="width", reference_size=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "AdamW", Spying)
        from flops_fit.training.optimizers import make_optimizer

        model = GPT(32)
        size = Size(32, model.num_params(), None, 1.0)
        trial = Trial.of(budget_flops=1e3, size=size, tokens=1000, batch_tokens=10, seed=0)
        make_optimizer(model, recipe=recipe, trial=trial, device=torch.device("cpu"))
    matrices, others = groups
    assert (matrices["lr"], matrices["weight_decay"]) == (0.02, 0.1)
    assert (others["lr"], others["weight_decay"]) == (0.01, 0.0)
    counts = [sum(p.numel() for p in group["params"]) for group in groups]
    assert counts == [2 * 12 * 32**2, 256 * 32 + 5 * 32]


def test_a_loss_that_turns_nan_ends_the_trial_early_as_diverged(tmp_path):
    calls = []

    def breaking(outputs, targets):
        calls.append(1)
        return mse(outputs, targets) * (math.nan if len(calls) > 60 else 1.0)

    outcome = run(tmp_path, toy_trial(steps=400), loss=breaking)
    assert outcome.status == "diverged"
    assert outcome.loss is None
    assert "nan" in outcome.error
    assert outcome.tokens < 80 * 8
    assert outcome.details.last_good[0] > 40
    lines = [json.loads(each) for each in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, outcome.details.steps + 1))
    assert [line["loss"] is None for line in lines] == [line["step"] > 59 for line in lines]


def test_the_training_losses_of_a_diverged_trial_are_kept_the_last_ones_step_by_step(tmp_path):
    class Raised(Mlp):
        """Its output is a thousand too high from the 21st training pass on."""

        def __init__(self, width):
            super().__init__(width)
            self.register_buffer("passes", torch.zeros(()))

        def forward(self, inputs):
            self.passes += self.training
            return super().forward(inputs) + 1000.0 * (self.passes > 20)

    outcome = run(tmp_path, toy_trial(steps=4000), build=Raised)
    assert outcome.status == "diverged"
    assert outcome.details.stopped_at_step == 220
    assert outcome.details.last_good[0] == 20
    lines = [json.loads(each) for each in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert [(line["step"], line["steps"]) for line in lines] == [
        *((end, 20) for end in range(20, 121, 20)), *((end, 1) for end in range(121, 221)),
    ]  # fmt: skip
    assert lines[0]["loss"] < 10 < 1e5 < lines[1]["loss"]


def test_the_curve_ends_at_the_loss_of_the_trial(tmp_path):
    trial = toy_trial(steps=2000)
    roomy = replace(RECIPE, curve_share=0.02)
    outcome = run(tmp_path, trial, recipe=roomy, data=toy_data(heldout=pairs(400, seed=9)))
    points = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert len(points) == 9
    assert [p["step"] for p in points] == sorted({p["step"] for p in points})
    last = points[-1]
    assert (last["step"], last["tokens"], last["flops"], last["loss"]) == (
        2000, trial.tokens, trial.flops, outcome.loss,
    )  # fmt: skip
    assert points[0]["loss"] > last["loss"]
    assert all(p["flops"] == p["tokens"] * trial.size.flops_per_token for p in points)


def test_a_trial_too_short_for_a_curve_spends_nothing_on_one(tmp_path):
    # 240 examples are trained on; evaluating 64 once costs the compute of 21 of them.
    run(tmp_path)
    points = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert len(points) == 1
    long = replace(RECIPE, curve_share=1.0)
    run(tmp_path / "long", recipe=long)
    assert len((tmp_path / "long/curve.jsonl").read_text().splitlines()) > 5


def test_progress_is_told_and_never_more_than_twice_a_second(tmp_path):
    said = []
    outcome = run(tmp_path, toy_trial(steps=300), progress=said.append)
    assert len(said) <= outcome.wall_seconds * 2 + 1
    for words in said:
        assert set(words) == {"trial_id", "step", "steps", "loss"}
        assert words["steps"] == 300


def test_what_a_trial_measured_and_used_is_kept_as_plain_data(tmp_path):
    outcome = run(tmp_path)
    details = json.loads(json.dumps(to_plain(outcome.details), allow_nan=False))
    assert details["recipe"]["learning_rate"] == 1e-2
    assert details["flops_per_second"] == pytest.approx(
        details["tokens_per_second"] * toy_trial().size.flops_per_token
    )
    share = details["flops_per_second"] / details["matmul_flops_per_second"]
    assert details["utilisation"] == pytest.approx(share)
    assert 0 < share < 1
    assert details["mfu"] is None  # nobody lists this processor
    assert details["versions"]["torch"] == torch.__version__
    assert 0 < details["training_seconds"] < outcome.wall_seconds


def test_all_evaluations_count_as_such_and_none_as_training(tmp_path):
    seconds = 0.05

    class Slow(Mlp):
        def forward(self, inputs):
            if not self.training:
                time.sleep(seconds)
            return super().forward(inputs)

    recipe = replace(RECIPE, heldout_batch=16, curve_points=0)
    outcome = run(tmp_path, build=Slow, recipe=recipe)
    # Before training a part of one batch; at the end all 4, and one of them whole and in 8 parts.
    evaluating, training = (
        getattr(outcome.details, f"{what}_seconds") for what in ("evaluation", "training")
    )
    assert evaluating >= (1 + 4 + 9) * seconds
    assert training < (1 + 4 + 9) * seconds
    assert training + evaluating <= outcome.wall_seconds


def test_a_listed_device_has_its_model_flops_utilisation(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "flops_fit.training.measuring.meter.device_name", lambda device: "NVIDIA H200"
    )
    details = run(tmp_path, recipe=replace(RECIPE, precision="bf16")).details
    assert details.nominal_flops_per_second == 989.5e12
    assert details.mfu == pytest.approx(details.flops_per_second / 989.5e12)
    assert details.utilisation > details.mfu


@pytest.mark.parametrize("batch", ["dict", "pair", "single"])
def test_batches_of_every_shape_train(tmp_path, batch):
    base = pairs(50)
    inputs, targets = base.tensors
    rows = {
        "dict": [{"inputs": a, "targets": b} for a, b in base],
        "pair": base,
        "single": list(inputs),
    }[batch]

    class Auto(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, width), nn.Linear(width, 4))

        def forward(self, inputs):
            return self.layers(inputs)

    build = Auto if batch == "single" else Mlp
    assert run(tmp_path, build=build, data=toy_data(rows, rows)).status == "finished"
    assert targets.shape == (50, 1)


def test_a_device_or_precision_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="fp16"):
        run(tmp_path, recipe=Recipe(precision="fp16"))
    with pytest.raises(ManifestError, match="no device is called"):
        train(
            toy_trial(), build=Mlp, data=toy_data(), loss=mse, recipe=RECIPE,
            directory=tmp_path, device="abacus",
        )  # fmt: skip


def test_bf16_trains_close_to_fp32(tmp_path):
    full = run(tmp_path / "a", toy_trial(steps=200))
    half = run(
        tmp_path / "b",
        toy_trial(steps=200),
        recipe=Recipe(learning_rate=1e-2, learning_rate_rule="constant", precision="bf16"),
    )
    assert half.details.precision == "bf16"
    assert half.loss == pytest.approx(full.loss, abs=0.05)
    assert half.loss != full.loss


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own compiler
@pytest.mark.parametrize("options", [{}, {"cuda_graphs": True, "micro_batch_examples": 4}])
def test_a_compiled_model_gives_the_loss_of_one_that_is_not(tmp_path, options):
    plain = run(tmp_path / "a")
    compiled = run(
        tmp_path / "b",
        recipe=Recipe(learning_rate=1e-2, learning_rate_rule="constant", compile=True, **options),
    )
    assert compiled.loss == pytest.approx(plain.loss, abs=1e-4)


class Broken(Mlp):
    """A model whose weights are not finite from the start."""

    def __init__(self, width):
        super().__init__(width)
        with torch.no_grad():
            next(self.parameters()).fill_(math.nan)


def test_a_model_that_is_not_finite_before_training_diverged_at_once_and_can_be_recorded(tmp_path):
    outcome = run(tmp_path, build=Broken)
    assert outcome.status == "diverged"
    assert outcome.error == "the untrained model's held-out loss is nan"
    assert (outcome.tokens, outcome.loss) == (0, None)
    json.dumps(to_plain(outcome.details), allow_nan=False)
