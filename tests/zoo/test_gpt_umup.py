import importlib
import math
import sys

import pytest
import torch

from flops_fit.experiment.contracts import Model
from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.trials import Size, Trial
from flops_fit.training.optimizers import make_optimizer
from flops_fit.zoo.gpt_umup import GPTuMuP, unit_scaled_cross_entropy
from flops_fit.zoo.losses import cross_entropy

TOKENS = torch.randint(0, 256, (16, 65), generator=torch.Generator().manual_seed(0))


def test_it_keeps_the_contract_of_a_model():
    model = GPTuMuP(16)
    assert isinstance(model, Model)
    assert model.num_params() == 2 * 12 * 16**2 + 2 * 256 * 16
    assert model.num_params(non_embedding=True) == 2 * 12 * 16**2 + 256 * 16


def test_no_position_sees_a_later_one():
    torch.manual_seed(0)
    model = GPTuMuP(16)
    tokens = TOKENS[:, :64]
    changed = tokens.clone()
    changed[:, 40:] = (changed[:, 40:] + 1) % 256
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    assert torch.allclose(before[:, :40], after[:, :40], atol=1e-5)
    assert not torch.allclose(before[:, 40:], after[:, 40:], atol=1e-3)


def test_activations_and_gradients_have_unit_scale_at_every_width():
    for width in (16, 64, 256):
        torch.manual_seed(0)
        model = GPTuMuP(width)
        seen = []
        model.norm.register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0].detach()))
        loss = unit_scaled_cross_entropy(model(TOKENS[:, :-1]), TOKENS[:, 1:])
        loss.backward()
        assert 0.5 < float(seen[0].std()) < 2
        assert loss.item() == pytest.approx(math.log(256), abs=0.5)
        for name, parameter in model.named_parameters():
            assert 0.03 < float(parameter.grad.std()) < 5, (width, name)


def test_its_loss_is_plain_cross_entropy_in_value():
    model = GPTuMuP(16)
    with torch.no_grad():
        outputs, targets = model(TOKENS[:, :-1]), TOKENS[:, 1:]
    plain = cross_entropy(outputs, targets)
    assert float(unit_scaled_cross_entropy(outputs, targets)) == pytest.approx(float(plain))


def test_rates_follow_the_width_as_the_parametrisation_says():
    def rates(width):
        model = GPTuMuP(width)
        trial = Trial.of(
            budget_flops=1e3, size=Size(width, 1, None, 1.0), tokens=100, batch_tokens=10, seed=0
        )
        recipe = Recipe(learning_rate=1.5, learning_rate_rule="constant", weight_decay=1e-4)
        made = make_optimizer(model, recipe=recipe, trial=trial, device=torch.device("cpu"))
        for group in made.param_groups:  # a step takes the stated share off, whatever the rate
            assert group["lr"] * group["weight_decay"] == pytest.approx(1e-4)
        of = {p: group["lr"] for group in made.param_groups for p in group["params"]}
        block = model.blocks[0]
        return [of[p] for p in (model.head.weight, model.embedding.weight, block.mlp_out.weight)]

    assert rates(16) == pytest.approx([1.5, 1.5 / 4, 1.5 / 8 / math.sqrt(2)])
    assert rates(64) == pytest.approx([1.5, 1.5 / 8, 1.5 / 16 / math.sqrt(2)])


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "unit_scaling", None)
    monkeypatch.delitem(sys.modules, "flops_fit.zoo.gpt_umup")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'flops-fit\[umup\]'"):
        importlib.import_module("flops_fit.zoo.gpt_umup")


def test_a_shape_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="expected a multiple of 4"):
        GPTuMuP(18)
    with pytest.raises(ValueError, match="start at 1"):
        GPTuMuP(16, num_layers=0)
