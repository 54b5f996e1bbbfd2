"""Answers beyond the table hold to closed forms, to published values, and to themselves."""

import math
import random

import pytest
from planted_results import PLANTED, isoflop_fit, observe, planted_result, surface_fit

import flops_fit
from flops_fit.errors import FitError
from flops_fit.fitting.law import FlopsPerToken, Surface, SurfaceFrontier
from flops_fit.reporting.answers import LossLaw, repeated_loss, serving, waste_of

RESULT = planted_result()
COUNT = FlopsPerToken((1e6, 1e8, 1e10), (9e6, 6.6e8, 6.1e10))


def counted_result():
    """The planted law where a token costs more than 6 N at small sizes."""
    frontier = SurfaceFrontier(PLANTED.loss, COUNT, PLANTED.log_params)
    return planted_result(fits={"surface": surface_fit(frontier=frontier)})


def test_the_published_value_of_repeated_data_is_reproduced():
    # Muennighoff et al. 2023: parameters of appendix A and the value in their repository.
    law = Surface(
        math.exp(0.6254804), math.exp(6.255414), math.exp(7.3049974), 0.3526596, 0.3526596
    )
    assert repeated_loss(law, 6.34e9, 242e9, 25e9) == pytest.approx(2.22564409, abs=1e-8)


def test_fresh_data_costs_nothing_extra():
    for tokens in (1e9, 1e10):
        params = PLANTED.optimum(6e20).params * 0.01
        assert repeated_loss(PLANTED, params, tokens, 1e10) == pytest.approx(
            PLANTED.loss(params, tokens), rel=1e-12
        )


def test_repeats_are_worth_at_most_sixteen_epochs():
    tokens = 1e9 * (1 + 15.387756)
    endless = repeated_loss(PLANTED, 1e6, 1e15, 1e9)
    assert endless == pytest.approx(PLANTED.loss(1e6, tokens), rel=1e-9)


@pytest.mark.parametrize("result", [RESULT, counted_result()], ids=["6 N D", "counted"])
@pytest.mark.parametrize("flops", [1e18, 1e20, 1e22])
def test_the_inverse_undoes_the_prediction(result, flops):
    optimum = result.predict(flops, method="surface")
    answer = result.compute_for_loss(optimum.loss)
    assert answer.flops == pytest.approx(flops, rel=1e-6)
    assert answer.params == pytest.approx(optimum.params, rel=1e-4)
    assert answer.loss == pytest.approx(optimum.loss, rel=1e-9)


def test_a_loss_below_the_irreducible_one_is_refused():
    with pytest.raises(FitError, match=r"irreducible loss E is 1\.8") as caught:
        RESULT.compute_for_loss(1.7)
    assert caught.value.code == "unreachable_loss"


def test_a_fixed_size_trained_longer_follows_the_law_down_to_its_limit():
    law = PLANTED
    by_tokens = RESULT.with_params(1e9, tokens=5e10)
    assert by_tokens.loss == law.E + law.A * 1e9**-law.alpha + law.B * 5e10**-law.beta
    assert by_tokens.flops == 6 * 1e9 * 5e10
    assert RESULT.with_params(1e9, compute_budget=by_tokens.flops).tokens == pytest.approx(5e10)
    assert RESULT.with_params("1e9", loss=by_tokens.loss).tokens == pytest.approx(5e10, rel=1e-9)
    limit = by_tokens.figures["loss_limit"]
    assert limit == pytest.approx(law.E + law.A * 1e9**-law.alpha)
    with pytest.raises(FitError, match="with endless data"):
        RESULT.with_params(1e9, loss=limit - 1e-6)


@pytest.mark.parametrize("result", [RESULT, counted_result()], ids=["6 N D", "counted"])
def test_fixed_data_gives_the_size_that_spends_the_budget_or_reaches_the_loss(result):
    by_size = result.with_tokens(2e10, params=3e8)
    assert result.with_tokens(2e10, compute_budget=by_size.flops).params == pytest.approx(
        3e8, rel=1e-9
    )
    assert result.with_tokens(2e10, loss=by_size.loss).params == pytest.approx(3e8, rel=1e-9)
    with pytest.raises(FitError, match="model of any size"):
        result.with_tokens(2e10, loss=by_size.figures["loss_limit"])


@pytest.mark.parametrize("given", [{}, {"tokens": 1e9, "loss": 3.0}])
def test_a_question_needs_exactly_one_more_number(given):
    with pytest.raises(ValueError, match="exactly one of"):
        RESULT.with_params(1e9, **given)


@pytest.mark.parametrize("result", [RESULT, counted_result()], ids=["6 N D", "counted"])
def test_the_optimum_wastes_nothing_and_its_neighbours_do(result):
    optimum = result.predict(1e20, method="surface")
    at = result.with_params(optimum.params, compute_budget=1e20)
    assert at.figures["waste"] == pytest.approx(0, abs=1e-6)
    for factor in (0.5, 2):
        away = result.with_params(optimum.params * factor, compute_budget=1e20)
        assert away.figures["waste"] > 0.01


def test_waste_is_the_compute_that_the_same_loss_would_have_saved():
    law = LossLaw(PLANTED)
    params, tokens = 1e9, 1e11
    saved = waste_of(law, params, tokens)
    enough = 6 * params * tokens * (1 - saved)
    assert PLANTED.optimum(enough).loss == pytest.approx(PLANTED.loss(params, tokens), rel=1e-12)


def test_the_near_optimal_range_ends_where_the_waste_is_the_one_asked_for():
    low, high = RESULT.near_optimal(1e20, waste=0.05)
    assert low < PLANTED.optimum(1e20).params < high
    for params in (low, high):
        assert waste_of(LossLaw(PLANTED), params, 1e20 / 6 / params) == pytest.approx(
            0.05, rel=1e-6
        )
    with pytest.raises(ValueError, match="share between 0 and 1"):
        RESULT.near_optimal(1e20, waste=1.0)


@pytest.mark.parametrize("multiple", [0.2, 1.0, 5.0, 40.0])
def test_overtraining_keeps_the_compute_and_multiplies_tokens_per_parameter(multiple):
    optimum = PLANTED.optimum(1e20)
    answer = RESULT.overtrained(1e20, multiple)
    assert answer.params == pytest.approx(optimum.params / math.sqrt(multiple), rel=1e-9)
    assert answer.flops == pytest.approx(1e20)
    assert answer.figures["tokens_per_param"] == pytest.approx(optimum.tokens_per_param * multiple)
    assert answer.loss >= optimum.loss
    assert answer.figures["waste"] >= 0
    counted = counted_result().overtrained(1e20, multiple)
    ratio = counted_result().predict(1e20, method="surface").tokens_per_param * multiple
    assert counted.figures["tokens_per_param"] == pytest.approx(ratio, rel=1e-6)


def test_serving_nothing_gives_the_compute_optimal_model():
    loss = PLANTED.optimum(1e20).loss
    answer = serving(LossLaw(PLANTED), loss, 1e-3)
    assert answer.params == pytest.approx(PLANTED.optimum(1e20).params, rel=1e-4)


@pytest.mark.parametrize("served", [1e10, 1e12, 1e14])
def test_serving_meets_the_first_order_condition_of_the_total(served):
    # d/dN [6 N D(N) + 2 N S] = 0 with D(N) = (B / (l - E - A N^-alpha))^(1/beta):
    # 6 D + 2 S = 6 N (dD/dN negated), dD/dN = -(alpha A / (beta B)) D^(1+beta) N^(-alpha-1).
    law, loss = PLANTED, PLANTED.optimum(1e20).loss
    answer = RESULT.with_serving(loss, served)
    n, d = answer.params, answer.tokens
    slope = law.alpha * law.A / (law.beta * law.B) * d ** (1 + law.beta) * n ** (-law.alpha - 1)
    assert 6 * d + 2 * served == pytest.approx(6 * n * slope, rel=1e-4)
    assert law.loss(n, d) == pytest.approx(loss, rel=1e-12)
    assert answer.figures["total_flops"] == pytest.approx(6 * n * d + 2 * n * served)
    assert n < answer.figures["params_without_serving"]
    assert 0 < answer.figures["saved"] < 1


def test_scarce_data_moves_the_optimum_to_smaller_models_and_a_higher_loss():
    optimum = PLANTED.optimum(1e21)
    scarce = RESULT.with_unique_tokens(optimum.tokens / 50, 1e21)
    plenty = RESULT.with_unique_tokens(optimum.tokens * 2, 1e21)
    assert plenty.params == pytest.approx(optimum.params, rel=1e-4)
    assert plenty.figures["epochs"] == 1.0
    assert scarce.loss > scarce.figures["loss_with_fresh_data"] == pytest.approx(optimum.loss)
    assert scarce.figures["epochs"] > 10
    for factor in (0.9, 1.1):
        tokens = 1e21 / 6 / (scarce.params * factor)
        assert (
            repeated_loss(PLANTED, scarce.params * factor, tokens, optimum.tokens / 50)
            > scarce.loss
        )


def test_a_method_without_a_surface_says_what_it_lacks():
    result = planted_result(fits={"isoflop": isoflop_fit(observe([1e17, 1e18, 1e19]))})
    with pytest.raises(FitError, match="no additive surface"):
        result.compute_for_loss(2.5, method="isoflop")


def draws(count, spread):
    rng = random.Random(3)
    return tuple(
        {"E": PLANTED.E * (1 + spread * rng.gauss(0, 1)), "A": PLANTED.A, "B": PLANTED.B,
         "alpha": PLANTED.alpha, "beta": PLANTED.beta}
        for _ in range(count)
    )  # fmt: skip


def test_intervals_come_from_the_draws_and_only_what_is_open_has_one():
    result = planted_result(fits={"surface": surface_fit(draws=draws(2000, 0.01))})
    answer = result.with_params(1e9, tokens=2e10)
    assert set(answer.intervals) == {"loss", "loss_limit"}
    low, high = answer.intervals["loss"]
    # Only E varies, by 1 % of 1.8: the interval is 1.96 standard deviations on each side.
    assert high - low == pytest.approx(2 * 1.96 * 0.018, rel=0.25)
    assert low < answer.loss < high
    told = answer.to_dict()
    assert told["loss_interval"] == [low, high]
    assert told["params"] == 1e9


def test_an_answer_that_many_draws_cannot_give_has_no_interval():
    result = planted_result(fits={"surface": surface_fit(draws=draws(500, 0.2))})
    assert result.compute_for_loss(1.81).intervals == {}


def test_the_loss_of_one_run_lies_in_its_interval_as_often_as_it_says():
    rng = random.Random(3)
    noise = [rng.gauss(0, 0.004) for _ in range(49)]
    inside = []
    for seed in range(4):
        rng.seed(seed)
        rows = observe([1e18, 3e18, 1e19, 3e19, 1e20], noise=noise[seed:])
        columns = {k: [getattr(o, k) for o in rows] for k in ("params", "tokens", "flops", "loss")}
        result = flops_fit.report(columns, bootstrap=50)
        for _ in range(25):
            params, tokens = 10 ** rng.uniform(8, 9.3), 10 ** rng.uniform(9, 10.3)
            low, high = result.with_params(params, tokens=tokens).intervals["loss"]
            loss = PLANTED.loss(params, tokens) * (1 + rng.gauss(0, 0.004))
            inside.append(low <= loss <= high)
    assert sum(inside) / len(inside) >= 0.9


def test_near_optimal_params_lie_about_the_answer_that_speaks():
    rows = observe([1e18, 3e18, 1e19, 3e19, 1e20], noise=[0.003, -0.002, 0.001, -0.003, 0.002])
    columns = {k: [getattr(o, k) for o in rows] for k in ("params", "tokens", "flops", "loss")}
    result = flops_fit.report(columns, budgets=[1e21], bootstrap=0)
    best = result.predict(1e21)
    low, high = result.near_optimal(1e21, method=best.method)
    assert best.method == "combination"
    assert low < best.params < high
