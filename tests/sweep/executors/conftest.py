"""A Slurm for the tests of executors, started once where it can be."""

import os

import pytest
from slurm_cluster import Cluster, why_not

WITHOUT_AND_WITH_ACCOUNTING = [
    pytest.param(False, id="slurm"),
    pytest.param(True, id="slurm-with-accounting", marks=pytest.mark.slow),
]


@pytest.fixture(scope="session", params=WITHOUT_AND_WITH_ACCOUNTING)
def cluster(request, tmp_path_factory):
    """A Slurm of two nodes, without slurmdbd and with it."""
    reason = why_not(accounting=request.param)
    if reason is not None:
        pytest.skip(reason)
    started = Cluster(tmp_path_factory.mktemp("slurm"), accounting=request.param)
    before = dict(os.environ)
    os.environ.update(started.environment)
    yield started
    os.environ.clear()
    os.environ.update(before)
    started.stop()
