"""Notes on operations that the FLOP count leaves out: the modules, and an upper bound."""

from __future__ import annotations

from collections.abc import Sequence

from flops_fit.errors import Note, PluginError
from flops_fit.training.counting.flops import Counted
from flops_fit.training.counting.tally import Unknown

SMALL_SHARE = 1e-3
"""An uncounted operation that can add no more than this share of the FLOPs is not told."""

LARGE_SHARE = 0.5
"""Element-wise work of more operations than this share of the FLOPs is told."""

_CURE = 'state the FLOPs yourself: [flops] count = "model" (`flops_per_token()` of the model) or '
_CURE += '"plugin" (`count_flops(model, batch)`)'


def check_counted(value: int | float, counted: Counted) -> float:
    """Return the FLOPs of one example, forward and backward.

    Raises:
        PluginError: none were counted.
    """
    flops = counted.tally.training_flops
    if flops <= 0:
        seen = "; ".join(_place(each) for each in counted.tally.unknown)
        raise PluginError(
            f"no FLOPs were counted in the model at size {value}: it has no matrix product or "
            f"convolution that the counter knows{'; unknown to it: ' if seen else ''}{seen}",
            hint=f'{_CURE}, or use count = "6nd"',
        )
    return flops


def gaps(counts: Sequence[tuple[int | float, Counted]]) -> list[Note]:
    """Return a note for each thing that the counts of some sizes leave out, at its worst size."""
    notes: list[Note] = []
    shares: dict[tuple[str, str], tuple[float, int | float, Unknown]] = {}
    for value, counted in counts:
        for unknown in counted.tally.unknown:
            share = _share(unknown, counted)
            key = (unknown.operation, unknown.module)
            if share > SMALL_SHARE and (key not in shares or share > shares[key][0]):
                shares[key] = (share, value, unknown)
    for share, value, unknown in shares.values():
        notes.append(Note("flops_uncounted", _uncounted(share, value, unknown)))
    if failed := [counted.loss_error for _, counted in counts if counted.loss_error]:
        notes.append(
            Note(
                "loss_uncounted",
                "the loss did not run on the meta device, so products inside it (a fused head, "
                f"say) are not counted: {failed[0]}",
            )
        )
    worst = max(counts, key=lambda each: _element_share(each[1]), default=None)
    if worst is not None and (share := _element_share(worst[1])) > LARGE_SHARE:
        notes.append(
            Note(
                "elementwise_large",
                f"element-wise work (scans, norms, activations), which by convention counts "
                f"nothing, comes to about {_said(share)} of the counted FLOPs at size {worst[0]}",
            )
        )
    return notes


def _uncounted(share: float, value: int | float, unknown: Unknown) -> str:
    if unknown.most_flops is None:
        return f"{_place(unknown)} is not counted, and nothing bounds its FLOPs; {_CURE}"
    return (
        f"{_place(unknown)} has no FLOP formula and is not counted: it adds between 0 and "
        f"{_said(share)} of the counted FLOPs (size {value}); {_CURE}"
    )


def _place(unknown: Unknown) -> str:
    """`mylib::scan` in `blocks.*.mixer` (12 calls)."""
    name = unknown.operation if " " in unknown.operation else f"`{unknown.operation}`"
    calls = "1 call" if unknown.calls == 1 else f"{unknown.calls} calls"
    return f"{name} in `{unknown.module}` ({calls} a pass)"


def _share(unknown: Unknown, counted: Counted) -> float:
    """Return the most that an operation adds, as a share of the counted forward FLOPs."""
    if unknown.most_flops is None:
        return float("inf")
    return unknown.most_flops / max(counted.tally.products + counted.tally.transforms, 1.0)


def _element_share(counted: Counted) -> float:
    tally = counted.tally
    return tally.elements / max(tally.products + tally.transforms, 1.0)


def _said(share: float) -> str:
    """`12 %`, or `40 times` beyond 1,000 %."""
    if share >= 10:
        return f"{share:.0f} times" if share < 1e4 else f"{share:.0e} times"
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
