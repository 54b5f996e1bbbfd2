"""figure_parts."""

from __future__ import annotations

from flops_fit.fitting.details import Gain

BUDGETS = (1e17, 3e17, 1e18, 3e18, 1e19)


GAINS = [
    Gain(
        up_to_flops=budget, num_runs=7 * k, spent_flops=7 * budget * k, target_flops=2.56e20,
        params=1e9, params_interval=(1e9 / (1 + 6 / k), 3e9),
        loss=2.5, loss_interval=(2.5 - 1 / k, 2.5 + 1 / k),
    )
    for k, budget in enumerate(BUDGETS[2:], 3)
]  # fmt: skip


def lines(axes, gid):
    return [line for line in axes.lines if line.get_gid() == gid and len(line.get_xdata())]


def legend_texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]
