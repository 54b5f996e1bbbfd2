"""README and Start here are followed from top to bottom, as printed, with an empty HOME.

The environment is a new one with flops-fit installed from this checkout; third-party packages are
seen where they lie already. README's two install commands themselves are run by `.ci/run`.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from documents import ROOT, Page, run_page

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of a new environment with flops-fit."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    theirs = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *sys.path}
    folders = [each for each in sorted(theirs) if Path(each).name == "site-packages"]
    (own / "third_party.pth").write_text("\n".join(folders))
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index",
         "--ignore-installed", ROOT], check=True, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    return python


@pytest.fixture
def empty_home(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    monkeypatch.setenv("PYTHONPATH", "")
    return home


@pytest.mark.parametrize("name", ["README.md", "docs/start.md"])
def test_a_page_is_followed_from_top_to_bottom_to_a_law(name, tmp_path, python, empty_home):
    folder = tmp_path / "page"
    folder.mkdir()
    run_page(Page(ROOT / name), folder, python=str(python), is_checkout_found=False)
    result = json.loads((folder / "runs" / "mine" / "report" / "result.json").read_text())
    assert "isoflop" in result["fits"]
    assert (folder / "runs" / "mine" / "report" / "report.html").stat().st_size > 10_000


def test_the_first_command_of_readme_names_the_quickstart_and_its_figure():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    command = next(line for line in text.splitlines() if "flops-fit run" in line).strip()
    manifest = ROOT / command.split()[-1]
    assert command.startswith("python3 -m venv .venv && .venv/bin/pip install")
    assert manifest.is_file()
    assert shutil.which("python3")
