"""How many trials run side by side on a machine, and on which of its devices."""

from dataclasses import replace

import pytest
from command_line import flops_fit

from flops_fit.experiment.devices import share_out
from flops_fit.experiment.prepared import prepare


@pytest.mark.parametrize(
    ("num_devices", "each", "packed", "shares"),
    [
        (2, 1, 1, [("0",), ("1",)]),
        (2, 1, 2, [("0",), ("1",), ("0",), ("1",)]),
        (4, 2, 2, [("0", "1"), ("2", "3"), ("0", "1"), ("2", "3")]),
        (1, 1, 3, [("0",), ("0",), ("0",)]),
    ],
)
def test_each_gpu_gets_as_many_trials_as_are_stated(
    write_manifest, monkeypatch, num_devices, each, packed, shares
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    section = f"devices_per_trial = {each}\ntrials_per_device = {packed}"
    prepared = prepare(write_manifest(execution=section))
    described = replace(prepared.description, device="cuda", num_devices=num_devices)
    workers = replace(prepared, description=described).num_workers
    assert share_out(num_devices, workers, each) == shares


def test_plan_refuses_the_executor_that_run_refuses(write_manifest, tmp_path):
    manifest = write_manifest(execution='executor = "slrum"')
    planned = flops_fit("plan", manifest, cwd=tmp_path)
    run = flops_fit("run", manifest, cwd=tmp_path)
    assert (planned.returncode, run.returncode) == (3, 3)
    assert "did you mean `slurm`?" in planned.stderr
    assert planned.stderr == run.stderr
    assert not (tmp_path / "runs").exists()
