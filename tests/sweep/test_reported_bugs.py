"""Bugs that were reported with a small input: each is run as its reporter ran it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BUGS = Path(__file__).parents[2].parent / "shared" / "data" / "bugs"


@pytest.fixture
def reported(tmp_path):
    """Copies the folder of a report, and returns what runs a command in it."""

    def of(name):
        if not (BUGS / name).is_dir():
            pytest.skip(f"no {BUGS / name}")
        folder = tmp_path / name
        folder.mkdir()
        for each in (BUGS / name).iterdir():
            shutil.copyfile(each, folder / each.name)

        def run(*arguments, **environment):
            return subprocess.run(
                [sys.executable, "-m", "flops_fit", *arguments],
                cwd=folder, capture_output=True, text=True, check=False, timeout=300,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            )  # fmt: skip

        return folder, run

    return of


def losses(folder):
    entries = map(json.loads, (folder / "ledger.jsonl").read_text().splitlines())
    return {e["trial_id"]: e["loss"] for e in entries if e["event"] == "trial_finished"}


def test_a_curve_keeps_the_point_of_the_step_at_which_a_checkpoint_was_saved(reported):
    folder, flops_fit = reported("r-01-curve-point-lost")
    path = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    # A checkpoint at every step: the time between two depends on the machine.
    manifest = folder / "tiny.toml"
    manifest.write_text(manifest.read_text().replace("= 0.0005", "= 1e-9"))
    flops_fit("run", "tiny.toml", "--run-dir", "run", "--max-flops", "1")
    trial = folder / "run/trials/aa6deda37eed"
    # The same path each time: a module that joins the plugins later is drift.
    flops_fit("worker", "run", trial.name, PYTHONPATH=path)
    whole = (trial / "curve.jsonl").read_text()
    shutil.rmtree(trial)
    killed = flops_fit("worker", "run", trial.name, KILL_AT="38", PYTHONPATH=path)
    assert killed.returncode == -9
    flops_fit("worker", "run", trial.name, PYTHONPATH=path)
    assert (trial / "curve.jsonl").read_text() == whole


def test_a_manifest_edited_in_its_run_directory_is_refused_until_it_is_put_back(reported):
    folder, flops_fit = reported("r-02-manifest-in-run-edited")
    flops_fit("run", "tiny.toml", "--run-dir", "run", "--max-flops", "1")
    manifest = folder / "run/manifest.toml"
    written = manifest.read_text()
    manifest.write_text(written + "\n[training]\nlearning_rate = 0.03\n")
    for command in (["run", "run"], ["worker", "run"]):
        refused = flops_fit(*command)
        assert refused.returncode == 4
        assert "learning_rate" in refused.stderr
        assert "Traceback" not in refused.stderr
    manifest.write_text(written.replace("workers = 2", "workers = 1"))
    assert flops_fit("run", "run", "--max-flops", "1").returncode == 7


def test_a_plugin_that_changes_the_folder_loses_no_outcome(reported):
    folder, flops_fit = reported("r-05-plugin-changes-folder")
    (folder / "elsewhere").mkdir()
    flops_fit("run", "m.toml", ELSEWHERE=str(folder / "elsewhere"))
    assert len(losses(folder / "runs/moved")) == 3
    assert list((folder / "elsewhere").iterdir()) == []


def test_the_death_of_a_worker_is_seen_though_a_helper_holds_its_pipe(reported):
    folder, flops_fit = reported("r-06-dead-worker-with-helper")
    flops_fit("run", "m.toml", ONCE=str(folder / "once"))
    assert len(losses(folder / "runs/helped")) == 3


def test_a_sweep_beside_a_worker_trains_no_trial_twice(reported):
    folder, flops_fit = reported("r-07-run-beside-workers")
    notes = {"NOTES": str(folder / "notes")}
    flops_fit("run", "m.toml", "--max-flops", "1")
    worker = subprocess.Popen(
        [sys.executable, "-m", "flops_fit", "worker", "runs/beside"],
        cwd=folder, env={**os.environ, **notes}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    flops_fit("run", "runs/beside", **notes)
    assert worker.wait(timeout=120) == 0
    assert len(losses(folder / "runs/beside")) == 10
    done = [line for line in (folder / "notes").read_text().splitlines() if line.startswith("done")]
    widths = [line.split()[2] for line in done]
    assert sorted(widths) == sorted(set(widths))


def test_a_trial_that_hangs_fails_and_names_the_limit(reported):
    folder, flops_fit = reported("r-10-hang")
    text = (folder / "m.toml").read_text()
    (folder / "m.toml").write_text(text + "stall_minutes = 0.35\n")
    ended = flops_fit("run", "m.toml")
    assert ended.returncode == 5, ended.stderr
    assert "`stall_minutes` in [execution]" in ended.stderr
    assert len(losses(folder / "runs/hang")) == 1
    logs = [path.read_text() for path in (folder / "runs/hang/trials").glob("*/log.txt")]
    assert sum("hang.py" in log for log in logs) == 2  # where each of the two stood
