"""`plan` refuses the executors and devices that `run` refuses, and plans for other machines."""

import sys

import pytest
from command_line import flops_fit

from flops_fit.errors import PluginError
from flops_fit.sweep.executors.slurm import SlurmExecutor

COUNTED = """
[model]
plugin = "gpt"
size_param = "d_model"
sizes = [8, 12, 16]
[data]
plugin = "stdlib-text"
[loss]
plugin = "cross-entropy"
[sweep]
budgets = [1e9]
sizes_per_budget = 3
"""


@pytest.mark.parametrize(
    ("execution", "code", "told"),
    [
        ('executor = "slurm"', 4, "`sbatch` is not on the PATH"),
        ('executor = "slrum"', 3, "there is no executor plugin `slrum`"),
        ('device = "mps"', 2, "this machine has no `mps` device"),
    ],
    ids=["no Slurm", "a slip", "no device"],
)
def test_plan_refuses_what_run_refuses_and_nothing_is_written(
    tmp_path, write_manifest, execution, code, told
):
    manifest = write_manifest(execution=execution)
    nowhere = tmp_path / "bin"
    nowhere.mkdir()
    for command in ("plan", "run"):
        refused = flops_fit(command, manifest, cwd=tmp_path, PATH=str(nowhere))
        assert refused.returncode == code, refused.stderr
        assert told in refused.stderr
        assert "Traceback" not in refused.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("execution", ['executor = "slurm"', 'device = "mps"'])
def test_plan_for_another_machine_is_the_same_plan(tmp_path, write_manifest, execution):
    here = flops_fit("plan", write_manifest(), "--json", cwd=tmp_path)
    manifest = write_manifest(execution=execution)
    there = flops_fit("plan", manifest, "--for", "cuda", "--json", cwd=tmp_path, PATH="/nowhere")
    assert there.returncode == 0, there.stderr
    assert there.stdout == here.stdout


def test_a_device_of_other_machines_is_not_asked_of_this_one(tmp_path):
    manifest = tmp_path / "m.toml"
    manifest.write_text(COUNTED + '[execution]\nexecutor = "pool"\ndevice = "mps"\n')
    assert flops_fit("plan", "m.toml", cwd=tmp_path).returncode == 0
    manifest.write_text(COUNTED + '[execution]\ndevice = "mps"\n')
    refused = flops_fit("plan", "m.toml", cwd=tmp_path)
    assert refused.returncode == 2
    assert "this machine has no `mps` device" in refused.stderr
    there = flops_fit("plan", "m.toml", "--for", "mps", cwd=tmp_path)
    assert there.returncode == 0, there.stderr


def test_a_run_directory_has_its_plan_already(tmp_path, write_manifest):
    flops_fit("run", write_manifest(), "--simulate", cwd=tmp_path)
    refused = flops_fit("plan", "runs/planted", "--for", "cuda", cwd=tmp_path)
    assert refused.returncode == 2
    assert "already has a plan" in refused.stderr


def test_without_submitit_slurm_is_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(PluginError, match="needs submitit") as refused:
        SlurmExecutor.require_here()
    assert refused.value.hint is not None
    assert "flops-fit[slurm]" in refused.value.hint
