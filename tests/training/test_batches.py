from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)
from training_toys import Endless, pairs

from flops_fit.errors import PluginError
from flops_fit.training.data.batches import first_examples, heldout_batches, load_data
from flops_fit.training.data.streams import (
    MapStream,
    count_examples,
    derive_seed,
    fetcher,
    on_device,
    split_batch,
)
from flops_fit.training.data.workers import open_stream


def numbers(count):
    return TensorDataset(torch.arange(count))


def loader_of(sampler):
    return DataLoader(numbers(10), batch_size=3, sampler=sampler)


def drawn(stream, *counts):
    return [stream.take(count)[0].tolist() for count in counts]


class Slow(Dataset):
    """The same numbers as `numbers`, one by one."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return (torch.tensor(index),)


def test_an_epoch_draws_each_example_once_and_the_next_has_another_order():
    stream = MapStream(numbers(10), seed=1)
    batches = drawn(stream, 4, 4, 4, 4, 4)
    flat = [number for batch in batches for number in batch]
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10] != flat[10:]


@pytest.mark.parametrize("size", [170, 165])
def test_a_set_too_large_for_one_permutation_is_shuffled_in_blocks_each_example_once(
    monkeypatch, size
):
    monkeypatch.setattr("flops_fit.training.data.streams._BLOCK", 10)
    stream = MapStream(numbers(size), seed=1)
    flat = [number for batch in drawn(stream, *[7] * (2 * size // 7 + 1)) for number in batch]
    first, second = flat[:size], flat[size : 2 * size]
    assert sorted(first) == sorted(second) == list(range(size))
    assert first != second
    assert first[:10] != sorted(first[:10])
    assert [number // 10 for number in first] != sorted(number // 10 for number in first)
    later = MapStream(numbers(size), seed=1)
    later.restore({"drawn": size + 33})
    assert drawn(later, 40)[0] == flat[size + 33 : size + 73]


def test_order_depends_on_the_seed_and_not_on_the_batch():
    one = [n for batch in drawn(MapStream(numbers(50), seed=1), *[5] * 10) for n in batch]
    other = [n for batch in drawn(MapStream(numbers(50), seed=1), *[10] * 5) for n in batch]
    assert one == other
    assert one != drawn(MapStream(numbers(50), seed=2), 50)[0]


def test_parts_of_a_batch_are_the_slices_that_processes_take():
    whole = drawn(MapStream(numbers(50), seed=1), 8, 8)
    halves = [MapStream(numbers(50), seed=1), MapStream(numbers(50), seed=1)]
    for batch in whole:
        parts = [
            stream.take(8, part=slice(4 * rank, 4 * rank + 4))[0].tolist()
            for rank, stream in enumerate(halves)
        ]
        assert parts[0] + parts[1] == batch


@pytest.mark.parametrize("kind", ["plain", "tensors", "subset", "loader"])
def test_every_kind_of_map_style_set_gives_the_same_stream(kind):
    made = {
        "plain": Slow(30),
        "tensors": numbers(30),
        "subset": Subset(Slow(60), range(30)),
        "loader": DataLoader(numbers(30), batch_size=7, shuffle=True),
    }[kind]
    assert drawn(open_stream(made, seed=3), 8, 8, 8, 8) == drawn(
        MapStream(Slow(30), seed=3), 8, 8, 8, 8
    )


def test_a_set_with_batch_of_is_read_many_at_a_time():
    class Fast(Slow):
        def batch_of(self, indices):
            return (indices * 1,)

        def __getitem__(self, index):
            raise AssertionError("read one by one")

    assert fetcher(Fast(9))(torch.tensor([3, 1]))[0].tolist() == [3, 1]


def test_a_stream_goes_on_in_its_second_epoch_where_it_stood():
    stream = MapStream(numbers(10), seed=4)
    drawn(stream, 7, 7)
    state = stream.state()
    expected = drawn(stream, 7, 7)
    again = MapStream(numbers(10), seed=4)
    again.restore(state)
    assert drawn(again, 7, 7) == expected


def test_an_iterable_set_is_batched_across_the_ends_of_its_epochs():
    source = Endless(10)
    stream = open_stream(source, seed=0)
    inputs = torch.cat([stream.take(4)["inputs"] for _ in range(5)])
    expected = torch.stack([example[0] for example in pairs(10, seed=5)])
    assert torch.equal(inputs, torch.cat([expected, expected]))
    assert source.yielded == 20


def test_a_loader_with_a_sampler_of_its_own_is_taken_as_it_is_and_rebatched():
    sampler = WeightedRandomSampler([0.0] * 5 + [1.0] * 5, 12)
    loader = DataLoader(numbers(10), batch_size=5, sampler=sampler)
    stream = open_stream(loader, seed=0)
    batches = drawn(stream, 8, 8, 8)
    assert [len(batch) for batch in batches] == [8, 8, 8]
    assert min(min(batch) for batch in batches) >= 5


@pytest.mark.parametrize(
    ("sampler", "in_epoch"),
    [
        (RandomSampler(range(10), replacement=True, num_samples=4), 4),
        (RandomSampler(range(10), replacement=True), 10),
        (RandomSampler(range(10), num_samples=25), 25),
        (SequentialSampler(range(6)), 6),
    ],
    ids=["few with replacement", "with replacement", "more than all", "a part"],
)
def test_a_sampler_that_does_not_draw_each_example_once_is_kept(sampler, in_epoch):
    stream = open_stream(loader_of(sampler), seed=0)
    epochs = [tuple(drawn(stream, in_epoch)[0]) for _ in range(3)]
    assert set(range(10)) != set(epochs[0]) or in_epoch > 10
    assert stream.state()["epoch"] == 2


def test_a_loaders_collate_function_is_kept():
    loader = DataLoader(
        Slow(10), batch_size=2, collate_fn=lambda rows: {"inputs": len(rows), "targets": rows}
    )
    assert open_stream(loader, seed=0).take(6)["inputs"] == 6


def test_a_set_that_yields_nothing_is_refused():
    with pytest.raises(PluginError, match="yields nothing"):
        open_stream(numbers(0), seed=0)
    with pytest.raises(PluginError, match="yields nothing"):
        open_stream(Endless(0), seed=0).take(1)
    with pytest.raises(PluginError, match="held-out set yields nothing"):
        heldout_batches(numbers(0), batch=4, examples=None)


@pytest.mark.parametrize(
    "made",
    [
        (numbers(6), numbers(3)),
        {"train": numbers(6), "heldout": numbers(3)},
        SimpleNamespace(train=numbers(6), heldout=numbers(3)),
    ],
)
def test_training_and_held_out_sets_are_found_in_whatever_is_returned(made):
    data = load_data(made, seed=0)
    assert (len(data.train), len(data.heldout), data.notes) == (6, 3, ())


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: DataLoader(d, batch_size=4)])
def test_a_single_set_is_split_by_the_seed_without_overlap_and_says_so(wrap):
    def parts(seed):
        data = load_data(wrap(numbers(200)), seed=seed)
        train = first_examples(data.train, 200)[0].tolist()
        heldout = first_examples(data.heldout, 200)[0].tolist()
        return data, train, heldout

    data, train, heldout = parts(0)
    assert len(heldout) == 10
    assert sorted(train + heldout) == list(range(200))
    assert parts(0)[2] == heldout
    assert parts(1)[2] != heldout
    assert [note.code for note in data.notes] == ["heldout_split"]
    assert data.facts.unique_units == 190


def test_the_cut_of_an_iterable_held_out_set_is_said():
    data = load_data((numbers(10), Endless(10)), seed=0)
    (note,) = data.notes
    assert note.code == "heldout_first"
    assert "first 4,096 examples" in note.message
    assert load_data((Endless(10), numbers(10)), seed=0).notes == ()


def test_an_iterable_set_needs_its_own_held_out_set():
    with pytest.raises(PluginError, match="no held-out set"):
        load_data(Endless(10), seed=0)
    with pytest.raises(PluginError, match="no held-out set"):
        load_data(DataLoader(Endless(10)), seed=0)


@pytest.mark.parametrize("made", [3, torch.zeros(3), "text", {"test": numbers(3)}])
def test_what_is_no_data_set_is_refused(made):
    with pytest.raises(PluginError):
        load_data(made, seed=0)


def test_facts_come_from_what_was_returned_and_the_manifest_wins():
    made = SimpleNamespace(
        train=numbers(6), heldout=numbers(3), unit="token", units_per_example=5, provenance={"a": 1}
    )
    facts = load_data(made, seed=0).facts
    assert (facts.unit, facts.units_per_example, facts.unique_units) == ("token", 5, 30)
    assert facts.provenance == {"a": 1}
    overridden = load_data(made, seed=0, overrides={"unit": "word", "unique_units": 7}).facts
    assert (overridden.unit, overridden.units_per_example, overridden.unique_units) == (
        "word",
        5,
        7,
    )
    assert load_data((Endless(4), numbers(3)), seed=0).facts.unique_units is None
    bare = load_data((numbers(6), numbers(3)), seed=0).facts
    assert (bare.unit, bare.units_per_example) == ("example", 1)


def test_a_count_of_units_that_is_no_count_is_refused():
    with pytest.raises(PluginError, match="units_per_example"):
        load_data((numbers(6), numbers(3)), seed=0, overrides={"units_per_example": 0})


def test_the_held_out_set_is_whole_in_order_and_cut_where_asked():
    batches = heldout_batches(numbers(10), batch=4, examples=None)
    assert [batch[0].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert sum(map(count_examples, heldout_batches(numbers(10), batch=4, examples=6))) == 6
    endless = heldout_batches(Endless(10_000), batch=100, examples=None)
    assert sum(map(count_examples, endless)) == 4096
    loader = DataLoader(Endless(20), batch_size=8)
    assert [count_examples(b) for b in heldout_batches(loader, batch=4, examples=18)] == [8, 8, 2]


def test_batches_are_dicts_tuples_or_a_single_tensor():
    a, b = torch.zeros(2), torch.ones(2)
    assert split_batch({"inputs": a, "targets": b, "more": 1}) == (a, b)
    assert split_batch((a, b)) == (a, b)
    assert split_batch([a]) == (a, a)
    assert split_batch(a) == (a, a)
    with pytest.raises(PluginError, match="`input_ids`"):
        split_batch({"input_ids": a})
    with pytest.raises(PluginError, match="tuple of 3"):
        split_batch((a, b, a))


def test_seeds_of_different_purposes_differ():
    seeds = {derive_seed(seed, purpose) for seed in range(10) for purpose in ("data", "init")}
    assert len(seeds) == 20


def test_examples_in_memory_are_moved_to_a_device_and_others_are_left():
    there = torch.device("meta")
    assert on_device(numbers(9), there).tensors[0].device == there
    for untouched in (Slow(9), Endless(9)):
        assert on_device(untouched, there) is untouched
    data = numbers(9)
    assert on_device(data, torch.device("cpu")) is data


def test_a_part_of_a_held_out_set_is_evenly_spaced_over_it():
    whole = TensorDataset(torch.arange(1000), torch.arange(1000))
    chosen = torch.cat([x for x, _ in heldout_batches(whole, batch=4, examples=10)])
    assert chosen.tolist() == list(range(50, 1000, 100))
