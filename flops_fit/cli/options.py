"""The options of the commands, each declared once: what it is called, may be, and does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Format = Literal["terminal", "markdown", "latex", "csv"]

ManifestArgument = Annotated[
    Path, typer.Argument(help="experiment.toml, or a run directory", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="print data instead of tables")]
FormatOption = Annotated[Format, typer.Option("--format", help="how tables are written")]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="trials side by side", show_default="as many as fit")
]
TotalOption = Annotated[
    str | None, typer.Option(help="FLOPs that the whole sweep may cost: the design is sized to it")
]
PriceOption = Annotated[float | None, typer.Option(min=0, help="of one device")]

# Of `run`.
RunDirOption = Annotated[
    Path | None, typer.Option(help="where the run keeps its state", show_default="runs/NAME")
]
SimulateOption = Annotated[
    bool, typer.Option(help="rehearse: draw losses from a planted law, train nothing")
]
AdaptiveOption = Annotated[
    bool,
    typer.Option(
        help="choose the runs one batch after another, until the goal or a cap is reached"
    ),
]
NewTotalOption = Annotated[
    str | None,
    typer.Option(
        help="with --adaptive: FLOPs that the sweep may cost in all", show_default="the manifest's"
    ),
]
MaxFlopsOption = Annotated[
    str | None, typer.Option(help="stop before the trial that would pass this many FLOPs")
]
MaxHoursOption = Annotated[
    float | None, typer.Option(min=0, help="the same for device hours, all trials added up")
]
MaxCostOption = Annotated[
    float | None, typer.Option(min=0, help="the same for money, at the price per device hour")
]

# Of `transfer`.
StudyArgument = Annotated[
    Path, typer.Argument(help="experiment.toml, or a study's run directory", show_default=False)
]
StudySizesOption = Annotated[
    str | None, typer.Option(help="two or more, such as 16,64,256", show_default="of the plan")
]
RatesOption = Annotated[
    int | None, typer.Option(min=3, help="rates at each size", show_default="5")
]
StepOption = Annotated[
    float | None, typer.Option(help="factor from one rate to the next", show_default="2")
]
ReplicatesOption = Annotated[int | None, typer.Option(min=1, help="seeds a rate", show_default="1")]
StudyTokensOption = Annotated[
    str | None, typer.Option(help="units of data a trial", show_default="fewest of the plan")
]
StudyDirOption = Annotated[
    Path | None,
    typer.Option(help="where the study keeps its state", show_default="runs/NAME-transfer"),
]

# Of `report`.
SourceArgument = Annotated[
    list[Path],
    typer.Argument(help="a run directory or a table of runs; two to compare", show_default=False),
]
BudgetOption = Annotated[
    list[str] | None, typer.Option("--budget", help="FLOPs to answer for; may be repeated")
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
StrictOption = Annotated[bool, typer.Option(help="refuse a table with bad rows")]
SeedOption = Annotated[int, typer.Option(help="of the resamples")]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        help="write page, figures and result into this folder",
        show_default="report/ of a run directory",
    ),
]
FiguresOption = Annotated[bool, typer.Option(help="write page and figures at all")]


def started_once(context: typer.Context) -> None:
    """Let a launcher of several processes start workers alone."""
    from flops_fit.sweep.ranks import refuse_launcher

    if context.invoked_subcommand != "worker":
        refuse_launcher(f"`flops-fit {context.invoked_subcommand}`")
