"""A package of its own goes the whole way by plugin name, installed into a fresh environment.

The environment is new but for third-party packages, which it sees where they lie already: to
download torch again would take minutes. flops-fit and the example package are installed by pip.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "examples" / "plugin_package"


def run(*command: object, cwd: Path) -> str:
    ended = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, cwd=cwd,
        env={**os.environ, "PYTHONNOUSERSITE": "1", "PYTHONPATH": "", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def third_party() -> list[str]:
    """Folders of installed packages, this checkout's own not among them."""
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *sys.path]
    return sorted({each for each in folders if Path(each).name == "site-packages"})


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of a fresh environment with flops-fit and the example package."""
    folder = tmp_path_factory.mktemp("fresh")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    own = Path(
        run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).strip()
    )
    # Last on the path: `.pth` files inside those folders are not read, so no editable install is.
    (own / "third_party.pth").write_text("\n".join(third_party()))
    for source in (ROOT, PACKAGE):
        built = folder / "built"
        run(python, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", built,
            source, cwd=folder)  # fmt: skip
        run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--force-reinstall",
            "--target", own, *built.glob("*.whl"), cwd=folder)  # fmt: skip
        shutil.rmtree(built)
    where = run(
        python, "-c", "import flops_fit, example_nets; print(flops_fit.__file__)", cwd=folder
    )
    assert Path(where.strip()).is_relative_to(own)
    return python


def test_the_example_package_needs_nothing_of_ours():
    for path in PACKAGE.rglob("*.py"):
        assert "flops_fit" not in path.read_text(encoding="utf-8").replace("flops-fit", "")
    assert "flops-fit" not in (PACKAGE / "pyproject.toml").read_text().split("dependencies")[1]


@pytest.mark.slow
def test_an_installed_package_goes_the_four_commands_by_plugin_name(tmp_path, python):
    def flops_fit(*arguments: object) -> str:
        return run(python, "-m", "flops_fit", *arguments, cwd=tmp_path)

    shutil.copy(PACKAGE / "experiment.toml", tmp_path)
    listed = json.loads(flops_fit("plugins", "--json"))["plugins"]
    theirs = {each["name"]: each for each in listed if each["package"] == "example-nets"}
    assert set(theirs) == {"example-resnet", "example-teacher", "example-label-loss"}
    assert {each["problem"] for each in theirs.values()} == {None}
    checked = json.loads(flops_fit("check", "experiment.toml", "--json"))
    assert {each["status"] for each in checked["findings"]} <= {"passed", "skipped"}
    planned = json.loads(flops_fit("plan", "experiment.toml", "--json"))
    widths = {trial["size_value"] for trial in planned["trials"]}
    assert len(widths) >= 5
    estimated = json.loads(flops_fit("estimate", "experiment.toml", "--json"))
    assert estimated["total_flops"] == pytest.approx(planned["total_flops"])
    flops_fit("run", "experiment.toml")
    told = json.loads(flops_fit("report", "runs/example-nets", "--json"))
    assert told["verdict"] in {"trust", "provisional"}
    assert told["observations"]["used"] >= 0.8 * len(planned["trials"])
    assert (tmp_path / "runs/example-nets/report/isoflop.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_package_that_init_writes_goes_to_a_fitted_law_in_ten_minutes(tmp_path, python):
    began = time.monotonic()

    def here(*command: object) -> str:
        return run(python, *command, cwd=tmp_path / "my_plugin")

    run(python, "-m", "flops_fit", "init", "--plugin", "my_plugin", cwd=tmp_path)
    here("-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", ".")
    assert "3 passed" in here("-m", "pytest", "-q", "tests")
    checked = json.loads(here("-m", "flops_fit", "check", "experiment.toml", "--json"))
    assert {each["status"] for each in checked["findings"]} <= {"passed", "skipped"}
    here("-m", "flops_fit", "run", "experiment.toml")
    told = json.loads(here("-m", "flops_fit", "report", "runs/my-plugin", "--json"))
    assert told["verdict"] in {"trust", "provisional"}
    assert "isoflop" in told["fits"]
    assert time.monotonic() - began < 600


def test_init_refuses_a_name_that_no_package_can_have_and_a_folder_that_exists(tmp_path):
    for name, words in (("My-Plugin", "Python package"), ("there", "exists already")):
        (tmp_path / "there").mkdir(exist_ok=True)
        ended = subprocess.run(
            [sys.executable, "-m", "flops_fit", "init", "--plugin", name],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert ended.returncode == 2
        assert words in ended.stderr
