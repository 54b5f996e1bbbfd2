import json
import random
from functools import partial

import pytest
import torch
from training_toys import (
    Endless,
    Idle,
    Mlp,
    Routed,
    mse,
    pairs,
    sampled_loader,
    toy_data,
    toy_trial,
    trained,
)
from trials_of_one_call import train
from two_processes import in_two_processes

from flops_fit.manifest.recipe import Recipe
from flops_fit.training.data.batches import load_data
from flops_fit.training.idle import may_be_idle
from flops_fit.zoo.gpt import GPT
from flops_fit.zoo.losses import cross_entropy

SCRIPT = """
import json, os, sys
from pathlib import Path
from training_toys import *
from flops_fit.manifest.recipe import Recipe
from flops_fit.training.orders import Interrupted
from trials_of_one_call import train
from flops_fit.training.trackers import Trackers

out = Path(sys.argv[1])
sources = {
    "map-style": lambda: pairs(100), "iterable": lambda: Endless(100), "sampler": sampled_loader
}

def run(kind, **more):
    return train(
        toy_trial(steps=30, batch=8), build=Mlp, data=toy_data(sources[kind]()), loss=mse,
        recipe=Recipe(micro_batch_examples=3), directory=out / kind, device="cpu", **more,
    )

losses = {}
trackers = Trackers(("tensorboard",), out / f"told-by-{os.environ['RANK']}", "shared", "0")
for kind in sources:
    asked = []
    try:
        run(kind, should_stop=lambda: asked.append(1) or len(asked) > 12)
    except Interrupted:
        pass
    outcome = run(kind, trackers=trackers)
    trackers.finish("finished")
    losses[kind] = (outcome.loss, outcome.tokens, outcome.details.processes)
import torch.distributed
if torch.distributed.get_rank() == 0:
    (out / "losses.json").write_text(json.dumps(losses))
torch.distributed.destroy_process_group()
"""


APART = """
import json, os, sys
from pathlib import Path
from training_toys import *
from flops_fit.manifest.trials import Size, Trial
from flops_fit.manifest.recipe import Recipe
from flops_fit.training.checkpoint import load_checkpoint
from flops_fit.training.orders import Interrupted
from trials_of_one_call import train
from flops_fit.planning.trunks import share_trunks

out, rank = Path(sys.argv[1]), int(os.environ["RANK"])

def run(directory, trial=toy_trial(steps=30, batch=8), stop_after=10**6, recipe=Recipe(), **more):
    asked = []
    try:
        return train(
            trial, build=Mlp, data=toy_data(pairs(100)), loss=mse, recipe=recipe,
            directory=directory, device="cpu",
            should_stop=lambda: asked.append(1) or len(asked) > stop_after,
            **more,
        )
    except Interrupted:
        return None

def lose(directory, *, kept):
    # As a kill does between two processes' saves.
    if rank == 1:
        files = sorted((directory / "checkpoint").glob("*.rank-1.pt"))
        for path in files[kept:]:
            path.unlink()

def newest(directory):
    return [load_checkpoint(directory, rank=rank)["step"]]

found = {}
run(out / "newest lost", stop_after=6)
run(out / "newest lost", stop_after=6)
lose(out / "newest lost", kept=1)
found["newest lost"] = run(out / "newest lost").loss

run(out / "all lost", stop_after=12)
lose(out / "all lost", kept=0)
run(out / "all lost", stop_after=5)
found["steps"] = newest(out / "all lost")
run(out / "all lost", stop_after=4)
lose(out / "all lost", kept=1)
run(out / "all lost", stop_after=0)
found["steps"] += newest(out / "all lost")
found["all lost"] = run(out / "all lost").loss

made = [Trial.of(budget_flops=200.0 * n, size=Size(6, 37, 37, 200.0), tokens=n, batch_tokens=8,
                 seed=3) for n in (400, 800)]
recipe = Recipe(schedule="wsd", batch_tokens=8, batch_rule="fixed")
short, long = share_trunks(made, recipe, units_per_example=1, multiple_of_examples=2)
run(out / "short", short, recipe=recipe, trunk=out / "trunk")
lose(out / "trunk", kept=0)
found["trunk lost"] = run(out / "long", long, recipe=recipe, trunk=out / "trunk").loss
found["long"] = run(out / "alone", long, recipe=recipe).loss
(out / f"found-{rank}.json").write_text(json.dumps(found))
import torch.distributed
torch.distributed.destroy_process_group()
"""

WITHOUT_GRADIENT = """
import json, os, sys
from pathlib import Path
from training_toys import *
from flops_fit.manifest.recipe import Recipe

out, found = Path(sys.argv[1]), {}
for build in (Idle, Routed):
    for micro in (None, 1):
        name = f"{build.__name__}-{micro}"
        loss, model = trained(build, out / name, Recipe(micro_batch_examples=micro))
        found[name] = (loss, model.idle.weight.tolist() if build is Idle else None)
if os.environ["RANK"] == "0":
    (out / "found.json").write_text(json.dumps(found))
import torch.distributed
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def parallel(tmp_path_factory):
    """What two processes gave, each stopped and resumed once."""
    folder = tmp_path_factory.mktemp("parallel")
    in_two_processes(SCRIPT, folder)
    found = json.loads((folder / "losses.json").read_text())
    return {**found, "trackers": sorted(path.name for path in folder.glob("told-by-*"))}


def alone(source, folder, recipe):
    """The outcome of the same trial in one process."""
    return train(
        toy_trial(steps=30, batch=8), build=Mlp, data=toy_data(source), loss=mse,
        recipe=recipe, directory=folder, device="cpu",
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["map-style", "iterable", "sampler"])
def test_two_processes_train_the_trial_that_one_does(parallel, kind, tmp_path):
    source = {
        "map-style": lambda: pairs(100), "iterable": lambda: Endless(100),
        "sampler": sampled_loader,
    }[kind]()  # fmt: skip
    one = alone(source, tmp_path, Recipe(micro_batch_examples=3))
    loss, tokens, processes = parallel[kind]
    assert processes == 2
    assert tokens == one.tokens == 240
    assert loss == pytest.approx(one.loss, abs=1e-5)


class Dropping(Mlp):
    """A layer is left out now and then."""

    def forward(self, inputs):
        if random.random() < 0.001:
            return inputs.sum(1, keepdim=True)
        return super().forward(inputs)


def test_only_a_model_whose_gradients_may_be_missing_is_looked_through_each_step():
    found = [may_be_idle(build, 8, toy_data(), mse) for build in (Mlp, Idle, Routed, Dropping)]
    assert found == [False, True, True, True]
    pair = [{"inputs": torch.arange(8), "targets": torch.arange(1, 9)}] * 20
    text = load_data((pair, pair), seed=0)
    assert not may_be_idle(partial(GPT, num_layers=1, context=8), 8, text, cross_entropy)


def test_only_the_first_process_of_a_trial_tracks(parallel):
    assert parallel["trackers"] == ["told-by-0"]


def test_processes_a_checkpoint_apart_go_on_from_the_newest_that_all_have(tmp_path):
    in_two_processes(APART, tmp_path)
    first, second = (json.loads((tmp_path / f"found-{rank}.json").read_text()) for rank in (0, 1))
    whole = alone(pairs(100), tmp_path / "one process", Recipe()).loss
    for found in (first, second):
        assert found["newest lost"] == pytest.approx(whole, abs=1e-5)
        assert found["all lost"] == pytest.approx(whole, abs=1e-5)
        assert found["trunk lost"] == pytest.approx(found["long"], abs=1e-5)
    # Begun anew and stopped after 5 steps, then after 9, of which one process lost its file.
    assert first["steps"] == second["steps"] == [5, 5]


def test_a_parameter_without_a_gradient_is_left_alone_as_in_one_process(tmp_path):
    in_two_processes(WITHOUT_GRADIENT, tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    for build in (Idle, Routed):
        one, model = trained(build, tmp_path / "one" / build.__name__, Recipe())
        for micro in (None, 1):
            loss, idle = found[f"{build.__name__}-{micro}"]
            assert loss == pytest.approx(one, abs=1e-6)
            if build is Idle:  # Adam takes no step, and nothing decays.
                assert idle == model.idle.weight.tolist()
