import random
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from interrupted_runs import RECIPE, build, run
from torch.utils.data import IterableDataset
from training_toys import Endless, Mlp, mse, pairs, sampled_loader, toy_data, toy_trial
from trials_of_one_call import train

import flops_fit
from flops_fit.errors import PluginError
from flops_fit.manifest.recipe import Recipe
from flops_fit.training.checkpoint import load_checkpoint, save_checkpoint
from flops_fit.training.orders import Interrupted


class Stateful(Endless):
    """A stream that keeps its own position and never reads what it has given out again."""

    def __init__(self, length):
        super().__init__(length, noise=0.1)
        self.at = 0

    def __iter__(self):
        dataset = pairs(self.length, seed=5)
        while self.at < self.length:
            self.at += 1
            inputs, targets = dataset[self.at - 1]
            yield {"inputs": inputs + self.noise * torch.randn(4), "targets": targets}
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


class Shuffled(IterableDataset):
    """In an order of torch's own generator, from which dropout draws too."""

    def __iter__(self):
        dataset = pairs(100)
        for index in torch.randperm(100).tolist():
            yield dataset[index]


SOURCES = {
    "shuffled": Shuffled,
    "sampler": sampled_loader,
    "map-style": lambda: pairs(100),
    "iterable": lambda: Endless(100, noise=0.1),
    "stateful": lambda: Stateful(100),
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("micro", [None, 3])
def test_a_trial_stopped_twice_ends_with_the_bits_of_one_never_stopped(tmp_path, kind, micro):
    recipe = Recipe(learning_rate=1e-2, learning_rate_rule="constant", micro_batch_examples=micro)
    whole = run(tmp_path / "whole", SOURCES[kind](), recipe=recipe)
    broken = tmp_path / "broken"
    for stop_after in (5, 15):  # 100 examples last for 12 steps: the second is in epoch 2.
        with pytest.raises(Interrupted):
            run(broken, SOURCES[kind](), stop_after=stop_after, recipe=recipe)
        torch.manual_seed(99)
        random.seed(99)
    resumed = run(broken, SOURCES[kind](), recipe=recipe)
    assert resumed.loss == whole.loss
    assert resumed.tokens == whole.tokens
    assert (broken / "curve.jsonl").read_text() == (tmp_path / "whole/curve.jsonl").read_text()
    assert resumed.details.untrained_loss == whole.details.untrained_loss


def test_a_resumed_trial_draws_only_what_is_left(tmp_path):
    source = Stateful(10_000)
    with pytest.raises(Interrupted):
        run(tmp_path, source, stop_after=10)
    assert source.at == 80
    again = Stateful(10_000)
    outcome = run(tmp_path, again)
    assert (again.at, outcome.tokens) == (320, 320)


class WithEpoch(Stateful):
    """Its `set_epoch` sends it to the beginning of the epoch."""

    def set_epoch(self, epoch):
        self.at = 0


def test_a_set_that_goes_on_by_its_own_state_is_not_sent_back_by_its_epoch(tmp_path):
    whole = run(tmp_path / "whole", WithEpoch(100))
    for stop_after in (5, 15):
        with pytest.raises(Interrupted):
            run(tmp_path / "broken", WithEpoch(100), stop_after=stop_after)
    assert run(tmp_path / "broken", WithEpoch(100)).loss == whole.loss


class WithNumpy(Stateful):
    """Keeps its state in numpy's types."""

    def state_dict(self):
        drawing = np.random.default_rng(self.at).bit_generator.state
        return {"at": np.int64(self.at), "seen": np.arange(self.at), "drawing": drawing,
                "of": {np.int32(1): [np.float32(0.1), np.array(["a", "b"])]}}  # fmt: skip

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.loaded = True
        kept = self.state_dict()
        assert state["drawing"] == kept["drawing"]
        assert [type(each) for each in state["of"][1]] == [np.float32, np.ndarray]
        assert np.array_equal(state["seen"], kept["seen"])
        assert type(state["at"]) is np.int64


def test_a_state_in_numpys_types_is_kept(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path, WithNumpy(10_000), stop_after=10)
    again = WithNumpy(10_000)
    run(tmp_path, again)
    assert again.loaded
    assert again.at == 320


@pytest.mark.parametrize("foreign", [PurePosixPath("a"), np.array([object()]), iter([])])
def test_a_state_that_could_not_be_read_back_is_refused_at_once(tmp_path, foreign):
    class Foreign(Stateful):
        def state_dict(self):
            return {"at": self.at, "more": [foreign]}

    source = Foreign(1000)
    with pytest.raises(PluginError, match=r"`state_dict\(\)` holds what a checkpoint cannot"):
        run(tmp_path, source)
    assert source.at == 8


def test_a_checkpoint_that_could_not_be_read_back_is_refused_when_written(tmp_path):
    save_checkpoint(tmp_path, {"value": torch.tensor(1)}, step=10)
    with pytest.raises(PluginError, match="PurePosixPath"):
        save_checkpoint(tmp_path, {"value": PurePosixPath("a")}, step=20)
    assert [path.name[:17] for path in (tmp_path / "checkpoint").iterdir()] == ["step-000000000010"]


def test_checkpoints_are_gone_when_the_trial_ends_unless_they_are_to_be_kept(tmp_path):
    run(tmp_path / "a", pairs(100), checkpoint_seconds=0.0)
    assert not (tmp_path / "a/checkpoint").exists()
    run(tmp_path / "b", pairs(100), checkpoint_seconds=0.0, keep_checkpoints=True)
    names = sorted(path.name for path in (tmp_path / "b/checkpoint").iterdir())
    assert names == ["step-000000000039.pt", "step-000000000040.pt"]


def test_a_manifest_says_how_often_checkpoints_are_written_and_whether_they_stay(tmp_path):
    def kept(name, **options):
        flops_fit.find_optimal(
            Mlp, "width", {}, (pairs(100), pairs(64, seed=9)), mse, design="fixed-tokens",
            sizes=[4, 6, 8], tokens=[400], run_dir=tmp_path / name, bootstrap=0, device="cpu",
            training={"batch_rule": "fixed", "batch_tokens": 8}, **options,
        )  # fmt: skip
        trials = sorted((tmp_path / name / "trials").iterdir())
        assert len(trials) == 3
        return [sorted(path.name[-5:-3] for path in each.glob("checkpoint/*")) for each in trials]

    assert kept("plain") == [[]] * 3
    assert kept("last", keep_checkpoints=True) == [["50"]] * 3
    often = kept("often", keep_checkpoints=True, checkpoint_minutes=1e-9)
    assert often == [["49", "50"]] * 3


def test_a_process_that_dies_goes_on_from_its_last_checkpoint(tmp_path):
    whole = run(tmp_path / "whole", pairs(100))
    calls = []

    def dying(width):
        model = build(width)
        model.register_forward_pre_hook(lambda *_: calls.append(1))
        model.register_forward_pre_hook(lambda *_: 1 / 0 if len(calls) == 30 else None)
        return model

    with pytest.raises(ZeroDivisionError):
        train(
            toy_trial(steps=40, batch=8), build=dying,
            data=toy_data(pairs(100), pairs(300, seed=9)), loss=mse, recipe=RECIPE,
            directory=tmp_path / "broken", device="cpu", checkpoint_seconds=0.0,
        )  # fmt: skip
    assert load_checkpoint(tmp_path / "broken")["step"] > 5
    assert run(tmp_path / "broken", pairs(100)).loss == whole.loss


def test_a_checkpoint_that_was_cut_short_gives_way_to_the_one_before(tmp_path):
    for step in (10, 20, 30):
        path = save_checkpoint(tmp_path, {"value": torch.tensor(step)}, step=step)
    assert len(list((tmp_path / "checkpoint").iterdir())) == 2
    assert load_checkpoint(tmp_path)["value"] == 30
    path.write_bytes(path.read_bytes()[:100])
    assert load_checkpoint(tmp_path)["value"] == 20
    (tmp_path / "checkpoint/step-000000000040.partial").write_bytes(b"half")
    assert load_checkpoint(tmp_path)["value"] == 20


def test_a_checkpoint_with_a_changed_byte_gives_way_to_the_one_before(tmp_path):
    # Left off by someone else in the process, the sums would say that nothing is whole.
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        for step in (10, 20):
            path = save_checkpoint(tmp_path, {"value": torch.full((100,), float(step))}, step=step)
        assert not torch.serialization.get_crc32_options()
    finally:
        torch.serialization.set_crc32_options(before)
    assert load_checkpoint(tmp_path)["value"][0] == 20
    whole = path.read_bytes()
    value = whole.index(torch.tensor(20.0).numpy().tobytes() * 9)
    for at in (value, *range(len(whole))):
        for flipped in (1, 8):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ flipped]) + whole[at + 1 :])
            found = load_checkpoint(tmp_path)["value"]
            allowed = (10.0,) if at == value else (10.0, 20.0)
            assert any(torch.equal(found, torch.full((100,), each)) for each in allowed), at


def test_a_trial_without_a_checkpoint_begins_at_its_beginning(tmp_path):
    assert load_checkpoint(tmp_path) is None
