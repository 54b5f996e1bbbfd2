"""The loaders of TinyStories and CIFAR-10, on small files of the real schema; no network."""

import pickle
import sys

import datasets
import pytest
import torch
from hub_copies import (
    STORIES,
    cifar10_batches,
    cifar10_copy,
    images,
    tinystories_copy,
)

from flops_fit.training.data.batches import load_data
from flops_fit.zoo.cifar10 import cifar10
from flops_fit.zoo.hub import kept_array
from flops_fit.zoo.tinystories import tinystories


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


@pytest.fixture
def stories(tmp_path):
    return str(tinystories_copy(tmp_path / "stories"))


def test_stories_are_packed_end_to_end_with_the_next_byte_as_target(stories):
    data = tinystories(context=32, path=stories, heldout_windows=5)
    text = "".join(f"{story.strip()}\0" for story in STORIES[12:]).encode()
    whole = torch.cat([data.train[i]["inputs"] for i in range(len(data.train))])
    assert bytes(whole.tolist()) == text[: len(whole)]
    assert len(text) - len(whole) <= 32
    window = data.train.batch_of(torch.tensor([3]))
    assert window["targets"][0].tolist() == list(text[97:129])
    assert len(data.heldout) == 5
    facts = load_data(data, seed=0).facts
    assert (facts.unit, facts.units_per_example, facts.loss_unit) == ("byte", 32, "nats per byte")
    assert facts.unique_units == len(whole)
    assert facts.provenance["stories"] == len(STORIES) - 12


def test_stories_held_out_are_those_of_the_validation_split(stories):
    data = tinystories(context=16, path=stories, heldout_windows=10_000)
    held = torch.cat([data.heldout[i]["inputs"] for i in range(len(data.heldout))])
    text = "".join(f"{story.strip()}\0" for story in STORIES[:12]).encode()
    assert bytes(held.tolist()) == text[: len(held)]


def test_an_own_tokenizer_is_trained_once_and_gives_fewer_tokens(stories):
    data = tinystories(context=16, path=stories, tokenizer="bpe:400")
    assert data.unit == "token"
    vocabulary = data.provenance["vocab_size"]
    assert 257 < vocabulary <= 400
    assert int(data.train.text.max()) < vocabulary
    in_bytes = tinystories(context=16, path=stories).provenance["tokens"]
    assert data.provenance["tokens"] < in_bytes / 2
    again = tinystories(context=16, path=stories, tokenizer="bpe:400")
    assert again.provenance == data.provenance
    ends = int((data.train.text == 0).sum())  # <|endoftext|> is the first special token
    assert ends == len(STORIES) - 12


def test_a_tokenizer_file_is_taken_and_a_missing_one_is_named(stories, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<unk>": 0, "<|endoftext|>": 1, "Once": 2, "upon": 3}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    file = tmp_path / "tokenizer.json"
    made.save(str(file))
    data = tinystories(context=8, path=stories, tokenizer=str(file))
    assert data.train.text[:2].tolist() == [2, 3]
    assert data.provenance["vocab_size"] == 4
    with pytest.raises(ValueError, match=r"`no\.json`, which does not exist"):
        tinystories(path=stories, tokenizer="no.json")
    with pytest.raises(ConnectionError, match='set tokenizer = "bytes"'):
        tinystories(path=stories, tokenizer="nobody/nothing")
    with pytest.raises(ValueError, match="expected 257 tokens or more"):
        tinystories(path=stories, tokenizer="bpe:100")


def test_fewer_stories_and_other_forms_of_a_local_copy(stories, tmp_path):
    few = tinystories(context=8, path=stories, stories=3)
    assert few.provenance["stories"] == 3
    loaded = datasets.load_dataset(stories)
    loaded.save_to_disk(str(tmp_path / "saved"))
    saved = tinystories(context=8, path=str(tmp_path / "saved"))
    assert saved.provenance["sha256"] == few.provenance["sha256"]


def test_without_a_network_the_error_says_how_to_go_on():
    for load, name in ((tinystories, "roneneldan/TinyStories"), (cifar10, "uoft-cs/cifar10")):
        with pytest.raises(ConnectionError, match=name) as caught:
            load()
        assert f"hf download {name}" in str(caught.value)
        assert "kwargs = { path =" in str(caught.value)


def test_without_the_package_the_error_names_the_extra(monkeypatch, stories):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'flops-fit\[data\]'"):
        tinystories(path=stories)


@pytest.mark.parametrize("load", [tinystories, cifar10])
def test_a_local_copy_that_is_none_is_refused_with_what_is_wrong(load, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load(path=str(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no data set"):
        load(path=str(tmp_path / "empty"))
    other = tmp_path / "other"
    datasets.Dataset.from_dict({"words": ["a"] * 9}).to_parquet(other / "train.parquet")
    missing = "no split `validation`" if load is tinystories else "no columns `img` and `label`"
    with pytest.raises(ValueError, match=missing):
        load(path=str(other))


def test_a_split_without_its_column_is_refused(tmp_path):
    for split in ("train", "validation"):
        file = tmp_path / "other" / f"{split}.parquet"
        datasets.Dataset.from_dict({"words": ["a"] * 9}).to_parquet(file)
    with pytest.raises(ValueError, match="no column `text`; it has 'words'"):
        tinystories(path=str(tmp_path / "other"))


def test_too_little_text_is_refused(stories):
    with pytest.raises(ValueError, match="too few for a window of 100000"):
        tinystories(path=stories, context=100_000)


def test_images_of_the_hub_and_of_the_original_batches_are_the_same(tmp_path):
    hub = cifar10(path=str(cifar10_copy(tmp_path / "hub")), augment=False)
    original = cifar10(path=str(cifar10_batches(tmp_path / "old").parent), augment=False)
    pixels, labels = images(40, seed=0)
    order = [i for n in range(5) for i in range(n, 40, 5)]  # the batches deal them out
    assert torch.equal(hub.train.pixels, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert torch.equal(original.train.pixels, hub.train.pixels[order])
    assert original.train.labels.tolist() == labels[order].tolist()
    assert torch.equal(original.heldout.pixels, hub.heldout.pixels)
    facts = load_data(hub, seed=0).facts
    assert (facts.unit, facts.unique_units, facts.loss_unit) == ("image", 40, "nats per image")
    batch = hub.heldout.batch_of(torch.arange(20))
    assert batch["inputs"].shape == (20, 3, 32, 32)
    assert batch["inputs"].dtype == torch.float32
    assert abs(float(batch["inputs"].mean())) < 2


def test_augmentation_shifts_and_mirrors_and_is_drawn_from_torchs_generator(tmp_path):
    train = cifar10(path=str(cifar10_batches(tmp_path))).train
    indices = torch.arange(30)
    torch.manual_seed(1)
    first, second = train.batch_of(indices), train.batch_of(indices)
    torch.manual_seed(1)
    again = train.batch_of(indices)
    assert torch.equal(first["inputs"], again["inputs"])
    assert not torch.equal(first["inputs"], second["inputs"])
    train.is_augmented = False
    plain = train.batch_of(indices)["inputs"]
    # The middle of each image is some window of the plain one, mirrored or not.
    for image, source in zip(first["inputs"], plain, strict=True):
        middle = image[:, 8:24, 8:24]
        windows = [
            candidate[:, y : y + 16, x : x + 16]
            for candidate in (source, source.flip(2)) for y in range(4, 13) for x in range(4, 13)
        ]  # fmt: skip
        assert any(torch.equal(middle, window) for window in windows)


def test_a_batch_that_is_no_batch_is_refused_and_runs_nothing(tmp_path):
    class Bad:
        def __reduce__(self):
            return (print, ("this must not run",))

    folder = cifar10_batches(tmp_path)
    (folder / "data_batch_3").write_bytes(pickle.dumps({b"data": Bad(), b"labels": []}))
    with pytest.raises(
        ValueError, match=r"data_batch_3` is not a batch.*it loads `builtins\.print"
    ):
        cifar10(path=str(folder))
    (folder / "data_batch_3").unlink()
    with pytest.raises(ValueError, match="has no `data_batch_3`"):
        cifar10(path=str(folder))


def test_what_was_made_once_is_mapped_from_the_cache(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return images(3, seed=0)[0]

    first, second = kept_array({"a": 1}, make), kept_array({"a": 1}, make)
    assert (first == second).all()
    assert len(calls) == 1
    kept_array({"a": 2}, make)
    assert len(calls) == 2
    assert not list((tmp_path / "cache" / "flops-fit").glob(".tmp-*"))
