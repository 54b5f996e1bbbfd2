"""Real sweeps of trials that take a moment: a manifest, its plugins, and how they ended."""

import json
import subprocess
import sys
from pathlib import Path

PLUGINS = '''
import time

import torch
from torch.utils.data import TensorDataset


class Tiny(torch.nn.Module):
    """Two layers on vectors of 4; a step takes at least `seconds`."""

    def __init__(self, width, seconds=0.0):
        super().__init__()
        self.seconds = seconds
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, width), torch.nn.Tanh(), torch.nn.Linear(width, 1)
        )

    def num_params(self):
        return sum(p.numel() for p in self.parameters())

    def forward(self, inputs):
        if self.training:
            time.sleep(self.seconds)
        return self.layers(inputs)


def examples(count, seed):
    inputs = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, inputs.sin().sum(1, keepdim=True))


def data():
    return examples(512, 0), examples(64, 1)


def mse(outputs, targets):
    return torch.nn.functional.mse_loss(outputs, targets)
'''
MANIFEST = """
name = "tiny"
seed = 3
[model]
plugin = "tiny_plugins:Tiny"
size_param = "width"
sizes = {sizes}
kwargs = {{ seconds = {seconds} }}
[data]
plugin = "tiny_plugins:data"
[loss]
plugin = "tiny_plugins:mse"
[sweep]
{sweep}
[training]
batch_rule = "fixed"
batch_tokens = 8
{training}
[execution]
workers = {workers}
lease_seconds = 3
checkpoint_minutes = {checkpoint_minutes}
[report]
bootstrap = 0
"""
COMMAND = [sys.executable, "-m", "flops_fit", "run", "m.toml"]


def write_sweep(
    folder: Path,
    *,
    sweep: str,
    sizes=(2, 3, 4),
    seconds=0.0,
    training="curve_points = 3",
    workers=2,
    checkpoint_minutes=0.0001,
) -> Path:
    """Write the manifest and its plugins into a folder; return where the sweep will be."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny_plugins.py").write_text(PLUGINS)
    text = MANIFEST.format(
        sizes=list(sizes), seconds=seconds, sweep=sweep, training=training, workers=workers,
        checkpoint_minutes=checkpoint_minutes,
    )  # fmt: skip
    (folder / "m.toml").write_text(text)
    return folder / "runs/tiny"


def run(folder: Path, *more: str, timeout=300.0) -> subprocess.CompletedProcess[str]:
    """Run the sweep to its end."""
    return subprocess.run(
        [*COMMAND, *more], cwd=folder, capture_output=True, text=True, timeout=timeout, check=False
    )


def entries(run_dir: Path) -> list[dict]:
    """The whole lines of the ledger."""
    ledger = run_dir / "ledger.jsonl"
    if not ledger.exists():
        return []
    lines = ledger.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def losses(run_dir: Path) -> dict[str, float]:
    """The loss of every finished trial; each finished once."""
    ended = [e for e in entries(run_dir) if e["event"] == "trial_finished"]
    found = {e["trial_id"]: e["loss"] for e in ended}
    assert len(found) == len(ended), "a trial was recorded twice"
    return found


def curves(run_dir: Path) -> dict[str, str]:
    """The training curve of every trial, as written."""
    return {p.parent.name: p.read_text() for p in sorted(run_dir.glob("trials/*/curve.jsonl"))}
