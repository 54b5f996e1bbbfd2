"""A sweep that was run says what is weak in it, and the runs that mend it can be run."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
from ledgers import rewrite
from rehearsals import MODEL, finished, ledger, refined, rehearse, run_as_told

from flops_fit.errors import FitError, PlanError, RunDirError
from flops_fit.reporting.reading import read_run
from flops_fit.sweep.ledger import Ledger, read_ledger
from flops_fit.sweep.opening import open_sweep, planned
from flops_fit.units import format_flops


def command(tmp_path, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "flops_fit", *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip


def test_a_sweep_off_its_centre_is_told_where_its_minimum_lies(tmp_path, write_manifest):
    """At 1500 tokens per parameter every size is far below the optimum."""
    write_manifest(
        model=MODEL,
        sweep="budgets = [1e11, 3e11, 1e12, 3e12]\nsizes_per_budget = 4\ntokens_per_param = 1500\n"
        "size_span = 2",
        report="bootstrap = 0\nbudgets = [1e14]",
    )
    rehearse(tmp_path)
    found = refined(tmp_path)
    weak = [w for w in found["weaknesses"] if w["kind"] == "unbracketed"]
    assert len(weak) >= 3
    assert all(
        "lies outside the sizes" in w["message"] or "no minimum" in w["message"] for w in weak
    )
    plan = json.loads((tmp_path / "runs/planted/plan.json").read_text())
    chosen = {trial["trial_id"]: trial for trial in found["decision"]["trials"]}
    for weakness in weak:
        trial = chosen.get(weakness["remedy"])
        if trial is None:
            continue
        there = [t["params"] for t in plan["trials"] if t["budget_flops"] == trial["budget_flops"]]
        assert trial["params"] > max(there)
    assert set(chosen) & {w["remedy"] for w in weak}
    shown = command(tmp_path, "plan", "--refine", "runs/planted")
    assert "What is weak" in shown.stdout
    assert "to run them: flops-fit run --adaptive runs/planted --total-flops" in shown.stderr


def test_what_is_proposed_is_what_the_adaptive_run_does(tmp_path, write_manifest):
    write_manifest(
        model=MODEL,
        sweep='design = "ladder"\ntotal_flops = 1e13\ngoal = { at = 1e14, params_within = 0.01 }',
    )
    rehearse(tmp_path)
    found = refined(tmp_path)
    wanted = [trial["trial_id"] for trial in found["decision"]["trials"]]
    assert wanted
    gain = found["decision"]["figures"]
    assert gain["expected_error_with_drift"] < gain["error_with_drift"]
    assert any("expected gain" in note for note in found["notes"])
    assert found["how"].startswith(f"flops-fit run --adaptive {tmp_path}/runs/planted --total-")
    before = finished(tmp_path)
    cap = run_as_told(tmp_path, found["how"])
    assert finished(tmp_path).keys() - before.keys() == set(wanted)
    assert math.fsum(finished(tmp_path).values()) <= cap


TIGHT = 'design = "ladder"\ntotal_flops = 3e12\ngoal = {{ at = 3e13, params_within = {} }}'


@pytest.mark.parametrize("within", [0.02, 1.0], ids=["ended at its total", "ended at its goal"])
def test_an_adaptive_sweep_runs_just_what_is_proposed_to_it(tmp_path, write_manifest, within):
    write_manifest(model=MODEL, sweep=TIGHT.format(within))
    rehearse(tmp_path, is_adaptive=True)
    how, before = refined(tmp_path)["how"], finished(tmp_path)
    wanted = {trial["trial_id"] for trial in refined(tmp_path)["decision"]["trials"]}
    assert wanted
    copy = tmp_path / "runs/planted/manifest.toml"
    if within == 1.0:
        assert f"into [sweep] of `{copy}`" in how
        goal = how.split("`")[1]
        lines = [goal if line.startswith("goal") else line for line in copy.read_text().split("\n")]
        copy.write_text("\n".join(lines))
    run_as_told(tmp_path, how)
    assert finished(tmp_path).keys() - before.keys() == wanted


def test_trials_that_a_cap_left_out_are_the_next_ones(tmp_path, write_manifest):
    write_manifest(model=MODEL, sweep='design = "ladder"\ntotal_flops = 1e13')
    missing = rehearse(tmp_path, max_flops=3e12).cap.missing
    found = refined(tmp_path)
    assert [trial["trial_id"] for trial in found["decision"]["trials"]] == list(missing)
    assert rehearse(tmp_path, max_flops=float(found["how"].split()[-1])).pending == 0


def test_a_failed_trial_counts_what_it_spent_and_is_tried_again_first(tmp_path, write_manifest):
    write_manifest(model=MODEL, sweep='design = "ladder"\ntotal_flops = 1e13')
    rehearse(tmp_path)
    lines = ledger(tmp_path).read_text().splitlines(True)
    place = next(k for k, line in enumerate(lines) if '"trial_finished"' in line)
    entry = json.loads(lines[place])
    lines[place] = json.dumps(
        {"event": "trial_failed", "at": entry["at"], "trial_id": entry["trial_id"],
         "error": "no memory", "flops": 1e9}
    ) + "\n"  # fmt: skip
    whole = math.fsum(json.loads(line).get("flops", 0.0) for line in lines)
    rewrite(ledger(tmp_path), lines)
    (told,) = [note for note in refined(tmp_path)["notes"] if "spent" in note]
    assert f"with the {format_flops(whole)} spent" in told
    assert "1 failed trials are tried again first" in told


def test_a_diverged_trial_gets_a_run_beside_it(tmp_path, write_manifest):
    write_manifest(model=MODEL, sweep='design = "ladder"\ntotal_flops = 1e13')
    rehearse(tmp_path)
    lines = ledger(tmp_path).read_text().splitlines(True)
    place, entry = next(
        (k, json.loads(line)) for k, line in enumerate(lines)
        if '"trial_finished"' in line and k > 45
    )  # fmt: skip
    entry = {k: v for k, v in entry.items() if k not in ("loss", "params")}
    entry |= {"event": "trial_diverged", "error": "the loss rose"}
    lines[place] = json.dumps(entry) + "\n"
    rewrite(ledger(tmp_path), lines)
    found = refined(tmp_path)
    (weak,) = [w for w in found["weaknesses"] if w["kind"] == "no_loss"]
    chosen = {trial["trial_id"]: trial for trial in found["decision"]["trials"]}
    assert chosen[weak["remedy"]]["budget_flops"] == weak["budget_flops"]


def test_small_scale_drift_is_said_and_the_lowest_level_left_out(tmp_path, write_manifest):
    write_manifest(
        model=MODEL,
        sweep='design = "ladder"\ntotal_flops = 1e13',
        report="bootstrap = 0\nbudgets = [3e13]",
    )
    rehearse(tmp_path)
    plain = read_run(tmp_path / "runs/planted")
    assert "small_scale_drift" not in [reason.code for reason in plain.reasons]
    lines = []
    for line in ledger(tmp_path).read_text().splitlines():
        entry = json.loads(line)
        if entry["event"] == "trial_finished":
            entry["loss"] *= 1 + 0.05 * (4000 / entry["params"]) ** 1.5
        lines.append(json.dumps(entry) + "\n")
    rewrite(ledger(tmp_path), lines)
    told = read_run(tmp_path / "runs/planted")
    assert "small_scale_drift" in [reason.code for reason in told.reasons]
    excluded = [each for each in told.excluded if "small-scale drift" in each.reason]
    lowest = min(
        t["budget_flops"]
        for t in json.loads((tmp_path / "runs/planted/plan.json").read_text())["trials"]
    )
    assert len(excluded) == 9
    assert f"{lowest:.0e}"[0] in excluded[0].reason


def test_a_sweep_without_runs_is_one_clear_error(tmp_path, write_manifest):
    manifest = write_manifest(sweep='design = "grid"\ntokens_per_param = [5, 20, 80]\n')
    ended = command(tmp_path, "plan", "--refine", manifest)
    assert ended.returncode == 2
    assert "no run directory" in ended.stderr
    assert "Traceback" not in ended.stderr
    rehearse(tmp_path, max_flops=1e9)
    with pytest.raises(FitError, match="finished trials; choosing the next ones needs at least 5"):
        refined(tmp_path)


def test_an_adaptive_sweep_stops_at_its_cap_and_goes_on_when_it_is_lifted(tmp_path, write_manifest):
    sweep = 'design = "ladder"\ntotal_flops = 1e13\ngoal = { at = 3e13, params_within = 0.1 }'
    write_manifest(model=MODEL, sweep=sweep)
    capped = rehearse(tmp_path, is_adaptive=True, max_flops=1e12)
    assert 0 < math.fsum(finished(tmp_path).values()) <= 1e12
    assert capped.cap.cap == "--max-flops 1e+12"
    assert capped.cap.missing
    assert read_ledger(ledger(tmp_path))[-1].event == "sweep_capped"
    assert rehearse(tmp_path, is_adaptive=True).cap is None
    made = decisions(tmp_path)
    assert made[-1].action == "stop"
    assert made[-1].figures["params_error"] <= 0.1


def decisions(tmp_path):
    entries = read_ledger(ledger(tmp_path))
    return [replace(entry, at="") for entry in entries if entry.event == "decision_made"]


@pytest.mark.parametrize("caps", [[1e3], [1e9, 3e9, 1e10], [2e10, 5e11]])
def test_whatever_the_caps_a_sweep_comes_to_the_decisions_that_it_makes_without(
    tmp_path, write_manifest, caps
):
    write_manifest(model=MODEL, sweep=TIGHT.format(0.1))
    rehearse(tmp_path, is_adaptive=True)
    alone = decisions(tmp_path)
    (tmp_path / "runs/planted").rename(tmp_path / "runs/alone")
    for cap in caps:
        ended = rehearse(tmp_path, is_adaptive=True, max_flops=cap)
        assert ended.cap is not None
        assert ended.spent_flops <= cap
        last = read_ledger(ledger(tmp_path))[-1]
        assert (last.event, last.missing) == ("sweep_capped", ended.cap.missing)
    assert rehearse(tmp_path, is_adaptive=True).cap is None
    assert decisions(tmp_path) == alone


def test_a_cap_above_the_total_raises_nothing_and_a_new_total_does(tmp_path, write_manifest):
    write_manifest(model=MODEL, sweep=TIGHT.format(0.02), report="bootstrap = 0")
    assert rehearse(tmp_path, is_adaptive=True, max_flops=2e13).spent_flops <= 3e12
    told = read_run(tmp_path / "runs/planted").notes
    (note,) = [note for note in told if note.code == "goal_not_reached"]
    assert "no other run is affordable" in note.message
    assert "goal +-2.0 %" in note.message
    assert 3e12 < rehearse(tmp_path, is_adaptive=True, total_flops=5e12).spent_flops <= 5e12


def test_a_sweep_that_reached_its_goal_says_nothing_of_it(tmp_path, write_manifest):
    write_manifest(model=MODEL, sweep=TIGHT.format(0.3), report="bootstrap = 0")
    rehearse(tmp_path, is_adaptive=True)
    codes = [note.code for note in read_run(tmp_path / "runs/planted").notes]
    assert "goal_not_reached" not in codes


def test_a_run_directory_without_trials_is_one_clear_error(tmp_path, write_manifest):
    manifest = write_manifest(model=MODEL, sweep=TIGHT.format(0.1))
    directory = tmp_path / "runs/planted"
    with open_sweep(manifest, directory, simulated=True, is_adaptive=True) as sweep:
        Ledger.open(sweep.run.ledger).close()
    for look in (read_run, planned):
        with pytest.raises(RunDirError, match="has no trials yet") as refused:
            look(directory)
        assert "flops-fit run" in refused.value.hint


def test_a_goal_made_finer_takes_a_finished_sweep_up_again(tmp_path, write_manifest):
    sweep = 'design = "ladder"\ntotal_flops = 1e13\ngoal = { at = 3e13, params_within = 0.3 }'
    write_manifest(model=MODEL, sweep=sweep)
    first = rehearse(tmp_path, is_adaptive=True)
    finer = tmp_path / "runs/planted/manifest.toml"
    finer.write_text(finer.read_text().replace("params_within = 0.3", "params_within = 0.03"))
    again = rehearse(tmp_path)
    assert again.finished > first.finished
    assert rehearse(tmp_path).finished == again.finished


@pytest.mark.parametrize(
    ("replaced", "said"),
    [
        ({"sweep": 'design = "grid"\ntokens_per_param = [5, 20, 80]'}, "`grid` has none"),
        ({"sweep": 'design = "ladder"\ntotal_flops = 4e9'}, "levels of compute train"),
    ],
)
def test_an_adaptive_sweep_that_cannot_be_is_refused_before_anything_is_written(
    tmp_path, write_manifest, replaced, said
):
    write_manifest(**replaced)
    with pytest.raises(PlanError, match=said):
        rehearse(tmp_path, is_adaptive=True)
    assert not (tmp_path / "runs/planted/manifest.toml").exists()
