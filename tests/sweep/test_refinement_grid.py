"""A sweep without levels of compute, or of few runs, is gone on with from what it has."""

import json
import math

import pytest
from ledgers import rewrite
from rehearsals import MODEL, finished, ledger, refined, rehearse, run_as_told

from flops_fit.fitting.law import Surface
from flops_fit.planning.from_manifest import ground_of
from flops_fit.reporting.reading import read_run
from flops_fit.sweep.ledger import read_ledger, replay
from flops_fit.sweep.provenance import resume
from flops_fit.sweep.rounds import given_part, make_terms, planned_so_far
from flops_fit.sweep.rundir import RunDir

GOAL = "goal = { at = 1e14, params_within = 0.12 }"
SPREAD = "largest_params = 3e5\nsize_range = 30\nnum_sizes = 5"
SWEEPS = {
    "grid": f'design = "grid"\ntokens_per_param = [5, 20, 80]\n{SPREAD}',
    "one number of tokens": f'design = "fixed-tokens"\ntokens = [3e6]\n{SPREAD}',
    "two budgets": "budgets = [1e12, 3e12]\nsizes_per_budget = 3",
}
REPORT = "bootstrap = 0\nbudgets = [1e14]"


@pytest.fixture
def run_dir(tmp_path, write_manifest):
    def make(sweep, **sections):
        write_manifest(model=MODEL, sweep=f"{SWEEPS[sweep]}\n{GOAL}", report=REPORT, **sections)
        rehearse(tmp_path)
        return RunDir(tmp_path / "runs/planted")

    return make


@pytest.mark.parametrize("sweep", SWEEPS)
def test_what_is_proposed_is_run_and_leads_to_the_planted_optimum(tmp_path, run_dir, sweep):
    run = run_dir(sweep)
    before, found = finished(tmp_path), refined(tmp_path)
    wanted = {trial["trial_id"] for trial in found["decision"]["trials"]}
    assert wanted
    cap = run_as_told(tmp_path, found["how"])
    assert finished(tmp_path).keys() - before.keys() == wanted
    # A grid's cheapest trials cost a millionth of the whole: the cap leaves no room for one.
    assert math.fsum(finished(tmp_path).values()) <= cap
    assert cap == pytest.approx(math.fsum(finished(tmp_path).values()), rel=2e-9)
    rehearse(tmp_path, is_adaptive=True, total_flops=1e15)
    last = replay(read_ledger(run.ledger)).decisions[-1]
    assert last.action == "stop"
    assert last.figures["noise_half_width"] <= 0.12
    law = Surface(**json.loads(run.provenance.read_text())["planted"])
    answer = read_run(run.path).predict(1e14)
    assert abs(math.log(answer.params / law.optimum(1e14).params)) < 3 * 0.12


def test_three_sizes_are_gone_on_with(tmp_path, write_manifest):
    sizes = [(16, 10_240), (32, 32_768), (64, 114_688)]
    listed = ", ".join(f"{{ size_value = {d}, params = {n} }}" for d, n in sizes)
    write_manifest(
        model=f'plugin = "gpt"\nsize_param = "d_model"\nsizes = [{listed}]',
        sweep='design = "grid"\ntokens_per_param = [5, 20, 80]', report=REPORT,
    )  # fmt: skip
    rehearse(tmp_path)
    assert refined(tmp_path)["decision"]["trials"]


@pytest.mark.parametrize("sweep", ["grid", "one number of tokens"])
def test_levels_stay_where_they_were_laid(tmp_path, run_dir, sweep):
    run = run_dir(sweep)

    def levels():
        prepared, state = resume(run.path), replay(read_ledger(run.ledger))
        plan = given_part(planned_so_far(run, state), state)
        return make_terms(prepared.manifest, ground_of(prepared), plan, is_new=False).budgets

    first = levels()
    rehearse(tmp_path, is_adaptive=True, total_flops=1e15)
    assert levels() == first
    spent = [t["budget_flops"] for t in json.loads(run.plan.read_text())["trials"]]
    assert max(spent) <= first[0] * 1.01
    assert min(spent) <= first[-1] < 3 * min(spent)


@pytest.mark.parametrize("schedule", ["linear", "wsd"])
@pytest.mark.parametrize(("broken", "kind"), [("loss", "far_above_law"), ("diverged", "no_loss")])
def test_a_weak_cell_of_a_grid_is_run_once_more_with_another_seed(
    tmp_path, run_dir, broken, kind, schedule
):
    run_dir("grid", training=f'schedule = "{schedule}"')
    lines = ledger(tmp_path).read_text().splitlines(True)
    ended = [k for k, line in enumerate(lines) if '"trial_finished"' in line]
    entry = json.loads(lines[ended[7]])
    if broken == "loss":
        entry["loss"] *= 1.3
    else:
        entry = {k: v for k, v in entry.items() if k not in ("loss", "params")}
        entry |= {"event": "trial_diverged", "error": "the loss rose"}
    lines[ended[7]] = json.dumps(entry) + "\n"
    rewrite(ledger(tmp_path), lines)
    (cell,) = [t for t in trials(tmp_path) if t["trial_id"] == entry["trial_id"]]
    found = refined(tmp_path)
    (weak,) = [w for w in found["weaknesses"] if w["kind"] == kind]
    rehearse(tmp_path, is_adaptive=True, total_flops=1e15)
    (again,) = [t for t in trials(tmp_path) if t["trial_id"] == weak["remedy"]]
    assert ("trunk" in again) == ("trunk" in cell) == (schedule == "wsd")
    same = ("size_value", "tokens", "budget_flops", "batch_tokens")
    assert [again[name] for name in same] == [cell[name] for name in same]
    assert again["seed"] != cell["seed"]
    assert again["trial_id"] in finished(tmp_path)
    assert kind not in [w["kind"] for w in refined(tmp_path)["weaknesses"]]


def trials(tmp_path):
    return json.loads((tmp_path / "runs/planted/plan.json").read_text())["trials"]
