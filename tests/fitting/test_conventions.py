"""One sweep has other exponents under other conventions, and the report shows each."""

import math
import random
from dataclasses import replace

import pytest

from flops_fit.fitting.conventions import by_convention
from flops_fit.fitting.fit import fit, fit_all
from flops_fit.fitting.options import FitOptions
from flops_fit.fitting.points import Observation
from flops_fit.reporting.result import Result

VOCABULARY = 50_000
WIDTHS = (64, 96, 128, 192, 256, 384, 512, 768, 1024)


def sweep(noise=1e-3, **replaced):
    """A transformer family at small scale, where embeddings are most of N; its law is in all N."""
    seen = []
    for flops in (1e15, 3e15, 1e16, 3e16, 1e17, 3e17):
        for width in WIDTHS:
            inner, embedded = 24 * width**2, VOCABULARY * width
            params, per_token = inner + embedded, 6 * (inner + embedded / 2)
            tokens = flops / per_token
            if not 2 < tokens / params < 2000:
                continue
            loss = 1.8 + 480 / params**0.35 + 2000 / tokens**0.37
            loss *= math.exp(random.Random(f"{flops}{width}").gauss(0, noise))
            point = {
                "params": params, "tokens": tokens, "flops": flops, "loss": loss,
                "budget_flops": flops, "size_value": width, "params_non_embedding": inner,
            }  # fmt: skip
            seen.append(Observation(**point | {k: f(point) for k, f in replaced.items()}))
    return seen


def conventions_of(seen, **options):
    return by_convention(fit_all(seen, FitOptions(**options), methods=["isoflop", "surface"]).fits)


def exponent(rows, params, flops, method):
    (row,) = (
        r for r in rows
        if (r["params_convention"], r["flops_convention"], r["method"]) == (params, flops, method)
    )  # fmt: skip
    return row["params"]


def test_leaving_embeddings_out_turns_the_exponent_towards_larger_models():
    rows = conventions_of(sweep())
    assert exponent(rows, "all", "6ND", "surface") == pytest.approx(0.37 / 0.72, abs=0.02)
    for method in ("isoflop", "surface"):
        everything = exponent(rows, "all", "counted", method)
        inner = exponent(rows, "non-embedding", "counted", method)
        assert everything == pytest.approx(0.47, abs=0.03)
        assert inner > everything + 0.2
    assert exponent(rows, "non-embedding", "6ND", "surface") > 0.65


def test_the_slopes_of_a_counted_surface_are_those_of_its_own_optima():
    seen = sweep(noise=0.0)
    row = next(r for r in conventions_of(seen) if r["method"] == "surface")
    [law] = fit_all(seen, FitOptions(bootstrap=0), methods=["surface"]).fits.values()
    first, last = law.predict(min(o.flops for o in seen)), law.predict(max(o.flops for o in seen))
    rise = math.log(last.flops / first.flops)
    assert row["params"] == pytest.approx(math.log(last.params / first.params) / rise, rel=1e-6)
    assert row["tokens"] == pytest.approx(math.log(last.tokens / first.tokens) / rise, rel=1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"irreducible_loss": 1.2}, {"loss": "huber", "huber_delta": 3e-4}]
)
def test_the_conventions_keep_the_choices_and_the_runs_of_the_fits(options):
    seen = [replace(o, loss=o.loss * (1.1 if k == 7 else 1)) for k, o in enumerate(sweep())]
    found = fit_all(seen, FitOptions(**options), methods=["isoflop", "surface"]).fits
    rows = by_convention(found)
    law = found["surface"]
    assert len(law.used) == len(seen) - ("loss" not in options)  # the outlier is gone, or kept
    for method, flops in (("surface", "6ND"), ("isoflop", "counted")):
        own = found[method].exponents["params"]
        assert exponent(rows, "all", flops, method) == pytest.approx(own, rel=1e-12)
    inner = [replace(o, params=float(o.params_non_embedding)) for o in law.used]
    alone = fit(inner, FitOptions(**options))
    assert exponent(rows, "non-embedding", "6ND", "surface") == pytest.approx(
        alone.exponents["params"], rel=1e-6
    )


def test_active_params_are_a_convention_of_their_own():
    rows = conventions_of(sweep(params_active=lambda point: point["params"] / 4 + 1e5))
    assert {row["params_convention"] for row in rows} == {"all", "non-embedding", "active"}


@pytest.mark.parametrize(
    "replaced",
    [
        {"params_non_embedding": lambda point: None},
        {"params_non_embedding": lambda point: point["params"]},
    ],
)
def test_one_convention_alone_is_not_shown(replaced):
    assert conventions_of(sweep(**replaced)) == []


def test_the_report_holds_the_exponents_in_its_tables_its_page_and_its_json():
    seen = sweep()
    fitted = fit_all(seen, FitOptions(bootstrap=0), methods=["isoflop", "surface"])
    result = Result(
        fits=fitted.fits, failures=fitted.failures, observations=tuple(seen), excluded=(),
        targets=(), notes=(),
    )  # fmt: skip
    rows = result.to_dict()["conventions"]
    assert len(rows) == 6
    assert {*rows[0]} == {"params_convention", "flops_convention", "method", "params", "tokens"}
    assert "non-embedding" in result.tables()["conventions"].to_markdown()
    assert "Exponents by convention" in result.to_html()
