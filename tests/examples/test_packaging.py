"""Wheel and sdist build, hold what they should, and work in a clean environment.

The environment is new but for third-party packages, which it sees where they lie already: to
download torch again would take minutes.
"""

import email
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path, **environment: str) -> str:
    ended = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, cwd=cwd,
        env={**os.environ, "PYTHONNOUSERSITE": "1", "PYTHONPATH": "", **environment},
    )  # fmt: skip
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    code = "import sys; from hatchling import build; print(build.build_sdist(sys.argv[1]))"
    run(sys.executable, "-c", code, folder, cwd=ROOT)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
        "--no-index", "-w", folder, next(folder.glob("*.tar.gz")), cwd=folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def scripts(built, tmp_path_factory):
    """The folder of scripts of a clean environment with the wheel."""
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))",
                   cwd=folder).strip())  # fmt: skip
    theirs = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *sys.path}
    folders = sorted(each for each in theirs if Path(each).name == "site-packages")
    (own / "third_party.pth").write_text("\n".join(folders))
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--ignore-installed",
        next(built.glob("*.whl")), cwd=folder)  # fmt: skip
    return python.parent


def test_the_wheel_holds_the_package_its_types_and_its_data(built):
    names = set(zipfile.ZipFile(next(built.glob("*.whl"))).namelist())
    assert {
        "flops_fit/py.typed", "flops_fit/cli/template.toml", "flops_fit/reporting/page.html",
    } <= names  # fmt: skip
    assert not [name for name in names if name.startswith(("tests", "docs"))]
    source = {str(path.relative_to(ROOT)) for path in (ROOT / "flops_fit").rglob("*.py")}
    assert source <= names


def test_the_sdist_holds_tests_documents_and_the_license(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "CITATION.cff", "CHANGELOG.md", "docs/start.md",
            "tests/conftest.py"} <= names  # fmt: skip


def test_the_metadata_pins_no_torch_and_has_no_address_of_a_machine(built):
    wheel = zipfile.ZipFile(next(built.glob("*.whl")))
    text = wheel.read(next(n for n in wheel.namelist() if n.endswith("METADATA"))).decode()
    needs = email.message_from_string(text).get_all("Requires-Dist")
    torch = [each for each in needs if each.startswith("torch")]
    assert torch == ["torch>=2.6"]


def test_the_console_script_of_the_wheel_works_with_an_empty_home(scripts, tmp_path):
    home = tmp_path / "home"
    home.mkdir()

    def flops_fit(*arguments: object) -> str:
        return run(scripts / "flops-fit", *arguments, cwd=tmp_path, HOME=str(home))

    where = run(scripts / "python", "-c", "import flops_fit; print(flops_fit.__file__)",
                cwd=tmp_path)  # fmt: skip
    assert Path(where.strip()).is_relative_to(scripts.parent)
    assert "0.1.0" in flops_fit("--version")
    flops_fit("init")
    flops_fit("run", "experiment.toml", "--simulate")
    assert "For 1e13 FLOPs" in flops_fit("report", "runs/my-experiment")
