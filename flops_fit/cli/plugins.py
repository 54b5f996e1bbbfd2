"""`flops-fit plugins`: list the installed plugins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flops_fit.cli.options import FormatOption, JsonOption
from flops_fit.cli.output import print_json, print_tables

if TYPE_CHECKING:
    from flops_fit.experiment.plugins import Listed
    from flops_fit.reporting.tables.table import Table


def plugins(as_json: JsonOption = False, layout: FormatOption = "terminal") -> None:
    """List the installed plugins; one that cannot be loaded is shown with its reason."""
    from flops_fit.experiment.child import ask_problems
    from flops_fit.experiment.plugins import list_plugins

    found = ask_problems(list_plugins())
    if as_json:
        print_json({"plugins": [plugin.to_dict() for plugin in found]})
        return
    print_tables([_plugins_table(found)], layout)


def _plugins_table(found: Sequence[Listed]) -> Table:
    """Return one row for each plugin, with the reason if it is broken, and name clashes."""
    from flops_fit.reporting.tables.cells import Column
    from flops_fit.reporting.tables.table import Table

    columns = (
        Column("name", "name"),
        Column("kind", "kind"),
        Column("package", "package"),
        Column("where", "where"),
        Column("state", "state"),
    )
    rows = []
    for plugin in found:
        state = "ok" if plugin.problem is None else f"broken: {plugin.problem}"
        if plugin.also:
            state += f"; name clash with {', '.join(plugin.also)}"
        package = f"{plugin.package} {plugin.version}".strip()
        row = {"name": plugin.name, "kind": plugin.kind, "where": plugin.where}
        rows.append({**row, "package": package, "state": state})
    groups = "entry-point groups: flops_fit.models, .datasets, .losses, .executors"
    return Table("Plugins", columns, tuple(rows), (groups,))
