"""`flops-fit report --question`: answers of the law, as sentences, tables or data."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import typer

from flops_fit.cli.options import Format
from flops_fit.cli.output import print_json, print_tables, print_verdict, terminal_width
from flops_fit.errors import ManifestError
from flops_fit.units import parse_number

if TYPE_CHECKING:
    from flops_fit.reporting.answers import Answer
    from flops_fit.reporting.result import Result
    from flops_fit.reporting.tables.table import Table


def print_answers(
    questions: Sequence[str], result: Result, layout: Format, *, as_json: bool
) -> None:
    """Print the verdict, one sentence for each question, and the numbers as tables."""
    from flops_fit.reporting.sentences import question_sentence

    answers = [answer(result, question) for question in questions]
    rows = [{"question": asked, **found.to_dict()} for asked, found in answers]
    if as_json:
        print_json({"verdict": result.verdict, "answers": rows})
        return
    print_verdict(result, layout)
    print_sentences(
        [
            question_sentence(_quantities(question), row, result.unit, result.loss_unit)
            for question, row in zip(questions, rows, strict=True)
        ],
        layout,
    )
    asked: dict[frozenset[str], list[dict[str, Any]]] = {}
    for row in rows:
        figures = frozenset(key for key in row if not key.endswith("_interval"))
        asked.setdefault(figures, []).append(row)
    print_tables([_answers_table(alike, result) for alike in asked.values()], layout)


def print_sentences(sentences: Sequence[str], layout: Format) -> None:
    """Print sentences, as comments in LaTeX, and on standard error beside a CSV."""
    mark = {"latex": "% ", "markdown": "> "}.get(layout, "")
    lines = [f"{mark}{sentence}" for sentence in sentences if sentence]
    if layout == "terminal":
        width = terminal_width(100)
        lines = [part for line in lines for part in textwrap.wrap(line, width)]
    for line in lines:
        typer.echo(line, err=layout == "csv")
    typer.echo(err=layout == "csv")


def _answers_table(rows: Sequence[dict[str, Any]], result: Result) -> Table:
    """Return a table with one row for each question; all rows have the same figures."""
    from flops_fit.reporting.tables.cells import Column
    from flops_fit.reporting.tables.table import Table
    from flops_fit.units import plural

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
        Column("saved", "saved (% of compute)", "number", has_interval=True),
        Column("waste", "wasted (% of compute)", "number", has_interval=True),
    ]
    told = [column for column in more if any(column.key in row for row in rows)]
    named = {column.key for column in [*columns, *told]}
    extra = {k for row in rows for k in row if k not in named and not k.endswith("_interval")}
    told += [Column(name, name.replace("_", " "), "number") for name in sorted(extra)]
    note = (
        "The intervals of params, data and FLOPs come from the law's parameters alone. The interval"
        " of a loss also has the noise of one run and, beyond the data, the back-test's error."
    )
    return Table("Answers", (*columns, *told), tuple(map(_in_percent, rows)), (note,))


def _in_percent(row: dict[str, Any]) -> dict[str, Any]:
    """Return an answer with its shares of compute in percent."""
    shown = dict(row)
    for key in ("saved", "waste"):
        if (share := row.get(key)) is not None:
            shown[key] = 100 * share
        if interval := row.get(f"{key}_interval"):
            shown[f"{key}_interval"] = [100 * bound for bound in interval]
    return shown


def answer(result: Result, question: str) -> tuple[str, Answer]:
    """Return the fitted law's answer to a question such as `params=1e9 budget=1e21`.

    The known quantities decide which question it is: `loss`; `params` or `tokens` with one of
    `tokens`, `params`, `budget`, `loss`; `unique_tokens` and `budget`; `loss` and `served_tokens`;
    `budget` and `multiple` (of the optimal tokens per parameter).

    Returns:
        The question with single spaces, and the answer.

    Raises:
        ManifestError: the quantities form no known question.
        FitError: there is no law, or no allocation reaches the requested loss.
    """
    given = _quantities(question)
    asks: dict[frozenset[str], Callable[..., Answer]] = {
        frozenset({"loss"}): result.compute_for_loss,
        frozenset({"unique_tokens", "compute_budget"}): result.with_unique_tokens,
        frozenset({"loss", "served_tokens"}): result.with_serving,
        frozenset({"compute_budget", "multiple"}): result.overtrained,
    }
    for other in ("tokens", "compute_budget", "loss"):
        asks[frozenset({"params", other})] = result.with_params
    for other in ("compute_budget", "loss"):
        asks[frozenset({"tokens", other})] = result.with_tokens
    ask = asks.get(frozenset(given))
    if ask is None:
        raise ManifestError(
            f"`--question`: `{question}` is not a known question", hint=f"ask one of: {_QUESTIONS}"
        )
    return " ".join(question.split()), ask(**given)


_QUESTIONS = (
    '"loss=L", "params=N budget=C" (or tokens=D, loss=L), "tokens=D budget=C" (or loss=L), '
    '"unique_tokens=U budget=C", "loss=L served_tokens=S", "budget=C multiple=M"'
)


def _quantities(question: str) -> dict[str, float]:
    """Return `params=1e9 budget=1e21` as a mapping, in the names of `Result`'s methods."""
    given = {}
    for pair in question.replace(",", " ").split():
        name, _, value = pair.partition("=")
        try:
            given["compute_budget" if name == "budget" else name] = parse_number(value)
        except ValueError as error:
            raise ManifestError(
                f"`--question`: `{pair}` is {error}", hint=f"ask one of: {_QUESTIONS}"
            ) from None
    return given
