"""Description: the facts of an experiment that planning needs, as plain data for other processes.

So a command that only plans or conducts never imports torch or the user's code. A manifest that
states all of it needs no plugin at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from pydantic import ConfigDict

from flops_fit.errors import Note
from flops_fit.manifest.files import STORED, Count, from_plain
from flops_fit.manifest.manifest import Manifest, SizeRange, StatedSize
from flops_fit.manifest.trials import Size
from flops_fit.training.data.facts import DataFacts

SizeValue = int | float


@dataclass(frozen=True)
class Description:
    """The facts of an experiment that planning needs, as plain data.

    Attributes:
        sizes: every size that may be planned, with its counts.
        facts: what one unit of data is.
        notes: what the user should know (a held-out share that was cut, for instance).
        device: `cpu`, `cuda` or `mps`: where trials will train.
        num_devices: how many of them there are; 0 for a CPU.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STORED

    sizes: tuple[Size, ...]
    facts: DataFacts
    notes: tuple[Note, ...] = ()
    device: str = "cpu"
    num_devices: Count = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the description as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Description:
        """Return the description that `to_dict` made plain."""
        return from_plain(cls, data)


def stated_description(manifest: Manifest) -> Description | None:
    """Return the description, if the manifest states all of it; None if plugins must be loaded.

    All is stated if every size has `params` and, unless FLOPs are counted as 6 N D,
    `flops_per_token`, and [data] has `units_per_example`.
    """
    stated, data = manifest.model.stated, manifest.data
    if stated is None or data.units_per_example is None:
        return None
    sizes = stated_sizes(manifest, stated)
    if sizes is None:
        return None
    facts = DataFacts(
        unit=data.unit or DataFacts.unit,
        units_per_example=data.units_per_example,
        unique_units=data.unique_units,
        loss_unit=data.loss_unit or DataFacts.loss_unit,
    )
    return Description(sizes, facts)


def size_values(manifest: Manifest) -> list[SizeValue]:
    """Return the values of the size parameter that may be planned, ascending.

    A range becomes a ladder of steps of 2^(1/4), near the square root of 2 in params where params
    grow with the square of the size, rounded to the multiple asked for. Names and sets of arguments
    have their places in the list. Empty for `auto`.
    """
    sizes = manifest.model.sizes
    if sizes == "auto":
        return []
    if isinstance(sizes, SizeRange):
        low = -(-sizes.min // sizes.multiple_of) * sizes.multiple_of
        values, at = [], float(low)
        while at <= sizes.max:
            values.append(round(at / sizes.multiple_of) * sizes.multiple_of)
            at *= 2**0.25
        return sorted({value for value in values if sizes.min <= value <= sizes.max})
    if manifest.model.named:
        return list(range(1, len(manifest.model.named) + 1))
    plain = {size.size_value if isinstance(size, StatedSize) else size for size in sizes}
    return sorted(value for value in plain if isinstance(value, int | float))


def stated_sizes(manifest: Manifest, stated: Sequence[StatedSize]) -> tuple[Size, ...] | None:
    """Sizes from what the manifest states; None if the FLOPs of one are neither stated nor 6 N."""
    sizes = []
    for size in stated:
        flops = size.flops_per_token
        if flops is None:
            if manifest.flops.count != "6nd":
                return None
            flops = 6.0 * size.params
        sizes.append(
            Size(size.size_value, size.params, size.params_non_embedding, flops, size.params_active)
        )
    return tuple(sizes)
