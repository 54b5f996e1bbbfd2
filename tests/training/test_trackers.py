"""Trackers mirror each trial, offline too; they change no loss and end no trial."""

import json
import os
import subprocess
import sys

import pytest
import torch
from training_toys import Mlp, mse, toy_data, toy_trial
from trials_of_one_call import train

from flops_fit.errors import PluginError
from flops_fit.experiment.loading import load_experiment
from flops_fit.experiment.plugins import require_trackers
from flops_fit.manifest.files import read_json
from flops_fit.manifest.manifest import read_manifest
from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.trials import Trial
from flops_fit.sweep.ledger import read_ledger
from flops_fit.sweep.rundir import RunDir
from flops_fit.training import trackers as module
from flops_fit.training.trackers import Trackers

MINE = """
import torch

class Net(torch.nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, width), torch.nn.Dropout(0.1), torch.nn.Linear(width, 1)
        )
    def forward(self, x):
        return self.layers(x)
    def num_params(self):
        return sum(p.numel() for p in self.parameters())

def data():
    x = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    return torch.utils.data.TensorDataset(x, (x @ torch.ones(4, 1)).tanh())
"""
MANIFEST = """
name = "mine"
[model]
plugin = "tracked_mine:Net"
size_param = "width"
sizes = [2, 4, 8]
[data]
plugin = "tracked_mine:data"
[loss]
plugin = "torch.nn.functional:mse_loss"
[sweep]
budgets = [4e4]
sizes_per_budget = 3
tokens_per_param = 40
[training]
batch_tokens = 16
log_with = {log_with}
[execution]
workers = 1
[report]
bootstrap = 0
"""


def sweep(folder, name, log_with, **environment):
    """Run the sweep as a user does; gives the finished command and the run directory."""
    (folder / "tracked_mine.py").write_text(MINE)
    manifest = folder / f"{name}.toml"
    manifest.write_text(MANIFEST.format(log_with=json.dumps(log_with)))
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "MLFLOW"))}
    ended = subprocess.run(
        [sys.executable, "-m", "flops_fit", "run", str(manifest), "--run-dir", name],
        capture_output=True, text=True, check=False, cwd=folder,
        env={**clean, "WANDB_MODE": "offline", **environment},
    )  # fmt: skip
    return ended, RunDir(folder / name)


def finished(run):
    entries = read_ledger(run.ledger)
    return {e.trial_id: e for e in entries if e.event == "trial_finished"}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A sweep of three trials told to the three trackers, none of which has a server."""
    folder = tmp_path_factory.mktemp("tracked")
    ended, run = sweep(folder, "tracked", ["tensorboard", "wandb", "mlflow"])
    assert ended.returncode == 6, ended.stderr  # one budget gives no law
    assert "tracker" not in ended.stderr
    assert len(finished(run)) == 3
    return run


def test_tracking_changes_no_bit_of_any_loss(tmp_path, tracked):
    manifest = read_manifest(tracked.manifest)
    experiment = load_experiment(manifest, search_path=[tracked.path.parent])
    for trial in map(Trial.from_dict, read_json(tracked.plan)["trials"]):
        bare = train(
            trial, build=experiment.build, data=experiment.data, loss=experiment.loss,
            recipe=manifest.training, directory=tmp_path / trial.trial_id,
        )  # fmt: skip
        assert bare.loss == finished(tracked)[trial.trial_id].loss
        curves = [folder / "curve.jsonl" for folder in (
            tracked.trial(trial.trial_id), tmp_path / trial.trial_id
        )]  # fmt: skip
        assert curves[0].read_bytes() == curves[1].read_bytes()
    assert not (tmp_path / "trackers").exists()


def test_tensorboard_holds_each_trials_metrics_and_the_reports_figures(tracked):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tracked.trackers / "tensorboard"
    trials = finished(tracked)
    for trial_id, ended in trials.items():
        (found,) = folder.glob(f"4e4-size-*-seed-0-{trial_id}")
        events = EventAccumulator(str(found))
        events.Reload()
        scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
        assert {"training_loss", "learning_rate", "tokens", "heldout_loss"} <= set(scalars)
        last = scalars["heldout_loss"][-1]
        assert last.value == pytest.approx(ended.loss, rel=1e-6)
        assert last.step == scalars["tokens"][-1].step == ended.steps
        assert scalars["tokens"][-1].value == pytest.approx(ended.tokens)
    (report,) = folder.glob("report-report")
    events = EventAccumulator(str(report))
    events.Reload()
    assert "isoflop" in events.Tags()["images"]


def test_mlflow_holds_each_trial_with_its_place_and_the_report(tracked):
    script = (
        "import sys, json, mlflow; mlflow.set_tracking_uri(sys.argv[1])\n"
        "runs = mlflow.search_runs(experiment_names=['mine'], output_format='list')\n"
        "files = {r.info.run_name: [f.path for f in mlflow.MlflowClient().list_artifacts("
        "r.info.run_id, 'report')] for r in runs}\n"
        "print(json.dumps([[r.info.run_name, r.data.tags, r.data.params, r.data.metrics,"
        " files[r.info.run_name]] for r in runs]))"
    )
    folder = tracked.trackers / "mlflow"
    database = folder / "mlflow.db"
    uri = f"sqlite:///{database}" if database.exists() else (folder / "runs").as_uri()
    done = subprocess.run(
        [sys.executable, "-c", script, uri],
        capture_output=True, text=True, check=True,
        env={**os.environ, "MLFLOW_ALLOW_FILE_STORE": "true"},
    )  # fmt: skip
    runs = json.loads(done.stdout)
    told = {tags["trial_id"]: (params, metrics, tags) for _, tags, params, metrics, _ in runs}
    for trial_id, ended in finished(tracked).items():
        params, metrics, tags = told[trial_id]
        assert metrics["heldout_loss"] == ended.loss
        assert tags["status"] == "finished"
        assert float(params["budget_flops"]) == 4e4
        assert int(params["params"]) == ended.params
        assert (params["experiment"], params["seed"]) == ("mine", "0")
    (report,) = [files for name, *_, files in runs if name == "report"]
    assert "report/report.html" in report


def test_wandb_holds_each_trial_in_the_experiments_group_and_the_report(tracked):
    files = list((tracked.trackers / "wandb").glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 4
    for trial_id, ended in finished(tracked).items():
        (path,) = [p for p in files if trial_id in p.name]
        content = path.read_bytes()
        for text in ("heldout_loss", "budget_flops", "mine", json.dumps(ended.loss)):
            assert text.encode() in content, text
    (report,) = [p for p in files if p.stem.endswith("-report")]
    assert b"report.html" in report.read_bytes()


def test_a_tracker_that_cannot_start_is_told_once_and_ends_no_trial(tmp_path):
    ended, run = sweep(tmp_path, "refused", ["mlflow"], MLFLOW_TRACKING_URI="nowhere://there")
    assert len(finished(run)) == 3
    assert ended.stderr.count("tracker mlflow") == 1
    assert "training continues" in ended.stderr
    assert sum(ended.tracker_failures is not None for ended in finished(run).values()) == 1


class Broken:
    """A tracker that works for a while, and draws from every generator there is."""

    def __init__(self, limit):
        self.limit, self.logged, self.is_closed = limit, [], False

    def store_init_configuration(self, values):
        pass

    def log(self, values, step):
        import random

        import numpy as np

        random.random(), np.random.rand(), torch.rand(1)
        self.logged.append(step)
        if len(self.logged) > self.limit:
            raise ConnectionError("the server went away")

    def finish(self):
        self.is_closed = True


@pytest.mark.parametrize("limit", [0, 3, 10**6])
def test_a_tracker_that_fails_in_the_middle_changes_nothing_but_the_record(
    tmp_path, capsys, monkeypatch, limit
):
    def one(folder, trackers=None):
        return train(
            toy_trial(steps=60), build=lambda width: Mlp(width, dropout=0.3), data=toy_data(),
            loss=mse, recipe=Recipe(), directory=folder, trackers=trackers,
        )  # fmt: skip

    broken = Broken(limit)
    trackers = Trackers(("broken",), tmp_path, "mine", "0")
    monkeypatch.setattr(
        module.Trackers, "_start", lambda self, name, run: self._open.update(broken=broken)
    )
    bare, told = one(tmp_path / "bare"), one(tmp_path / "told", trackers)
    trackers.finish("finished")
    assert told.loss == bare.loss
    fails = limit < 10**6
    assert len(broken.logged) == limit + 1 if fails else len(broken.logged) > 60
    assert broken.is_closed is not fails
    assert (told.details.tracker_failures is not None) is fails
    assert capsys.readouterr().err.count("the server went away") == fails


class Strict:
    """A tracker as the strictest are: told once what the run is, and its steps never go back."""

    def __init__(self):
        self.configurations, self.logged = [], []

    def store_init_configuration(self, values):
        self.configurations.append(values)
        assert values == self.configurations[0], "changing a parameter is not allowed"

    def log(self, values, step):
        assert not self.logged or step >= self.logged[-1][0], "steps only go up"
        self.logged.append((step, values))

    def finish(self):
        pass


def first_one_fails(kind):
    """Builds models, the first of which diverges or runs out of memory after five steps."""
    built = []

    class Net(Mlp):
        def __init__(self, width):
            super().__init__(width)
            built.append(self)
            self.number, self.calls = len(built), 0

        def forward(self, inputs):
            self.calls += self.training
            value = super().forward(inputs)
            if self.calls <= 5:
                return value
            if kind == "out of memory" and self.number <= 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return value * float("nan") if kind == "diverged" and self.number == 1 else value

    return Net


@pytest.mark.parametrize("kind", ["diverged", "out of memory"])
def test_every_attempt_at_a_trial_is_told_to_one_run(tmp_path, monkeypatch, kind):
    strict, starts = Strict(), []
    monkeypatch.setattr(
        module.Trackers, "_start",
        lambda self, name, run: starts.append(run) or self._open.update(strict=strict),
    )  # fmt: skip
    trackers = Trackers(("strict",), tmp_path, "mine", "0")
    outcome = train(
        toy_trial(steps=60), build=first_one_fails(kind), data=toy_data(), loss=mse,
        recipe=Recipe(retries=1), directory=tmp_path / "trial", device="cpu", trackers=trackers,
    )  # fmt: skip
    trackers.finish(outcome.status)
    assert outcome.status == "finished"
    assert trackers.failures == {}
    assert trackers.unusable == set()
    assert len(starts) == len(strict.configurations) == 1
    discarded = sum(each.step for each in outcome.details.discarded or [])
    assert (discarded > 0) is (kind == "diverged")
    losses = [step for step, values in strict.logged if "training_loss" in values]
    assert losses[-1] == discarded + 60
    told = [step for step in losses if step > discarded]
    assert sorted(set(told)) == list(range(discarded + 1, discarded + 61))


def test_a_tracker_that_started_is_tried_again_with_the_next_trial(tmp_path, monkeypatch):
    broken = Broken(2)
    monkeypatch.setattr(
        module.Trackers, "_start", lambda self, name, run: self._open.update(broken=broken)
    )
    trackers = Trackers(("broken",), tmp_path, "mine", "0")
    train(
        toy_trial(steps=60), build=first_one_fails("diverged"), data=toy_data(), loss=mse,
        recipe=Recipe(retries=1), directory=tmp_path / "trial", device="cpu", trackers=trackers,
    )  # fmt: skip
    assert "the server went away" in trackers.failures["broken"]
    assert trackers.unusable == set()


def test_a_missing_tracker_is_found_before_anything_is_written(tmp_path):
    ended, run = sweep(tmp_path, "missing", ["clearml"])
    assert ended.returncode == 3
    assert "`clearml`" in ended.stderr
    assert "pip install clearml" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not run.path.exists()
    with pytest.raises(PluginError, match="comet_ml"):
        require_trackers(["comet_ml"])


def test_an_unknown_tracker_is_an_error_of_the_manifest(tmp_path):
    ended, _ = sweep(tmp_path, "unknown", ["tensorbord"])
    assert ended.returncode == 2
    assert "tensorbord" in ended.stderr
    assert '"tensorboard"' in ended.stderr
