import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from training_toys import Endless, Mlp, mse, pairs, toy_data, toy_trial

from flops_fit.recipe import Recipe
from flops_fit.training.loop import train

SCRIPT = """
import json, os, sys
from pathlib import Path
from training_toys import *
from flops_fit.recipe import Recipe
from flops_fit.training.loop import Interrupted, train
from flops_fit.training.trackers import Trackers

out = Path(sys.argv[1])
sources = {"map-style": lambda: pairs(100), "iterable": lambda: Endless(100)}

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
    losses[kind] = (outcome.loss, outcome.tokens, outcome.details["processes"])
import torch.distributed
if torch.distributed.get_rank() == 0:
    (out / "losses.json").write_text(json.dumps(losses))
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def parallel(tmp_path_factory):
    """What two processes gave, each stopped and resumed once."""
    folder = tmp_path_factory.mktemp("parallel")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    here = Path(__file__).parent
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]),
        "OMP_NUM_THREADS": "1",
    }
    ended = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         str(script), str(folder)],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    found = json.loads((folder / "losses.json").read_text())
    return {**found, "trackers": sorted(path.name for path in folder.glob("told-by-*"))}


@pytest.mark.parametrize("kind", ["map-style", "iterable"])
def test_two_processes_train_the_trial_that_one_does(parallel, kind, tmp_path):
    source = {"map-style": lambda: pairs(100), "iterable": lambda: Endless(100)}[kind]()
    alone = train(
        toy_trial(steps=30, batch=8), build=Mlp, data=toy_data(source), loss=mse,
        recipe=Recipe(micro_batch_examples=3), directory=tmp_path, device="cpu",
    )  # fmt: skip
    loss, tokens, processes = parallel[kind]
    assert processes == 2
    assert tokens == alone.tokens == 240
    assert loss == pytest.approx(alone.loss, abs=1e-5)


def test_only_the_first_process_of_a_trial_tracks(parallel):
    assert parallel["trackers"] == ["told-by-0"]
