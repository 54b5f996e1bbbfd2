"""`flops-fit report`: from runs to a verdict, tables, figures, a page, and answers to questions."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Literal

import typer

from flops_fit.cli.options import (
    BootstrapOption,
    BudgetOption,
    ColumnsOption,
    DeltaOption,
    ExplainOption,
    FigureColumnsOption,
    FigureDataOption,
    FigureFormatsOption,
    FiguresOption,
    FlopsPerTokenOption,
    Format,
    FormatOption,
    FullOption,
    GroupOption,
    HtmlOption,
    InterpolationOption,
    IrreducibleOption,
    JsonOption,
    LossColumnOption,
    LossOption,
    LossUnitOption,
    MethodOption,
    NoGuessOption,
    OutputOption,
    QuestionOption,
    ScaleOption,
    ScoreOption,
    SealOption,
    SeedOption,
    SourceArgument,
    StrictOption,
    TableOption,
)
from flops_fit.cli.output import (
    number_of,
    print_json,
    print_tables,
    print_verdict,
    say,
    terminal_width,
)
from flops_fit.cli.questions import print_answers, print_sentences
from flops_fit.cli.seal import print_score, print_seal
from flops_fit.cli.tables import (
    groups_of,
    options_of,
    print_explanation,
    print_groups,
    with_one_convention,
)
from flops_fit.errors import FitError, FlopsFitError, ManifestError, RunDirError, StorageError

if TYPE_CHECKING:
    from flops_fit.reporting.result import Result


@dataclass(frozen=True)
class Drawing:
    """Options of the figures: formats, columns of a paper to fill, and whether CSVs are written."""

    formats: Sequence[str] = ("png", "svg")
    columns: Literal[1, 2] | None = None
    data: bool = False

    @classmethod
    def of(cls, formats: str, columns: Literal["1", "2"] | None, *, data: bool) -> Drawing:
        """Return the options that the command line gives.

        Raises:
            ManifestError: a format is not known.
        """
        if columns is None:
            return cls(formats_of(formats), None, data)
        return cls(formats_of(formats), 1 if columns == "1" else 2, data)


def report(
    sources: SourceArgument,
    budget: BudgetOption = None,
    method: MethodOption = None,
    columns: ColumnsOption = None,
    no_guess: NoGuessOption = False,
    scale: ScaleOption = None,
    flops_per_token: FlopsPerTokenOption = None,
    group: GroupOption = None,
    loss_column: LossColumnOption = None,
    loss_unit: LossUnitOption = None,
    explain: ExplainOption = False,
    strict: StrictOption = False,
    loss: LossOption = "adaptive",
    huber_delta: DeltaOption = 1e-3,
    irreducible_loss: IrreducibleOption = None,
    interpolation: InterpolationOption = "parabola",
    bootstrap: BootstrapOption = None,
    seed: SeedOption = 0,
    question: QuestionOption = None,
    seal: SealOption = None,
    score: ScoreOption = None,
    full: FullOption = False,
    table: TableOption = None,
    as_json: JsonOption = False,
    layout: FormatOption = "terminal",
    html: HtmlOption = None,
    output: OutputOption = None,
    figures: FiguresOption = True,
    figure_formats: FigureFormatsOption = "png,svg",
    figure_columns: FigureColumnsOption = None,
    figure_data: FigureDataOption = False,
) -> None:
    """Fit the finished trials; print the answer, how far to trust it, and what to do next.

    Without --full or --table the report is one screen. Examples: `flops-fit report runs/NAME`,
    `flops-fit report runs.csv --budget 1e21 --table methods --format csv`.
    """
    _refuse_without_ledger(sources, seal=seal, score=score)
    if score is not None:
        print_score(sources[0], score, as_json=as_json)
        return
    from flops_fit.fitting.details import Loss
    from flops_fit.fitting.options import FitOptions
    from flops_fit.reporting.reading import read_source

    tables = options_of(
        columns=columns, strict=strict, no_guess=no_guess, scale=scale,
        flops_per_token=flops_per_token, group=group, loss_column=loss_column,
        loss_unit=loss_unit, num_sources=len(sources),
    )  # fmt: skip
    if explain:
        print_explanation(sources[0], tables[0], layout, as_json=as_json)
        return
    read = partial(
        read_source,
        budgets=_budgets(budget, seal),
        methods=method,
        bootstrap=bootstrap,
        shows_gains=len(sources) == 1 and seal is None and not question,
        options=FitOptions(
            loss=Loss(loss),
            huber_delta=huber_delta,
            irreducible_loss=irreducible_loss,
            interpolation=interpolation,
            seed=seed,
        ),
    )
    drawing = Drawing.of(figure_formats, figure_columns, data=figure_data)
    _refuse_unwritable(html, output if figures else None)
    groups = groups_of(sources, tables[0], loss_column, read)
    if groups is not None:
        print_groups(groups, layout, as_json=as_json)
        _write_groups(groups, output if figures else None, drawing)
        if all(result.verdict == "refuse" for result in groups.values()):
            refuse_without_law(next(iter(groups.values())))
        return
    results = [read(source, table=table) for source, table in zip(sources, tables, strict=True)]
    if len(results) > 1:
        results = with_one_convention(results, sources, tables, read)
        _compare(results, layout, as_json=as_json, to=output if figures else None, drawing=drawing)
        return
    (result,) = results
    if seal is not None:
        print_seal(sources[0], result, seal, as_json=as_json)
        return
    if question:
        print_answers(question, result, layout, as_json=as_json)
        return
    _write_page(result, html)
    shown = Printed(sources[0], layout, full=full, tables=tuple(table or ()))
    if as_json:
        print_json(result.to_dict())
    else:
        page = _page_of(sources[0], output) if figures else None
        show(result, replace(shown, page=html or page))
    if table:
        return
    if figures and (output is not None or not as_json):
        _write_figures(result, sources[0], output, drawing)
    refuse_without_law(result)


def _budgets(asked: Sequence[str] | None, sealed: str | None) -> list[float]:
    """Return the budgets to predict for; a seal's budget too, since scoring needs its interval."""
    given = [*((text, "--budget") for text in asked or []), (sealed, "--seal")]
    return [flops for text, option in given if (flops := number_of(text, option))]


def _refuse_without_ledger(sources: Sequence[Path], *, seal: str | None, score: str | None) -> None:
    """Refuse to seal or score without a ledger: for a table, or for two sources."""
    if seal is None and score is None:
        return
    option = "--score" if seal is None else "--seal"
    if len(sources) > 1:
        raise ManifestError(f"`{option}` takes one run directory, got {len(sources)} sources")
    if sources[0].is_file():
        raise ManifestError(
            f"`{option}` needs the ledger of a run directory, but `{sources[0]}` is a table",
            hint="save the output of `report TABLE --budget FLOPS --json` beside the table instead",
        )


def _refuse_unwritable(page: Path | None, folder: Path | None) -> None:
    """Refuse a page or a folder that cannot be written, before the fit."""
    if page is not None and page.is_dir():
        raise ManifestError(
            f"`--html`: expected a file to write the page to, got the folder `{page}`",
            hint=f"write --html {page / 'report.html'}",
        )
    folders = (("--html", page.parent if page else None), ("--output", folder))
    for option, wanted in folders:
        if wanted is None:
            continue
        above = next(each for each in (wanted, *wanted.parents) if each.exists())
        if not above.is_dir():
            raise ManifestError(
                f"`{option}`: expected a folder, got the file `{above}`",
                hint="name a folder; it is created if it does not exist",
            )
        try:  # permissions do not show a read-only disk, and do not bind root
            TemporaryFile(dir=above).close()
        except OSError as error:
            raise ManifestError(
                f"`{option}`: the folder `{above}` is not writable: {error.strerror}",
                hint="name another folder",
            ) from None


@dataclass(frozen=True)
class Printed:
    """Choice of what to print of a result, and in which layout.

    Attributes:
        source: the run directory or table.
        layout: format of the tables.
        full: whether every table is printed.
        tables: names of the tables to print alone.
        page: path of the page; None if no page is written.
    """

    source: Path
    layout: Format = "terminal"
    full: bool = False
    tables: Sequence[str] = ()
    page: Path | None = None


def show(result: Result, shown: Printed) -> None:
    """Print a result: one screen, or the requested tables."""
    if shown.layout == "csv" and (shown.full or len(shown.tables) > 1):
        raise ManifestError(
            "`--format csv` writes one table",
            hint=f"name it: --table NAME, one of {', '.join(result.table_names())}",
        )
    if shown.tables:
        print_tables([result.table(name) for name in shown.tables], shown.layout)
    elif shown.full:
        print_verdict(result, shown.layout, with_answers=True)
        print_tables(list(result.tables().values()), shown.layout)
    elif shown.layout == "terminal":
        _print_screen(result, shown)
    else:
        print_verdict(result, shown.layout, with_answers=True)
        print_tables([result.table("answer")], shown.layout)


def _print_screen(result: Result, shown: Printed) -> None:
    """Print the default report, its verdict in colour."""
    from flops_fit.reporting.lines import wrapped
    from flops_fit.reporting.screen import LINES, Screen
    from flops_fit.reporting.tables.cells import printable

    read = [printable(note.message) for note in result.notes if note.code == "table_read"]
    width = min(terminal_width(100), 120)
    said = [line for text in read for line in wrapped(text, width, indent=2)]
    for line in said:
        typer.echo(line)
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    first, *rest = result.to_text(
        Screen(
            shlex.quote(str(shown.source)),
            terminal_width(100),
            None if shown.page is None else str(shown.page),
            is_unicode=encoding == "utf8",
            lines=LINES - 1 - len(said),
        )
    )
    word = result.verdict.upper()
    has_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    colour = {"trust": "green", "provisional": "yellow", "refuse": "red"}[result.verdict]
    last = typer.style(word, fg=colour, bold=True) if has_colour else word
    typer.echo(f"{first.removesuffix(word)}{last}")
    for line in rest:
        typer.echo(line)


def _page_of(source: Path, output: Path | None) -> Path | None:
    """Return the path of a source's page; None for a table without `--output`."""
    if output is not None:
        return output / "report.html"
    from flops_fit.sweep.rundir import RunDir

    return RunDir(source).report / "report.html" if source.is_dir() else None


def write(result: Result, folder: Path, drawing: Drawing | None = None) -> None:
    """Write a result, its page and its figures into a folder, and say what a reader will open."""
    from flops_fit.reporting.reading import write_report

    drawing = drawing or Drawing()
    written = write_report(
        result, folder, formats=drawing.formats, columns=drawing.columns, data=drawing.data
    )
    said = [path for path in written if path.suffix in (".html", f".{drawing.formats[0]}")]
    say(f"written: {', '.join(str(path) for path in said)}")


def _write_groups(groups: Mapping[str, Result], folder: Path | None, drawing: Drawing) -> None:
    """Write the report of each group into a folder of its name below `folder`."""
    if folder is None:
        return
    used: set[str] = set()
    for label, result in groups.items():
        name = stem = re.sub(r"[^A-Za-z0-9._-]+", "_", label).strip("._-")[:80] or "group"
        number = 1
        while name.lower() in used:
            number += 1
            name = f"{stem}-{number}"
        used.add(name.lower())
        write(result, folder / name, drawing)


def refuse_without_law(result: Result) -> None:
    """Raise the error of a result without a law; its exit code is 6."""
    if result.verdict == "refuse":
        first = result.reasons[0]
        failure = result.failures.get("surface") or next(iter(result.failures.values()), None)
        if first.code != "no_usable_law":
            raise FitError(f"no law can be trusted: {first.message}", code=first.code)
        told = f"no law can be fitted: {first.message}"
        if failure is None:
            raise FitError(told, code=first.code)
        raise FitError(f"{told}: {failure.message}", code=first.code, hint=failure.hint)


def formats_of(text: str) -> list[str]:
    """Return `png,pdf` as a list."""
    formats = [name.strip().lower() for name in text.split(",") if name.strip()]
    if not formats or set(formats) - {"png", "svg", "pdf"}:
        raise ManifestError(
            f"`--figure-formats`: expected some of png, svg and pdf, got `{text}`",
            hint="write --figure-formats png,pdf",
        )
    return formats


def _write_page(result: Result, path: Path | None) -> None:
    """Write the page alone, if `--html` asks for it."""
    if path is not None:
        from flops_fit.manifest.files import write_atomic

        write_atomic(path, result.to_html())
        say(f"written: {path}")


def _write_figures(result: Result, source: Path, folder: Path | None, drawing: Drawing) -> None:
    """Write the report into the folder, else into the run directory; a table has no directory."""
    if folder is not None:
        write(result, folder, drawing)
        return
    if not source.is_dir():
        return
    from flops_fit.manifest.files import refuse_link
    from flops_fit.sweep.rundir import RunDir

    refused: FlopsFitError | None = None
    try:
        refuse_link(RunDir(source).report)
        write(result, RunDir(source).report, drawing)
    except RunDirError as error:
        refused = error
    except OSError as error:
        refused = StorageError.of(error)
        if refused is None:
            raise
    if refused is not None:
        say(
            f"warning: the report was not written: {refused.message}; "
            "name another folder with --output"
        )


def _compare(
    results: Sequence[Result],
    layout: Format,
    *,
    as_json: bool,
    to: Path | None,
    drawing: Drawing,
) -> None:
    """Print two results side by side; draw them over each other into the folder `to`."""
    if len(results) > 2:
        raise ManifestError("`report` takes one source, or two to compare")
    comparison = results[0].compare(results[1])
    if as_json:
        print_json(comparison.to_dict())
    else:
        print_tables(list(comparison.tables().values()), layout)
        print_sentences([comparison.sentence()], layout)
    if to is not None:
        from flops_fit.reporting.figures.style import save_figure

        to.mkdir(parents=True, exist_ok=True)
        paths = [
            path
            for name, figure in comparison.plot(drawing.columns).items()
            for path in save_figure(figure, to / name, drawing.formats)
        ]
        say(f"written: {', '.join(map(str, paths))}")
