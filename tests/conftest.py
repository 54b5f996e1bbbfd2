"""What every test runs with: one thread, no network, and processes that find this checkout."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"


STATED = "\n".join(
    f"  {{ size_value = {d}, params = {24 * d * d + 256 * d} }},"
    for d in (8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128)
)


@pytest.fixture(scope="session")
def write_stated() -> Callable[..., Path]:
    """Writes a manifest whose sizes are stated, so that nothing needs torch, into a folder."""

    def write(folder: Path, **replaced: str) -> Path:
        sections = {
            "top": 'name = "planted"',
            "model": f'plugin = "gpt"\nsize_param = "d_model"\nsizes = [\n{STATED}\n]',
            "data": 'plugin = "stdlib-text"\nunit = "token"\nunits_per_example = 64',
            "loss": 'plugin = "cross-entropy"',
            "flops": 'count = "6nd"',
            "sweep": "budgets = [3e10, 1e11, 3e11, 1e12, 3e12]\nsizes_per_budget = 7",
            "report": "bootstrap = 0",
        } | replaced
        text = sections.pop("top") + "\n"
        text += "\n".join(f"[{key}]\n{body}" for key, body in sections.items())
        path = folder / "experiment.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def write_manifest(tmp_path: Path, write_stated: Callable[..., Path]) -> Callable[..., Path]:
    """The same into the test's own folder; sections can be replaced."""

    def write(**replaced: str) -> Path:
        return write_stated(tmp_path, **replaced)

    return write


@pytest.fixture(autouse=True)
def _denormal_numbers():
    """Keep denormal numbers, which training flushes to zero for the whole process."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
