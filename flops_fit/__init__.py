"""Compute-optimal model and data size for your own architecture and data."""

from typing import TYPE_CHECKING, Any

from flops_fit.api import estimate, find_optimal, fit, plan, report, report_groups
from flops_fit.errors import FlopsFitError
from flops_fit.training.counting.params import counted

if TYPE_CHECKING:
    from flops_fit.reporting.result import Result
    from flops_fit.sweep.executors import testing

    __version__: str

__all__ = [
    "FlopsFitError",
    "Result",
    "__version__",
    "counted",
    "estimate",
    "find_optimal",
    "fit",
    "plan",
    "report",
    "report_groups",
    "testing",
]


def __getattr__(name: str) -> Any:
    """Return `Result`, `testing` or `__version__`, looked up when first asked for."""
    if name == "Result":
        from flops_fit.reporting.result import Result

        return Result
    if name == "testing":
        from flops_fit.sweep.executors import testing

        return testing
    if name == "__version__":
        from importlib.metadata import version

        return version("flops-fit")
    raise AttributeError(f"module `flops_fit` has no attribute `{name}`")
