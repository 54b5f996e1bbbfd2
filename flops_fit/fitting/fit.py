"""Fit observations by one named method, or by all methods side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from flops_fit.errors import FitError, Note
from flops_fit.fitting.backtest import POWERS, BackTest, back_test, reach
from flops_fit.fitting.combination import METHOD as COMBINATION
from flops_fit.fitting.combination import combine, describe_combination
from flops_fit.fitting.curves import check_enough, finished, group_curves, usable
from flops_fit.fitting.details import (
    ExtrapolationDetails,
    Gain,
    LawNumbers,
    Loss,
    SurfaceDetails,
    Waste,
)
from flops_fit.fitting.disagreement import better_general, disagreements, wastes
from flops_fit.fitting.envelope import fit_envelope
from flops_fit.fitting.gains import gains
from flops_fit.fitting.general import fit_general
from flops_fit.fitting.intervals import bootstrap, preview, with_intervals
from flops_fit.fitting.isoflop import fit_isoflop
from flops_fit.fitting.kaplan import fit_kaplan, fixed_tokens_laws
from flops_fit.fitting.law import Fit
from flops_fit.fitting.options import FitOptions
from flops_fit.fitting.points import Excluded, Observation, Optimum
from flops_fit.fitting.predictions import predict
from flops_fit.fitting.surface import SolvedSurface, describe, solve_surface

METHODS = ("isoflop", "surface", "extrapolation", "kaplan", "general", "envelope")


@dataclass(frozen=True)
class FitSet:
    """The fits of several methods to the same observations.

    Attributes:
        fits: the fits by method.
        failures: the errors of methods without a fit.
        excluded: the observations left out, with reasons.
        notes: remarks on more than one method, for example that methods disagree.
        predictions: one optimum per target budget and method, with intervals and their parts.
        wastes: compute wasted at the largest target by each method's allocation if another method's
            law is true.
        gains: the optimum at the largest target, predicted from the runs up to each level of
            compute.
    """

    fits: dict[str, Fit]
    failures: dict[str, FitError]
    excluded: tuple[Excluded, ...] = ()
    notes: tuple[Note, ...] = ()
    predictions: tuple[Optimum, ...] = ()
    wastes: tuple[Waste, ...] = ()
    gains: tuple[Gain, ...] = ()


@dataclass(frozen=True)
class _Study:
    """The observations of one call, with cached results that several methods use."""

    observations: tuple[Observation, ...]
    options: FitOptions

    @cached_property
    def sorted_out(self) -> tuple[list[Observation], list[Excluded], list[Note]]:
        """Finished runs with usable numbers, excluded runs with reasons, and notes."""
        good, bad = usable(self.observations)
        ends, notes = finished(good)
        return ends, bad, notes

    @cached_property
    def surface(self) -> SolvedSurface:
        """The surface fitted with the requested loss."""
        return solve_surface(self.checked, self.options)

    @property
    def checked(self) -> list[Observation]:
        """The finished runs; raises `FitError` if they cannot support a fit."""
        ends = self.sorted_out[0]
        check_enough(ends)
        return ends

    @cached_property
    def adaptive(self) -> SolvedSurface:
        """The surface fitted with the default loss without outliers; other methods build on it."""
        if self.options.loss == Loss.ADAPTIVE and self.options.irreducible_loss is None:
            return self.surface
        return solve_surface(self.checked)

    @cached_property
    def test(self) -> BackTest | None:
        """The rolling back-test of the runs without outliers."""
        return back_test(self.adaptive)

    def with_intervals(self, found: Fit, solved: SolvedSurface) -> Fit:
        """Return the fit with standard errors and intervals."""
        options = self.options
        if options.bootstrap == 0:
            return with_intervals(found, preview(solved))
        return with_intervals(found, bootstrap(solved, options.bootstrap, seed=options.seed))

    def with_folds(self, found: Fit) -> Fit:
        """Return the fit with the back-test of its predictions, if one applies."""
        if found.method not in ("surface", "isoflop") or self.test is None:
            return found
        return replace(found, folds=self.test.folds[0])


def fit(
    observations: Sequence[Observation],
    options: FitOptions = FitOptions(),  # noqa: B008  it is frozen
    *,
    method: str = "surface",
) -> Fit:
    """Fit one method's law to finished runs.

    Args:
        observations: finished runs, or points of training curves for the envelope.
        options: the loss, the number of bootstrap resamples, and other choices.
        method: `surface`, `isoflop`, `envelope`, `kaplan`, `general` (the richer form) or
            `extrapolation` (the surface weighted by compute).

    Raises:
        FitError: the observations do not support the fit; `.code` gives the reason.
        ValueError: an unknown method.
    """
    _check_methods((method,))
    study = _Study(tuple(observations), options)
    found = _FITTERS[method](study)
    _, bad, notes = study.sorted_out
    if method == "envelope":
        notes = []
    return replace(found, excluded=(*bad, *found.excluded), notes=(*notes, *found.notes))


def fit_all(
    observations: Sequence[Observation],
    options: FitOptions = FitOptions(),  # noqa: B008  it is frozen
    *,
    methods: Sequence[str] | None = None,
    targets: Sequence[float] = (),
    shows_gains: bool = True,
) -> FitSet:
    """Fit all methods to the same runs; if one fails, the others still run.

    Args:
        observations: finished runs, or points of training curves.
        options: as for `fit`.
        methods: the methods to fit; None: all, with the envelope only if there are curves.
        targets: budgets in FLOPs to predict for.
        shows_gains: whether to predict from the runs up to each level of compute, too.
    """
    if methods is None:
        has_curves = any(o.step is not None for o in observations)
        methods = METHODS if has_curves else METHODS[:-1]
    _check_methods(methods)
    study = _Study(tuple(observations), options)
    fits: dict[str, Fit] = {}
    failures: dict[str, FitError] = {}
    predictions: dict[str, list[Optimum]] = {}
    excluded = dict.fromkeys(study.sorted_out[1])
    for method in methods:
        try:
            found = study.with_folds(_FITTERS[method](study))
        except FitError as error:
            failures[method] = error
            continue
        fits[method] = found
        excluded.update(dict.fromkeys(found.excluded))
        predictions[method] = predict(found, targets)
    if combined := _combined(study, fits, targets):
        fits[COMBINATION] = combined
        predictions[COMBINATION] = predict(combined, targets)
    ordered = [found[k] for k in range(len(targets)) for found in predictions.values()]
    notes = [*study.sorted_out[2], *_notes(study, fits), *disagreements(ordered)]
    target = max(targets, default=None)
    lost = tuple(wastes(fits, [optimum for optimum in ordered if optimum.flops == target]))
    bought: tuple[Gain, ...] = ()
    if shows_gains and "surface" in fits and target is not None:
        bought = tuple(gains(fits["surface"], options, target=target))
    return FitSet(fits, failures, tuple(excluded), tuple(notes), tuple(ordered), lost, bought)


def _combined(study: _Study, fits: Mapping[str, Fit], targets: Sequence[float]) -> Fit | None:
    """Return the combination of the methods; None for fewer than two fits."""
    if len(fits) < 2:
        return None
    runs = study.adaptive.observations
    combined = combine(fits, study.test, runs, predict)
    if combined is None:
        return None
    return describe_combination(combined, runs, max(targets, default=combined.top_flops))


def _notes(study: _Study, fits: Mapping[str, Fit]) -> list[Note]:
    """Return notes on more than one method, except disagreements at targets."""
    if "surface" not in fits:
        return []
    notes = [n for n in fits["surface"].notes if n.code == "law_does_not_hold"]
    if study.test is None:
        notes.append(
            Note("no_back_test", "too few levels of compute to test fits on larger budgets")
        )
    elif (bias := study.test.one_sided()) is not None:
        side = "underpredict" if bias > 0 else "overpredict"
        notes.append(
            Note(
                "law_does_not_hold",
                f"fits to smaller budgets {side} the next losses by {abs(bias):.1%}",
            )
        )
    if "general" in fits and (note := better_general(fits["surface"], fits["general"])):
        notes.append(note)
    return notes


def _fit_surface(study: _Study) -> Fit:
    """Fit the surface with intervals; the details hold the law with outliers included."""
    solved = study.surface
    found = describe(solved)
    if solved.outliers:
        both = describe(solve_surface(study.checked, study.options, drop_outliers=False))
        assert isinstance(found.details, SurfaceDetails)
        beside = LawNumbers(both.parameters, both.exponents)
        found = replace(found, details=replace(found.details, with_outliers=beside))
    return study.with_intervals(found, solved)


def _fit_extrapolation(study: _Study) -> Fit:
    """Fit the surface weighted by compute, with the power chosen by the back-test."""
    test = study.test
    if test is None:
        raise FitError(
            "too few levels of compute to test fits on larger budgets",
            code="no_back_test",
            hint="add runs at other budgets: at least 4 levels are needed",
        )
    found = describe(test.weighted, method="extrapolation")
    assert isinstance(found.details, SurfaceDetails)
    details = ExtrapolationDetails(
        **vars(found.details),
        power=test.power,
        back_test_error={p: test.error(p) for p in POWERS},
        back_test_reach_decades=reach(test.folds[test.power]) / math.log(10),
    )
    found = replace(found, details=details, folds=test.folds[test.power])
    return study.with_intervals(found, test.weighted)


def _fit_isoflop(study: _Study) -> Fit:
    """Fit power laws through the minima of the runs without outliers."""
    solved = study.adaptive
    found = fit_isoflop(
        group_curves(solved.observations),
        solved.observations,
        flops_per_token=solved.flops_per_token,
        interpolation=study.options.interpolation,
    )
    return replace(found, excluded=(*solved.outliers, *found.excluded))


def _fit_envelope(study: _Study) -> Fit:
    """Fit the lower envelope of all usable points."""
    return fit_envelope(usable(study.observations)[0])


def _fit_kaplan(study: _Study) -> Fit:
    """Fit Kaplan's joint form; for runs with equal tokens the error states the law in params."""
    try:
        return fit_kaplan(study.adaptive)
    except FitError as error:
        laws = fixed_tokens_laws(study.sorted_out[0]) if error.code == "one_horizon" else []
        if not laws:
            raise
        law = laws[0]
        raise FitError(
            f"{error.message}. At this number of tokens the loss falls as (N_c / N)^alpha_N with "
            f"alpha_N = {law.alpha_N:.4g} and N_c = {law.N_c:.4g} params. The compute-optimal size "
            "stays unknown",
            code=error.code,
            hint=error.hint,
        ) from None


_FITTERS: dict[str, Callable[[_Study], Fit]] = {
    "surface": _fit_surface,
    "isoflop": _fit_isoflop,
    "extrapolation": _fit_extrapolation,
    "kaplan": _fit_kaplan,
    "general": lambda study: fit_general(study.adaptive),
    "envelope": _fit_envelope,
}


def _check_methods(methods: Sequence[str]) -> None:
    """Refuse unknown methods."""
    for method in methods:
        if method not in METHODS:
            raise ValueError(f"unknown method `{method}`; use one of {', '.join(METHODS)}")
