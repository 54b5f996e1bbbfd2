"""The finished runs of a W&B project or an MLflow experiment, as rows.

`wandb:ENTITY/PROJECT` uses the `wandb` package and its login. `mlflow:EXPERIMENT` uses the `mlflow`
package and its tracking address (`MLFLOW_TRACKING_URI`). A row holds what a run was configured with
and its last metrics; a metric goes before a parameter of the same name. `State` is `finished` for
runs that ended well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flops_fit.errors import ObservationsError

MAX_RUNS = 100_000
_PAGE = 1000


def is_project(source: str) -> bool:
    """Return whether a source names a tracker's project rather than a file."""
    return source.startswith(("wandb:", "mlflow:"))


def read_project(source: str) -> list[dict[str, Any]]:
    """Read a tracker's project: one row for each run.

    Raises:
        ObservationsError: the client is not installed, or the project cannot be read.
    """
    tracker, _, project = source.partition(":")
    if not project:
        raise ObservationsError(
            f"`{source}` names no project", hint="write wandb:ENTITY/PROJECT or mlflow:EXPERIMENT"
        )
    rows = list(_wandb_runs(project) if tracker == "wandb" else _mlflow_runs(project))
    if not rows:
        raise ObservationsError(f"`{source}` has no runs", hint="look at the project's name")
    return rows


def _wandb_runs(project: str) -> Iterator[dict[str, Any]]:
    """The runs of a W&B project."""
    try:
        import wandb
    except ImportError:
        raise _missing("wandb") from None
    try:
        for count, run in enumerate(wandb.Api().runs(project, per_page=_PAGE)):
            _refuse_too_many(count, project)
            yield {
                **_scalars(run.config),
                **_scalars(run.summary),
                "Name": run.name,
                "State": run.state,
                "run_id": run.id,
            }
    except (wandb.Error, ValueError, OSError) as error:
        raise ObservationsError(
            f"the W&B project `{project}` cannot be read: {error}",
            hint="write wandb:ENTITY/PROJECT, and log in with `wandb login`",
        ) from None


def _mlflow_runs(experiment: str) -> Iterator[dict[str, Any]]:
    """The runs of an MLflow experiment."""
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError:
        raise _missing("mlflow") from None
    try:
        client = MlflowClient()
        found = client.get_experiment_by_name(experiment)
        if found is None:
            raise ObservationsError(
                f"MLflow has no experiment `{experiment}`",
                hint="set MLFLOW_TRACKING_URI to the address that holds it",
            )
        token, count = None, 0
        while True:
            page = client.search_runs([found.experiment_id], max_results=_PAGE, page_token=token)
            for run in page:
                count += 1
                _refuse_too_many(count, experiment)
                yield {
                    **run.data.params,
                    **run.data.metrics,
                    "Name": run.info.run_name,
                    "State": run.info.status.lower(),
                    "run_id": run.info.run_id,
                }
            token = page.token
            if not token:
                return
    except (MlflowException, OSError) as error:
        raise ObservationsError(
            f"the MLflow experiment `{experiment}` cannot be read: {error}",
            hint="set MLFLOW_TRACKING_URI to the address that holds it",
        ) from None


def _missing(package: str) -> ObservationsError:
    """Return the error for a tracker's client that is not installed."""
    return ObservationsError(
        f"the package `{package}` is not installed",
        hint=f"pip install {package}, or export the runs as CSV",
    )


def _refuse_too_many(count: int, project: str) -> None:
    """Refuse a project with more runs than are read."""
    if count > MAX_RUNS:
        raise ObservationsError(
            f"`{project}` has more than {MAX_RUNS:,} runs", hint="export the runs to use as CSV"
        )


def _scalars(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the texts and numbers among a run's values."""
    return {
        str(key): value
        for key, value in dict(values).items()
        if isinstance(value, str | int | float) and not str(key).startswith("_")
    }
