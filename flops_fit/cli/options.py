"""The options of all commands: each is declared once, with its name, its values and its help.

Help texts are short sentences; `--help` groups options into the panels named here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Format = Literal["terminal", "markdown", "latex", "csv"]

OUTPUT = "Output"
SWEEP = "Sweep"
LIMITS = "Limits"
TABLES = "Tables of runs"
FITTING = "Fitting"
PREDICTION = "Predictions and questions"
FIGURES = "Page and figures"
GRID = "Grid of learning rates"

ManifestArgument = Annotated[
    Path,
    typer.Argument(help="Manifest (experiment.toml) or run directory.", show_default=False),
]
RunDirArgument = Annotated[Path, typer.Argument(help="Run directory.", show_default=False)]
TrialArgument = Annotated[
    str, typer.Argument(help="Trial id, or its first digits.", show_default=False)
]
TrialsArgument = Annotated[
    list[str],
    typer.Argument(help="Trial ids, or their first digits.", show_default=False),
]

JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print JSON instead of tables.", rich_help_panel=OUTPUT),
]
FormatOption = Annotated[
    Format, typer.Option("--format", help="Layout of tables.", rich_help_panel=OUTPUT)
]

# Of `plan`, `estimate` and `run`.
TotalOption = Annotated[
    str | None,
    typer.Option(
        metavar="FLOPS", help="FLOPs of the whole sweep, in place of the manifest's design size."
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Trials to run side by side.", show_default="as many as fit",
        rich_help_panel=SWEEP,
    ),
]  # fmt: skip
ExecutorOption = Annotated[
    str | None,
    typer.Option(
        "--executor",
        help="Where trials run this time: local, slurm, pool or a plugin.",
        show_default="the manifest's",
        rich_help_panel=SWEEP,
    ),
]
SubmitOption = Annotated[
    bool,
    typer.Option(
        "--submit", help="Leave once the jobs are in Slurm's queue; run again to go on.",
        rich_help_panel=SWEEP,
    ),
]  # fmt: skip
PriceOption = Annotated[
    float | None,
    typer.Option(
        min=0, help="Price per device-hour.", show_default="the manifest's", rich_help_panel=LIMITS
    ),
]
RateOption = Annotated[
    str | None,
    typer.Option(
        metavar="FLOPS_PER_SECOND",
        help="FLOP/s that one trial achieves. Without it, three sizes are timed here.",
    ),
]
PowerOption = Annotated[
    bool,
    typer.Option("--power", help="Simulate how precisely the plan would find N at the target."),
]
NoiseOption = Annotated[
    float,
    typer.Option(min=1e-6, max=1, help="Noise of log loss between seeds, for --power."),
]
PriorOption = Annotated[
    str,
    typer.Option(metavar="LAW", help='True law for --power, such as "E=1.7 alpha=0.34 beta=0.28".'),
]
RefineOption = Annotated[
    bool,
    typer.Option("--refine", help="Show what a run directory lacks, and the next runs to make."),
]
ForDeviceOption = Annotated[
    Literal["cpu", "cuda", "mps"] | None,
    typer.Option(
        "--for",
        help="Plan for another machine with this device; its executor may be missing here.",
        show_default="this machine",
    ),
]

# Of `run`.
RunDirOption = Annotated[
    Path | None,
    typer.Option(
        help="Directory for the sweep's files.", show_default="runs/NAME", rich_help_panel=SWEEP
    ),
]
SimulateOption = Annotated[
    bool,
    typer.Option(
        "--simulate", help="Rehearse: draw losses from a known law, train nothing.",
        rich_help_panel=SWEEP,
    ),
]  # fmt: skip
AcceptDriftOption = Annotated[
    str | None,
    typer.Option(
        help="Go on although code or versions changed; TEXT says why, and is recorded.",
        metavar="TEXT",
        show_default=False,
        rich_help_panel=SWEEP,
    ),
]
AdaptiveOption = Annotated[
    bool,
    typer.Option(
        "--adaptive", help="Choose the runs in batches, until the goal or a cap is reached.",
        rich_help_panel=SWEEP,
    ),
]  # fmt: skip
NewTotalOption = Annotated[
    str | None,
    typer.Option(
        metavar="FLOPS",
        help="With --adaptive: FLOPs that the sweep may cost in all.",
        show_default="the manifest's",
        rich_help_panel=SWEEP,
    ),
]
AddBudgetsOption = Annotated[
    str | None,
    typer.Option(
        metavar="FLOPS,...",
        help="Extend a run directory by these budgets in FLOPs, such as 3e12,1e13.",
        rich_help_panel=SWEEP,
    ),
]
MaxFlopsOption = Annotated[
    str | None,
    typer.Option(
        metavar="FLOPS",
        help="Stop before the trial that would pass this many FLOPs in all.",
        rich_help_panel=LIMITS,
    ),
]
MaxHoursOption = Annotated[
    float | None,
    typer.Option(
        min=0, help="Stop at this many device-hours, summed over trials.", rich_help_panel=LIMITS
    ),
]
MaxCostOption = Annotated[
    float | None,
    typer.Option(
        min=0, help="Stop at this cost, at the price per device-hour.", rich_help_panel=LIMITS
    ),
]

# Of `transfer`.
StudyArgument = Annotated[
    Path,
    typer.Argument(
        help="Manifest (experiment.toml) or the study's run directory.", show_default=False
    ),
]
StudySizesOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE,...",
        help="Two or more sizes, such as 16,64,256.",
        show_default="smallest, middle and largest planned",
        rich_help_panel=GRID,
    ),
]
RatesOption = Annotated[
    int | None,
    typer.Option(
        min=3, help="Learning rates at each size.", show_default="5", rich_help_panel=GRID
    ),
]
StepOption = Annotated[
    float | None,
    typer.Option(
        help="Factor from one learning rate to the next.", show_default="2", rich_help_panel=GRID
    ),
]
ReplicatesOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Seeds at each learning rate.", show_default="1", rich_help_panel=GRID
    ),
]
StudyTokensOption = Annotated[
    str | None,
    typer.Option(
        metavar="TOKENS",
        help="Units of data for each trial.",
        show_default="fewest planned",
        rich_help_panel=GRID,
    ),
]
StudyDirOption = Annotated[
    Path | None,
    typer.Option(
        help="Directory for the study's files.",
        show_default="runs/NAME-transfer",
        rich_help_panel=SWEEP,
    ),
]

# Of `status`, `retry` and `drop`.
WatchOption = Annotated[
    bool, typer.Option("--watch", help="Show the status again every two seconds, until it ends.")
]
WhyOption = Annotated[
    str, typer.Option("--why", metavar="TEXT", help="Reason to leave the trials out of the fits.")
]
TakeBackOption = Annotated[
    bool, typer.Option("--take-back", help="Use dropped trials again, instead of dropping them.")
]

# Of `report`.
SourceArgument = Annotated[
    list[Path],
    typer.Argument(
        help="Run directory or table of runs; give two to compare them.", show_default=False
    ),
]
BudgetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="FLOPS",
        help="Budget in FLOPs to predict for. Repeatable.",
        rich_help_panel=PREDICTION,
    ),
]
MethodOption = Annotated[
    list[str] | None,
    typer.Option(
        "--method", metavar="METHOD", help="Fitting method. Repeatable.",
        show_default="all that the runs allow",
        rich_help_panel=FITTING,
    ),
]  # fmt: skip
ColumnsOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME=COLUMN,...",
        help="Column names of a table: params=N,tokens=D,loss=val_loss; step=none skips one.",
        rich_help_panel=TABLES,
    ),
]
NoGuessOption = Annotated[
    bool,
    typer.Option("--no-guess", help="Read no column by a guessed name.", rich_help_panel=TABLES),
]
ScaleOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME=FACTOR,...",
        help="Units of a table's columns, such as params=1e6,tokens=B,flops=PF-days.",
        rich_help_panel=TABLES,
    ),
]
FlopsPerTokenOption = Annotated[
    str | None,
    typer.Option(
        metavar="8N|COLUMN",
        help="FLOPs per token: a multiple of params, or a column of the table.",
        rich_help_panel=TABLES,
    ),
]
GroupOption = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN|COLUMN=VALUE|none",
        help="Fit one law for each group of rows, for one group, or for all rows together.",
        rich_help_panel=TABLES,
    ),
]
LossColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        "--loss-column",
        metavar="COLUMN|all",
        help="Column of losses. Repeat it for one law each; `all` takes every held-out loss.",
        rich_help_panel=TABLES,
    ),
]
LossUnitOption = Annotated[
    str | None,
    typer.Option(
        metavar="UNIT",
        help="Unit of the losses: nats, bits or perplexity. For two tables: nats,bits.",
        rich_help_panel=TABLES,
    ),
]
ExplainOption = Annotated[
    bool,
    typer.Option(
        "--explain", help="Print how each row of a table is read, and stop.", rich_help_panel=TABLES
    ),
]
LossOption = Annotated[
    Literal["adaptive", "huber", "log-ls", "ls"],
    typer.Option(
        "--loss", help="Loss function that the surface fit minimises.", rich_help_panel=FITTING
    ),
]
DeltaOption = Annotated[
    float,
    typer.Option(
        min=1e-12, help="Threshold of --loss huber, in log loss.", rich_help_panel=FITTING
    ),
]
IrreducibleOption = Annotated[
    float | None,
    typer.Option(
        "--irreducible-loss", help="Fix the irreducible loss E of the surface at this value.",
        min=0, rich_help_panel=FITTING,
    ),
]  # fmt: skip
InterpolationOption = Annotated[
    Literal["parabola", "akima"],
    typer.Option(
        help="Curve through the points of one budget, for its minimum.", rich_help_panel=FITTING
    ),
]
BootstrapOption = Annotated[
    int | None,
    typer.Option(
        min=0, help="Bootstrap resamples for the intervals.", show_default="the manifest's",
        rich_help_panel=FITTING,
    ),
]  # fmt: skip
SeedOption = Annotated[
    int, typer.Option(help="Random seed for the bootstrap.", rich_help_panel=FITTING)
]
StrictOption = Annotated[
    bool,
    typer.Option("--strict", help="Refuse a table with bad rows.", rich_help_panel=FITTING),
]
QuestionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--question",
        metavar="QUESTION",
        help='Question to answer from the law. Repeatable. Such as "loss=2.1", '
        '"params=1e9 budget=1e21", "unique_tokens=1e9 budget=1e20", '
        '"loss=2.1 served_tokens=1e12", "budget=1e21 multiple=4".',
        rich_help_panel=PREDICTION,
    ),
]
SealOption = Annotated[
    str | None,
    typer.Option(
        metavar="FLOPS",
        help="Budget in FLOPs: record its prediction in the ledger, with a hash.",
        rich_help_panel=PREDICTION,
    ),
]
ScoreOption = Annotated[
    str | None,
    typer.Option(
        metavar="FLOPS=LOSS",
        help="FLOPS=LOSS: compare the sealed prediction with the real loss.",
        rich_help_panel=PREDICTION,
    ),
]
FigureFormatsOption = Annotated[
    str,
    typer.Option(
        metavar="FORMAT,...",
        help="File formats of the figures, among png, svg and pdf.",
        rich_help_panel=FIGURES,
    ),
]
FigureDataOption = Annotated[
    bool,
    typer.Option(
        "--figure-data",
        help="Write the numbers of each figure beside it, as CSV.",
        rich_help_panel=FIGURES,
    ),
]
FigureColumnsOption = Annotated[
    Literal["1", "2"] | None,
    typer.Option(
        help="Columns of a paper that each figure fills.", show_default="its own size",
        rich_help_panel=FIGURES,
    ),
]  # fmt: skip
HtmlOption = Annotated[
    Path | None, typer.Option(help="Write the page to this file.", rich_help_panel=FIGURES)
]
FullOption = Annotated[
    bool, typer.Option("--full", help="Print every table.", rich_help_panel=OUTPUT)
]
TableOption = Annotated[
    list[str] | None,
    typer.Option(
        "--table",
        metavar="NAME",
        help="Print one table. Repeatable. Among answer, reasons, methods, buildable, minima, "
        "laws, conventions, wastes, gains, costs, speeds, excluded, checklist, observations.",
        rich_help_panel=OUTPUT,
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder for the page, the figures and the result.",
        show_default="report/ in the run directory",
        rich_help_panel=FIGURES,
    ),
]
FiguresOption = Annotated[
    bool, typer.Option(help="Write the page and the figures.", rich_help_panel=FIGURES)
]

VersionOption = Annotated[
    bool, typer.Option("--version", help="Print versions and devices, and exit.", is_eager=True)
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print more progress, and tracebacks of errors.")
]
