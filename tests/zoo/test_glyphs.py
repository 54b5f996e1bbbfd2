import pytest
import torch

from flops_fit.training.data.batches import load_data
from flops_fit.training.data.streams import MapStream
from flops_fit.zoo.glyphs import CHARACTERS, Glyphs, draw_glyphs, glyphs


@pytest.fixture(scope="module")
def data():
    return glyphs(heldout_images=512)


def test_it_says_what_it_is(data):
    loaded = load_data(data, seed=0)
    assert (loaded.facts.unit, loaded.facts.units_per_example) == ("image", 1)
    assert loaded.facts.unique_units == 2**40  # there is no end of fresh ones
    assert loaded.facts.loss_unit == "nats per image"
    assert set(loaded.facts.provenance) == {"name", "fonts", "matplotlib", "sha256"}


def test_an_image_depends_on_its_number_and_the_seed_alone(data):
    some = torch.tensor([5, 2**39, 7])
    torch.manual_seed(0)
    first = data.train.batch_of(some)
    torch.manual_seed(1)
    again = data.train.batch_of(some.flip(0))
    assert torch.equal(first["inputs"], again["inputs"].flip(0))
    assert torch.equal(first["targets"], again["targets"].flip(0))
    assert torch.equal(data.train[2**39]["inputs"], first["inputs"][1])
    assert torch.equal(glyphs(heldout_images=1).train.batch_of(some)["inputs"], first["inputs"])
    other = glyphs(heldout_images=1, seed=1).train.batch_of(some)
    assert not torch.equal(other["inputs"], first["inputs"])


def test_no_two_examples_are_alike_and_training_never_sees_a_held_out_one(data):
    seen = data.train.batch_of(torch.arange(4096))["inputs"].flatten(1)
    held = data.heldout.tensors[0].flatten(1)
    prints = {row.numpy().tobytes() for row in torch.cat([seen, held])}
    assert len(prints) == 4096 + 512


def test_every_class_is_drawn_equally_often_and_pixels_have_unit_variance(data):
    batch = data.train.batch_of(torch.arange(12_400))
    counts = batch["targets"].bincount(minlength=62)
    assert counts.min() > 145
    assert counts.max() < 255
    assert float(batch["inputs"].mean()) == pytest.approx(0, abs=0.1)
    assert float(batch["inputs"].std()) == pytest.approx(1, abs=0.1)


def test_without_noise_and_distortion_a_glyph_is_its_drawing():
    drawings = draw_glyphs("AB")
    assert drawings.shape == (2, 20, 32, 32)
    assert float(drawings.amin(dim=(0, 1, 2, 3))) == 0
    # Every font has both letters, as shapes of their own.
    ink = drawings.flatten(2)
    assert (ink.sum(-1) > 30).all()
    assert ((ink[0] - ink[1]).abs().sum(-1) > 30).all()
    plain = Glyphs(drawings[:, :1], image_size=32, noise=0.0, distortion=0.0, seed=0)
    images = plain.batch_of(torch.arange(8))
    ink = (images["inputs"] - images["inputs"].amin()).flatten(1)
    inked = ink > 0.5 * ink.amax(dim=1, keepdim=True)  # glyphs differ in how dark they are
    shapes = {(int(t), x.numpy().tobytes()) for x, t in zip(inked, images["targets"], strict=True)}
    assert len(shapes) == 2


def test_noise_is_standard_normal_and_its_own_for_every_pixel():
    blank = Glyphs(torch.zeros(1, 1, 32, 32), image_size=16, noise=1.0, distortion=1.0, seed=0)
    pixels = blank.batch_of(torch.arange(4000))["inputs"].flatten(1) * 0.28 + 0.10
    assert float(pixels.mean()) == pytest.approx(0, abs=0.005)
    assert float(pixels.std()) == pytest.approx(1, abs=0.005)
    assert float((pixels**4).mean()) == pytest.approx(3, abs=0.05)
    correlation = torch.corrcoef(pixels.T) - torch.eye(256)
    assert float(correlation.abs().max()) < 0.09


@pytest.mark.parametrize("characters", ["", "é", "a\n"])
def test_characters_that_the_fonts_lack_are_refused(characters):
    with pytest.raises(ValueError, match="expected printable ASCII"):
        glyphs(characters=characters)


def test_a_stream_over_an_endless_set_repeats_nothing_and_goes_on_where_it_was(data):
    stream = MapStream(data.train, seed=3)
    drawn = torch.cat([stream.indices(40_000) for _ in range(3)])
    assert len(drawn.unique()) == 120_000
    assert int(drawn.max()) < len(data.train)
    later = MapStream(data.train, seed=3)
    later.restore({"drawn": 80_000})
    assert torch.equal(later.indices(40_000), drawn[80_000:])
    assert not torch.equal(MapStream(data.train, seed=4).indices(100), drawn[:100])
    assert len(CHARACTERS) == 62
