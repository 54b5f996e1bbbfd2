"""A sweep grows: what is there is kept, only what is new is trained."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from command_line import flops_fit

from flops_fit.fitting.law import Surface
from flops_fit.reporting.reading import read_run
from flops_fit.sweep.ledger import read_ledger, replay
from flops_fit.sweep.rundir import RunDir

FIRST = "budgets = [3e10, 1e11, 3e11]\nsizes_per_budget = 5"
ALL = "budgets = [3e10, 1e11, 3e11, 1e12]\nsizes_per_budget = 5"


def state(folder):
    return replay(read_ledger(folder / "runs/planted/ledger.jsonl"))


def losses(folder, name="planted"):
    entries = replay(read_ledger(folder / f"runs/{name}/ledger.jsonl")).finished
    return {trial_id: entry.loss for trial_id, entry in entries.items()}


def planned(folder, name="planted"):
    data = json.loads((folder / f"runs/{name}/plan.json").read_text())
    return {trial["trial_id"] for trial in data["trials"]}


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory, write_stated):
    """A folder with a rehearsed sweep of three budgets, which nobody changes."""
    folder = tmp_path_factory.mktemp("rehearsed")
    write_stated(folder, sweep=FIRST)
    ended = flops_fit("run", "experiment.toml", "--simulate", cwd=folder)
    assert ended.returncode in (0, 6), ended.stderr
    return folder


@pytest.fixture
def started(tmp_path, rehearsed):
    """A folder with a rehearsed sweep of three budgets."""
    shutil.copytree(rehearsed, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_added_budgets_train_only_the_new_trials_and_equal_the_sweep_run_at_once(
    started, write_manifest
):
    before = losses(started)
    ended = flops_fit("run", "runs/planted", "--add-budgets", "1e12", cwd=started)
    assert ended.returncode in (0, 6), ended.stderr
    new = len(losses(started)) - len(before)
    assert f"{len(before)} trials are kept, {new} are new" in ended.stderr
    assert max(state(started).attempts.values()) == 1
    whole = write_manifest(sweep=ALL)
    once = ["--simulate", "--run-dir", "runs/once"]
    assert flops_fit("run", whole, *once, cwd=started).returncode in (0, 6)
    assert planned(started) == planned(started, "once")
    # The law that a rehearsal plants is set with the first plan.
    assert before.items() <= losses(started).items()
    # The manifest in the run directory says the same as the one that was run at once.
    again = flops_fit("run", whole, "--simulate", cwd=started)
    assert "the sweep changes" not in again.stderr
    assert max(state(started).attempts.values()) == 1


def test_a_changed_sweep_says_what_is_kept_new_and_no_longer_asked_for(started, write_manifest):
    before = planned(started)
    changed = write_manifest(sweep="budgets = [1e11, 3e11, 1e12]\nsizes_per_budget = 5")
    ended = flops_fit("run", changed, "--simulate", cwd=started)
    assert ended.returncode in (0, 6), ended.stderr
    (entry,) = [
        each for each in read_ledger(started / "runs/planted/ledger.jsonl")
        if each.event == "sweep_extended"
    ]  # fmt: skip
    assert entry.kept + entry.no_longer_asked == len(before)
    assert f"{entry.no_longer_asked} are no longer asked for" in ended.stderr
    assert "stay in the fits" in ended.stderr
    assert before < planned(started)
    used = {each.name for each in read_run(started / "runs/planted").observations}
    assert before < used
    assert max(state(started).attempts.values()) == 1


def test_an_edit_inside_the_run_directory_extends_the_sweep_too(started):
    manifest = started / "runs/planted/manifest.toml"
    manifest.write_text(manifest.read_text().replace("3e11]", "3e11, 1e12]"))
    ended = flops_fit("run", "runs/planted", cwd=started)
    assert "are new" in ended.stderr
    assert max(state(started).finished.values(), key=lambda e: e.flops).flops > 9e11


def test_a_change_of_the_training_is_refused_by_what_changed(started, write_manifest):
    changed = write_manifest(sweep=ALL, training="learning_rate = 0.01")
    ended = flops_fit("run", changed, "--simulate", cwd=started)
    assert ended.returncode == 4
    assert "training.learning_rate" in ended.stderr
    manifest = started / "runs/planted/manifest.toml"
    manifest.write_text(manifest.read_text() + "\n[training]\nlearning_rate = 0.01\n")
    ended = flops_fit("run", "runs/planted", cwd=started)
    assert ended.returncode == 4
    assert "training.learning_rate" in ended.stderr


def test_designs_with_and_without_curves_do_not_mix(started, write_manifest):
    changed = write_manifest(sweep='design = "grid"\ntokens_per_param = [5, 20, 80]')
    before = (started / "runs/planted/plan.json").read_bytes()
    ended = flops_fit("run", changed, "--simulate", cwd=started)
    assert ended.returncode == 4
    assert "do not mix" in ended.stderr
    assert (started / "runs/planted/plan.json").read_bytes() == before


@pytest.mark.parametrize(
    ("sweep", "told"),
    [
        ('design = "ladder"\ntotal_flops = 2e13', "`total_flops`"),
        (FIRST, "has not"),
    ],
    ids=["a ladder", "not started"],
)
def test_budgets_are_added_to_a_started_sweep_with_a_list_of_them(
    tmp_path, write_manifest, sweep, told
):
    manifest = write_manifest(sweep=sweep)
    if "ladder" in sweep:
        flops_fit("run", manifest, "--simulate", cwd=tmp_path)
    ended = flops_fit("run", manifest, "--simulate", "--add-budgets", "1e12", cwd=tmp_path)
    assert ended.returncode == 2
    assert told in ended.stderr


def test_an_adaptive_sweep_chooses_its_own_trials(tmp_path, write_manifest):
    ladder = 'design = "ladder"\ntotal_flops = {}'
    manifest = write_manifest(sweep=ladder.format("5e12"))
    flops_fit("run", manifest, "--simulate", "--adaptive", "--max-flops", "1e12", cwd=tmp_path)
    changed = write_manifest(sweep=ladder.format("9e12"))
    ended = flops_fit("run", changed, "--simulate", cwd=tmp_path)
    assert ended.returncode == 4
    assert "--total-flops" in ended.stderr


def test_a_sweep_that_is_killed_while_it_grows_trains_nothing_twice(started):
    grow = [sys.executable, "-m", "flops_fit", "run", "runs/planted"]
    for more in ("5e11", "1e12"):
        child = subprocess.Popen(
            [*grow, "--add-budgets", more], cwd=started, stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        ledger = started / "runs/planted/ledger.jsonl"
        known = ledger.read_text().count("sweep_extended")
        while ledger.read_text().count("sweep_extended") == known and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    ended = flops_fit("run", "runs/planted", cwd=started)
    assert ended.returncode in (0, 6), ended.stderr
    found = state(started)
    assert set(found.finished) == planned(started)
    assert found.is_complete
    assert {3e10, 1e11, 3e11, 5e11, 1e12} == {
        trial["budget_flops"]
        for trial in json.loads((started / "runs/planted/plan.json").read_text())["trials"]
    }
    starts = [e for e in read_ledger(started / "runs/planted/ledger.jsonl") if "loss" in vars(e)]
    assert len(starts) == len(found.finished)


DIE_AT_A_WRITE = """
import os, sys
from flops_fit.sweep import extending, ledger
left = int(sys.argv.pop(1))
def dying(write):
    def call(*args, **kwargs):
        global left
        if left == 0:
            os._exit(9)
        left -= 1
        return write(*args, **kwargs)
    return call
extending.write_json = dying(extending.write_json)
extending.write_atomic = dying(extending.write_atomic)
ledger.Ledger.append = dying(ledger.Ledger.append)
from flops_fit.cli.main import main
sys.argv[0] = "flops-fit"
main()
"""


@pytest.mark.parametrize("writes", range(4))
def test_a_sweep_that_is_killed_between_two_files_keeps_what_it_was_asked_for(started, writes):
    grow = [sys.executable, "-c", DIE_AT_A_WRITE, str(writes), "run", "runs/planted"]
    killed = subprocess.run(
        [*grow, "--add-budgets", "5e11"], cwd=started, capture_output=True, check=False
    )
    assert killed.returncode == 9, killed.stderr
    ended = flops_fit("run", "runs/planted", "--add-budgets", "1e12", cwd=started)
    assert ended.returncode in (0, 6), ended.stderr
    trials = json.loads((started / "runs/planted/plan.json").read_text())["trials"]
    asked = {5e11} if writes > 0 else set()  # before its first write nothing was asked for
    assert {trial["budget_flops"] for trial in trials} == {3e10, 1e11, 3e11, 1e12} | asked
    assert set(state(started).finished) == planned(started)


def test_a_rehearsal_that_grows_keeps_its_law(started):
    before = json.loads((started / "runs/planted/provenance.json").read_text())["planted"]
    flops_fit("run", "runs/planted", "--add-budgets", "1e12", cwd=started)
    after = json.loads((started / "runs/planted/provenance.json").read_text())["planted"]
    assert Surface(**after) == Surface(**before)
    assert RunDir(started / "runs/planted").is_run()
