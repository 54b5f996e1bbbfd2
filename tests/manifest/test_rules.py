import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from training_toys import Mlp, mse, toy_data, toy_trial
from trials_of_one_call import train

from flops_fit.manifest.files import to_plain
from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.rules import batch_tokens, settings
from flops_fit.manifest.trials import Size, Trial
from flops_fit.training.optimizers import make_optimizer, split_parameters
from flops_fit.zoo.vit import ViT

SIZE = Size(64, 100_000, 90_000, 6e5)
RECIPE = Recipe()


@given(
    tokens=st.floats(1e3, 1e13),
    units=st.sampled_from([1, 3, 64, 1024]),
    multiple=st.sampled_from([1, 2, 8]),
    batch=st.sampled_from([64, 512, 4096]),
)
def test_a_batch_is_whole_and_rounding_to_steps_stays_within_one_percent(
    tokens, units, multiple, batch
):
    recipe = Recipe(batch_tokens=batch)
    step = batch_tokens(
        recipe, size=SIZE, tokens=tokens, units_per_example=units, multiple_of_examples=multiple
    )
    assert step % (units * multiple) == 0
    steps = round(tokens / step)
    if tokens / (units * multiple) >= 50:
        assert steps >= 50
        assert abs(steps * step / tokens - 1) <= 0.01 + 1e-9
    else:
        assert step == units * multiple


def test_the_batch_grows_with_the_square_root_of_the_trial():
    def at(tokens):
        return batch_tokens(RECIPE, size=SIZE, tokens=tokens, units_per_example=1)

    assert at(1e6) == 512
    assert at(4e6) == 1024
    assert at(1e8) == 5120


def test_a_fixed_batch_stays_and_a_short_trial_keeps_at_least_the_fewest_examples():
    fixed = Recipe(batch_rule="fixed", batch_tokens=2048)
    for tokens in (1e6, 1e9):
        assert batch_tokens(fixed, size=SIZE, tokens=tokens, units_per_example=64) == 2048
    assert batch_tokens(RECIPE, size=SIZE, tokens=2e5, units_per_example=64) == 4 * 64


def test_counts_that_are_not_positive_are_refused():
    with pytest.raises(ValueError, match="positive counts"):
        batch_tokens(RECIPE, size=SIZE, tokens=0, units_per_example=1)


def rates(*, size=SIZE, tokens=10**6, batch=512, **fields):
    given = settings(Recipe(**fields), size=size, tokens=tokens, batch_tokens=batch)
    return given.matrix_rate, given.other_rate


def test_every_rule_gives_the_stated_rate_at_its_reference():
    references = {"reference_size": 64, "reference_params": 1e5, "reference_flops": 6e11}
    for rule in ("constant", "width", "mup", "params", "porian", "deepseek", "powerlines"):
        found = rates(learning_rate=0.01, learning_rate_rule=rule, **references)
        assert found == pytest.approx((0.01, 0.01)), rule
    # N is without embeddings there.
    found = rates(learning_rate=0.01, learning_rate_rule="steplaw", reference_params=9e4)
    assert found == pytest.approx((0.01, 0.01))


def test_every_rule_moves_the_rate_by_its_power():
    larger = Size(128, 800_000, 720_000, 6e5 * 4)
    there = {"size": larger, "tokens": 3 * 10**6, "batch": 2048}
    references = {"reference_size": 64, "reference_params": 1e5, "reference_flops": 6e11}
    expected = {
        "constant": (1, 1), "width": (1 / 2, 1), "mup": (1, 1), "params": (1 / 2, 1 / 2),
        "porian": (1 / 2, 1 / 2), "deepseek": (12**-0.125,) * 2, "powerlines": (2, 2),
    }  # fmt: skip
    for rule, factors in expected.items():
        found = rates(learning_rate=0.01, learning_rate_rule=rule, **references, **there)
        assert found == pytest.approx([0.01 * factor for factor in factors]), rule
    found = rates(learning_rate=0.01, learning_rate_rule="steplaw", reference_params=9e4, **there)
    assert found == pytest.approx((0.01 * 8**-0.713 * 3**0.307,) * 2)


def test_published_constants_hold_where_no_rate_is_stated():
    """Hand-computed: a model of 1e9 params (none of them embeddings) on 1e11 tokens, 6ND FLOPs."""
    large = Size(2048, 10**9, 10**9, 6e9)
    at = {"size": large, "tokens": 10**11}
    assert rates(learning_rate_rule="porian", **at)[0] == pytest.approx(2.2382e-3, rel=1e-4)
    assert rates(learning_rate_rule="steplaw", **at)[0] == pytest.approx(1.6325e-3, rel=1e-4)
    assert rates(learning_rate_rule="deepseek", **at)[0] == pytest.approx(7.8815e-4, rel=1e-4)
    assert rates(**at)[0] == pytest.approx(3e-3 / 10)

    def step(rule):
        return batch_tokens(Recipe(batch_rule=rule), size=large, tokens=1e11, units_per_example=1)

    assert step("porian") == pytest.approx(1_444_888, rel=1e-5)
    assert step("steplaw") == pytest.approx(1_107_715, rel=1e-5)
    assert step("deepseek") == pytest.approx(1_827_747, rel=1e-5)


def test_decay_rules_keep_the_timescale_of_adamw():
    def timescale(tokens, batch, **fields):
        given = settings(
            Recipe(learning_rate_rule="width", reference_size=16, learning_rate=0.02, **fields),
            size=SIZE, tokens=tokens, batch_tokens=batch,
        )  # fmt: skip
        return batch / (given.matrix_rate * given.weight_decay * tokens)

    reference = {"weight_decay_rule": "timescale", "weight_decay": 0.1, "batch_tokens": 512}
    there = 512 / (0.02 * 0.1 * 1e6)
    assert timescale(10**6, 512, **reference) == pytest.approx(there)
    assert timescale(64 * 10**6, 4096, **reference) == pytest.approx(there)
    published = timescale(2 * 10**6, 512, weight_decay_rule="powerlines")
    assert published == pytest.approx(1.084 * 20**-0.527)


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ({"learning_rate_rule": "width"}, "reference_size"),
        ({"learning_rate_rule": "mup"}, "reference_size"),
        ({"learning_rate_rule": "porian", "learning_rate": 0.01}, "reference_params"),
        ({"learning_rate_rule": "steplaw", "learning_rate": 0.01}, "reference_params"),
        ({"learning_rate_rule": "deepseek", "learning_rate": 0.01}, "reference_flops"),
        ({"batch_rule": "porian", "batch_tokens": 64}, "reference_params"),
        ({"batch_rule": "deepseek", "batch_tokens": 64}, "reference_flops"),
        ({"batch_rule": "deepseek", "learning_rate_rule": "powerlines"}, "batch_tokens"),
        ({"batch_rule": "porian", "weight_decay_rule": "timescale"}, "batch_tokens"),
        ({"learning_rate_rule": "porian", "weight_decay_rule": "timescale"}, "learning_rate"),
    ],
)
def test_a_rule_without_its_reference_is_refused_by_the_name_of_what_is_missing(fields, missing):
    with pytest.raises(ValueError, match=f"`{missing}` is missing: expected"):
        Recipe(**fields)


def build_vit(width):
    return ViT(width, aspect_ratio=16.0, num_classes=10)


def test_mup_divides_by_the_fan_in_of_each_matrix_that_grows():
    recipe = Recipe(learning_rate=0.01, learning_rate_rule="mup", reference_size=16.0)
    model = build_vit(64)
    trial = Trial.of(
        budget_flops=1e3, size=Size(64, 1, None, 1.0), tokens=1000, batch_tokens=10, seed=0
    )
    before = torch.get_rng_state()
    made = make_optimizer(
        model, recipe=recipe, trial=trial, device=torch.device("cpu"), build=build_vit
    )
    assert torch.equal(before, torch.get_rng_state())
    rate_of = {p: group["lr"] for group in made.param_groups for p in group["params"]}
    assert len(rate_of) == len(list(model.parameters()))
    assert rate_of[model.patch_in.weight] == 0.01  # sees 16 pixels at every width
    assert rate_of[model.position.weight] == 0.01
    assert rate_of[model.head.weight] == 0.01 / 4
    for block in model.blocks:  # four of them; the reference has one
        assert rate_of[block.query_key_value.weight] == rate_of[block.mlp_out.weight] == 0.01 / 4
        assert rate_of[block.mlp_norm.weight] == 0.01


class Mixed(nn.Module):
    """A parameter of each kind that a rule of decay must tell from the others."""

    def __init__(self, width=8):
        super().__init__()
        self.embedding = nn.Embedding(16, width)
        self.head = nn.Linear(width, 16, bias=False)
        self.head.weight = self.embedding.weight
        self.pos_embed = nn.Parameter(torch.zeros(1, 4, width))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.layer_scale = nn.Parameter(torch.ones(width, 1, 1))
        self.expert_bias = nn.Parameter(torch.zeros(3, width))
        self.norm = nn.LayerNorm((4, width))
        self.narrow = nn.Linear(width, 1)
        self.conv = nn.Conv1d(width, width, 1)
        self.lstm = nn.LSTM(1, width)
        self.experts = nn.Parameter(torch.zeros(3, width, width))
        self.token_mix = nn.Parameter(torch.zeros(4, 4))


def test_only_weight_matrices_decay():
    model = Mixed()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    matrices, others = split_parameters(model)
    assert {names[id(p)] for p in matrices} == {
        "experts", "token_mix", "narrow.weight", "conv.weight", "lstm.weight_ih_l0",
        "lstm.weight_hh_l0",
    }  # fmt: skip
    assert len(matrices) + len(others) == len(names)


@pytest.mark.parametrize("rule", ["timescale", "powerlines"])
def test_decay_follows_the_rate_that_each_matrix_gets(rule):
    """B / (rate * decay * D) is one number, whatever rates `mup` and a study of rates give."""
    recipe = Recipe(
        learning_rate=0.01, learning_rate_rule="mup", reference_size=16.0,
        weight_decay_rule=rule, batch_tokens=512, batch_reference_tokens=1e6,
    )  # fmt: skip
    size = Size(64, 1000, None, 1.0)

    def timescales(factor):
        trial = Trial.of(
            budget_flops=1e3, size=size, tokens=20_000, batch_tokens=10, seed=0,
            learning_rate_factor=factor,
        )  # fmt: skip
        made = make_optimizer(
            build_vit(64), recipe=recipe, trial=trial, device=torch.device("cpu"), build=build_vit
        )
        groups = [group for group in made.param_groups if group["weight_decay"]]
        assert [group["lr"] / factor for group in groups] == pytest.approx([0.01, 0.01 / 4])
        return [10 / (g["lr"] * g["weight_decay"] * 20_000) for g in groups]

    # The reference of `timescale` has the rate of the study.
    wanted = {"timescale": 512 / (0.01 * 0.1 * 1e6), "powerlines": 1.084 * 20**-0.527}[rule]
    assert timescales(1.0) == pytest.approx([wanted] * 2)
    assert timescales(2.0) == pytest.approx([wanted / (2 if rule == "timescale" else 1)] * 2)


def test_the_optimizer_that_really_trained_is_recorded(tmp_path):
    class Own(Mlp):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.5)

    def details(build):
        outcome = train(
            toy_trial(steps=60), build=build, data=toy_data(), loss=mse, recipe=RECIPE,
            directory=tmp_path / build.__name__, device="cpu",
        )  # fmt: skip
        return to_plain(outcome.details)

    own, usual = details(Own), details(Mlp)
    assert own["optimizer"]["name"] == "SGD"
    assert own["optimizer"]["is_own"]
    assert own["optimizer"]["settings"]["momentum"] == 0.5
    assert own["recipe"]["optimizer"] == "own"
    assert own["learning_rates"] == [0.05]
    assert usual["optimizer"]["name"] == "AdamW"
    assert not usual["optimizer"]["is_own"]
    assert usual["optimizer"]["settings"]["betas"] == [0.9, 0.98]
    assert usual["recipe"] == RECIPE.to_dict()


def test_what_the_rules_gave_is_recorded_with_the_trial(tmp_path):
    recipe = Recipe(learning_rate_rule="porian", weight_decay_rule="powerlines")
    trial = toy_trial(steps=60)
    given = settings(recipe, size=trial.size, tokens=trial.tokens, batch_tokens=trial.batch_tokens)
    outcome = train(
        trial, build=Mlp, data=toy_data(), loss=mse, recipe=recipe, directory=tmp_path, device="cpu"
    )  # fmt: skip
    assert list(outcome.details.learning_rates) == [given.matrix_rate, given.other_rate]
    assert list(outcome.details.weight_decays) == [given.weight_decay, 0.0]
    assert outcome.details.recipe["learning_rate_rule"] == "porian"


def test_a_factor_multiplies_every_rate_and_tells_trials_apart(tmp_path):
    base = {"budget_flops": 1e3, "size": SIZE, "tokens": 1000, "batch_tokens": 10, "seed": 0}
    plain, doubled = Trial.of(**base), Trial.of(**base, learning_rate_factor=2.0)
    assert plain.trial_id == Trial.of(**base, learning_rate_factor=1.0).trial_id
    assert plain.trial_id != doubled.trial_id
    assert Trial.from_dict(doubled.to_dict()) == doubled
    assert "learning_rate_factor" not in plain.to_dict()

    class Own(nn.Linear):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.5)

    for model in (nn.Linear(3, 3), Own(3, 3)):
        once, twice = (
            make_optimizer(model, recipe=RECIPE, trial=trial, device=torch.device("cpu"))
            for trial in (plain, doubled)
        )
        for one, two in zip(once.param_groups, twice.param_groups, strict=True):
            assert two["lr"] == pytest.approx(2 * one["lr"])


def test_planning_a_batch_needs_no_torch():
    code = "import flops_fit.manifest.rules, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_default_rate_is_lowered_where_a_trial_is_short_for_its_size():
    """20 positions a parameter are enough; with a tenth of them the rate is 10^-0.307 of that."""
    full, tenth, long = (rates(tokens=t)[0] for t in (2 * 10**6, 2 * 10**5, 2 * 10**8))
    assert full == pytest.approx(3e-3 * 0.1 ** (-1 / 3))
    assert long == full
    assert tenth == pytest.approx(full * 10**-0.307)
    # An image whose 64 patches pass through the model counts for 64 positions.
    image = Size(64, 100_000, 90_000, 64 * 6e5)
    assert rates(size=image, tokens=2 * 10**5 // 64)[0] == pytest.approx(tenth)
