"""What a fit reports besides its law survives being written and read."""

from __future__ import annotations

import json
from dataclasses import replace

from planted import grid

from flops_fit.fitting.details import FitStatus
from flops_fit.fitting.fit import METHODS, fit_all
from flops_fit.fitting.options import FitOptions
from flops_fit.reporting.archive import describe_fit, fit_from_dict, fit_to_dict, plain


def test_every_method_keeps_its_details_folds_and_spread():
    runs = [replace(o, step=1.0, run=o.name) for o in grid(num_budgets=6, num_sizes=7, sd=1e-3)]
    runs[3] = replace(runs[3], loss=1.3 * runs[3].loss)
    fits = fit_all(runs, FitOptions(bootstrap=20), methods=METHODS, targets=[1e22]).fits
    assert set(fits) == {*METHODS, "combination"}
    assert fits["surface"].details.with_outliers is not None
    positions = {o: k for k, o in enumerate(runs)}
    for fit in fits.values():
        kept = json.loads(json.dumps(plain(fit_to_dict(fit, positions))))
        again = fit_from_dict(kept, runs)
        assert isinstance(again.status, FitStatus)
        for name in ("status", "details", "folds", "minima", "spread"):
            assert getattr(again, name) == getattr(fit, name), (fit.method, name)
        assert describe_fit(again) == describe_fit(fit)
