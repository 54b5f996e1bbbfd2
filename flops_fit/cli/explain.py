"""`flops-fit explain`: print the meaning of a code and the next step."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated

import typer

from flops_fit.errors import ManifestError


def explain(
    code: Annotated[
        str,
        typer.Argument(
            help="Code of a warning or a reason; without one, all are listed.", show_default=False
        ),
    ] = "",
) -> None:
    """Explain a code: what it means, its threshold, its source, and what to do."""
    from flops_fit.reporting.codes import explain_code, known_codes

    known = known_codes()
    if not code:
        typer.echo("\n".join(known))
        return
    text = explain_code(code)
    if text is None:
        near = get_close_matches(code, known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else "`flops-fit explain` lists all codes"
        raise ManifestError(f"there is no code `{code}`", hint=hint)
    typer.echo(text.replace("  \n", "\n"))
