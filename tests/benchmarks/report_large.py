"""Time, memory and imports of `flops-fit report` on a large table of finished runs.

    python tests/benchmarks/report_large.py [--rows 100000] [--figures]

The table holds runs of a published law with 1 % noise, their compute spread evenly over four
decades. The command runs in a process of its own, whose peak memory is what is printed; it writes
nothing but its tables, or with --figures one page that holds every figure.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Besiroglu et al. 2024 (arXiv:2404.10102), their refit of Hoffmann et al.'s runs.
E, A, B, ALPHA, BETA = 1.8172, 482.01, 2085.43, 0.3478, 0.3658
WATCHED = ("torch", "accelerate", "matplotlib", "flops_fit.zoo.gpt")
COMMAND = """
import atexit, sys
said = lambda: print("loaded:", *[m for m in {watched} if m in sys.modules], file=sys.stderr)
atexit.register(said)
sys.argv = ["flops-fit", "report", {table}, *{options}]
from flops_fit.cli.main import main
main()
"""


def write_table(path: Path, rows: int) -> None:
    """A table of `rows` runs, the same each time."""
    draw = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["params", "tokens", "flops", "loss"])
        for _ in range(rows):
            flops = 10 ** draw.uniform(17, 21)
            params = round(10 ** draw.uniform(-0.6, 0.6) * math.sqrt(flops / 120))
            tokens = round(flops / 6 / params)
            loss = (E + A * params**-ALPHA + B * tokens**-BETA) * math.exp(draw.gauss(0, 0.01))
            writer.writerow([params, tokens, 6 * params * tokens, loss])


def main() -> None:
    """Print the figures of one run of the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--figures", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table, page = Path(folder) / "runs.csv", Path(folder) / "page.html"
        write_table(table, given.rows)
        options = ["--html", str(page)] if given.figures else []
        code = COMMAND.format(watched=WATCHED, table=repr(str(table)), options=repr(options))
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        seconds = time.monotonic() - began
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        size = page.stat().st_size / 2**20 if given.figures else 0.0
    (loaded,) = [line for line in done.stderr.splitlines() if line.startswith("loaded:")]
    print(
        f"{given.rows:,} rows, {'every figure' if given.figures else 'no figures'}: "
        f"{seconds:.1f} s wall, {spent.ru_utime + spent.ru_stime:.1f} s CPU, "
        f"{spent.ru_maxrss / 1024:.0f} MiB at the peak; {loaded}"
        + (f"; page {size:.1f} MiB" if given.figures else "")
    )


if __name__ == "__main__":
    main()
