"""`flops-fit jobs`: print what is left to train, for another scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from flops_fit.cli.options import RunDirArgument
from flops_fit.cli.output import say
from flops_fit.errors import ManifestError

JobsFormat = Annotated[
    Literal["jsonl", "sbatch", "k8s", "skypilot"],
    typer.Option(
        "--format", help="Lines of JSON, a Slurm array, a Kubernetes Job or a SkyPilot task."
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, help="Workers side by side.", show_default="the manifest's, or up to 8"),
]
ImageOption = Annotated[
    str | None, typer.Option(help="k8s: container image with flops-fit and your plugins.")
]
ClaimOption = Annotated[
    str | None, typer.Option(help="k8s: PersistentVolumeClaim that holds the run directory.")
]
MountOption = Annotated[
    Path | None,
    typer.Option(
        help="k8s: folder where the claim is mounted.", show_default="the run directory's parent"
    ),
]
QueueOption = Annotated[str | None, typer.Option(help="k8s: local queue of Kueue.")]


def jobs(
    run_dir: RunDirArgument,
    layout: JobsFormat = "jsonl",
    workers: WorkersOption = None,
    image: ImageOption = None,
    claim: ClaimOption = None,
    mount: MountOption = None,
    queue: QueueOption = None,
) -> None:
    """Print the trials that are left, as another scheduler needs them. Submits nothing."""
    from flops_fit.sweep import jobs as made

    work = made.pending_work(run_dir)
    if not work.pending:
        say("nothing is left to train")
        return
    if layout == "k8s":
        if image is None or claim is None:
            raise ManifestError(
                "`--format k8s` needs `--image` and `--claim`: what the pods run, and where the "
                "run directory is",
                hint="flops-fit jobs RUN_DIR --format k8s --image IMAGE --claim CLAIM",
            )
        pod = made.Pod(image, claim, mount, queue, workers)
        typer.echo(made.to_yaml(made.as_kubernetes(work, pod)), nl=False)
    elif layout == "skypilot":
        typer.echo(made.to_yaml(made.as_skypilot(work, workers=workers)), nl=False)
    elif layout == "sbatch":
        from flops_fit.sweep.executors.scheduler import most_elements

        script = made.as_sbatch(work, workers=workers, most_elements=most_elements())
        typer.echo(script, nl=False)
    else:
        typer.echo("\n".join(made.as_lines(work)))
