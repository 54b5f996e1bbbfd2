"""`flops-fit transfer`: test whether the learning-rate rule holds from size to size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from flops_fit.cli.options import (
    Format,
    FormatOption,
    JsonOption,
    RatesOption,
    ReplicatesOption,
    StepOption,
    StudyArgument,
    StudyDirOption,
    StudySizesOption,
    StudyTokensOption,
    WorkersOption,
)
from flops_fit.cli.output import (
    leave_interrupted,
    number_of,
    numbers_of,
    print_json,
    print_tables,
    say,
)
from flops_fit.errors import FitError

if TYPE_CHECKING:
    from flops_fit.reporting.rate_study import TransferResult
    from flops_fit.sweep.rundir import RunDir


def transfer(
    source: StudyArgument,
    sizes: StudySizesOption = None,
    rates: RatesOption = None,
    step: StepOption = None,
    replicates: ReplicatesOption = None,
    tokens: StudyTokensOption = None,
    run_dir: StudyDirOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
    layout: FormatOption = "terminal",
) -> None:
    """Test the learning-rate rule: train a few sizes at a few rates and find each best rate."""
    from flops_fit.cli.progress import watching
    from flops_fit.reporting.rate_study import read_transfer
    from flops_fit.sweep.opening import RateGrid, open_study
    from flops_fit.sweep.running import Execution, carry_out, error_of

    values = numbers_of(sizes, "--sizes")
    grid = RateGrid(
        sizes=None if values is None else tuple(map(_whole, values)),
        rates=rates,
        step=step,
        replicates=replicates,
        tokens=number_of(tokens, "--tokens"),
    )
    with open_study(source, run_dir, grid=grid) as study:
        for note in study.notes:
            say(note.message)
        with watching(study.run) as watcher:
            summary = carry_out(study, Execution(workers), watcher=watcher)
    if summary.is_interrupted:
        leave_interrupted(study, summary)
    error = error_of(study, summary)
    if error is not None:
        raise error
    result = read_transfer(study.run.path)
    _show(result, study.run, layout, as_json=as_json)
    if result.transfer.slope is None:
        raise FitError(
            "the study has fewer than two sizes with a best rate between two others",
            code="unbracketed",
            hint="widen the grid: --rates 7 (finished trials are reused), or change "
            "`training.learning_rate`",
        )


def _show(result: TransferResult, run: RunDir, layout: Format, *, as_json: bool) -> None:
    """Write the files of the study, and print its verdict and tables, or JSON."""
    paths = result.write(run.report)
    if as_json:
        print_json(result.to_dict())
        return
    mark = {"latex": "% ", "csv": "# ", "markdown": "> "}.get(layout, "")
    for line in _sentences(result):
        typer.echo(f"{mark}{line}")
    typer.echo()
    print_tables(list(result.tables().values()), layout)
    say(f"written: {', '.join(str(path) for path in paths)}")


_VERDICTS = {
    "carried": "The rule `{}` carries the best learning rate from size to size.",
    "not carried": "The rule `{}` does not carry the best learning rate from size to size.",
    "undetermined": "The trials do not show whether the rule `{}` carries the best learning rate.",
}


def _sentences(result: TransferResult) -> list[str]:
    """Print the verdict, what remains, and the reasons, each as a sentence."""
    told = result.transfer
    lines = [_VERDICTS[told.verdict].format(result.rule)]
    if told.slope is not None:
        low, high = told.slope.interval
        lines.append(
            f"Relative to the rule, the best rate changes as size^{told.slope.value:.2f} "
            f"(95 % interval {low:.2f} to {high:.2f}); 0 would be a perfect rule."
        )
    return [*lines, *(f"- {reason.message} ({reason.code})" for reason in told.reasons)]


def _whole(number: float) -> int | float:
    """Return a whole number as an integer, as size parameters are."""
    return int(number) if number.is_integer() else number
