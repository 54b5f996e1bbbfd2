"""A sealed prediction cannot be changed unnoticed, and is scored against the real loss."""

import json

import pytest
from planted_results import PLANTED, isoflop_fit, observe, planted_result, with_outlier

from flops_fit.errors import RunDirError
from flops_fit.fitting.points import Optimum
from flops_fit.reporting.seal import Seal

KNOWN = Optimum(1e20, 9e8, 1.85e10, 2.5, loss_interval=(2.4, 2.6), method="surface")
RESULT = planted_result(predictions=(KNOWN,))


def test_the_same_prediction_from_the_same_trials_has_the_same_digest():
    assert RESULT.seal(1e20).digest == planted_result(predictions=(KNOWN,)).seal("1e20").digest
    assert len(RESULT.seal(1e20).digest) == 64


def test_another_prediction_or_other_trials_have_another_digest():
    seen, _ = with_outlier(observe([1e17, 3e17, 1e18, 3e18, 1e19]), 4)
    others = planted_result(predictions=(KNOWN,), observations=seen)
    digests = {RESULT.seal(1e20).digest, RESULT.seal(2e20).digest, others.seal(1e20).digest}
    assert len(digests) == 3


def test_a_seal_survives_json_and_a_changed_one_is_broken():
    seal = RESULT.seal(1e20)
    data = json.loads(json.dumps(seal.to_dict()))
    assert Seal.from_dict(data).digest == seal.digest
    data["prediction"]["loss"] = 2.45
    with pytest.raises(RunDirError, match="the seal is broken"):
        Seal.from_dict(data)


def test_the_score_is_the_error_and_whether_the_interval_held():
    score = RESULT.seal(1e20).score(2.55)
    assert score["error"] == pytest.approx(-0.05)
    assert score["error_percent"] == pytest.approx(100 * (2.5 / 2.55 - 1))
    assert score["is_inside"] is True
    assert RESULT.seal(1e20).score(2.7)["is_inside"] is False
    assert RESULT.seal(3e20).score(PLANTED.optimum(3e20).loss)["error"] == 0
    assert RESULT.seal(3e20).score(2.0)["is_inside"] is None


def test_what_is_no_loss_is_not_scored():
    with pytest.raises(ValueError, match="not a positive"):
        RESULT.seal(1e20).score(float("nan"))
    seen = observe([1e17, 1e18, 1e19])
    fit = isoflop_fit(seen)
    object.__setattr__(fit.frontier, "loss", None)
    bare = planted_result(observations=seen, fits={"isoflop": fit})
    with pytest.raises(ValueError, match="predicted no loss"):
        bare.seal(1e20).score(2.0)
