"""Small tables with a known truth that once misled the report: refused, or answered right."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from scenarios import scenarios

import flops_fit
from flops_fit.errors import FlopsFitError

CASES = Path(__file__).parents[3] / "shared" / "data" / "cases"
TARGET, PARAMS, LOSS = 3e20, 1.499e9, 2.4224

needs_cases = pytest.mark.skipif(
    not CASES.exists(), reason="the cases (../shared/data/cases) are not beside this checkout"
)


def report(name):
    return flops_fit.report(CASES / f"{name}.csv", budgets=[TARGET], bootstrap=0)


@needs_cases
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("b_nosignal", "no_signal"),
        ("b_accuracy", "loss_rises"),
        ("b_vocab_offset", "budgets_do_not_match"),
        ("b_top12_up3", "budgets_do_not_match"),
        ("b_tied_DN", "collinear_design"),
    ],
)
def test_a_table_without_an_answer_is_refused_with_the_reason(name, code):
    try:
        result = report(name)
    except FlopsFitError:
        return  # refused when it was read
    assert result.verdict == "refuse"
    assert code in [note.code for note in result.reasons]


@needs_cases
@pytest.mark.parametrize("name", ["b_swapped", "b_params_millions", "b_tokens_billions_noflops"])
def test_wrong_columns_and_units_never_get_trust(name):
    try:
        result = report(name)
    except FlopsFitError:
        return
    assert result.verdict != "trust"


@needs_cases
@pytest.mark.parametrize("name", ["g_dups_exact", "counted", "nats", "b_3budgets"])
def test_a_sound_table_is_answered_right_and_its_intervals_hold_the_truth(name):
    found = report(name).predict(TARGET)
    assert abs(math.log(found.params / PARAMS)) < math.log(1.3)
    low, high = found.params_interval
    assert low < PARAMS < high
    assert found.loss == pytest.approx(LOSS, rel=0.02)


@needs_cases
def test_exact_duplicates_are_no_reason_against_a_table():
    assert report("g_dups_exact").verdict == "trust"


@pytest.mark.parametrize("law", ["chinchilla", "small"])
def test_the_verdict_tells_sound_tables_from_unsound_ones(law):
    sound, wrong = [], []
    for scenario in scenarios(0):
        if not scenario.name.endswith(law):
            continue
        try:
            result = flops_fit.report(scenario.columns, budgets=[scenario.target], bootstrap=0)
        except FlopsFitError:
            sound += ["refuse"] if scenario.is_sound else []
            continue
        if scenario.is_sound:
            sound.append(result.verdict)
        if result.verdict == "trust":
            found = result.predict(scenario.target)
            wrong += [scenario.name] * (abs(math.log(found.params / scenario.params)) > math.log(2))
    assert sound.count("trust") >= 0.8 * len(sound)
    assert "refuse" not in sound
    assert wrong == []
