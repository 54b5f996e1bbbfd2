"""What is asked of a child process is asked of one that stands where a worker will."""

import json
import math
from collections import Counter
from dataclasses import replace

import pytest

from flops_fit.experiment.prepared import prepare
from flops_fit.experiment.timing import Timing
from flops_fit.manifest.trials import Size, Trial
from flops_fit.planning.costing import make_estimate
from flops_fit.planning.estimate import estimate_plan
from flops_fit.planning.from_manifest import make_plan
from flops_fit.planning.plan import Plan

MINE = """
import json, os, pathlib
import torch

HERE = pathlib.Path(__file__).parent

class Net(torch.nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Linear(width, 1))
        self.seen = 0
    def forward(self, x):
        if self.training and len(x) > self.seen:
            self.seen = len(x)
            told = os.environ.get("CUDA_VISIBLE_DEVICES"), self.layers[0].out_features, len(x)
            (HERE / f"saw-{os.getpid()}.json").write_text(json.dumps(told))
        return self.layers(x)
    def num_params(self):
        return sum(p.numel() for p in self.parameters())

def data():
    x = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    return torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True))
"""


def test_timing_has_the_devices_and_the_share_of_the_batch_that_the_sweep_will_give(
    tmp_path, write_manifest, monkeypatch
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "shared_mine.py").write_text(MINE)
    manifest = write_manifest(
        model='plugin = "shared_mine:Net"\nsize_param = "width"\nsizes = [4]',
        data='plugin = "shared_mine:data"', loss='plugin = "torch.nn.functional:mse_loss"',
        sweep="budgets = [1e6]", training='batch_tokens = 16\nbatch_rule = "fixed"',
        execution='devices_per_trial = 2\nworkers = 2\ndevice = "cpu"',
    )  # fmt: skip
    prepared = prepare(manifest)
    prepared = replace(prepared, description=replace(prepared.description, num_devices=3))
    for before in tmp_path.glob("saw-*.json"):
        before.unlink()
    estimate = make_estimate(prepared, make_plan(prepared))
    saw = [json.loads(path.read_text()) for path in tmp_path.glob("saw-*.json")]
    # Two trials of two processes each, on three devices in turn.
    assert Counter(device for device, _, _ in saw) == {"0": 2, "1": 1, "2": 1}
    assert {batch for _, _, batch in saw} == {8}
    assert "exchange of gradients" in estimate.basis
    (timing,) = estimate.timings
    assert estimate.available_bytes == timing.available_bytes // 2


@pytest.mark.parametrize(
    ("workers", "each", "num_devices", "sharing"),
    [(2, 1, 2, 1), (3, 1, 2, 2), (4, 1, 2, 2), (2, 2, 4, 1), (2, 2, 2, 2), (2, 2, 0, 4),
     (8, 1, None, 1)],
)  # fmt: skip
def test_memory_is_shared_by_as_many_as_are_given_one_device(workers, each, num_devices, sharing):
    size = Size(1, 100, 100, 600.0)
    trial = Trial.of(budget_flops=6e6, size=size, tokens=10_000, batch_tokens=10, seed=0)
    estimate = estimate_plan(
        Plan((trial,)),
        timings=[Timing(600.0, 1e-6, memory_bytes=5, available_bytes=16)],
        workers=workers, devices_per_trial=each, num_devices=num_devices, basis="",
    )  # fmt: skip
    assert estimate.available_bytes == 16 // sharing
    assert bool(estimate.does_not_fit) is (sharing > 3)
    assert math.isclose(estimate.wall_seconds, 0.01)


@pytest.mark.parametrize(("per_trial", "workers", "seconds"), [(1, 2, 0.08), (2, 1, 0.12)])
def test_trials_side_by_side_count_by_their_mean_processes_of_one_by_the_slowest(
    tmp_path, write_manifest, per_trial, workers, seconds
):
    (tmp_path / "slow_mine.py").write_text(
        MINE.replace("self.seen = 0", "self.pause = first()").replace(
            "    def forward(self, x):\n",
            "    def forward(self, x):\n        time.sleep(self.pause * self.training)\n"
            "        return self.layers(x)\n    def unused(self, x):\n",
        )
        + "import time\n\ndef first():\n    try:\n        (HERE / 'taken').touch(exist_ok=False)\n"
        "        return 0.12\n    except FileExistsError:\n        return 0.04\n"
    )
    manifest = write_manifest(
        model='plugin = "slow_mine:Net"\nsize_param = "width"\nsizes = [4]',
        data='plugin = "slow_mine:data"', loss='plugin = "torch.nn.functional:mse_loss"',
        sweep="budgets = [1e6]", training='batch_tokens = 16\nbatch_rule = "fixed"',
        execution=f'devices_per_trial = {per_trial}\nworkers = {workers}\ndevice = "cpu"',
    )  # fmt: skip
    prepared = prepare(manifest)
    plan = make_plan(prepared)
    (tmp_path / "taken").unlink(missing_ok=True)
    (timing,) = make_estimate(prepared, plan).timings
    found = timing.seconds_per_token * plan.trials[0].batch_tokens
    assert found == pytest.approx(seconds, rel=0.2)
