"""What a sweep of many short trials spends outside training.

    python tests/benchmarks/sweep_overhead.py [--trials 1000] [--seconds 1] [--workers 2]

Plans one small size at five budgets with as many seeds as it takes, scaled so that a trial trains
for about the asked time here, runs it as a user would, and reads the ledger: the share of the
workers' time, from the sweep's first entry to its last, that was no training step. What that share
consists of is printed below it. The report afterwards is not part of it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from statistics import median

MANIFEST = """
name = "overhead"
[model]
plugin = "gpt"
size_param = "d_model"
sizes = [12, 16, 20]
[data]
plugin = "stdlib-text"
kwargs = {{ heldout_windows = 64 }}
[loss]
plugin = "cross-entropy"
[sweep]
design = "fixed-tokens"
tokens = [{tokens}]
replicates = {replicates}
[report]
bootstrap = 0
methods = ["kaplan"]
"""


NO_LAW = 6  # the exit code of a report that found none: nothing that is asked for here


def flops_fit(*arguments: str, cwd: Path) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "flops_fit", *arguments], cwd=cwd, capture_output=True, text=True
    )  # fmt: skip
    if ended.returncode not in (0, NO_LAW):
        sys.exit(ended.stderr)
    return ended.stdout


def write(folder: Path, tokens: float, trials: int) -> None:
    text = MANIFEST.format(tokens=round(tokens), replicates=-(-trials // 3))
    (folder / "experiment.toml").write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, 100_000, 3)
        priced = json.loads(flops_fit("estimate", "experiment.toml", "--json", cwd=folder))
        usual = sum(row["wall_seconds"] for row in priced["trials"]) / len(priced["trials"])
        write(folder, 100_000 * asked.seconds / usual, asked.trials)
        flops_fit("run", "experiment.toml", "--workers", str(asked.workers), cwd=folder)
        ledger = (folder / "runs/overhead/ledger.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in ledger]
    ended = [e for e in entries if e["event"] == "trial_finished"]
    began, last = (datetime.fromisoformat(entries[i]["at"]) for i in (0, -1))
    available = (last - began).total_seconds() * asked.workers
    training = sum(e["training_seconds"] for e in ended)
    evaluating = sum(e["evaluation_seconds"] for e in ended)
    trials = sum(e["wall_seconds"] for e in ended)
    started = {e["trial_id"]: e["at"] for e in entries if e["event"] == "trial_started"}
    gaps = [
        (
            datetime.fromisoformat(e["at"]) - datetime.fromisoformat(started[e["trial_id"]])
        ).total_seconds()
        - e["wall_seconds"]
        for e in ended
    ]
    print(f"{len(ended)} trials, {training / len(ended):.2f} s of training each, "
          f"{available / asked.workers:.0f} s in all with {asked.workers} workers")  # fmt: skip
    print(f"outside training: {1 - training / available:.1%}")
    print(f"  evaluation {evaluating / available:.1%}, the rest of the trials "
          f"{(trials - training - evaluating) / available:.1%}, "
          f"between them {1 - trials / available:.1%} "
          f"({median(gaps):.3f} s a trial, {max(gaps):.1f} s for a worker's first)")  # fmt: skip


if __name__ == "__main__":
    main()
