"""The verdict: each broken rule of a credible study costs trust, with a reason that names it."""

import math
import random
from dataclasses import replace

import pytest
from planted_results import PLANTED, isoflop_fit, observe, planted_result, surface_fit

from flops_fit.errors import FitError, Note
from flops_fit.fitting.details import Loss, SurfaceDetails
from flops_fit.fitting.law import PowerLaw, PowerLawFrontier, Surface
from flops_fit.fitting.options import FitOptions
from flops_fit.fitting.points import Excluded
from flops_fit.reporting.figures.diagnostics import residuals_figure
from flops_fit.reporting.reading import read_table_of_runs
from flops_fit.reporting.verdict import headline_method

BUDGETS = (1e17, 3e17, 1e18, 3e18, 1e19)


def codes(result):
    return [note.code for note in result.reasons]


def with_surface(**given):
    seen = observe(BUDGETS)
    return planted_result(
        observations=seen,
        fits={"surface": surface_fit(**given), "isoflop": isoflop_fit(seen)},
    )


def test_a_full_study_whose_methods_agree_is_trusted_without_a_reason():
    result = planted_result(BUDGETS, targets=(1e20,))
    assert (result.verdict, codes(result)) == ("trust", [])


def test_without_any_law_the_verdict_is_refuse_and_says_what_each_method_missed():
    failure = FitError("2 budgets, a fit needs 3", code="too_few_budgets")
    result = planted_result(fits={}, failures={"isoflop": failure})
    assert result.verdict == "refuse"
    assert codes(result) == ["no_usable_law", "too_few_budgets"]


def test_one_failed_method_makes_the_other_provisional():
    failure = FitError("2 budgets, a fit needs 3", code="too_few_budgets")
    result = planted_result(fits={"surface": surface_fit()}, failures={"isoflop": failure})
    assert (result.verdict, codes(result)) == ("provisional", ["too_few_budgets"])


def test_an_unbracketed_minimum_is_named_by_its_budget():
    seen = observe(BUDGETS[:-1]) + observe(BUDGETS[-1:], offset=8.0)
    result = planted_result(observations=seen)
    (told,) = [note for note in result.reasons if note.code == "unbracketed_minimum"]
    assert "1e19 FLOPs" in told.message
    assert result.verdict == "provisional"


def test_too_few_budgets_are_counted():
    result = planted_result(BUDGETS[::2], targets=())
    assert codes(result) == ["too_few_budgets"]
    assert "3 budgets" in result.reasons[0].message


def test_budgets_within_a_decade_are_too_narrow():
    result = planted_result([1e18 * 1.5**i for i in range(6)], targets=())
    assert codes(result) == ["narrow_budgets"]


def test_a_grid_of_four_sizes_is_too_thin():
    result = planted_result(observations=observe(BUDGETS, sizes=4), targets=())
    assert codes(result) == ["too_few_sizes"]


def test_a_taper_of_three_sizes_at_the_top_is_not_too_thin():
    counts = [7, 6, 5, 3, 3]
    seen = [o for c, k in zip(BUDGETS, counts, strict=True) for o in observe([c], sizes=k)]
    assert codes(planted_result(observations=seen, targets=())) == []


@pytest.mark.parametrize(("target", "expected"), [(1e20, []), (1.1e20, ["extrapolation"])])
def test_extrapolation_is_warned_of_beyond_ten_times_the_largest_budget(target, expected):
    assert codes(planted_result(BUDGETS, targets=(target,))) == expected


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"exponents": {"params": 0.9, "tokens": 0.1}}, "implausible_exponent"),
        ({"parameters": {"alpha": 1.2}}, "implausible_exponent"),
        ({"parameters": {"beta": 0.04}}, "implausible_exponent"),
        ({"parameters": {"E": 0.0}}, "irreducible_loss_at_bound"),
        ({"parameters": {"E": 9.0}}, "irreducible_loss_above_data"),
        ({"status": "bound"}, "bound"),
        ({"notes": (Note("law_does_not_hold", "residuals 3 %"),)}, "law_does_not_hold"),
    ],
)
def test_an_implausible_law_says_so(changed, code):
    result = with_surface(**changed)
    assert code in codes(result)
    assert result.verdict == "provisional"


def test_a_note_that_only_informs_costs_no_trust():
    result = with_surface(notes=(Note("outliers", "1 of 35 left out"),))
    assert "outliers" not in codes(result)


def scattered(law, size):
    """A fit of runs whose log losses have normal noise of this size about their law."""
    draw = random.Random(0).gauss
    table = {"params": [], "tokens": [], "loss": []}
    for seen in observe((1e17, 1e18, 1e19, 1e20, 1e21), law=law, width=8.0):
        table["params"].append(seen.params)
        table["tokens"].append(seen.tokens)
        table["loss"].append(seen.loss * math.exp(draw(0, size)))
    return read_table_of_runs(
        table, methods=["surface"], bootstrap=0, options=FitOptions(loss=Loss.LOG_LS)
    )


def test_a_law_that_its_runs_hide_is_refused_and_not_told_as_an_answer():
    result = scattered(PLANTED, 0.3)
    assert result.verdict == "refuse"
    assert codes(result)[:2] == ["law_hidden_by_scatter", "law_does_not_hold"]
    assert result.answers() == []


def test_a_large_scatter_about_a_steep_law_is_the_first_of_the_reasons():
    steep = Surface(E=1e-4, A=3e3, B=2e5, alpha=0.6, beta=0.6)
    result = scattered(steep, 0.2)
    assert result.verdict == "provisional"
    assert codes(result)[0] == "law_does_not_hold"
    assert result.answers()


def test_the_figure_of_residuals_names_the_deviation_that_the_reason_names():
    result = scattered(PLANTED, 0.3)
    hidden = result.reasons[0].message
    (legend,) = residuals_figure(result.fit("surface"), result.observations).legends
    (told,) = [
        text.get_text().removeprefix("median deviation ").replace(" %", "%")
        for text in legend.get_texts()
        if text.get_text().startswith("median deviation")
    ]
    assert f"by {told} " in hidden
    assert told in result.reasons[1].message


@pytest.mark.parametrize(("spread", "expected"), [(2.9, []), (3.1, ["optimum_unknown"])])
def test_an_answer_less_certain_than_the_grid_is_the_first_reason(spread, expected):
    seen = observe(BUDGETS)
    sizes = [o.params for o in seen]
    half = (max(sizes) / min(sizes)) ** (spread / 6)  # the interval is the grid's range at 3
    optimum = replace(
        surface_fit().predict(1e20), params_interval=(1e9 / half, 1e9 * half), method="surface"
    )
    failure = FitError("2 budgets, a fit needs 3", code="too_few_budgets")
    result = planted_result(
        observations=seen,
        fits={"surface": surface_fit()},
        failures={"isoflop": failure},
        targets=(1e20,),
        predictions=(optimum,),
    )
    assert codes(result) == [*expected, "too_few_budgets"]
    assert all("wider range than that of the sizes" in r.message for r in result.reasons[:-1])


@pytest.mark.parametrize(("misfit", "verdict"), [(0.2, "refuse"), (0.09, "provisional")])
def test_scatter_that_hides_which_size_is_best_even_within_the_runs_is_a_refusal(misfit, verdict):
    steep = Surface(E=1e-4, A=3e3, B=2e5, alpha=0.6, beta=0.6)
    seen = observe(BUDGETS, law=steep)
    fit = surface_fit(steep, details=SurfaceDetails(residual_mad=misfit))
    widest = max(o.params for o in seen) / min(o.params for o in seen)
    known = tuple(
        replace(fit.predict(budget), params_interval=(1e8, 1e8 * widest * width), method="surface")
        for budget, width in ((BUDGETS[-1], 1.1), (10 * BUDGETS[-1], 9.0))
    )
    result = planted_result(
        observations=seen, fits={"surface": fit}, targets=(10 * BUDGETS[-1],), predictions=known
    )
    assert result.verdict == verdict
    assert codes(result)[0] == "optimum_unknown"
    assert ("N at 1e19 FLOPs" in result.reasons[0].message) == (verdict == "refuse")


def test_a_form_that_others_are_held_against_never_answers_while_one_of_them_can():
    fits = {"kaplan": surface_fit(), "surface": surface_fit(status="bound")}
    assert headline_method(fits) == "surface"
    assert headline_method({"kaplan": surface_fit()}) == "kaplan"


def shifted(factor, **given):
    seen = observe(BUDGETS)
    fit = isoflop_fit(seen)
    frontier = fit.frontier
    power = PowerLaw(frontier.params.coefficient * factor, frontier.params.exponent)
    moved = PowerLawFrontier(power, frontier.flops_per_token, frontier.loss)
    fits = {"surface": surface_fit(), "isoflop": replace(fit, frontier=moved)}
    return planted_result(observations=seen, fits=fits, targets=(1e20,), **given)


@pytest.mark.parametrize(("factor", "expected"), [(1.4, []), (1.6, ["methods_disagree"])])
def test_methods_disagree_when_their_sizes_at_the_target_are_far_apart(factor, expected):
    assert codes(shifted(factor)) == expected


def test_diverged_trials_are_counted():
    result = planted_result(excluded=(Excluded("aa", "diverged: the loss became NaN"),))
    assert codes(result) == ["diverged_trials"]
    assert "1 of 36" in result.reasons[0].message


def test_many_exclusions_cost_trust():
    seen = observe(BUDGETS)
    excluded = tuple(Excluded(o.name, "outlier") for o in seen[::7])
    assert "many_excluded" in codes(planted_result(observations=seen, excluded=excluded))


def test_a_warning_of_the_plan_stays_a_reason():
    result = planted_result(plan_warnings=(Note("repeated_data", "3.1 epochs"),))
    assert codes(result) == ["repeated_data"]


def test_the_surface_speaks_first_unless_it_ended_at_a_bound():
    isoflop = isoflop_fit(observe(BUDGETS))
    assert headline_method({"isoflop": isoflop, "surface": surface_fit()}) == "surface"
    assert headline_method({"isoflop": isoflop, "surface": surface_fit(status="bound")}) == (
        "isoflop"
    )
    assert headline_method({"surface": surface_fit(PLANTED, status="bound")}) == "surface"
    assert headline_method({}) is None
