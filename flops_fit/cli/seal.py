"""`flops-fit report --seal` and `--score`: a prediction before a run, compared after it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flops_fit.cli.output import number_of, print_json, say
from flops_fit.units import format_count, format_flops, plural

if TYPE_CHECKING:
    from flops_fit.reporting.result import Result


def print_seal(source: Path, result: Result, budget: str, *, as_json: bool) -> None:
    """Record the prediction for a budget in the ledger, and print it."""
    from flops_fit.reporting.seal import seal_prediction, seals_of

    flops = number_of(budget, "--seal")
    assert flops is not None
    before = seals_of(source, flops)
    made = result.seal(flops)
    seal_prediction(source, made)
    if before:
        first = before[0]
        say(
            f"warning: a prediction for {flops:g} FLOPs was sealed already, at {first.at} (SHA-256 "
            f"{first.sha256[:12]}...): `--score` scores that one, and names this one as "
            "a later one"
        )
    data = made.to_dict()
    if as_json:
        print_json(data)
        return
    told, unit = data["prediction"], plural(result.unit)
    typer.echo(
        f"Sealed for {format_flops(flops)} FLOPs: {format_count(told['params'])} params trained on "
        f"{format_count(told['tokens'])} {unit}; expected loss {_loss(told)}.\n"
        f"SHA-256 of the prediction: {data['sha256']}\n"
        f"After the run: flops-fit report {source} --score {flops:g}=LOSS"
    )


def print_score(source: Path, given: str, *, as_json: bool) -> None:
    """Compare the sealed prediction for a budget with the real loss, and print the comparison."""
    from flops_fit.reporting.seal import score_prediction

    budget, _, loss = given.partition("=")
    flops, real = number_of(budget, "--score"), number_of(loss, "--score")
    assert flops is not None
    assert real is not None
    found = score_prediction(source, flops, real)
    if as_json:
        print_json(found)
        return
    percent = abs(found["error_percent"])
    side = "too high" if found["error"] > 0 else "too low"
    where = {
        True: "; the real loss is inside its 95 % interval",
        False: "; the real loss is outside its 95 % interval",
        None: "",
    }[found["is_inside"]]
    typer.echo(
        f"For {format_flops(flops)} FLOPs a loss of {found['predicted']:.4g} was predicted at "
        f"{found['sealed_at']}; the real loss is {real:g}.\n"
        f"The prediction was {percent:.2g} % {side}{where}."
    )
    if found["later_seals"]:
        typer.echo(f"{len(found['later_seals'])} later predictions are not scored.")


def _loss(prediction: dict[str, Any]) -> str:
    """Return a predicted loss with its interval."""
    interval = prediction.get("loss_interval")
    said = f"{prediction['loss']:.4g}"
    return said if not interval else f"{said} (95 % interval {interval[0]:.4g}-{interval[1]:.4g})"
