"""The checklist answers from what is written down, and says where nothing is."""

import pytest
from ledgers import entry
from planted_results import (
    MANIFEST,
    isoflop_fit,
    observe,
    planted_result,
    run_directory,
    surface_fit,
)

from flops_fit.fitting.details import ExtrapolationDetails
from flops_fit.fitting.points import Excluded
from flops_fit.manifest.files import read_json
from flops_fit.planning.plan import Plan
from flops_fit.reporting.checklist import checklist_table
from flops_fit.reporting.record import Record
from flops_fit.sweep.ledger import Ledger
from flops_fit.sweep.rundir import RunDir


def answers(result):
    return {check.rule.statement: check for check in result.checklist()}


def find(result, part):
    (found,) = [check for rule, check in answers(result).items() if part in rule]
    return found


def test_a_table_of_finished_runs_is_judged_without_training_rules():
    result = planted_result()
    assert not any("learning rate" in rule for rule in answers(result))
    assert find(result, "every minimum is bracketed").held is True
    assert find(result, "budgets or more").figure == "5 budgets over 2.00 decades"


@pytest.mark.parametrize(
    ("rule", "held", "figure"),
    [
        ("losses are taken where the schedule ends", True, "schedule `cosine`"),
        ("optimiser steps", True, "1000 steps"),
        ("within 1 % of the budget", True, "largest difference 0.00%"),
        ("training data is not repeated", True, "up to 2 epochs"),
        ("seed noise", False, "at most 2 seeds in a cell"),
        ("learning rate follows", None, "rule `params-data`"),
        ("all runs, failed ones too", True, "1 finished, 0 diverged, 1 failed"),
        ("beta2", True, "beta2 0.98"),
        ("the sweep costs at most", True, "0.00% of 5e19 FLOPs"),
    ],
)
def test_a_rule_of_training_is_answered_from_manifest_plan_and_ledger(tmp_path, rule, held, figure):
    result = planted_result(run_dir=run_directory(tmp_path, facts={"unique_units": 200_000}))
    check = find(result, rule)
    assert check.held is held
    assert figure in check.figure


def test_a_schedule_that_never_ends_breaks_the_rule(tmp_path):
    run = run_directory(tmp_path, manifest=MANIFEST.replace("cosine", "constant"))
    assert find(planted_result(run_dir=run), "schedule ends").held is False


def test_what_the_record_does_not_say_is_not_known(tmp_path):
    check = find(planted_result(run_dir=run_directory(tmp_path)), "training data is not repeated")
    assert (check.held, check.figure) == (None, "size of the data not known")


def test_trials_far_from_their_budget_break_the_rule(tmp_path):
    check = find(planted_result(run_dir=run_directory(tmp_path, tokens=440_000)), "within 1 %")
    assert check.held is False
    assert "10.00%" in check.figure


def test_an_unbracketed_budget_and_a_thin_grid_are_counted():
    seen = observe([1e17, 3e17, 1e18], sizes=4) + observe([1e19], offset=8.0)
    result = planted_result(observations=seen)
    assert find(result, "every minimum is bracketed").figure == "3 of 4 budgets"
    assert find(result, "sizes or more").held is False


def test_laws_intervals_and_exclusions_are_answered_from_the_fits():
    seen = observe([1e17, 1e18, 1e19])
    fit = surface_fit(
        draws=({"E": 1.8},) * 1000, intervals={"E": (-0.1, 2.0)}, details=ExtrapolationDetails()
    )
    result = planted_result(
        observations=seen,
        fits={"surface": fit, "isoflop": isoflop_fit(seen)},
        excluded=(Excluded("aa", "diverged"),),
    )
    assert find(result, "1000 resamples").held is True
    assert find(result, "irreducible loss is determined").held is False
    assert find(result, "held out").held is True
    assert find(result, "dropped silently").figure == "1 left out, each with its reason"


def test_a_directory_that_is_no_run_has_no_record(tmp_path):
    assert Record.read(tmp_path) is None
    assert Record.read(None) is None
    broken = run_directory(tmp_path)
    (broken / "plan.json").write_text("{")
    assert Record.read(broken) is None


def test_the_checklist_is_a_table_like_the_others():
    text = checklist_table(planted_result().checklist()).to_markdown()
    assert "| not known" not in text
    assert "yes" in text
    assert "arXiv:2203.15556" in text


def test_what_evaluation_took_and_whether_it_was_exact_is_read_from_the_ledger(tmp_path):
    def told(name, **measured):
        (tmp_path / name).mkdir()
        run = RunDir(run_directory(tmp_path / name))
        _, other = Plan.from_dict(read_json(run.plan)).trials
        ledger = Ledger.open(run.ledger)
        ledger.append(entry(
            "trial_finished", other.trial_id, loss=3.0, params=40_000, tokens=other.tokens,
            flops=other.flops, wall_seconds=10.0, **measured,
        ))  # fmt: skip
        ledger.close()
        return planted_result(run_dir=run.path)

    cheap = told("cheap", evaluation_seconds=0.2)
    assert find(cheap, "held-out losses take").held is True
    assert find(cheap, "mean of its parts").held is True
    dear = told("dear", evaluation_seconds=2.2, inexact_parts=(2.6, 2.3))
    assert find(dear, "held-out losses take").held is False
    assert "22.0%" in find(dear, "held-out losses take").figure
    assert "heldout_examples" in find(dear, "held-out losses take").figure
    assert find(dear, "mean of its parts").held is False
    assert "count(targets)" in find(dear, "mean of its parts").figure
