"""The import graph of the package, from the code's own imports.

Run it to print the graph: `python tests/support/house.py`.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "flops_fit"

FLOORS = (
    ("errors", "units"),
    ("fitting", "manifest"),
    ("training",),
    ("experiment",),
    ("planning",),
    ("sweep",),
    ("reporting",),
    ("api", "cli"),
    ("__init__", "__main__"),
)
"""What stands at the top of the package, from the ground up. `zoo` stands apart."""

FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS, 1) for room in rooms}
APART = "zoo"

INSIDE = {
    "fitting": ("points", "law", "solver", "surface", "fit"),
    "manifest": ("files", "trials", "recipe", "rules", "schedule", "manifest"),
    "training": ("session", "data", "building", "optimizers", "measuring.meter", "engine", "loop"),
    "experiment": ("plugins", "loading", "describing", "checks.examination", "child", "prepared"),
    "planning": ("plan", "estimate", "adaptive.terms", "adaptive.decide", "from_manifest"),
    "sweep": ("rundir", "ledger", "caps", "conductor", "provenance", "opening", "running"),
    "reporting": ("tables.cells", "verdict", "checklist", "contents", "result", "reading"),
    "cli": ("options", "output", "report", "run", "main"),
}
"""Files that carry each wing, from the ground up: a lower one may not import a higher one."""


@dataclass(frozen=True)
class Import:
    """One import of our own package.

    Attributes:
        place: `file:line`.
        importer: dotted path below the package of the file that imports.
        imported: dotted path of what is imported.
    """

    place: str
    importer: str
    imported: str


class House:
    """Every file of the package and who imports whom."""

    def __init__(self, package: Path = PACKAGE) -> None:
        """Read every file's imports, wherever in the file they stand."""
        self.files = {_dotted(path, package): path for path in sorted(package.rglob("*.py"))}
        self.imports = [
            Import(f"{path.relative_to(package.parent)}:{line}", name, self._file_of(target))
            for name, path in self.files.items()
            for line, target in _imports_of(path)
        ]

    def _file_of(self, target: str) -> str:
        """The file that a dotted name stands in: a module, or a module's member."""
        for name in (target, f"{target}.__init__", target.rpartition(".")[0]):
            if name in self.files:
                return name
        parent = target.rpartition(".")[0]
        return f"{parent}.__init__" if parent else "__init__"

    @cached_property
    def graph(self) -> dict[str, set[str]]:
        """The files that each file imports."""
        graph: dict[str, set[str]] = {name: set() for name in self.files}
        for each in self.imports:
            if each.imported != each.importer:
                graph[each.importer].add(each.imported)
        return graph

    def upward(self) -> list[str]:
        """Imports of a higher floor, or of another room on the same floor."""
        found = []
        for each in self.imports:
            here, there = _room(each.importer), _room(each.imported)
            if here == there or APART in (here, there):
                continue
            if FLOOR_OF.get(there, 99) >= FLOOR_OF.get(here, 0):
                found.append(
                    f"{each.place} floor {FLOOR_OF.get(here)} imports {each.imported}, "
                    f"floor {FLOOR_OF.get(there)}"
                )
        return found

    def circle(self) -> list[str]:
        """The files of one import circle; empty if there is none."""
        try:
            TopologicalSorter(self.graph).prepare()
        except CycleError as error:
            return [str(name) for name in error.args[1]]
        return []

    def turned_round(self) -> list[str]:
        """Imports, direct or through others, from a lower file of a wing to a higher one."""
        found = []
        for wing, order in INSIDE.items():
            for low, part in enumerate(order):
                reached = self._reached(f"{wing}.{part}")
                for above in order[low + 1 :]:
                    name = f"{wing}.{above}"
                    if any(file == name or file.startswith(f"{name}.") for file in reached):
                        found.append(f"{wing}: {part} imports {above}")
        return found

    def _reached(self, start: str) -> set[str]:
        """Every file that a file, or the files of a folder, import directly or through others."""
        todo = [name for name in self.files if name == start or name.startswith(f"{start}.")]
        reached: set[str] = set()
        while todo:
            for name in self.graph[todo.pop()]:
                if name not in reached:
                    reached.add(name)
                    todo.append(name)
        return reached


def _dotted(path: Path, package: Path) -> str:
    return ".".join(path.relative_to(package).with_suffix("").parts)


def _room(name: str) -> str:
    return name.split(".")[0]


def _imports_of(path: Path) -> list[tuple[int, str]]:
    """(line, dotted name below the package) of each import of our own package in a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("flops_fit"):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("flops_fit.")]
        found += [(node.lineno, name.removeprefix("flops_fit.")) for name in names]
    return found


def main() -> None:
    """Print the floors with their files, how many imports there are, and what breaks the order."""
    house = House()
    for number, rooms in reversed(list(enumerate(FLOORS, 1))):
        print(f"floor {number}")
        for room in rooms:
            files = [name for name in house.files if _room(name) == room]
            below = sorted(
                {_room(i.imported) for i in house.imports if _room(i.importer) == room} - {room}
            )
            lines = sum(house.files[name].read_text().count("\n") for name in files)
            print(f"  {room}: {len(files)} files, {lines} lines; imports {', '.join(below) or '-'}")
    print(f"{len(house.files)} files, {sum(map(len, house.graph.values()))} arrows")
    for title, rows in (
        ("upward imports", house.upward()),
        ("a circle", house.circle()),
        ("order inside a wing turned round", house.turned_round()),
    ):
        print(f"{title}: {len(rows)}", *rows, sep="\n  ")


if __name__ == "__main__":
    main()
