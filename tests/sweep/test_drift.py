"""A sweep is trained by one code on one data set, in every process and every session."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flops_fit.errors import RunDirError
from flops_fit.experiment import identity
from flops_fit.experiment.loading import load_experiment
from flops_fit.manifest.manifest import read_manifest
from flops_fit.sweep.drift import match_identity
from flops_fit.sweep.opening import open_sweep
from flops_fit.sweep.rundir import RunDir
from flops_fit.training.data.batches import load_data

REPORTS = Path(__file__).parents[3] / "shared" / "data" / "bugs"
ROOT = Path(__file__).parents[2]
PLUGINS = """
import torch
from torch.utils.data import TensorDataset, random_split
from shapes_of_drift import DEPTH

class Net(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        layers = [torch.nn.Linear(4, width), torch.nn.Tanh()] * DEPTH
        self.layers = torch.nn.Sequential(*layers, torch.nn.Linear(width, 1))
    def forward(self, x):
        return self.layers(x)

def data():
    x = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    return random_split(TensorDataset(x, x.sum(1, keepdim=True)), [340, 60])
"""


def report(number, folder):
    found = sorted(REPORTS.glob(f"{number}-*"))
    if not found:
        pytest.skip("the public reports are not beside this checkout")
    shutil.copytree(found[0], folder)
    return folder


def run(folder, *options):
    return subprocess.run(
        [sys.executable, "-m", "flops_fit", "run", "m.toml", *options],
        capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_an_unseeded_split_is_the_same_in_every_process(tmp_path):
    folder = report("20", tmp_path / "split")
    assert "failed" not in run(folder).stderr
    splits = [line.split() for line in (folder / "split.log").read_text().splitlines()]
    assert len({process for process, _ in splits}) >= 3
    assert len({digest for _, digest in splits}) == 1


def test_a_session_with_an_edited_model_is_refused_before_a_step(tmp_path):
    folder = report("21", tmp_path / "code")
    model = folder / "mymodel.py"
    shutil.copy(folder / "zoo1.py", model)
    assert run(folder, "--max-flops", "5e7").returncode == 7
    ledger = (folder / "runs" / "code" / "ledger.jsonl").read_bytes()
    text = model.read_text()
    model.write_text(text.replace("n_layer=1", "n_layer=2"))
    second = run(folder)
    assert second.returncode == 4
    assert "`mymodel.py` changed (+1 -1 lines" in second.stderr
    assert "n_layer=2" in second.stderr
    assert "--accept-drift" in second.stderr
    assert (folder / "runs" / "code" / "ledger.jsonl").read_bytes() == ledger
    # Accepted, it still meets the plan's counts of parameters.
    accepted = run(folder, "--accept-drift", "the second layer is needed")
    assert accepted.returncode == 5
    assert "the model of size 4 has 816 params, and the plan says 572" in accepted.stderr
    model.write_text("# A comment moves no loss.\n" + text)
    assert run(folder, "--accept-drift", "a comment").returncode in (0, 6)
    records = json.loads((folder / "runs" / "code" / "made_of.json").read_text())["records"]
    assert [each.get("accepted") for each in records][1:] == [
        "the second layer is needed", "a comment",
    ]  # fmt: skip


@pytest.fixture
def sweep(tmp_path, monkeypatch, write_manifest):
    """(manifest, run directory, experiment) of a sweep whose first process was here."""
    (tmp_path / "plugins_of_drift.py").write_text(PLUGINS)
    (tmp_path / "shapes_of_drift.py").write_text("DEPTH = 1\n")
    for name in ("plugins_of_drift", "shapes_of_drift"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    manifest = write_manifest(
        model='plugin = "plugins_of_drift:Net"\nsize_param = "width"\nsizes = [4, 6, 8]',
        data='plugin = "plugins_of_drift:data"', loss='plugin = "torch.nn.functional:mse_loss"',
        sweep="budgets = [1e6]\nsizes_per_budget = 3", training="batch_tokens = 8",
        execution='device = "cpu"',
    )  # fmt: skip
    with open_sweep(manifest, tmp_path / "run"):
        pass
    experiment = load_experiment(read_manifest(manifest), search_path=[tmp_path])
    run = RunDir(tmp_path / "run")
    match_identity(run, experiment, search_path=[tmp_path])
    yield manifest, run, experiment
    for name in ("plugins_of_drift", "shapes_of_drift"):
        sys.modules.pop(name, None)


def test_the_record_holds_the_modules_that_the_plugin_imports(sweep, tmp_path):
    _, run, _ = sweep
    (record,) = json.loads((run.path / "made_of.json").read_text())["records"]
    assert {Path(name).name for name in record["identity"]["files"]} >= {
        "plugins_of_drift.py", "shapes_of_drift.py",
    }  # fmt: skip
    assert record["identity"]["versions"]["torch"]
    assert len(list((run.path / "source").iterdir())) == len(record["identity"]["files"])


def test_a_worker_that_is_the_same_is_let_in(sweep, tmp_path):
    manifest, run, experiment = sweep
    again = load_experiment(read_manifest(manifest), search_path=[tmp_path])
    before = (run.path / "made_of.json").read_text()
    match_identity(run, again, search_path=[tmp_path])
    match_identity(run, experiment, search_path=[tmp_path])
    assert (run.path / "made_of.json").read_text() == before


@pytest.mark.parametrize("file", ["plugins_of_drift.py", "shapes_of_drift.py"])
def test_every_door_refuses_an_edited_module(sweep, tmp_path, file):
    manifest, run, experiment = sweep
    (tmp_path / file).write_text((tmp_path / file).read_text() + "\nNEW = 1\n")
    for source, where in ((manifest, run.path), (run.path, None)):
        with (
            pytest.raises(RunDirError, match=rf"`{file}` changed \(\+2 -0 lines"),
            open_sweep(source, where),
        ):
            pass
    with pytest.raises(RunDirError, match="NEW = 1"):
        match_identity(run, experiment, search_path=[tmp_path])
    with open_sweep(run.path, accept_drift="a constant that nothing reads"):
        match_identity(run, experiment, search_path=[tmp_path])
    with open_sweep(run.path):
        pass


def test_another_version_of_torch_is_refused_in_session_and_worker(sweep, tmp_path, monkeypatch):
    _, run, experiment = sweep
    real = identity.version

    def other(package):
        return "9.9.9" if package == "torch" else real(package)

    monkeypatch.setattr(identity, "version", other)
    says = rf"torch {real('torch').replace('+', '.')} -> 9\.9\.9"
    with pytest.raises(RunDirError, match=says), open_sweep(run.path):
        pass
    with pytest.raises(RunDirError, match=says):
        match_identity(run, experiment, search_path=[tmp_path])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"heldout": 1}, "the held-out set has other examples"),
        ({"train": 1}, "the training set has other examples"),
        ({"fewer": 1}, "has 339 examples, not 340"),
    ],
)
def test_other_data_is_refused_with_what_differs(sweep, tmp_path, change, says):
    _, run, experiment = sweep
    sets = {"train": experiment.data.train, "heldout": experiment.data.heldout}

    def moved(name):
        rows = [sets[name][at] for at in range(len(sets[name]) - ("fewer" in change))]
        inputs = torch.stack([row[0] for row in rows]) + change.get(name, 0)
        return torch.utils.data.TensorDataset(inputs, torch.stack([row[1] for row in rows]))

    heldout = moved("heldout") if "heldout" in change else sets["heldout"]
    data = load_data((moved("train"), heldout), seed=0)
    with pytest.raises(RunDirError, match=says):
        match_identity(run, replace(experiment, data=data), search_path=[tmp_path])
