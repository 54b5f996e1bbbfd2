"""Every figure of the documentation is drawn by a script."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def script():
    spec = importlib.util.spec_from_file_location("make_figures", DOCS / "make_figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_draws_every_figure_of_the_quickstart_that_needs_no_training(tmp_path):
    manifest = shutil.copy(DOCS.parent / "manifests" / "quickstart.toml", tmp_path)
    subprocess.run(
        [sys.executable, "-m", "flops_fit", "run", manifest, "--simulate"],
        cwd=tmp_path, capture_output=True, check=True,
    )  # fmt: skip
    files = script().draw(tmp_path / "runs" / "quickstart", tmp_path)
    assert {path.name for path in files} == {
        path.name for path in DOCS.glob("quickstart-*.png")
    } - {"quickstart-curves.png"}
    assert all(path.stat().st_size > 5_000 for path in files)


def test_every_figure_has_a_script():
    drawn = {f"quickstart-{name}.png" for name in script().FIGURES}
    benchmark = DOCS.parent / "tests" / "benchmarks" / "transfer_parametrisations.py"
    assert re.search(r"transfer|savefig|write_figures", benchmark.read_text(encoding="utf-8"))
    drawn |= {"transfer-standard.png", "transfer-umup.png"}
    assert {path.name for path in DOCS.rglob("*.png")} <= drawn
