"""Check that a batch's loss is the mean of its parts' losses."""

from __future__ import annotations

from typing import Any

from torch import nn

from flops_fit.experiment.checks.findings import DoubtfulError
from flops_fit.training.data.streams import Batch
from flops_fit.training.weights import MEND, compare_parts, differ


def check_parts(model: nn.Module, loss: Any, batch: Batch) -> str:
    """The loss of a batch is the mean of its parts'; what was found.

    Raises:
        DoubtfulError: it is not.
    """
    compared = compare_parts(model, loss, batch)
    if compared is None:
        return "nothing to compare: one example, or a loss that is not finite"
    whole, parts = compared
    if differ(whole, parts):
        raise DoubtfulError(
            f"the loss of a batch is {whole:.6g}, but the mean of its parts' {parts:.6g}: with "
            "`micro_batch_examples`, several processes or another `heldout_batch` losses differ",
            hint=f"if it is a mean over fewer units than there are (padding, ignored targets), "
            f"{MEND}; a loss that compares examples with each other has no such parts",
        )
    return f"{whole:.6g}, and {parts:.6g} by its parts"
