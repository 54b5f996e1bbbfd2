"""`flops-fit init`: write a commented manifest to start from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from flops_fit.cli.output import number_of, say
from flops_fit.errors import ManifestError

_TOP_SHARE = 1 / 4.8  # of a ladder's total that its top budget costs
_LEVELS, _SPACING = 5, 3.0  # as in the template
_TOKENS_PER_PARAM = 20.0
_REACH = 8.0  # sizes from the smallest expected optimum / 8 to the largest * 8, in params
_DEEPER_FROM = 192  # width from which depth grows with it


def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("experiment.toml"),
    total_flops: Annotated[
        str | None,
        typer.Option(
            metavar="FLOPS",
            help="FLOPs that the whole sweep may cost; sizes and target follow it.",
            show_default="3e12",
        ),
    ] = None,
    plugin: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Write a folder NAME with a plugin package instead: model, data, loss, tests.",
        ),
    ] = None,
) -> None:
    """Write a commented manifest to start from: a tapered ladder for a total budget."""
    if plugin is not None:
        _write_package(plugin)
        return
    total = number_of(total_flops, "--total-flops")
    if path.exists():
        raise ManifestError(f"`{path}` exists already", hint="name another file, or remove it")
    try:
        path.write_text(template(total), encoding="utf-8")
    except OSError as error:
        raise ManifestError(f"`{path}` cannot be written: {error.strerror}") from None
    say(f"wrote {path}; next: flops-fit check {path}")


_PACKAGE = {
    "pyproject.toml": "pyproject.toml",
    "plugin.py": "{name}/plugin.py",
    "test_plugin.py": "tests/test_plugin.py",
    "experiment.toml": "experiment.toml",
}


def _write_package(name: str) -> None:
    """Write a small package whose model, data and loss flops-fit finds by their names."""
    from importlib.resources import files

    if not name.isidentifier() or not name.isascii() or not name.islower():
        raise ManifestError(
            f"`--plugin {name}` cannot be the name of a Python package",
            hint="use lower-case letters, digits and underscores: `--plugin my_plugin`",
        )
    folder = Path(name)
    if folder.exists():
        raise ManifestError(f"`{folder}` exists already", hint="name another folder, or remove it")
    try:
        for source, place in _PACKAGE.items():
            text = (
                files("flops_fit.cli").joinpath(f"plugin_package/{source}.txt").read_text("utf-8")
            )
            path = folder / place.format(name=name)
            path.parent.mkdir(parents=True, exist_ok=True)
            text = text.replace("my_plugin", name).replace("my-plugin", name.replace("_", "-"))
            path.write_text(text, encoding="utf-8")
        (folder / name / "__init__.py").write_text(f'"""Plugins of {name} for flops-fit."""\n')
    except OSError as error:
        raise ManifestError(f"`{folder}` cannot be written: {error.strerror}") from None
    say(
        f"wrote {folder}/; next: cd {folder} && pip install -e . && flops-fit check experiment.toml"
    )


def template(total_flops: float | None = None) -> str:
    """Return the commented manifest, with sizes and target that fit a total in FLOPs."""
    from importlib.resources import files

    text = files("flops_fit.cli").joinpath("template.toml").read_text(encoding="utf-8")
    if total_flops is None:
        return text
    smallest, largest, multiple = _sizes_for(total_flops)
    sizes = f"{{ min = {smallest}, max = {largest}, multiple_of = {multiple} }}"
    changed = {
        "sizes = { min = 4, max = 128, multiple_of = 4 }": f"sizes = {sizes}",
        "total_flops = 3e12": f"total_flops = {total_flops:g}".replace("e+", "e"),
        "budgets = [1e13]": f"budgets = [1e{math.floor(math.log10(total_flops)) + 1}]",
    }
    if largest >= _DEEPER_FROM:
        changed |= {
            "kwargs = { num_layers = 2 }         # its other arguments": (
                "# kwargs = {}                       # its other arguments"
            ),
            '# derive = { num_heads = "size // 64" }': (
                'derive = { num_layers = "max(2, size // 64)" }'
            ),
        }
    for old, new in changed.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def _sizes_for(total_flops: float) -> tuple[int, int, int]:
    """Return the template's smallest and largest width for a total, and their common multiple."""
    top = total_flops * _TOP_SHARE
    low = top / _SPACING ** (_LEVELS - 1)
    optimum = [math.sqrt(budget / 6 / _TOKENS_PER_PARAM) for budget in (low, top)]
    smallest, largest = _width(optimum[0] / _REACH), _width(optimum[1] * _REACH)
    multiple = max(4, 2 ** int(math.log2(max(4.0, smallest / 4))))
    smallest = max(multiple, multiple * int(smallest / multiple))
    return smallest, multiple * math.ceil(largest / multiple), multiple


def _width(params: float) -> float:
    """Return the width at which the template's GPT has this many params: 12 x layers x width^2."""
    width = 4.0
    while 12 * max(2, width // 64) * width**2 + 256 * width < params:
        width *= 1.02
    return width
