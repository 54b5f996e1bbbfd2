"""`flops-fit report --question`: what the law answers, as tables or as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flops_fit.options import Format
from flops_fit.printing import print_json, print_tables, print_verdict

if TYPE_CHECKING:
    from flops_fit.reporting.tables import Table
    from flops_fit.result import Result


def print_answers(
    questions: Sequence[str], result: Result, layout: Format, *, as_json: bool
) -> None:
    """Print what the law answers, after the verdict on the law."""
    from flops_fit.reports import answer

    answers = [answer(result, question) for question in questions]
    rows = [{"question": asked, **found.to_dict()} for asked, found in answers]
    if as_json:
        print_json({"verdict": result.verdict, "answers": rows})
        return
    print_verdict(result, layout)
    asked: dict[frozenset[str], list[dict[str, Any]]] = {}
    for row in rows:
        figures = frozenset(key for key in row if not key.endswith("_interval"))
        asked.setdefault(figures, []).append(row)
    print_tables([_answers_table(alike, result) for alike in asked.values()], layout)


def _answers_table(rows: Sequence[dict[str, Any]], result: Result) -> Table:
    """A row a question, all with the same figures besides the allocation."""
    from flops_fit.reporting.cells import Column, plural
    from flops_fit.reporting.tables import Table

    units = plural(result.unit)
    columns = [
        Column("question", "question"),
        Column("params", "N (params)", "count", has_interval=True),
        Column("tokens", f"D ({units})", "count", has_interval=True),
        Column("flops", "training (FLOPs)", "flops", has_interval=True),
        Column("loss", f"loss ({result.loss_unit})", "loss", has_interval=True),
    ]
    more = [
        Column("loss_limit", f"loss limit ({result.loss_unit})", "loss", has_interval=True),
        Column("loss_with_fresh_data", f"fresh data ({result.loss_unit})", "loss"),
        Column("tokens_per_param", f"{units} per param", "number", has_interval=True),
        Column("epochs", "epochs", "number", has_interval=True),
        Column("params_without_serving", "without serving (params)", "count", has_interval=True),
        Column("total_flops", "with serving (FLOPs)", "flops", has_interval=True),
        Column("saved", "saved (share of compute)", "number", has_interval=True),
        Column("waste", "wasted (share of compute)", "number", has_interval=True),
    ]
    told = [column for column in more if any(column.key in row for row in rows)]
    named = {column.key for column in [*columns, *told]}
    extra = {k for row in rows for k in row if k not in named and not k.endswith("_interval")}
    told += [Column(name, name.replace("_", " "), "number") for name in sorted(extra)]
    note = (
        "intervals are of the law's parameters alone; those of the compute-optimal table hold the "
        "scatter of a single run and, beyond the data, the back-test's error too"
    )
    return Table("Answers", (*columns, *told), tuple(rows), (note,))
