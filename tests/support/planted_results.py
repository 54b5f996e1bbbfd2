"""planted_results."""

from __future__ import annotations

import math

from ledgers import entry

from flops_fit.fitting.details import IsoflopDetails, Minimum, MinimumStatus
from flops_fit.fitting.law import Fit, FlopsPerToken, PowerLaw, PowerLawFrontier, Surface
from flops_fit.fitting.points import Excluded, Observation
from flops_fit.manifest.files import write_json
from flops_fit.manifest.trials import Size, Trial
from flops_fit.planning.plan import Plan
from flops_fit.reporting.result import Result
from flops_fit.sweep.ledger import Ledger
from flops_fit.sweep.rundir import RunDir

PLANTED = Surface(E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37)


def observe(budgets, *, law=PLANTED, sizes=7, width=3.0, offset=1.0, noise=()):
    """Trials on isoFLOP curves around the law's optimum (times `offset`), 6 N D = budget."""
    seen = []
    for budget in budgets:
        centre = law.optimum(budget).params * offset
        for place in range(sizes):
            params = centre * width ** (2 * place / (sizes - 1) - 1)
            tokens = budget / (6 * params)
            shift = noise[len(seen) % len(noise)] if noise else 0.0
            seen.append(
                Observation(
                    params=params,
                    tokens=tokens,
                    flops=budget,
                    loss=law.loss(params, tokens) * (1 + shift),
                    budget_flops=budget,
                    name=f"{len(seen):012x}",
                )
            )
    return tuple(seen)


def parabola_through(curve):
    """Least-squares parabola in x = ln N - centre, by the normal equations in plain Python."""
    centre = sum(math.log(o.params) for o in curve) / len(curve)
    xs = [math.log(o.params) - centre for o in curve]
    rows = [
        [sum(x ** (i + j) for x in xs) for j in range(3)]
        + [sum(o.loss * x**i for o, x in zip(curve, xs, strict=True))]
        for i in range(3)
    ]
    for i in range(3):
        rows[i] = [v / rows[i][i] for v in rows[i]]
        for k in range(3):
            if k != i:
                rows[k] = [a - rows[k][i] * b for a, b in zip(rows[k], rows[i], strict=True)]
    return centre, [row[3] for row in rows]


def minimum_of(curve):
    """What the isoflop method writes down of one budget."""
    centre, (c0, c1, c2) = parabola_through(curve)
    x = -c1 / (2 * c2)
    params = math.exp(centre + x)
    bracketed = min(o.params for o in curve) < params < max(o.params for o in curve)
    budget = curve[0].budget_flops
    return Minimum(
        budget_flops=budget,
        params=params,
        tokens=budget / (6 * params),
        loss=c0 + c1 * x + c2 * x * x,
        status=MinimumStatus.OK if bracketed and c2 > 0 else MinimumStatus.UNBRACKETED,
        reason="" if bracketed else "the vertex lies outside the grid",
        num_sizes=len(curve),
        centre=centre,
        coefficients=(c0, c1, c2),
    )


def surface_fit(law=PLANTED, **given):
    """A fit that found exactly the planted surface."""
    values = {"E": law.E, "A": law.A, "B": law.B, "alpha": law.alpha, "beta": law.beta}
    a = law.beta / (law.alpha + law.beta)
    made = {
        "method": "surface",
        "status": "ok",
        "parameters": values,
        "exponents": {"params": a, "tokens": 1 - a},
        "frontier": law,
        "objective": 1.5e-3,
        "r_squared": {"loss": 0.999},
    }
    return Fit(**{**made, **given})


def isoflop_fit(observations, law=PLANTED, **given):
    """A fit whose minima come from parabolas and whose power law is the planted one."""
    out = {e.name for e in given.get("excluded", ())}
    kept = [o for o in observations if o.name not in out]
    budgets = sorted({o.budget_flops for o in kept})
    minima = [minimum_of([o for o in kept if o.budget_flops == b]) for b in budgets]
    a = law.beta / (law.alpha + law.beta)
    power = PowerLaw(law.optimum(1.0).params, a)
    loss = PowerLaw(law.optimum(1.0).loss - law.E, -law.alpha * a, law.E)
    made = {
        "method": "isoflop",
        "status": "ok",
        "parameters": {"coefficient": power.coefficient, "a": a},
        "exponents": {"params": a, "tokens": 1 - a},
        "frontier": PowerLawFrontier(power, FlopsPerToken(), loss),
        "r_squared": {"params": 0.998, "tokens": 0.998, "loss": 0.999},
        "details": IsoflopDetails(minima=tuple(minima)),
    }
    return Fit(**{**made, **given})


def planted_result(budgets=(1e17, 3e17, 1e18, 3e18, 1e19), *, targets=(5e19,), **given):
    """A result whose two methods agree with the planted law."""
    seen = given.pop("observations", None) or observe(budgets)
    made = {
        "fits": given["fits"]
        if "fits" in given
        else {"surface": surface_fit(), "isoflop": isoflop_fit(seen)},
        "failures": {},
        "observations": seen,
        "excluded": (),
        "targets": tuple(targets),
        "notes": (),
    }
    return Result(**{**made, **given})


def with_outlier(observations, place, share=0.05):
    """The observations with one loss raised, and the exclusion that names it."""
    bad = observations[place]
    raised = Observation(
        bad.params, bad.tokens, bad.flops, bad.loss * (1 + share), bad.budget_flops, bad.name
    )
    seen = (*observations[:place], raised, *observations[place + 1 :])
    return seen, (Excluded(bad.name, "9.1 MAD above the fit"),)


MANIFEST = """
name = "swept"
[model]
plugin = "gpt"
size_param = "d_model"
sizes = [16, 32]
[data]
plugin = "stdlib-text"
[loss]
plugin = "cross-entropy"
[sweep]
budgets = [1e11, 1e12]
[training]
schedule = "cosine"
"""


def run_directory(tmp_path, *, manifest=MANIFEST, tokens=400_000, facts=None):
    """A run directory of two trials, one finished and one failed, written by its own rooms."""
    run = RunDir(tmp_path / "run")
    size = Size(16, 40_000, None, 2.5e5)
    trials = [
        Trial.of(budget_flops=1e11, size=size, tokens=tokens, batch_tokens=400, seed=seed)
        for seed in (0, 1)
    ]
    run.path.mkdir()
    run.manifest.write_text(manifest, encoding="utf-8")
    write_json(run.plan, Plan(tuple(trials)).to_dict())
    write_json(run.provenance, {
        "fingerprint": "abc123", "identity": {}, "planted": None, "search_path": [], "data": None,
        "description": {"sizes": [], "facts": facts or {}},
    })  # fmt: skip
    ledger = Ledger.open(run.ledger)
    ledger.append(entry("sweep_started", fingerprint="abc123", trials=2))
    ledger.append(entry(
        "trial_finished", trials[0].trial_id, loss=3.0, params=40_000, tokens=tokens,
        flops=trials[0].flops, wall_seconds=12.5,
    ))  # fmt: skip
    ledger.append(entry("trial_failed", trials[1].trial_id, error="out of memory"))
    ledger.close()
    return run.path
