"""`flops-fit init`: write a commented manifest to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flops_fit.cli.output import number_of, say
from flops_fit.errors import ManifestError


def init(
    path: Annotated[Path, typer.Argument(help="the file to write")] = Path("experiment.toml"),
    total_flops: Annotated[
        str | None, typer.Option(help="FLOPs that the whole sweep may cost")
    ] = None,
) -> None:
    """Write a commented manifest to start from: a tapered ladder for a total budget."""
    from importlib.resources import files

    total = number_of(total_flops, "--total-flops")

    if path.exists():
        raise ManifestError(f"`{path}` exists already", hint="name another file, or remove it")
    text = files("flops_fit.cli").joinpath("template.toml").read_text(encoding="utf-8")
    if total is not None:
        text = text.replace("total_flops = 3e12", f"total_flops = {total_flops}", 1)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ManifestError(f"`{path}` cannot be written: {error.strerror}") from None
    say(f"wrote {path}; next: flops-fit check {path}")
