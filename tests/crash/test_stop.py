"""A sweep that is stopped keeps what it was at; processes that load data hold up nobody."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PLUGINS = '''
import os
import time

import torch
from torch.utils.data import DataLoader, TensorDataset


class Slow(torch.nn.Module):
    """A linear map whose every step takes its time."""

    def __init__(self, width, seconds=0.0):
        super().__init__()
        self.seconds = seconds
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Linear(width, 1))

    def num_params(self):
        return sum(p.numel() for p in self.parameters())

    def forward(self, inputs):
        if self.training:
            time.sleep(self.seconds)
        return self.layers(inputs)


def examples(count, seed):
    drawn = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=drawn)
    return TensorDataset(inputs, inputs.sum(1, keepdim=True) + 3.0)


def data():
    return examples(2000, 0), examples(64, 1)


def own_loader():
    return DataLoader(examples(2000, 0), batch_size=10, num_workers=2), examples(64, 1)


def mse(outputs, targets):
    return torch.nn.functional.mse_loss(outputs, targets)
'''
MANIFEST = """
name = "stopped"
[model]
plugin = "plugs:Slow"
size_param = "width"
sizes = [2]
kwargs = {{ seconds = {seconds} }}
[data]
plugin = "plugs:{data}"
[loss]
plugin = "plugs:mse"
[sweep]
design = "fixed-tokens"
tokens = [{tokens}]
[training]
batch_tokens = 10
{training}
[execution]
workers = 1
[report]
bootstrap = 0
"""
RUN = [sys.executable, "-m", "flops_fit", "run", "m.toml"]
SCRIPT = """
import flops_fit
flops_fit.find_optimal("m.toml", run_dir="runs/stopped")
"""


def prepare(folder: Path, *, seconds=0.0, data="data", tokens=1000, training="") -> Path:
    (folder / "plugs.py").write_text(PLUGINS)
    (folder / "m.toml").write_text(
        MANIFEST.format(seconds=seconds, data=data, tokens=tokens, training=training)
    )
    return folder


def events(folder: Path) -> list[str]:
    ledger = folder / "runs/stopped/ledger.jsonl"
    if not ledger.exists():
        return []
    return [json.loads(line)["event"] for line in ledger.read_text().splitlines(keepends=False)]


def wait_for(has_come, seconds=60.0) -> None:
    deadline = time.monotonic() + seconds
    while not has_come():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("data", ["data", "own_loader"])
def test_processes_that_load_data_hold_up_no_sweep(tmp_path, data):
    training = "data_workers = 1" if data == "data" else ""
    prepare(tmp_path, data=data, training=training)
    done = subprocess.run(RUN, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 6, done.stderr  # one run is no law
    assert events(tmp_path).count("trial_finished") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGKILL])
def test_a_sweep_that_is_stopped_leaves_a_checkpoint(tmp_path, number):
    prepare(tmp_path, seconds=0.05, tokens=20_000)
    child = subprocess.Popen(
        RUN, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: list(tmp_path.glob("runs/stopped/trials/*/progress.json")))
    os.kill(child.pid, number)
    assert child.wait(30) == (-number if number == signal.SIGKILL else 130)
    # Nobody waits for the worker of a conductor that was killed.
    wait_for(lambda: list(tmp_path.glob("runs/stopped/trials/*/checkpoint/*.pt")), 20.0)
    assert ("sweep_interrupted" in events(tmp_path)) == (number != signal.SIGKILL)


def test_a_library_call_that_is_stopped_leaves_a_checkpoint(tmp_path):
    prepare(tmp_path, seconds=0.05, tokens=20_000)
    (tmp_path / "script.py").write_text(SCRIPT)
    child = subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: list(tmp_path.glob("runs/stopped/trials/*/progress.json")))
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=30)
    assert "KeyboardInterrupt" in said
    assert list(tmp_path.glob("runs/stopped/trials/*/checkpoint/*.pt"))
