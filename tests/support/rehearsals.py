"""rehearsals."""

from __future__ import annotations

import itertools
import math

from flops_fit.sweep.caps import Caps
from flops_fit.sweep.ledger import read_ledger
from flops_fit.sweep.opening import open_sweep
from flops_fit.sweep.refinement import refine_run
from flops_fit.sweep.rundir import RunDir
from flops_fit.sweep.running import Execution, carry_out

WIDE = "\n".join(
    f"  {{ size_value = {d}, params = {24 * d * d + 256 * d} }},"
    for d in (4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192)
)


MODEL = f'plugin = "gpt"\nsize_param = "d_model"\nsizes = [\n{WIDE}\n]'


def rehearse(tmp_path, *, is_adaptive=False, max_flops=None, total_flops=None):
    """What `run --simulate` does, without its report."""
    directory = tmp_path / "runs/planted"
    is_there = RunDir(directory).is_run()
    source = directory if is_there else tmp_path / "experiment.toml"
    execution = Execution(
        caps=Caps(flops=max_flops, total_flops=total_flops), is_adaptive=is_adaptive
    )
    with open_sweep(source, directory, simulated=True, is_adaptive=is_adaptive) as sweep:
        return carry_out(sweep, execution)


def run_as_told(tmp_path, how):
    """What the command that `--refine` prints does; gives the FLOPs of its cap."""
    words = how.split()
    options = dict(itertools.pairwise(words))
    total, cap = (float(options.get(name, "inf")) for name in ("--total-flops", "--max-flops"))
    assert "--adaptive" in words
    rehearse(
        tmp_path, is_adaptive=True, max_flops=cap,
        total_flops=total if math.isfinite(total) else None,
    )  # fmt: skip
    return cap


def finished(tmp_path):
    return {
        entry.trial_id: entry.flops
        for entry in read_ledger(ledger(tmp_path))
        if entry.event == "trial_finished"
    }


def refined(tmp_path) -> dict:
    return refine_run(tmp_path / "runs/planted").to_dict()


def ledger(tmp_path):
    return tmp_path / "runs/planted/ledger.jsonl"
