"""A sweep that was run says what is weak in it, and the runs that mend it can be run."""

import json
import math
import subprocess
import sys

import pytest

WIDE = "\n".join(
    f"  {{ size_value = {d}, params = {24 * d * d + 256 * d} }},"
    for d in (4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192)
)
MODEL = f'plugin = "gpt"\nsize_param = "d_model"\nsizes = [\n{WIDE}\n]'


@pytest.fixture
def command(tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "flops_fit", *map(str, arguments)],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip

    return run


def refined(command) -> dict:
    ended = command("plan", "--refine", "runs/planted", "--json")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def ledger(tmp_path):
    return tmp_path / "runs/planted/ledger.jsonl"


def test_a_sweep_off_its_centre_is_told_where_its_minimum_lies(tmp_path, write_manifest, command):
    """At 1500 tokens per parameter every size is far below the optimum."""
    write_manifest(
        model=MODEL,
        sweep="budgets = [1e11, 3e11, 1e12, 3e12]\nsizes_per_budget = 4\ntokens_per_param = 1500\n"
        "size_span = 2",
        report="bootstrap = 0\nbudgets = [1e14]",
    )
    command("run", "experiment.toml", "--simulate")
    found = refined(command)
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
    shown = command("plan", "--refine", "runs/planted")
    assert "What is weak" in shown.stdout
    assert "to run them: flops-fit run --adaptive runs/planted --max-flops" in shown.stderr


def test_what_is_proposed_is_what_the_adaptive_run_does(tmp_path, write_manifest, command):
    write_manifest(
        model=MODEL,
        sweep='design = "ladder"\ntotal_flops = 1e13\ngoal = { at = 1e14, params_within = 0.01 }',
    )
    command("run", "experiment.toml", "--simulate")
    found = refined(command)
    wanted = [trial["trial_id"] for trial in found["decision"]["trials"]]
    assert wanted
    gain = found["decision"]["figures"]
    assert gain["expected_error_with_drift"] < gain["error_with_drift"]
    assert any("expected gain" in note for note in found["notes"])
    assert found["how"].startswith("flops-fit run --adaptive runs/planted --max-flops")
    ended = command(*found["how"].split()[1:])
    assert "Traceback" not in ended.stderr
    entries = [json.loads(line) for line in ledger(tmp_path).read_text().splitlines()]
    (first, *_) = [e for e in entries if e["event"] == "decision_made"]
    assert [trial["trial_id"] for trial in first["trials"]] == wanted
    finished = {e["trial_id"] for e in entries if e["event"] == "trial_finished"}
    assert set(wanted) <= finished
    spent = math.fsum(e["flops"] for e in entries if e["event"] == "trial_finished")
    assert spent <= float(found["how"].split()[-1])


def test_a_diverged_trial_gets_a_run_beside_it(tmp_path, write_manifest, command):
    write_manifest(model=MODEL, sweep='design = "ladder"\ntotal_flops = 1e13')
    command("run", "experiment.toml", "--simulate")
    lines = ledger(tmp_path).read_text().splitlines(True)
    place, entry = next(
        (k, json.loads(line)) for k, line in enumerate(lines)
        if '"trial_finished"' in line and k > 45
    )  # fmt: skip
    entry = {k: v for k, v in entry.items() if k not in ("loss", "params")}
    entry |= {"event": "trial_diverged", "error": "the loss rose"}
    lines[place] = json.dumps(entry) + "\n"
    ledger(tmp_path).write_text("".join(lines))
    found = refined(command)
    (weak,) = [w for w in found["weaknesses"] if w["kind"] == "no_loss"]
    chosen = {trial["trial_id"]: trial for trial in found["decision"]["trials"]}
    assert chosen[weak["remedy"]]["budget_flops"] == weak["budget_flops"]


def test_small_scale_drift_is_said_and_the_lowest_level_left_out(tmp_path, write_manifest, command):
    write_manifest(
        model=MODEL,
        sweep='design = "ladder"\ntotal_flops = 1e13',
        report="bootstrap = 0\nbudgets = [3e13]",
    )
    command("run", "experiment.toml", "--simulate")
    plain = json.loads(command("report", "runs/planted", "--json").stdout)
    assert "small_scale_drift" not in json.dumps(plain)
    lines = []
    for line in ledger(tmp_path).read_text().splitlines():
        entry = json.loads(line)
        if entry["event"] == "trial_finished":
            entry["loss"] *= 1 + 0.05 * (4000 / entry["params"]) ** 1.5
        lines.append(json.dumps(entry) + "\n")
    ledger(tmp_path).write_text("".join(lines))
    told = json.loads(command("report", "runs/planted", "--json").stdout)
    assert "small_scale_drift" in [reason["code"] for reason in told["reasons"]]
    excluded = [e for e in told["observations"]["excluded"] if "small-scale drift" in e["reason"]]
    lowest = min(
        t["budget_flops"]
        for t in json.loads((tmp_path / "runs/planted/plan.json").read_text())["trials"]
    )
    assert len(excluded) == 9
    assert f"{lowest:.0e}"[0] in excluded[0]["reason"]


def test_a_sweep_without_levels_or_runs_is_one_clear_error(tmp_path, write_manifest, command):
    manifest = write_manifest(sweep='design = "grid"\ntokens_per_param = [5, 20, 80]\n')
    assert "no run directory" in command("plan", "--refine", manifest).stderr
    command("run", manifest, "--simulate")
    ended = command("plan", "--refine", "runs/planted")
    assert ended.returncode == 2
    assert "has none" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_adaptive_sweep_stops_at_its_cap_and_goes_on_when_it_is_lifted(
    tmp_path, write_manifest, command
):
    sweep = 'design = "ladder"\ntotal_flops = 1e13\ngoal = { at = 3e13, params_within = 0.1 }'
    write_manifest(model=MODEL, sweep=sweep)
    run = ("run", "experiment.toml", "--simulate", "--adaptive")
    capped = command(*run, "--max-flops", "1e12")
    entries = [json.loads(line) for line in ledger(tmp_path).read_text().splitlines()]
    spent = math.fsum(e["flops"] for e in entries if e["event"] == "trial_finished")
    assert 0 < spent <= 1e12
    assert capped.returncode == 7
    assert "the goal is not reached" in capped.stderr
    assert entries[-1]["event"] == "sweep_capped"
    lifted = command(*run)
    assert lifted.returncode == 0, lifted.stderr
    entries = [json.loads(line) for line in ledger(tmp_path).read_text().splitlines()]
    made = [e for e in entries if e["event"] == "decision_made"]
    assert made[-1]["action"] == "stop"
    assert made[-1]["figures"]["params_error"] <= 0.1


@pytest.mark.parametrize(
    ("replaced", "said"),
    [
        ({"sweep": 'design = "grid"\ntokens_per_param = [5, 20, 80]'}, "`grid` has none"),
        ({"sweep": 'design = "ladder"\ntotal_flops = 4e9'}, "levels of compute train"),
    ],
)
def test_an_adaptive_sweep_that_cannot_be_is_refused_before_anything_is_written(
    tmp_path, write_manifest, command, replaced, said
):
    manifest = write_manifest(**replaced)
    ended = command("run", manifest, "--simulate", "--adaptive")
    assert ended.returncode == 2, ended.stderr
    assert said in ended.stderr
    assert not (tmp_path / "runs/planted/manifest.toml").exists()
