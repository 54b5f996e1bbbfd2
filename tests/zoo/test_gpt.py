import math

import pytest
import torch

from flops_fit.experiment.contracts import Model
from flops_fit.zoo.gpt import GPT
from flops_fit.zoo.losses import cross_entropy


def test_it_keeps_the_contract_of_a_model():
    assert isinstance(GPT(16), Model)


def test_no_position_sees_a_later_one():
    torch.manual_seed(0)
    model = GPT(16)
    for block in model.blocks:
        torch.nn.init.normal_(block.attention_out.weight)
    tokens = torch.randint(0, 256, (2, 64))
    changed = tokens.clone()
    changed[:, 40:] = torch.randint(0, 256, (2, 24))
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    assert torch.allclose(before[:, :40], after[:, :40], atol=1e-5)
    assert not torch.allclose(before[:, 40:], after[:, 40:], atol=1e-2)


def test_attention_knows_positions():
    torch.manual_seed(0)
    model = GPT(16)
    for block in model.blocks:
        torch.nn.init.normal_(block.attention_out.weight)
    tokens = torch.tensor([[5, 6, 7, 9]])
    with torch.no_grad():
        here, there = model(tokens)[0, -1], model(tokens[:, [1, 0, 2, 3]])[0, -1]
    assert not torch.allclose(here, there, atol=1e-3)


def test_the_rotation_keeps_lengths_and_depends_on_distances_alone():
    from flops_fit.zoo.gpt import rotary_angles, rotary_turns, rotate

    angles = rotary_angles(10, 8)
    vectors = torch.randn(8, generator=torch.Generator().manual_seed(0)).expand(1, 10, 2, 1, 8)
    for turns in (
        rotary_turns(angles),
        torch.stack((angles.cos(), angles.sin()))[..., None, None, :],
    ):
        turned = rotate(vectors, turns)[0, :, :, 0]
        assert torch.allclose(turned.norm(dim=-1), vectors[0, :, :, 0].norm(dim=-1), atol=1e-5)
        products = turned[:, 0] @ turned[:, 1].T
        for distance in range(1, 9):
            along = products.diagonal(distance)
            assert torch.allclose(along, along[0].expand_as(along), atol=1e-4)


def test_every_size_starts_near_the_loss_of_a_blind_guess():
    tokens = torch.randint(0, 256, (8, 65), generator=torch.Generator().manual_seed(0))
    for width in (8, 32, 96):
        torch.manual_seed(0)
        with torch.no_grad():
            loss = cross_entropy(GPT(width)(tokens[:, :-1]), tokens[:, 1:])
        assert abs(loss.item() - math.log(256)) < 0.3


@pytest.mark.parametrize("width", [10, 0, 7])
def test_a_width_that_its_heads_do_not_divide_is_refused(width):
    with pytest.raises(ValueError, match="d_model"):
        GPT(width)


def test_cross_entropy_is_the_mean_over_all_targets():
    outputs = torch.randn(2, 3, 5)
    targets = torch.randint(0, 5, (2, 3))
    expected = -outputs.log_softmax(-1).gather(-1, targets[..., None]).mean()
    assert torch.allclose(cross_entropy(outputs, targets), expected)


@pytest.mark.parametrize("choice", [{"positions": "learned"}, {"norm": "rms"}, {"tie_head": False}])
def test_every_variant_is_causal_knows_positions_and_counts_itself(choice):
    torch.manual_seed(0)
    model = GPT(16, context=16, **choice)
    for block in model.blocks:
        torch.nn.init.normal_(block.attention_out.weight)
    tokens = torch.randint(0, 256, (2, 16))
    changed = tokens.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % 256
    swapped = tokens[:, [1, 0, *range(2, 16)]]
    with torch.no_grad():
        before, after, moved = model(tokens), model(changed), model(swapped)
    assert torch.allclose(before[:, :10], after[:, :10], atol=1e-5)
    assert not torch.allclose(before[:, -1], moved[:, -1], atol=1e-3)
    matrices = 2 * 12 * 16**2
    extra = {"positions": 16 * 16, "norm": 0, "tie_head": 256 * 16}[next(iter(choice))]
    assert model.num_params() == matrices + 5 * 16 + 256 * 16 + extra
    kept = matrices + 5 * 16 + (extra if "tie_head" in choice else 0)
    assert model.num_params(non_embedding=True) == kept
    assert model.flops_per_token() == 6 * (matrices + 256 * 16) + 12 * 2 * 16 * 16


def test_a_variant_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="`norm` is 'batch': expected 'layer' or 'rms'"):
        GPT(16, norm="batch")
