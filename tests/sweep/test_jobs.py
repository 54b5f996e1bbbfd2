"""What `flops-fit jobs` prints is accepted by the schedulers that it is for."""

import json
import subprocess
from datetime import timedelta

import pytest
import yaml
from command_line import flops_fit

from flops_fit.manifest.trials import Outcome, Size, Status, Trial, Trunk
from flops_fit.sweep.rundir import RunDir, write_outcome
from flops_fit.sweep.tasks import Forecast, resources_of, tasks_of


@pytest.fixture
def sweep(tmp_path, write_manifest):
    """A sweep of 35 trials of which none was trained, with an estimate of all."""

    def make(execution="", estimated=True):
        manifest = write_manifest(execution=execution or "workers = 4")
        flops_fit(
            "run", manifest, "--run-dir", "run", "--simulate", "--max-flops", "1", cwd=tmp_path
        )
        run = tmp_path / "run"
        trials = json.loads((run / "plan.json").read_text())["trials"]
        if estimated:
            rows = [
                {"trial_id": t["trial_id"], "wall_seconds": 100.0 + n, "memory_bytes": 2**30}
                for n, t in enumerate(trials)
            ]
            (run / "estimate.json").write_text(json.dumps({"trials": rows}))
        return run, [t["trial_id"] for t in trials]

    return make


def jobs(run, *options):
    printed = flops_fit("jobs", run, *options, cwd=run.parent)
    assert printed.returncode == 0, printed.stderr
    return printed.stdout


def test_each_pending_trial_is_a_line_with_its_command_time_and_memory(sweep):
    run, ids = sweep()
    trial = Trial.from_dict(json.loads((run / "plan.json").read_text())["trials"][0])
    done = Outcome(ids[0], Status.FINISHED, 2.0, trial.tokens, trial.flops, 0.1)
    write_outcome(RunDir(run), done)
    lines = [json.loads(line) for line in jobs(run).splitlines()]
    assert [line["trial_id"] for line in lines] == ids[1:]
    assert lines[0]["command"] == ["flops-fit", "worker", str(run), ids[1]]
    assert (lines[0]["wall_seconds"], lines[0]["memory_bytes"]) == (101.0, 2**30)


def test_a_forecast_that_is_not_known_is_left_out(sweep):
    run, _ = sweep(estimated=False)
    first = json.loads(jobs(run).splitlines()[0])
    assert "wall_seconds" not in first
    assert "memory_bytes" not in first


@pytest.mark.parametrize("options", [(), ("--queue", "research", "--workers", "3")])
def test_the_kubernetes_job_keeps_the_published_schema(sweep, options):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    run, _ = sweep('device = "cuda"\ndevices_per_trial = 1')
    text = jobs(run, "--format", "k8s", "--image", "lab/train:1", "--claim", "runs", *options)
    job = yaml.safe_load(text)
    kubernetes_validate.validate(job, "1.31", strict=True)
    spec = job["spec"]
    assert "completions" not in spec  # work-queue mode
    assert spec["parallelism"] == (3 if options else 8)
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["action"] == "Ignore"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] >= 120
    (container,) = spec["template"]["spec"]["containers"]
    assert container["command"] == ["flops-fit", "worker", str(run)]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert job["metadata"]["labels"].get("kueue.x-k8s.io/queue-name") == (
        "research" if options else None
    )


def test_kubernetes_needs_an_image_and_a_claim(sweep):
    run, _ = sweep()
    refused = flops_fit("jobs", run, "--format", "k8s", cwd=run.parent)
    assert refused.returncode == 2
    assert "--image" in refused.stderr


def test_the_skypilot_task_parses(sweep):
    run, _ = sweep()
    task = yaml.safe_load(jobs(run, "--format", "skypilot"))
    # https://docs.skypilot.co/en/latest/reference/yaml-spec.html
    assert set(task) <= {"name", "num_nodes", "resources", "envs", "setup", "run", "workdir"}
    assert set(task["resources"]) <= {"cpus", "memory", "use_spot", "accelerators"}
    assert task["num_nodes"] == 4
    assert task["run"] == f"flops-fit worker {run}"


def test_the_batch_script_is_sound_shell(sweep):
    run, ids = sweep('[execution.slurm]\nsetup = ["module load cuda"]\nnice = 10')
    script = jobs(run, "--format", "sbatch")
    checked = subprocess.run(["bash", "-n"], input=script, text=True, check=False)
    assert checked.returncode == 0
    assert all(trial_id in script for trial_id in ids)
    assert "#SBATCH --nice=10" in script
    assert "module load cuda" in script


def test_short_trials_share_a_task_and_the_longest_come_first():
    sizes = [Size(d, d * 1000, None, d * 6000.0) for d in (1, 2, 3, 4)]
    trials = [
        Trial.of(budget_flops=1e9, size=s, tokens=6400, batch_tokens=64, seed=0) for s in sizes
    ]
    seconds = (200.0, 300.0, 500.0, 4000.0)
    forecasts = {t.trial_id: Forecast(s, 2**30) for t, s in zip(trials, seconds, strict=True)}
    tasks = tasks_of(trials, forecasts, least_seconds=600)
    assert tasks == [(trials[3],), (trials[2], trials[1]), (trials[0],)]
    needs = resources_of(tasks[1], forecasts, num_devices=1)
    assert timedelta(seconds=needs.wall_seconds) == timedelta(seconds=800)
    assert tasks_of(trials, {}, least_seconds=600) == [(t,) for t in reversed(trials)]


def test_the_trials_of_a_trunk_are_one_task_in_their_order():
    size = Size(8, 8000, None, 48_000.0)
    made = [
        Trial.of(
            budget_flops=1e9, size=size, tokens=tokens, batch_tokens=64, seed=0,
            trunk=Trunk(64_000, 2, start, kept),
        )
        for tokens, start, kept in ((64_000, 6400, ()), (6400, 0, (6400,)))
    ]  # fmt: skip
    (task,) = tasks_of(made, {}, least_seconds=600)
    assert task == (made[1], made[0])
