"""Planted results for the tests of reporting: laws known in closed form, fits made by hand."""

from __future__ import annotations

import pytest
from planted_results import minimum_of, observe

from flops_fit.fitting.law import Surface


def test_a_planted_parabola_has_its_vertex_at_the_optimum_of_a_symmetric_law():
    law = Surface(E=1.8, A=480.0, B=480.0, alpha=0.35, beta=0.35)
    found = minimum_of(observe([1e18], law=law))
    assert found.status == "ok"
    assert found.params == pytest.approx(law.optimum(1e18).params, rel=1e-6)
