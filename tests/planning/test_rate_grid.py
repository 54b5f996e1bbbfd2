"""`flops-fit transfer`, from the manifest to the verdict, on a user's own small model."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flops_fit.errors import ManifestError, PlanError, RunDirError
from flops_fit.manifest.files import from_plain
from flops_fit.manifest.manifest import TransferSection, parse_manifest
from flops_fit.manifest.trials import Size, Trial
from flops_fit.planning.plan import Plan
from flops_fit.planning.rate_grid import lay_transfer
from flops_fit.reporting.checklist import checklist
from flops_fit.reporting.reading import read_run
from flops_fit.reporting.record import Record
from flops_fit.sweep.provenance import Provenance, check_same, refuse_other_study
from flops_fit.sweep.rundir import RunDir

MODULE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, x):
        return self.layers(x)

    def num_params(self):
        return sum(p.numel() for p in self.parameters())


def data():
    inputs = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0))
    sets = TensorDataset(inputs, inputs.sin().sum(1, keepdim=True) + 1)
    return torch.utils.data.random_split(sets, [3600, 400], torch.Generator().manual_seed(0))
"""
MANIFEST = """
name = "mine"
[model]
plugin = "mine:Net"
size_param = "width"
sizes = [2, 4, 8, 16]
[data]
plugin = "mine:data"
[loss]
plugin = "torch.nn.functional:mse_loss"
[sweep]
budgets = [1e6, 4e6]
sizes_per_budget = 3
tokens_per_param = 100
[training]
learning_rate = 0.02
learning_rate_rule = "constant"
batch_tokens = 16
batch_reference_tokens = 1e4
"""


def flops_fit(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "flops_fit", *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=cwd,
    )  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "mine.py").write_text(MODULE)
    (folder / "experiment.toml").write_text(MANIFEST)
    ended = flops_fit(
        "transfer", "experiment.toml", "--sizes", "2,16", "--rates", "3", "--tokens", "4e3",
        "--step", "3", "--json", cwd=folder,
    )  # fmt: skip
    return folder, ended


def entries(folder):
    lines = (folder / "runs/mine-transfer/ledger.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_every_size_is_trained_at_every_rate_on_the_same_data(study):
    folder, ended = study
    assert ended.returncode in (0, 6), ended.stderr
    finished = [e for e in entries(folder) if e["event"] == "trial_finished"]
    assert len(finished) == 6
    assert len({entry["tokens"] for entry in finished}) == 1
    rates = sorted({entry["learning_rates"][0] for entry in finished})
    assert rates == pytest.approx([0.02 / 3, 0.02, 0.06])
    told = json.loads(ended.stdout)
    assert told["rule"] == "constant"
    assert [size["size_value"] for size in told["sizes"]] == [2, 16]
    by_rate = {round(e["learning_rates"][0], 9): e["loss"] for e in finished if e["params"] > 50}
    for rate in told["sizes"][1]["rates"]:
        assert by_rate[round(rate["rate"], 9)] == pytest.approx(rate["loss"])
    report = folder / "runs/mine-transfer/report"
    assert json.loads((report / "transfer.json").read_text()) == told
    assert (report / "transfer.png").stat().st_size > 5000


def test_a_wider_grid_trains_only_what_is_missing_and_a_finished_study_nothing(study):
    folder, _ = study
    before = len([e for e in entries(folder) if e["event"] == "trial_started"])
    grid = ("--sizes", "2,16", "--rates", "5", "--tokens", "4e3", "--step", "3")
    wider = flops_fit("transfer", "experiment.toml", *grid, cwd=folder)
    assert wider.returncode in (0, 6), wider.stderr
    started = [e for e in entries(folder) if e["event"] == "trial_started"]
    assert len(started) == before + 4
    again = flops_fit("transfer", "runs/mine-transfer", cwd=folder)
    assert again.returncode == wider.returncode
    assert "he rule `constant`" in again.stdout.splitlines()[0]
    assert len([e for e in entries(folder) if e["event"] == "trial_started"]) == before + 4


def test_a_study_is_no_sweep_and_a_sweep_no_study(study):
    folder, _ = study
    ended = flops_fit("run", "runs/mine-transfer", cwd=folder)
    assert ended.returncode == 4
    assert "holds a study of learning rates" in ended.stderr
    assert "flops-fit transfer" in ended.stderr
    with pytest.raises(RunDirError, match="holds a study of learning rates"):
        read_run(folder / "runs/mine-transfer")
    run = RunDir(folder / "runs/mine-transfer")
    data = json.loads(run.provenance.read_text())
    del data["study"]  # as older versions wrote it
    with pytest.raises(RunDirError, match="holds a sweep, not a study"):
        refuse_other_study(run, from_plain(Provenance, data), "transfer")


def test_a_manifest_that_changed_is_refused_by_what_changed(study):
    folder, _ = study
    changed = MANIFEST.replace("learning_rate = 0.02", "learning_rate = 0.03")
    run = RunDir(folder / "runs/mine-transfer")
    with pytest.raises(RunDirError, match=r"training\.learning_rate: 0\.02 -> 0\.03"):
        check_same(run, parse_manifest(changed, where="it"), simulated=False, study="transfer")
    grid = parse_manifest(MANIFEST + "[transfer]\nrates = 9\n", where="it")
    check_same(run, grid, simulated=False, study="transfer")


def test_the_report_of_the_sweep_knows_the_study_beside_it(study, tmp_path, monkeypatch):
    folder, _ = study
    sweep = shutil.copytree(folder / "runs/mine-transfer", tmp_path / "mine")  # the same experiment
    shutil.copytree(folder / "runs/mine-transfer", tmp_path / "mine-transfer")
    record = Record.read(sweep)
    assert record.transfer["name"] == "mine"
    monkeypatch.chdir(sweep)
    assert Record.read(Path()).transfer == record.transfer
    (sweep / "report").mkdir(exist_ok=True)
    monkeypatch.chdir(sweep / "report")
    assert Record.read(Path("..")).transfer == record.transfer
    checks = [c for c in checklist({}, [], record=record) if "learning rate" in c.rule.statement]
    assert "of 2 sizes" in checks[0].figure
    other = replace(record, provenance=replace(record.provenance, fingerprint="another"))
    assert other.transfer is None


def test_what_cannot_be_read_is_refused_by_its_name(tmp_path):
    (tmp_path / "experiment.toml").write_text(MANIFEST)
    ended = flops_fit("transfer", "experiment.toml", "--sizes", "a", cwd=tmp_path)
    assert ended.returncode == 2
    assert "`--sizes`: expected numbers with commas between" in ended.stderr
    with pytest.raises(ManifestError, match=r"transfer\.step"):
        parse_manifest(MANIFEST + "[transfer]\nstep = 1.0\n", where="it")


SIZES = [Size(value, 10 * value**2, None, 60.0 * value**2) for value in (4, 8, 16, 32, 64)]


def sweep():
    return Plan(tuple(
        Trial.of(budget_flops=1e6, size=size, tokens=tokens, batch_tokens=10, seed=0)
        for size, tokens in zip(SIZES[1:], (9000, 7000, 5000, 4000), strict=True)
    ))  # fmt: skip


def test_left_open_it_takes_the_sweeps_ends_and_middle_and_its_fewest_data():
    study = lay_transfer(
        TransferSection(), sweep(), SIZES, batch_tokens=lambda size, tokens: 20, seed=7
    )
    assert [t.size.size_value for t in study.trials[::5]] == [8, 16, 64]
    assert {trial.tokens for trial in study.trials} == {4000}
    assert {trial.seed for trial in study.trials} == {7}
    factors = [trial.learning_rate_factor for trial in study.trials[:5]]
    assert factors == [1.0, 0.5, 2.0, 0.25, 4.0]
    assert not study.has_curves
    assert Plan.from_dict(study.to_dict()) == study


def test_replicates_are_seeds_and_ids_are_their_own():
    section = TransferSection(sizes=[8, 32], rates=4, step=1.5, replicates=3, tokens=5000.0)
    study = lay_transfer(section, sweep(), SIZES, batch_tokens=lambda size, tokens: 10, seed=1)
    assert len({trial.trial_id for trial in study.trials}) == len(study.trials) == 2 * 4 * 3
    assert {trial.seed for trial in study.trials} == {1, 2, 3}


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        ({"sizes": [8, 5]}, ["`transfer.sizes` names 5", "offered: 4, 8, 16, 32, 64"]),
        ({"sizes": [8, 8]}, ["two sizes or more"]),
        ({"tokens": 100.0}, ["10 optimiser steps at size 8", "transfer.tokens"]),
    ],
)
def test_a_study_that_cannot_be_is_refused(fields, texts):
    with pytest.raises(PlanError) as caught:
        lay_transfer(
            TransferSection(**fields), sweep(), SIZES, batch_tokens=lambda s, t: 10, seed=1
        )
    for text in texts:
        assert text in str(caught.value)
