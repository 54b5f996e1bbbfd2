"""The share of the target that a sweep is, as a person would say it."""

import pytest

from flops_fit.manifest.manifest import manifest_from
from flops_fit.planning.notes import share_of_target

MANIFEST = {
    "name": "mine",
    "model": {"plugin": "gpt", "size_param": "d_model", "sizes": [16, 32]},
    "data": {"plugin": "stdlib-text"},
    "loss": {"plugin": "cross-entropy"},
    "sweep": {"budgets": [1e10]},
    "report": {"budgets": [1e12]},
}


@pytest.mark.parametrize(
    ("flops", "said"),
    [
        (3.997e11, "4e11 FLOPs are 40% of the largest target budget, 1e12 FLOPs"),
        (2.5e10, "2.5e10 FLOPs are 2.5% of the largest target budget, 1e12 FLOPs"),
        (3.1e7, "3.1e7 FLOPs are 0.0031% of the largest target budget, 1e12 FLOPs"),
        (1e3, "1e3 FLOPs are under 0.0001% of the largest target budget, 1e12 FLOPs"),
        (1e12, "1e12 FLOPs are 100% of the largest target budget, 1e12 FLOPs"),
        (0.0, "no FLOPs are spent yet of the largest target budget, 1e12 FLOPs"),
        (
            1.2251e12,
            "1.23e12 FLOPs are 1.23 times the largest target budget, 1e12 FLOPs: the target lies "
            "below what the sweep costs",
        ),
    ],
)
def test_a_share_has_two_digits_and_more_than_the_whole_is_said_in_words(flops, said):
    assert share_of_target(manifest_from(MANIFEST, where="here"), flops) == said
