"""The chooser: observations -> Fit, by named method, and all methods side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from flops_fit.errors import FitError, Note
from flops_fit.fitting.backtest import POWERS, BackTest, back_test, reach
from flops_fit.fitting.curves import check_enough, finished, group_curves, usable
from flops_fit.fitting.details import (
    ExtrapolationDetails,
    Gain,
    Interpolation,
    LawNumbers,
    SurfaceDetails,
    Waste,
)
from flops_fit.fitting.disagreement import better_general, disagreements, wastes
from flops_fit.fitting.envelope import fit_envelope
from flops_fit.fitting.gains import gains
from flops_fit.fitting.general import fit_general
from flops_fit.fitting.intervals import Draws, bootstrap, preview, with_intervals
from flops_fit.fitting.isoflop import fit_isoflop
from flops_fit.fitting.kaplan import fit_kaplan, fixed_tokens_laws
from flops_fit.fitting.law import Fit
from flops_fit.fitting.points import Excluded, Observation, Optimum
from flops_fit.fitting.predictions import predict
from flops_fit.fitting.surface import LOSSES, SolvedSurface, describe, solve_surface

METHODS = ("isoflop", "surface", "extrapolation", "kaplan", "general", "envelope")


@dataclass(frozen=True)
class FitSet:
    """What every method made of the same observations.

    Attributes:
        fits: by method.
        failures: the methods that gave no fit, with the reason.
        excluded: observations left out, with the reason.
        notes: what concerns more than one method: disagreement, a law that does not hold.
        predictions: one optimum per target budget and method, with intervals and their parts.
        wastes: what one method's allocation wastes if another's law is true, at the largest target.
        gains: the optimum at the largest target from the runs up to each level of compute.
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
    """The observations of one call, and what the methods share, computed when first asked for."""

    observations: tuple[Observation, ...]
    loss: str
    huber_delta: float
    irreducible_loss: float | None
    rows: int
    seed: int
    interpolation: Interpolation = "parabola"

    @cached_property
    def sorted_out(self) -> tuple[list[Observation], list[Excluded], list[Note]]:
        """Finished runs with usable numbers, the others with the reason, and notes."""
        good, bad = usable(self.observations)
        ends, notes = finished(good)
        return ends, bad, notes

    @cached_property
    def surface(self) -> SolvedSurface:
        """The surface, by the asked loss."""
        return self.solve(self.checked, drop_outliers=None)

    def solve(
        self, runs: Sequence[Observation], *, drop_outliers: bool | None = False
    ) -> SolvedSurface:
        """A surface through these runs by the asked loss."""
        return solve_surface(
            runs,
            loss=self.loss,
            huber_delta=self.huber_delta,
            drop_outliers=drop_outliers,
            irreducible_loss=self.irreducible_loss,
        )

    @property
    def checked(self) -> list[Observation]:
        """The finished runs, once they are known to be enough."""
        ends = self.sorted_out[0]
        check_enough(ends)
        return ends

    @cached_property
    def adaptive(self) -> SolvedSurface:
        """The surface by the default loss, without outliers: what the other methods start from."""
        if self.loss == "adaptive" and self.irreducible_loss is None:
            return self.surface
        return solve_surface(self.checked)

    @cached_property
    def test(self) -> BackTest | None:
        """The rolling back-test of the runs that are no outliers."""
        return back_test(self.adaptive)

    def draws(self, method: str) -> Draws | None:
        """The uncertainty of a surface or of the weighted one; None for the other methods."""
        if method == "surface":
            solved, by_size = self.surface, self.loss == "adaptive"
        elif method == "extrapolation" and self.test is not None:
            solved, by_size = self.test.weighted, True
        else:
            return None
        if self.rows == 0:
            return preview(solved, by_size=by_size)
        return bootstrap(solved, self.rows, seed=self.seed, by_size=by_size)

    def with_folds(self, found: Fit) -> Fit:
        """The fit with the back-test that speaks for its predictions, where there is one."""
        if found.method not in ("surface", "isoflop") or self.test is None:
            return found
        return replace(found, folds=self.test.folds[0])


def fit(
    observations: Sequence[Observation],
    *,
    method: str = "surface",
    loss: str = "adaptive",
    huber_delta: float = 1e-3,
    bootstrap: int = 0,
    seed: int = 0,
    irreducible_loss: float | None = None,
    interpolation: Interpolation = "parabola",
) -> Fit:
    """Fit one method's law to finished runs.

    Args:
        observations: finished runs, or points of training curves for the envelope.
        method: `surface`, `isoflop`, `envelope`, `kaplan`, `general` (the richer form) or
            `extrapolation` (the surface weighted by compute).
        loss: of the surface: `adaptive` (the default; outliers are left out), `huber`, `log-ls`
            or `ls` (every run is used).
        huber_delta: threshold of `huber`, in log loss.
        bootstrap: how many resamples the surface's intervals come from; 0: Wald's, at once.
        seed: of the resamples.
        irreducible_loss: hold the surface's E at this value, in the unit of the losses.
        interpolation: of the isoFLOP curves: `parabola` in ln N, or `akima`, a spline through
            ln L against ln N.

    Raises:
        FitError: the observations do not support the fit; `.code` says why.
        ValueError: an unknown method or loss, or a number out of its range.
    """
    _check_choices((method,), loss, huber_delta, bootstrap)
    study = _Study(
        tuple(observations), loss, huber_delta, irreducible_loss, bootstrap, seed, interpolation
    )
    found = _FITTERS[method](study)
    _, bad, notes = study.sorted_out
    if method == "envelope":
        notes = []
    return replace(found, excluded=(*bad, *found.excluded), notes=(*notes, *found.notes))


def fit_all(
    observations: Sequence[Observation],
    *,
    methods: Sequence[str] | None = None,
    loss: str = "adaptive",
    huber_delta: float = 1e-3,
    bootstrap: int = 0,
    seed: int = 0,
    targets: Sequence[float] = (),
    irreducible_loss: float | None = None,
    interpolation: Interpolation = "parabola",
    shows_gains: bool = True,
) -> FitSet:
    """Fit every method to the same runs; what one cannot do is a failure of that one only.

    Args:
        observations: finished runs, or points of training curves.
        methods: which ones; None: all, the envelope only where there are curves.
        loss: as for `fit`.
        huber_delta: as for `fit`.
        bootstrap: as for `fit`.
        seed: as for `fit`.
        targets: budgets, in FLOPs, to predict for.
        irreducible_loss: as for `fit`.
        interpolation: as for `fit`.
        shows_gains: whether to work out what each level of compute bought.
    """
    if methods is None:
        has_curves = any(o.step is not None for o in observations)
        methods = METHODS if has_curves else METHODS[:-1]
    _check_choices(methods, loss, huber_delta, bootstrap)
    study = _Study(
        tuple(observations), loss, huber_delta, irreducible_loss, bootstrap, seed, interpolation
    )
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
    ordered = [found[k] for k in range(len(targets)) for found in predictions.values()]
    notes = [*study.sorted_out[2], *_notes(study, fits), *disagreements(ordered)]
    target = max(targets, default=None)
    lost = tuple(wastes(fits, [optimum for optimum in ordered if optimum.flops == target]))
    bought: tuple[Gain, ...] = ()
    if shows_gains and "surface" in fits and target is not None:
        bought = _gains(study, fits["surface"], target)
    return FitSet(fits, failures, tuple(excluded), tuple(notes), tuple(ordered), lost, bought)


def _gains(study: _Study, fit: Fit, target: float) -> tuple[Gain, ...]:
    """What each level of compute bought of the surface's optimum at a target, in FLOPs."""
    return tuple(
        gains(fit, target=target, solve=study.solve, resamples=study.rows, seed=study.seed)
    )


def _notes(study: _Study, fits: Mapping[str, Fit]) -> list[Note]:
    """What concerns more than one method, without the disagreement at targets."""
    if "surface" not in fits:
        return []
    notes = [n for n in fits["surface"].notes if n.code == "law_does_not_hold"]
    if study.test is None:
        notes.append(
            Note("no_back_test", "too few levels of compute to hold smaller budgets against larger")
        )
    elif (bias := study.test.one_sided()) is not None:
        side = "above" if bias > 0 else "below"
        notes.append(
            Note(
                "law_does_not_hold",
                f"fits to the smaller budgets err to one side: the next losses lie {abs(bias):.1%}"
                f" {side} what they predict",
            )
        )
    if "general" in fits and (note := better_general(fits["surface"], fits["general"])):
        notes.append(note)
    return notes


def _fit_surface(study: _Study) -> Fit:
    """The surface with its intervals, and the fit with the outliers beside it."""
    solved, draws = study.surface, study.draws("surface")
    found = describe(solved, loss=study.loss)
    if solved.outliers:
        everything = study.solve(study.checked)
        both = describe(everything, loss=study.loss)
        assert isinstance(found.details, SurfaceDetails)
        beside = LawNumbers(both.parameters, both.exponents)
        found = replace(found, details=replace(found.details, with_outliers=beside))
    assert draws is not None
    return with_intervals(found, draws)


def _fit_extrapolation(study: _Study) -> Fit:
    """The surface weighted by compute, with the power that the back-test chose."""
    test, draws = study.test, study.draws("extrapolation")
    if test is None or draws is None:
        raise FitError(
            "too few levels of compute to hold smaller budgets against larger ones",
            code="no_back_test",
            hint="add runs at other budgets: 4 levels are the least",
        )
    found = describe(test.weighted, loss="adaptive", method="extrapolation")
    assert isinstance(found.details, SurfaceDetails)
    details = ExtrapolationDetails(
        **vars(found.details),
        power=test.power,
        back_test_error={p: test.error(p) for p in POWERS},
        back_test_reach_decades=reach(test.folds[test.power]) / math.log(10),
    )
    found = replace(found, details=details, folds=test.folds[test.power])
    return with_intervals(found, draws)


def _fit_isoflop(study: _Study) -> Fit:
    """Power laws through the minima of the runs that are no outliers."""
    solved = study.adaptive
    found = fit_isoflop(
        group_curves(solved.observations), solved.observations, interpolation=study.interpolation
    )
    return replace(found, excluded=(*solved.outliers, *found.excluded))


def _fit_envelope(study: _Study) -> Fit:
    """The lower envelope of all usable points, of curves or not."""
    return fit_envelope(usable(study.observations)[0])


def _fit_kaplan(study: _Study) -> Fit:
    """Kaplan's joint form; of runs with one number of tokens the error gives the law in params."""
    try:
        return fit_kaplan(study.adaptive)
    except FitError as error:
        laws = fixed_tokens_laws(study.sorted_out[0]) if error.code == "one_horizon" else []
        if not laws:
            raise
        law = laws[0]
        raise FitError(
            f"{error.message}: at these the loss falls as (N_c / N)^alpha_N with alpha_N = "
            f"{law.alpha_N:.4g} and N_c = {law.N_c:.4g} params, but no size is known to be "
            "compute-optimal",
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


def _check_choices(
    methods: Sequence[str], loss: str, huber_delta: float, num_resamples: int
) -> None:
    """Refuse unknown names and impossible numbers."""
    for method in methods:
        if method not in METHODS:
            raise ValueError(f"unknown method `{method}`; use one of {', '.join(METHODS)}")
    if loss not in LOSSES:
        raise ValueError(f"unknown loss `{loss}`; use one of {', '.join(LOSSES)}")
    if not huber_delta > 0:
        raise ValueError(f"huber_delta is not positive: {huber_delta}")
    if num_resamples < 0:
        raise ValueError(f"bootstrap is negative: {num_resamples}")
