"""A sweep that was run says what is weak in it, and the runs that mend it can be run."""

import json
import math
import subprocess
import sys

import pytest

from flops_fit.caps import Caps
from flops_fit.errors import PlanError
from flops_fit.prepared import prepare, resume
from flops_fit.provenance import start_run
from flops_fit.refinement import refine_run
from flops_fit.reports import read_run
from flops_fit.rundir import RunDir
from flops_fit.stages import carry_out
from flops_fit.sweep_plan import make_plan

WIDE = "\n".join(
    f"  {{ size_value = {d}, params = {24 * d * d + 256 * d} }},"
    for d in (4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192)
)
MODEL = f'plugin = "gpt"\nsize_param = "d_model"\nsizes = [\n{WIDE}\n]'


def rehearse(tmp_path, *, is_adaptive=False, max_flops=None):
    """What `run --simulate` does, without its report."""
    directory = tmp_path / "runs/planted"
    if RunDir(directory).is_run():
        prepared, run = resume(directory), RunDir(directory)
    else:
        prepared = prepare(tmp_path / "experiment.toml")
        plan = make_plan(prepared)
        run = start_run(prepared, plan, directory, simulated=True, is_adaptive=is_adaptive)
    return carry_out(prepared, run, caps=Caps(flops=max_flops), is_adaptive=is_adaptive)


def refined(tmp_path) -> dict:
    return refine_run(tmp_path / "runs/planted").to_dict()


def command(tmp_path, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "flops_fit", *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip


def ledger(tmp_path):
    return tmp_path / "runs/planted/ledger.jsonl"


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
    assert "to run them: flops-fit run --adaptive runs/planted --max-flops" in shown.stderr


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
    assert found["how"].startswith(f"flops-fit run --adaptive {tmp_path}/runs/planted --max-flops")
    rehearse(tmp_path, is_adaptive=True, max_flops=float(found["how"].split()[-1]))
    entries = [json.loads(line) for line in ledger(tmp_path).read_text().splitlines()]
    (first, *_) = [e for e in entries if e["event"] == "decision_made"]
    assert [trial["trial_id"] for trial in first["trials"]] == wanted
    finished = {e["trial_id"] for e in entries if e["event"] == "trial_finished"}
    assert set(wanted) <= finished
    spent = math.fsum(e["flops"] for e in entries if e["event"] == "trial_finished")
    assert spent <= float(found["how"].split()[-1])


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
    ledger(tmp_path).write_text("".join(lines))
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
    ledger(tmp_path).write_text("".join(lines))
    told = read_run(tmp_path / "runs/planted")
    assert "small_scale_drift" in [reason.code for reason in told.reasons]
    excluded = [each for each in told.excluded if "small-scale drift" in each.reason]
    lowest = min(
        t["budget_flops"]
        for t in json.loads((tmp_path / "runs/planted/plan.json").read_text())["trials"]
    )
    assert len(excluded) == 9
    assert f"{lowest:.0e}"[0] in excluded[0].reason


def test_a_sweep_without_levels_or_runs_is_one_clear_error(tmp_path, write_manifest):
    manifest = write_manifest(sweep='design = "grid"\ntokens_per_param = [5, 20, 80]\n')
    ended = command(tmp_path, "plan", "--refine", manifest)
    assert ended.returncode == 2
    assert "no run directory" in ended.stderr
    assert "Traceback" not in ended.stderr
    rehearse(tmp_path)
    with pytest.raises(PlanError, match="has none"):
        refined(tmp_path)


def test_an_adaptive_sweep_stops_at_its_cap_and_goes_on_when_it_is_lifted(tmp_path, write_manifest):
    sweep = 'design = "ladder"\ntotal_flops = 1e13\ngoal = { at = 3e13, params_within = 0.1 }'
    write_manifest(model=MODEL, sweep=sweep)
    capped = rehearse(tmp_path, is_adaptive=True, max_flops=1e12)
    entries = [json.loads(line) for line in ledger(tmp_path).read_text().splitlines()]
    spent = math.fsum(e["flops"] for e in entries if e["event"] == "trial_finished")
    assert 0 < spent <= 1e12
    assert capped.cap.cap == "--max-flops 1e+12"
    assert entries[-1]["event"] == "sweep_capped"
    assert rehearse(tmp_path, is_adaptive=True).cap is None
    entries = [json.loads(line) for line in ledger(tmp_path).read_text().splitlines()]
    made = [e for e in entries if e["event"] == "decision_made"]
    assert made[-1]["action"] == "stop"
    assert made[-1]["figures"]["params_error"] <= 0.1


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
