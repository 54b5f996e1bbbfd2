"""Worker processes fetch the same batches as the trial itself would, in the same order."""

import multiprocessing
import random

import numpy as np
import pytest
import torch
from interrupted_runs import run
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from training_toys import pairs

from flops_fit.errors import PluginError
from flops_fit.manifest.recipe import Recipe
from flops_fit.training.data.batches import heldout_batches
from flops_fit.training.data.workers import open_stream, open_with_workers
from flops_fit.training.orders import Interrupted

CPU = torch.device("cpu")


class Costly(Dataset):
    """A map-style set that draws, as augmentation does, and says which process drew."""

    def __init__(self, count=50, noise=0.0):
        self.inner, self.noise = pairs(count), noise

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        inputs, targets = self.inner[index]
        drawn = random.random() + np.random.rand() + torch.rand(()).item()
        return {"inputs": inputs + self.noise * drawn, "targets": targets}


class Stream(IterableDataset):
    def __iter__(self):
        yield from pairs(30)


def taken(stream, steps, count=8, part=slice(None)):
    return [stream.take(count, part=part) for _ in range(steps)]


@pytest.mark.parametrize("source", [Costly(), Stream()], ids=["map-style", "iterable"])
def test_workers_change_no_example_and_no_order(source):
    plain = taken(open_stream(source, seed=3), 9)
    ahead = taken(open_with_workers(source, seed=3, workers=2, device=CPU), 9)
    for one, other in zip(plain, ahead, strict=True):
        one, other = (b["inputs"] if isinstance(b, dict) else b[0] for b in (one, other))
        assert torch.equal(one, other)


class Drawing(IterableDataset):
    """In an order and with noise of the generators of the whole process."""

    def __iter__(self):
        for number in torch.randperm(30):
            yield number, number + torch.rand(()) + np.random.rand()


def test_a_process_that_reads_an_iterable_set_draws_what_the_trials_own_would():
    plain = taken(open_stream(Drawing(), seed=3), 9)
    torch.manual_seed(99)
    ahead = taken(open_with_workers(Drawing(), seed=3, workers=1, device=CPU), 9)
    for one, other in zip(plain, ahead, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


class Plain:
    """Neither map-style nor torch's own iterable: all that it offers is to be iterated."""

    def __iter__(self):
        yield from pairs(30)


def test_a_set_that_can_only_be_iterated_is_read_ahead_too():
    plain = taken(open_stream(Plain(), seed=3), 9)
    ahead = taken(open_with_workers(Plain(), seed=3, workers=1, device=CPU), 9)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(plain, ahead, strict=True))


@pytest.fixture
def spawned():
    """Processes begin empty, as on macOS, instead of as copies of this one."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize("source", [Subset(Costly(), range(9, 40)), Plain()],
                         ids=["map-style", "iterable"])  # fmt: skip
def test_workers_that_are_spawned_change_nothing(spawned, source):
    plain = taken(open_stream(source, seed=3), 3)
    ahead = taken(open_with_workers(source, seed=3, workers=1, device=CPU), 3)
    for one, other in zip(plain, ahead, strict=True):
        one, other = (b["inputs"] if isinstance(b, dict) else b[0] for b in (one, other))
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:Got pickle error")  # torch's own word for it
def test_a_set_that_cannot_be_sent_to_a_worker_is_said_to_be_so(spawned):
    class Local(Costly):
        pass

    stream = open_with_workers(Local(), seed=3, workers=1, device=CPU)
    with pytest.raises(PluginError, match="cannot be sent"):
        stream.take(8)


def test_what_examples_draw_is_the_same_for_any_number_of_workers():
    source = Costly(noise=1.0)
    one, two = (
        taken(open_with_workers(source, seed=3, workers=workers, device=CPU), 7)
        for workers in (1, 2)
    )
    assert all(torch.equal(a["inputs"], b["inputs"]) for a, b in zip(one, two, strict=True))
    drawn = torch.cat([batch["inputs"] for batch in one])
    assert len(torch.unique(drawn, dim=0)) == len(drawn)


def test_processes_of_one_trial_take_their_parts_of_the_same_batch():
    source = Costly()
    whole = taken(open_with_workers(source, seed=1, workers=1, device=CPU), 3)
    first = taken(open_with_workers(source, seed=1, workers=1, device=CPU), 3, part=slice(0, 4))
    last = taken(open_with_workers(source, seed=1, workers=1, device=CPU), 3, part=slice(4, 8))
    for batch, a, b in zip(whole, first, last, strict=True):
        assert torch.equal(batch["inputs"], torch.cat([a["inputs"], b["inputs"]]))


def test_a_trial_with_workers_goes_on_with_the_bits_of_one_never_stopped(tmp_path):
    recipe = Recipe(learning_rate=1e-2, learning_rate_rule="constant", data_workers=2)
    source = Costly(noise=0.1)
    whole = run(tmp_path / "whole", source, recipe=recipe)
    for stop_after in (13, 8):
        with pytest.raises(Interrupted):
            run(tmp_path / "stopped", source, recipe=recipe, stop_after=stop_after)
    assert run(tmp_path / "stopped", source, recipe=recipe).loss == whole.loss


@pytest.mark.parametrize("source", [pairs(20), DataLoader(Stream(), batch_size=5)],
                         ids=["in memory", "a loader of its own"])  # fmt: skip
def test_sets_that_workers_would_not_help_are_read_as_they_are(source):
    made = open_with_workers(source, seed=0, workers=2, device=CPU)
    assert type(made) is type(open_stream(source, seed=0))


def test_an_error_in_a_worker_is_the_trials_error():
    class Broken(Costly):
        def __getitem__(self, index):
            raise KeyError("no such picture")

    with pytest.raises(KeyError, match="no such picture"):
        open_with_workers(Broken(), seed=0, workers=1, device=CPU).take(4)


class Shuffled(IterableDataset):
    """An iterable set in an order, and with noise, of the generators of the whole process."""

    def __init__(self, by):
        self.by = by

    def __iter__(self):
        order, noise = {
            "torch": lambda: (torch.randperm(10).tolist(), torch.randn),
            "python": lambda: (random.sample(range(10), 10), lambda _: random.gauss(0, 1)),
            "numpy": lambda: (np.random.permutation(10).tolist(), np.random.randn),
        }[self.by]()
        for number in order:
            yield torch.tensor(number), torch.as_tensor(noise(1)).flatten()[0]


def loader_of(sampler):
    return DataLoader(TensorDataset(torch.arange(10)), batch_size=3, sampler=sampler)


DRAWING = {
    "torch": lambda: Shuffled("torch"),
    "python": lambda: Shuffled("python"),
    "numpy": lambda: Shuffled("numpy"),
    "a loader of it": lambda: DataLoader(Shuffled("torch"), batch_size=3),
    "a subset": lambda: loader_of(SubsetRandomSampler(range(10))),
    "weights": lambda: loader_of(WeightedRandomSampler(torch.ones(10), 10, replacement=False)),
}


def as_the_model_draws(seed):
    """A stand-in for dropout, which on each process and in each attempt draws other numbers."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


@pytest.mark.parametrize("kind", DRAWING)
def test_every_process_and_a_resumed_trial_read_the_same_order(kind):
    def read(stream, steps, model_seed):
        taken = []
        for step in range(steps):
            as_the_model_draws(model_seed + step)
            taken.append(torch.stack([part.double() for part in stream.take(7)]))
        return taken

    first, second = (open_stream(DRAWING[kind](), seed=3) for _ in range(2))
    batches, others = read(first, 6, model_seed=1), read(second, 6, model_seed=100)
    assert all(map(torch.equal, batches, others))
    order = torch.cat([batch[0] for batch in batches]).tolist()
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10))
    assert order[:10] != order[10:20]

    resumed = open_stream(DRAWING[kind](), seed=3)
    as_the_model_draws(1000)
    resumed.restore(first.state())  # In its fifth epoch.
    assert all(map(torch.equal, read(first, 3, 200), read(resumed, 3, 300)))
    other_seed = open_stream(DRAWING[kind](), seed=4)
    assert not all(map(torch.equal, batches, read(other_seed, 6, 1)))


def test_what_the_model_draws_does_not_depend_on_what_the_set_draws():
    def draws(by, examples):
        as_the_model_draws(5)
        open_stream(Shuffled(by), seed=3).take(examples)
        return torch.rand(3).tolist(), random.random(), np.random.rand()

    assert draws("torch", 4) == draws("python", 15) == draws("numpy", 3)


def test_a_held_out_set_is_the_same_in_every_trial_whatever_it_draws():
    def read(model_seed):
        as_the_model_draws(model_seed)
        loader = DRAWING["a subset"]()
        return torch.cat([batch[0] for batch in heldout_batches(loader, batch=4, examples=6)])

    assert torch.equal(read(1), read(2))
