"""Check that a batch's loss is the mean of its parts' losses."""

from __future__ import annotations

from typing import Any

from torch import nn

from flops_fit.errors import PluginError
from flops_fit.experiment.checks.findings import DoubtfulError
from flops_fit.training.data.streams import Batch, count_examples
from flops_fit.training.weights import MEND, PARTS, SUM_MEND, compare_parts, differ, is_sum


def check_parts(model: nn.Module, loss: Any, batch: Batch) -> str:
    """Check that the loss of a batch is the mean of its parts' losses.

    Raises:
        PluginError: the loss is a sum over the batch.
        DoubtfulError: it is not the mean for another reason.
    """
    compared = compare_parts(model, loss, batch)
    if compared is None:
        return "nothing to compare: one example, or a loss that is not finite"
    whole, parts = compared
    num_parts = min(PARTS, count_examples(batch))
    if is_sum(whole, parts, num_parts=num_parts):
        raise PluginError(
            f"the loss is a sum, not a mean: a batch gives {whole:.6g}, and each of its "
            f"{num_parts} parts {parts:.6g} on average",
            hint=SUM_MEND,
        )
    if differ(whole, parts):
        raise DoubtfulError(
            f"the loss of a batch is {whole:.6g}, but the mean of its parts' {parts:.6g}: with "
            "`micro_batch_examples`, several processes or another `heldout_batch` losses differ",
            hint=f"if it is a mean over fewer units than there are (padding, ignored targets), "
            f"{MEND}; a loss that compares examples with each other has no such parts",
        )
    return f"{whole:.6g}, and {parts:.6g} by its parts"
