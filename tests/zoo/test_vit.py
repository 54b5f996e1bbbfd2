import math

import pytest
import torch

from flops_fit.experiment.contracts import Model
from flops_fit.zoo.glyphs import glyphs
from flops_fit.zoo.losses import cross_entropy
from flops_fit.zoo.vit import ViT


def test_it_keeps_the_contract_of_a_model_and_grows_with_its_size():
    assert isinstance(ViT(16), Model)
    with torch.device("meta"):
        sizes = [ViT(width, aspect_ratio=16.0) for width in (16, 32, 64, 128)]
    assert [len(model.blocks) for model in sizes] == [1, 2, 4, 8]
    counts = [model.num_params() for model in sizes]
    assert counts == sorted(counts)
    small = sizes[0]
    embedding = 16 * 16 + 16 + 16 * 16  # patch matrix, its bias, positions
    assert small.num_params(non_embedding=True) == small.num_params() - embedding
    assert len(ViT(16, num_layers=3).blocks) == 3


def test_a_patch_is_a_square_of_the_image_with_all_its_channels():
    model = ViT(4, num_layers=1, image_size=8, patch_size=4, channels=2, num_classes=3)
    seen = []
    model.patch_in.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    image = torch.arange(2 * 8 * 8).float().view(1, 2, 8, 8)
    model(image)
    (patches,) = seen
    assert patches.shape == (1, 4, 2 * 4 * 4)
    assert torch.equal(patches[0, 1], image[0, :, :4, 4:].flatten())
    assert torch.equal(patches[0, 2], image[0, :, 4:, :4].flatten())


def test_every_size_starts_from_a_blind_guess_and_learns():
    data = glyphs(image_size=12, heldout_images=256)
    images, labels = data.heldout.tensors
    for width in (8, 32):
        torch.manual_seed(0)
        model = ViT(width, image_size=12)
        before = cross_entropy(model(images), labels)
        assert before.item() == pytest.approx(math.log(62), abs=1e-4)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            loss = cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
        assert loss.item() < 0.7 * before.item()


def test_attention_knows_positions():
    torch.manual_seed(0)
    model = ViT(16, num_classes=5)
    for block in model.blocks:
        torch.nn.init.normal_(block.attention_out.weight)
        torch.nn.init.normal_(block.mlp_out.weight)
    torch.nn.init.normal_(model.head.weight)
    image = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        assert not torch.allclose(model(image), model(image.roll(4, dims=3)), atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"d_model": 15}, "multiple of `num_heads`"),
        ({"d_model": 16, "patch_size": 5}, "patches that tile the image"),
        ({"d_model": 16, "num_layers": 0}, "start at 1"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(arguments, expected):
    with pytest.raises(ValueError, match=expected):
        ViT(**arguments)
