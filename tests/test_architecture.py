"""The house keeps its floors: nothing imports upwards, and heavy libraries stay in their wings."""

import subprocess
import sys
from pathlib import Path

from house import APART, FLOOR_OF, FLOORS, House

HOUSE = House()
MOST_AT_THE_TOP = 12


def test_every_room_at_the_top_stands_on_one_of_nine_floors():
    rooms = {name.split(".")[0] for name in HOUSE.files} - {APART}
    assert rooms == set(FLOOR_OF)
    assert len(FLOORS) <= 9
    doors = {"__init__", "__main__"}
    assert len((rooms | {APART}) - doors) <= MOST_AT_THE_TOP


def test_no_import_leads_up_or_across():
    assert HOUSE.upward() == []


def test_no_files_import_one_another_in_a_circle():
    assert HOUSE.circle() == []


def test_the_files_of_a_wing_keep_their_order():
    assert HOUSE.turned_round() == []


def test_the_guest_house_imports_nothing_of_ours():
    assert [
        each.place
        for each in HOUSE.imports
        if each.importer.startswith(f"{APART}.") and not each.imported.startswith(f"{APART}.")
    ] == []


def test_nobody_inside_imports_the_face():
    entrances = {"experiment.child", "cli.main"}
    assert [
        each.place
        for each in HOUSE.imports
        if each.imported == "__init__" and each.importer not in {*entrances, "__main__"}
    ] == []


HEAVY = ("torch", "numpy", "scipy", "matplotlib", "accelerate")


def heavy_modules_after(arguments: list[str], watched: tuple[str, ...], where: Path) -> list[str]:
    """Which of `watched` the command line has loaded when it ends."""
    code = (
        "import sys, atexit\n"
        f"watched = {watched!r}\n"
        "atexit.register(lambda: print('LOADED', *[m for m in watched if m in sys.modules],"
        " file=sys.stderr))\n"
        f"sys.argv = ['flops-fit', *{arguments!r}]\n"
        "from flops_fit.cli.main import main\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=where
    )
    assert ended.returncode == 0, ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("LOADED")]
    return line.split()[1:]


def test_help_loads_nothing_heavy(tmp_path):
    # pydantic alone takes as long to import as `--help` to print.
    assert heavy_modules_after(["--help"], (*HEAVY, "pydantic"), tmp_path) == []


def test_plan_of_stated_sizes_loads_nothing_heavy(tmp_path, write_manifest):
    assert heavy_modules_after(["plan", str(write_manifest()), "--json"], HEAVY, tmp_path) == []


def test_plan_of_counted_sizes_loads_nothing_heavy_in_the_planning_process(tmp_path):
    manifest = Path(__file__).parents[1] / "manifests" / "quickstart.toml"
    assert heavy_modules_after(["plan", str(manifest), "--json"], HEAVY, tmp_path) == []


def test_report_loads_no_torch(tmp_path, write_manifest):
    manifest = write_manifest()
    run = heavy_modules_after(
        ["run", str(manifest), "--simulate", "--run-dir", "here"], ("torch", "accelerate"), tmp_path
    )
    report = heavy_modules_after(["report", "here", "--json"], ("torch", "matplotlib"), tmp_path)
    assert (run, report) == ([], [])
