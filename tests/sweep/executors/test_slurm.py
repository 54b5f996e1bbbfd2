"""Sweeps on a real Slurm end as the same sweeps on this machine, whatever dies on the way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import flops_fit
from tiny_sweeps import entries, losses

from flops_fit.sweep.executors import scheduler
from flops_fit.sweep.executors.contract import Resources
from flops_fit.sweep.executors.slurm import SlurmExecutor

HELD = '''
"""A GPT whose steps take long while a file `hold` lies here: jobs are caught in training."""

import time
from pathlib import Path

from flops_fit.zoo.gpt import GPT

HOLD = Path(__file__).with_name("hold")


class Held(GPT):
    def forward(self, tokens):
        if self.training and HOLD.exists():
            time.sleep(0.5)
        return super().forward(tokens)
'''
TRAINED = """
name = "trained"
seed = 3
[model]
plugin = "held:Held"
size_param = "d_model"
sizes = [8, 12, 16, 24, 32]
[data]
plugin = "stdlib-text"
kwargs = { context = 32, heldout_windows = 64 }
[loss]
plugin = "cross-entropy"
[sweep]
budgets = [6e8, 9e8, 1.2e9, 1.8e9]
sizes_per_budget = 3
tokens_per_param = 10
[execution]
workers = 2
lease_seconds = 4.0
checkpoint_minutes = 0.01
"""
ON_SLURM = """
executor = "slurm"
[execution.slurm]
poll_seconds = 0.5
time = 10
[report]
bootstrap = 0
"""


def write_sweep(folder: Path, manifest: str) -> None:
    (folder / "held.py").write_text(HELD)
    (folder / "m.toml").write_text(manifest)


def count(run: Path, event: str) -> int:
    return sum(e["event"] == event for e in entries(run))


def wait_until(has_come, seconds=180.0):
    deadline = time.monotonic() + seconds
    while not has_come():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def workers_of(run: Path) -> dict[int, list[str]]:
    """The trials of each worker process of a run directory, by process id."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if "worker" in words and str(run) in words:
            found[int(place.name)] = words[words.index(str(run)) + 1 : -1]
    return found


@pytest.fixture(scope="module")
def local_losses(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    write_sweep(folder, TRAINED + "[report]\nbootstrap = 0\n")
    flops_fit("run", "m.toml", cwd=folder)
    found = losses(folder / "runs/trained")
    assert len(found) == 12
    return found


def test_whatever_dies_each_trial_is_finished_once_with_the_losses_of_this_machine(
    tmp_path, cluster, local_losses
):
    write_sweep(tmp_path, TRAINED + ON_SLURM)
    run = tmp_path / "runs/trained"
    command = [sys.executable, "-m", "flops_fit", "run", "m.toml"]
    with (tmp_path / "said").open("w") as said:
        conductor = subprocess.Popen(command, cwd=tmp_path, stdout=said, stderr=said)
    wait_until(lambda: count(run, "trial_finished") >= 2 or conductor.poll() is not None)
    assert conductor.poll() is None, (tmp_path / "said").read_text()
    conductor.kill()
    conductor.wait()
    jobs = [e for e in entries(run) if e["event"] == "job_submitted"]
    assert len(jobs) == 12

    (tmp_path / "hold").touch()
    held_since = time.time()

    def held() -> list[int]:
        """The workers that have made a step since the hold."""
        return [
            pid
            for pid, (trial,) in workers_of(run).items()
            if (shown := run / "trials" / trial / "progress.json").exists()
            and shown.stat().st_mtime > held_since
        ]

    # One job dies by -9.
    wait_until(held)
    killed = held()[0]
    os.kill(killed, signal.SIGKILL)
    # One is ended and forgotten, before it began.
    queued = cluster.run("squeue", "-h", "-r", "-t", "PENDING", "-o", "%i").split()
    cluster.run("scancel", queued[-1])
    # Those that run make way for an urgent one, and are requeued.
    wait_until(lambda: [pid for pid in held() if pid != killed])
    urgent = ("-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    assert cluster.run("sbatch", *urgent)
    wait_until(lambda: not cluster.run("squeue", "-h", "-p", "urgent"))
    (tmp_path / "hold").unlink()

    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Traceback" not in again.stderr
    assert losses(run) == local_losses
    assert 1 <= count(run, "job_lost") <= 4
    assert count(run, "job_submitted") == 12 + count(run, "job_lost")
    logs = [path.read_text() for path in (run / "slurm").rglob("*_log.out")]
    assert any(log.count("Starting with") > 1 for log in logs), "no job was requeued"


def test_submit_leaves_at_once_and_the_next_run_takes_up_what_came(tmp_path, cluster):
    write_sweep(tmp_path, TRAINED.replace("[6e8, 9e8, 1.2e9, 1.8e9]", "[6e8, 9e8]") + ON_SLURM)
    run = tmp_path / "runs/trained"
    submitted = flops_fit("run", "m.toml", "--submit", cwd=tmp_path)
    assert submitted.returncode == 0, submitted.stderr
    assert "6 jobs are in the queue for 6 trials" in submitted.stderr
    assert count(run, "job_submitted") == 6
    again = flops_fit("run", "runs/trained", "--submit", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert count(run, "job_submitted") == 6, "nothing is submitted twice"
    wait_until(lambda: len(list(run.glob("trials/*/outcome.json"))) == 6)
    flops_fit("run", "runs/trained", cwd=tmp_path)
    assert len(losses(run)) == 6
    assert count(run, "job_submitted") == 6
    assert count(run, "job_lost") == 0


def test_jobs_of_a_conductor_that_died_before_it_recorded_them_are_found_by_their_name(
    tmp_path, cluster
):
    first = SlurmExecutor(tmp_path, options={"poll_seconds": 0.5, "begin": "now+1hour"})
    first.submit(("a" * 12,), Resources())
    first.submit(("b" * 12, "c" * 12), Resources())
    jobs = list(first.flush())
    first.detach()
    second = SlurmExecutor(tmp_path)
    assert sorted(second.unrecorded(()), key=lambda job: job.job_id) == jobs
    assert second.unrecorded({job.job_id for job in jobs}) == []
    assert scheduler.ended_jobs([job.job_id for job in jobs]) == {}
    scheduler.cancel([job.job_id for job in jobs])
    wait_until(lambda: len(scheduler.ended_jobs([job.job_id for job in jobs])) == 2)


def test_tasks_with_the_same_limits_are_one_array_and_a_large_one_comes_in_parts(tmp_path, cluster):
    executor = SlurmExecutor(tmp_path, options={"begin": "now+1hour", "poll_seconds": 0.5})
    for number in range(10):
        executor.submit((f"{number:012x}",), Resources(1, wall_seconds=4000.0 + number))
    executor.submit(("f" * 12,), Resources(1, wall_seconds=90_000.0, memory_bytes=2**30))
    arrays: dict[str, int] = {}
    for job in executor.flush():
        array, _, _ = job.job_id.partition("_")
        arrays[array] = arrays.get(array, 0) + 1
    assert sorted(arrays.values()) == [1, 2, 8]  # MaxArraySize is 9, so that 8 is the last index
    # Twice the forecast, rounded up to a power of the square root of two minutes.
    limits = cluster.run("squeue", "-h", "-o", "%l").split()
    assert set(limits) == {"3:02:00", "2-20:16:00"}
    executor.shutdown()
    wait_until(lambda: not cluster.run("squeue", "-h", "-t", "PENDING"))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('partitoin = "main"', "did you mean `partition`?"),
        ('mem_per_cpus = "1G"', "did you mean `mem_per_cpu`?"),
        ('array = "0-3"', "is set by flops-fit itself"),
    ],
)
def test_a_misspelt_option_of_slurm_is_refused_with_the_nearest(tmp_path, line, told):
    write_sweep(tmp_path, TRAINED + f"[execution.slurm]\n{line}\n")
    refused = flops_fit("plan", "m.toml", cwd=tmp_path)
    assert refused.returncode == 2
    assert told in refused.stderr
    assert "execution.slurm" in refused.stderr


def test_what_slurm_refuses_is_one_error_and_no_trial_is_lost(tmp_path, cluster):
    section = ON_SLURM.replace("time = 10", 'time = 10\npartition = "nowhere"')
    write_sweep(tmp_path, TRAINED + section)
    refused = flops_fit("run", "m.toml", cwd=tmp_path)
    assert refused.returncode == 4
    assert "invalid partition specified" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert count(tmp_path / "runs/trained", "trial_failed") == 0


def test_without_slurm_the_executor_is_refused_before_anything_is_written(tmp_path):
    write_sweep(tmp_path, TRAINED + ON_SLURM)
    nowhere = tmp_path / "bin"
    nowhere.mkdir()
    refused = flops_fit("run", "m.toml", cwd=tmp_path, PATH=str(nowhere))
    assert refused.returncode == 4
    assert "is not on the PATH" in refused.stderr


def test_the_script_that_jobs_prints_is_accepted_by_sbatch(tmp_path, cluster):
    write_sweep(tmp_path, TRAINED + ON_SLURM)
    flops_fit("run", "m.toml", "--max-flops", "1", "--simulate", cwd=tmp_path)
    printed = flops_fit("jobs", "runs/trained", "--format", "sbatch", cwd=tmp_path)
    (tmp_path / "jobs.sh").write_text(printed.stdout)
    tested = subprocess.run(
        ["sbatch", "--test-only", "jobs.sh"], cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert tested.returncode == 0, tested.stderr
