"""The house keeps its floors: nothing imports upwards, and heavy libraries stay in their wings."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "flops_fit"
FLOORS = [
    {"points", "units", "errors", "recipe", "arithmetic"},
    {"layout", "mistakes", "interrupts"},
    {
        "law",
        "plan",
        "observations",
        "ledger",
        "rundir",
        "contracts",
        "manifest",
        "caps",
        "params",
        "findings",
        "budgets",
    },
    {"allowance"},
    {
        "fitting",
        "estimate",
        "sweep",
        "training",
        "plugins",
        "executors",
        "designs",
        "description",
        "transfer",
        "rehearsal",
    },
    {"reporting", "experiment", "display", "ranks", "claims", "spending", "planning"},
    {"result", "worker", "examination"},
    {"inquiry"},
    {"prepared", "publishing", "adaptive"},
    {"sweep_plan"},
    {"refinement", "provenance", "options"},
    {"stages", "reports", "sealing", "printing", "transfers"},
    {"answering"},
    {"report_command", "plan_command", "transfer_command", "plugin_commands"},
    {"run_command"},
    {"api"},
    {"cli"},
]
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS, 1) for room in rooms}
DOORS = {"__init__", "__main__"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports_of(path: Path) -> list[tuple[int, str]]:
    """(line, room) of each import of our own package, wherever in the file it stands."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "flops_fit":
                names = [f"flops_fit.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found += [(node.lineno, n.split(".")[1]) for n in names if n.startswith("flops_fit.")]
    return found


def sources() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if room_of(path) not in DOORS]


def test_every_room_stands_on_a_floor():
    rooms = {room_of(path) for path in sources()} - {"zoo"}
    assert rooms == set(FLOOR_OF)


def test_no_import_leads_up_or_across():
    broken = []
    for path in sources():
        room = room_of(path)
        for line, other in imports_of(path):
            here, there = FLOOR_OF.get(room, 0), FLOOR_OF.get(other, 99)
            if other != room and there >= here:
                broken.append(f"{path.name}:{line} floor {here} imports {other}, floor {there}")
    assert broken == []


def test_the_guest_house_imports_nothing_of_ours():
    assert [
        (path.name, other) for path in sources() if room_of(path) == "zoo"
        for _, other in imports_of(path) if other != "zoo"
    ] == []  # fmt: skip


def test_nobody_inside_imports_the_face():
    for path in sources():
        names = [
            node.module
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and node.module == "flops_fit"
        ]
        if path.name not in {"inquiry.py", "cli.py"}:
            assert names == [], path


HEAVY = ("torch", "numpy", "scipy", "matplotlib", "accelerate")


def heavy_modules_after(arguments: list[str], watched: tuple[str, ...], where: Path) -> list[str]:
    """Which of `watched` the command line has loaded when it ends."""
    code = (
        "import sys, atexit\n"
        f"watched = {watched!r}\n"
        "atexit.register(lambda: print('LOADED', *[m for m in watched if m in sys.modules],"
        " file=sys.stderr))\n"
        f"sys.argv = ['flops-fit', *{arguments!r}]\n"
        "from flops_fit.cli import main\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=where
    )
    assert ended.returncode == 0, ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("LOADED")]
    return line.split()[1:]


def test_help_loads_nothing_heavy(tmp_path):
    assert heavy_modules_after(["--help"], HEAVY, tmp_path) == []


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
