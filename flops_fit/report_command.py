"""`flops-fit report`: from runs to a verdict, tables, figures, a page, and answers to questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flops_fit.errors import FitError, ManifestError
from flops_fit.printing import (
    BudgetOption,
    Format,
    FormatOption,
    JsonOption,
    number_of,
    print_json,
    print_tables,
    print_verdict,
    say,
)
from flops_fit.rundir import RunDir, write_atomic

if TYPE_CHECKING:
    from flops_fit.reporting.tables import Table
    from flops_fit.result import Result

SourceArgument = Annotated[
    list[Path],
    typer.Argument(help="a run directory or a table of runs; two to compare", show_default=False),
]
MethodOption = Annotated[
    list[str] | None, typer.Option("--method", help="a fitting method; may be repeated")
]
ColumnsOption = Annotated[
    str | None, typer.Option(help="a table's own names: params=N,tokens=D,loss=val_loss")
]
LossOption = Annotated[
    Literal["adaptive", "huber", "log-ls", "ls"],
    typer.Option("--loss", help="what the surface fit minimises"),
]
DeltaOption = Annotated[
    float, typer.Option(min=1e-12, help="threshold of --loss huber, in log loss")
]
IrreducibleOption = Annotated[
    float | None,
    typer.Option("--irreducible-loss", help="hold the surface's E at this loss", min=0),
]
InterpolationOption = Annotated[
    Literal["parabola", "akima"], typer.Option(help="how the minimum of an isoFLOP curve is found")
]
BootstrapOption = Annotated[
    int | None,
    typer.Option(min=0, help="resamples behind the intervals", show_default="the manifest's"),
]
QuestionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--question",
        help='such as "loss=2.1", "params=1e9 budget=1e21", "unique_tokens=1e9 budget=1e20", '
        '"loss=2.1 served_tokens=1e12", "budget=1e21 multiple=4"; may be repeated',
    ),
]
SealOption = Annotated[
    str | None,
    typer.Option(help="FLOPs: write the prediction for this budget into the ledger, with its hash"),
]
ScoreOption = Annotated[
    str | None, typer.Option(help="FLOPS=LOSS: hold the sealed prediction against the real loss")
]
FigureFormatsOption = Annotated[
    str, typer.Option(help="of the figures, with commas between: png, svg, pdf")
]
FigureColumnsOption = Annotated[
    Literal["1", "2"] | None,
    typer.Option(help="columns of a paper that each figure fills", show_default="its own size"),
]
HtmlOption = Annotated[Path | None, typer.Option(help="write the page to this file")]


def report(
    sources: SourceArgument,
    budget: BudgetOption = None,
    method: MethodOption = None,
    columns: ColumnsOption = None,
    strict: Annotated[bool, typer.Option(help="refuse a table with bad rows")] = False,
    loss: LossOption = "adaptive",
    huber_delta: DeltaOption = 1e-3,
    irreducible_loss: IrreducibleOption = None,
    interpolation: InterpolationOption = "parabola",
    bootstrap: BootstrapOption = None,
    seed: Annotated[int, typer.Option(help="of the resamples")] = 0,
    question: QuestionOption = None,
    seal: SealOption = None,
    score: ScoreOption = None,
    as_json: JsonOption = False,
    layout: FormatOption = "terminal",
    html: HtmlOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="write page, figures and result into this folder",
            show_default="report/ of a run directory",
        ),
    ] = None,
    figures: Annotated[bool, typer.Option(help="write page and figures at all")] = True,
    figure_formats: FigureFormatsOption = "png,svg",
    figure_columns: FigureColumnsOption = None,
) -> None:
    """Fit the finished trials; print the laws and the compute-optimal table."""
    from flops_fit.reports import answer, read_run, read_table_of_runs

    if score is not None:
        _score(sources[0], score)
        return
    options: dict[str, Any] = {
        # A sealed prediction without an interval could not be held against anything.
        "budgets": [
            parsed
            for text, option in [*((t, "--budget") for t in budget or []), (seal, "--seal")]
            if (parsed := number_of(text, option))
        ],
        "methods": method,
        "bootstrap": bootstrap,
        "seed": seed,
        "loss": loss,
        "huber_delta": huber_delta,
        "irreducible_loss": irreducible_loss,
        "interpolation": interpolation,
    }
    table_options: dict[str, Any] = {"columns": columns_of(columns), "strict": strict}
    results = [
        read_run(source, **options)
        if source.is_dir() or not source.exists()
        else read_table_of_runs(source, **table_options, **options)
        for source in sources
    ]
    formats = formats_of(figure_formats)
    width: Literal[1, 2] | None = None
    if figure_columns is not None:
        width = 1 if figure_columns == "1" else 2
    if len(results) > 1:
        figures_to = output if figures else None
        _compare(results, layout, as_json=as_json, to=figures_to, formats=formats, columns=width)
        return
    (result,) = results
    if seal is not None:
        _seal(sources[0], result, seal)
        return
    if question:
        _answer([answer(result, asked) for asked in question], result, layout, as_json=as_json)
        return
    if html is not None:
        write_atomic(html, result.to_html())
        say(f"written: {html}")
    folder = output or (RunDir(sources[0]).report if sources[0].is_dir() else None)
    if as_json:
        print_json(result.to_dict())
        folder = output
    else:
        show(result, layout)
    if figures and folder is not None:
        write(result, folder, formats=formats, columns=width)
    refuse_without_law(result)


def show(result: Result, layout: Format) -> None:
    """Print a result: its verdict, then its tables."""
    print_verdict(result, layout)
    # On a terminal the long tables would scroll the answer away; the page has them.
    left_out = {"checklist", "observations"} if layout == "terminal" else set()
    print_tables(list(result.tables(without=left_out).values()), layout)


def write(
    result: Result,
    folder: Path,
    *,
    formats: Sequence[str] = ("png", "svg"),
    columns: Literal[1, 2] | None = None,
) -> None:
    """Write a result, its page and its figures into a folder, and say what a reader will open."""
    from flops_fit.reports import write_report

    written = write_report(result, folder, formats=formats, columns=columns)
    said = [path for path in written if path.suffix in (".html", f".{formats[0]}")]
    say(f"written: {', '.join(str(path) for path in said)}")


def refuse_without_law(result: Result) -> None:
    """Leave with the exit code of `not enough observations` where there is no law to show."""
    if result.verdict == "refuse":
        first = result.reasons[0]
        raise FitError(f"no law can be fitted: {first.message}", code=first.code)


def formats_of(text: str) -> list[str]:
    """`png,pdf` as a list."""
    formats = [name.strip().lower() for name in text.split(",") if name.strip()]
    if not formats or set(formats) - {"png", "svg", "pdf"}:
        raise ManifestError(
            f"`--figure-formats`: expected some of png, svg and pdf, got `{text}`",
            hint="write --figure-formats png,pdf",
        )
    return formats


def columns_of(text: str | None) -> dict[str, str]:
    """`params=N,loss=val_loss` as a mapping."""
    pairs = [pair.partition("=") for pair in (text or "").split(",") if pair.strip()]
    for name, equals, column in pairs:
        if not equals or not name.strip() or not column.strip():
            raise ManifestError(
                f"`--columns`: expected NAME=COLUMN pairs with commas between, got `{text}`",
                hint="write --columns params=N,tokens=D,loss=val_loss",
            )
    return {name.strip(): column.strip() for name, _, column in pairs}


def _seal(source: Path, result: Result, budget: str) -> None:
    """Seal the prediction for a budget, and print its digest."""
    from flops_fit.sealing import seal_prediction

    flops = number_of(budget, "--seal")
    assert flops is not None
    print_json(seal_prediction(source, result, flops).to_dict())


def _score(source: Path, score: str) -> None:
    """Score a sealed prediction."""
    from flops_fit.sealing import score_prediction

    budget, _, loss = score.partition("=")
    flops, real = number_of(budget, "--score"), number_of(loss, "--score")
    assert flops is not None
    assert real is not None
    print_json(score_prediction(source, flops, real))


def _compare(
    results: Sequence[Result],
    layout: Format,
    *,
    as_json: bool,
    to: Path | None,
    formats: Sequence[str],
    columns: Literal[1, 2] | None,
) -> None:
    """Print two results side by side; draw them over each other into the folder `to`."""
    if len(results) > 2:
        raise ManifestError("`report` takes one source, or two to compare")
    comparison = results[0].compare(results[1])
    if as_json:
        print_json(comparison.to_dict())
    else:
        print_tables(list(comparison.tables().values()), layout)
    if to is not None:
        from flops_fit.reporting.style import save_figure

        to.mkdir(parents=True, exist_ok=True)
        drawn = comparison.plot(columns).items()
        paths = [path for name, figure in drawn for path in save_figure(figure, to / name, formats)]
        say(f"written: {', '.join(map(str, paths))}")


def _answer(
    answers: Sequence[tuple[str, Any]], result: Result, layout: Format, *, as_json: bool
) -> None:
    """Print what the law answers, after the verdict on the law."""
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
