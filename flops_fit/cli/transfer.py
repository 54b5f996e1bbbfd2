"""`flops-fit transfer`: does the recipe's rule carry the best learning rate from size to size?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from flops_fit.cli.output import leave_interrupted, number_of, print_json, print_tables, say
from flops_fit.errors import FitError, ManifestError

if TYPE_CHECKING:
    from flops_fit.experiment.prepared import Prepared
    from flops_fit.manifest.manifest import Manifest
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
    """Train a few sizes at a few learning rates; find each optimum, and whether the rule holds."""
    from flops_fit.cli.progress import watching
    from flops_fit.reporting.rate_study import read_transfer
    from flops_fit.sweep.running import carry_out, failure_of

    given = {
        "sizes": _numbers(sizes, "--sizes"),
        "rates": rates,
        "step": step,
        "replicates": replicates,
        "tokens": number_of(tokens, "--tokens"),
    }
    asked = {name: value for name, value in given.items() if value is not None}
    prepared, run = _start(source, run_dir, asked)
    with watching(run) as watcher:
        summary = carry_out(prepared, run, workers=workers, watcher=watcher)
    if summary.is_interrupted:
        leave_interrupted(run, summary, command="transfer")
    if summary.failed:
        raise failure_of(run, summary, command="transfer")
    result = read_transfer(run.path)
    _show(result, run, layout, as_json=as_json)
    if result.transfer.slope is None:
        raise FitError(
            "the study has fewer than two sizes with a best rate between two others",
            code="unbracketed",
            hint="widen the grid: --rates 7 (what is trained already counts), or start from "
            "another `training.learning_rate`",
        )


def _start(source: Path, run_dir: Path | None, asked: dict[str, Any]) -> tuple[Prepared, RunDir]:
    """The study's run directory, laid down or taken up with the grid that is asked for."""
    from flops_fit.experiment.prepared import prepare
    from flops_fit.manifest.manifest import read_manifest
    from flops_fit.planning.from_manifest import make_transfer_plan
    from flops_fit.sweep.provenance import check_same, resume, start_run
    from flops_fit.sweep.rundir import RunDir

    if source.is_dir():
        prepared, run = resume(source, study="transfer"), RunDir(source)
        if not asked:
            return prepared, run
    else:
        read = read_manifest(source)
        run = RunDir(run_dir or Path("runs") / f"{read.name}-transfer")
        if run.is_run():
            check_same(run, read, simulated=False, study="transfer")
            known = resume(run.path, study="transfer")
            prepared = _with(known, read, text=source.read_text(encoding="utf-8"))
        else:
            prepared = prepare(source)
    prepared = _with(prepared, _changed(prepared.manifest, asked))
    plan = make_transfer_plan(prepared)
    for note in plan.warnings:
        say(note.message)
    return prepared, start_run(prepared, plan, run.path, study="transfer")


def _with(prepared: Prepared, manifest: Manifest, text: str | None = None) -> Prepared:
    """The same experiment under a manifest with another [transfer]."""
    from dataclasses import replace

    return replace(prepared, manifest=manifest, text=prepared.text if text is None else text)


def _changed(manifest: Manifest, asked: dict[str, Any]) -> Manifest:
    """The manifest with what the command line says of the study."""
    from flops_fit.manifest.manifest import manifest_from

    data = manifest.model_dump(mode="json", exclude_none=True)
    data["transfer"] = {**data.get("transfer", {}), **asked}
    return manifest_from(data, where="the command line")


def _show(result: TransferResult, run: RunDir, layout: Format, *, as_json: bool) -> None:
    """Write the study's files, and print verdict and tables, or data."""
    paths = result.write(run.report)
    if as_json:
        print_json(result.to_dict())
        return
    mark = {"latex": "% ", "csv": "# ", "markdown": "> "}.get(layout, "")
    told = result.transfer
    typer.echo(f"{mark}rule `{result.rule}`: {told.verdict}")
    for reason in told.reasons:
        typer.echo(f"{mark}  {reason.code}: {reason.message}")
    typer.echo()
    print_tables(list(result.tables().values()), layout)
    say(f"written: {', '.join(str(path) for path in paths)}")


def _numbers(text: str | None, option: str) -> list[float] | None:
    """Numbers with commas between."""
    if text is None:
        return None
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise ManifestError(
            f"`{option}`: expected numbers with commas between, got `{text}`",
            hint=f"write {option} 16,64",
        ) from None
    return [int(number) if number.is_integer() else number for number in found]
