"""two_processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def in_two_processes(script: str, folder: Path) -> None:
    """Run a script in two processes that share a trial, as the worker does."""
    path = folder / "script.py"
    path.write_text(script)
    here = Path(__file__).parent
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])]),
        "OMP_NUM_THREADS": "1",
    }
    ended = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         str(path), str(folder)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
