"""Draw the figures of the documentation from a run directory of the quickstart.

    flops-fit run manifests/quickstart.toml
    python docs/make_figures.py runs/quickstart

`docs/transfer-*.png` are drawn by `tests/benchmarks/transfer_parametrisations.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

FIGURES = ("isoflop", "frontier", "surface", "residuals", "curves", "agreement", "gains")


def draw(run_dir: Path, folder: Path) -> list[Path]:
    """Write each figure that the run allows as `quickstart-NAME.png`; return the files."""
    import matplotlib as mpl

    mpl.use("Agg")
    import flops_fit

    figures = flops_fit.report(run_dir).plot()
    files = []
    for name in FIGURES:
        if name in figures:
            files.append(folder / f"quickstart-{name}.png")
            figures[name].savefig(files[-1])
    return files


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(__file__).parent)
