"""`flops-fit plugins` and `flops-fit check`: what is installed, and whether it keeps its word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flops_fit.errors import PluginError
from flops_fit.options import FormatOption, JsonOption
from flops_fit.printing import print_json, print_tables, say

if TYPE_CHECKING:
    from flops_fit.findings import Finding
    from flops_fit.plugins import Listed
    from flops_fit.reporting.tables import Table


def plugins(as_json: JsonOption = False, layout: FormatOption = "terminal") -> None:
    """List the installed plugins; one that cannot be loaded is shown with its reason."""
    from flops_fit.inquiry import ask_problems
    from flops_fit.plugins import list_plugins

    found = ask_problems(list_plugins())
    if as_json:
        print_json({"plugins": [plugin.to_dict() for plugin in found]})
        return
    print_tables([_plugins_table(found)], layout)


def check(
    manifest: Annotated[Path, typer.Argument(help="experiment.toml", show_default=False)],
    as_json: JsonOption = False,
    layout: FormatOption = "terminal",
) -> None:
    """Prove that a manifest's plugins keep their contract; trains a few steps, writes nothing."""
    from flops_fit.inquiry import ask_findings

    found = ask_findings(manifest, search_path=(manifest.resolve().parent, Path.cwd()))
    failed = [finding for finding in found if finding.status == "failed"]
    if as_json:
        data = [finding.to_dict() for finding in found]
        print_json({"passed": not failed, "findings": data})
    else:
        print_tables([_findings_table(found)], layout)
    if failed:
        raise PluginError(
            f"{len(failed)} of {len(found)} checks failed: "
            + "; ".join(finding.check for finding in failed),
            hint=failed[0].mend,
        )
    if not as_json:
        say(f"next: flops-fit plan {manifest}")


def _plugins_table(found: Sequence[Listed]) -> Table:
    """A row a plugin; broken ones and clashes say so."""
    from flops_fit.reporting.cells import Column
    from flops_fit.reporting.tables import Table

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


def _findings_table(found: Sequence[Finding]) -> Table:
    """A row a check, in the order in which they build on each other."""
    from flops_fit.reporting.cells import Column
    from flops_fit.reporting.tables import Table

    columns = [
        Column("check", "check"),
        Column("status", "result"),
        Column("detail", "what was found"),
    ]
    if any(finding.mend for finding in found):
        columns.append(Column("mend", "mend"))
    counts = {word: sum(f.status == word for f in found) for word in ("passed", "warned", "failed")}
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    rows = tuple(finding.to_dict() for finding in found)
    return Table("Checks", tuple(columns), rows, (told,))
