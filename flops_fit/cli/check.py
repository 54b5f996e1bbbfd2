"""`flops-fit check`: test that model, data and loss work together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flops_fit.cli.options import FormatOption, JsonOption
from flops_fit.cli.output import print_json, print_tables, say
from flops_fit.errors import PluginError

if TYPE_CHECKING:
    from flops_fit.experiment.checks.findings import Finding
    from flops_fit.reporting.tables.table import Table


def check(
    manifest: Annotated[Path, typer.Argument(help="experiment.toml", show_default=False)],
    as_json: JsonOption = False,
    layout: FormatOption = "terminal",
) -> None:
    """Test a manifest's plugins against their contract: train a few steps, write nothing."""
    from flops_fit.experiment.child import ask_findings

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


def _findings_table(found: Sequence[Finding]) -> Table:
    """Return one row for each check; later checks depend on earlier ones."""
    from flops_fit.reporting.tables.cells import Column
    from flops_fit.reporting.tables.table import Table

    columns = [
        Column("check", "check"),
        Column("status", "result"),
        Column("detail", "finding"),
    ]
    if any(finding.mend for finding in found):
        columns.append(Column("mend", "fix"))
    counts = {word: sum(f.status == word for f in found) for word in ("passed", "warned", "failed")}
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    rows = tuple(finding.to_dict() for finding in found)
    return Table("Checks", tuple(columns), rows, (told,))
