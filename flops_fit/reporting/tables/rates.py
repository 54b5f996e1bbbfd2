"""A study of learning rates as tables and as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from flops_fit.errors import Note
from flops_fit.fitting.carryover import Cost, Slope, Transfer
from flops_fit.fitting.rates import Bracket
from flops_fit.reporting.archive import plain
from flops_fit.reporting.tables.cells import Column
from flops_fit.reporting.tables.table import Table
from flops_fit.units import plural


def optima_table(transfer: Transfer, size_param: str, unit: str, loss_unit: str) -> Table:
    """Return the best learning rate at each size, and how near the recipe's own is to it."""
    columns: tuple[Column, ...] = (
        Column("size_value", size_param, "plain"),
        Column("params", "N (params)", "count"),
        Column("tokens", f"D ({plural(unit)})", "count"),
        Column("status", "best rate is"),
        Column("rate", "best rate", "number", has_interval=True),
        Column("factor", "over the recipe's", "number", has_interval=True),
        Column("loss", f"loss there ({loss_unit})", "loss"),
        Column("recipe_excess_percent", "recipe's loss above it (%)", "number"),
    )
    if any(bracket.reason for bracket in transfer.brackets):
        columns = (*columns, Column("reason", "what is wrong"))
    rows = tuple(_row(bracket) for bracket in transfer.brackets)
    notes = []
    for name, slope in (("best rate", transfer.rate_slope),
                        ("best rate over the recipe's", transfer.slope)):  # fmt: skip
        if slope is not None:
            notes.append(f"{name} ~ {size_param}^{_slope(slope)}")
    notes.append(f"noise of the losses: {transfer.noise:.2%}; in brackets: 95 %")
    return Table("Best learning rate at each size", columns, rows, tuple(notes))


def rule_costs_table(transfer: Transfer, size_param: str) -> Table:
    """Return the cost of each rule at the largest size, with the rate tuned at the smallest."""
    columns = (
        Column("rule", "rule"),
        Column("rate", "rate there", "number"),
        Column("excess_percent", "loss above the best (%)", "number"),
        Column("note", ""),
    )
    rows = tuple(
        {
            "rule": cost.rule,
            "rate": cost.rate,
            "excess_percent": None if cost.excess is None else round(100 * cost.excess, 2),
            "note": "; ".join(
                text
                for text, holds in (
                    ("the manifest's rule", cost.is_own),
                    ("or more: the rate lies outside the grid", cost.is_beyond),
                )
                if holds
            ),
        }
        for cost in transfer.costs
    )
    inside = [bracket for bracket in transfer.brackets if bracket.status == "interior"]
    title = (
        f"Rate tuned at {size_param} = {inside[0].size_value:g}, "
        f"carried to {inside[-1].size_value:g}"
    )
    note = (
        "rates of weight matrices; all rates of a trial were moved together, so a rule that moves "
        "matrices alone (width) may cost less than this"
    )
    return Table(title, columns, rows, (note,))


def describe_transfer(transfer: Transfer) -> dict[str, Any]:
    """Return a study as plain data, ready for `json.dumps`."""
    return {
        "verdict": transfer.verdict,
        "reasons": [reason.to_dict() for reason in transfer.reasons],
        "slope": None if transfer.slope is None else asdict(transfer.slope),
        "rate_slope": None if transfer.rate_slope is None else asdict(transfer.rate_slope),
        "noise": transfer.noise,
        "sizes": [_described(bracket) for bracket in transfer.brackets],
        "rules": [asdict(cost) for cost in transfer.costs],
    }


def transfer_from(data: Mapping[str, Any]) -> Transfer:
    """Return the inverse of `describe_transfer`."""
    pairs = ("factor_interval", "rate_interval")
    brackets = []
    for size in data["sizes"]:
        rates = tuple(tuple(rate.values()) for rate in size["rates"])
        intervals = {name: None if size[name] is None else tuple(size[name]) for name in pairs}
        brackets.append(Bracket(**{**size, **intervals, "rates": rates}))

    def slope(name: str) -> Slope | None:
        found = data[name]
        return None if found is None else Slope(found["value"], tuple(found["interval"]))

    return Transfer(
        brackets=tuple(brackets),
        verdict=data["verdict"],
        reasons=tuple(Note(reason["code"], reason["message"]) for reason in data["reasons"]),
        slope=slope("slope"),
        rate_slope=slope("rate_slope"),
        costs=tuple(Cost(**rule) for rule in data["rules"]),
        noise=data["noise"],
    )


def bracketing(data: Mapping[str, Any] | None) -> tuple[bool | None, str]:
    """Return whether the learning rate was bracketed at two sizes and transfers, with figures."""
    if data is None:
        return None, "no bracketing recorded (`flops-fit transfer` does it)"
    inside = sum(size["status"] == "interior" for size in data["sizes"])
    told = f"bracketed at {inside} of {len(data['sizes'])} sizes: {data['verdict']}"
    if data["slope"] is not None:
        told += f", {_slope(Slope(data['slope']['value'], tuple(data['slope']['interval'])))}"
        told += f" in {data['size_param']} left over"
    return inside >= 2 and data["verdict"] == "carried", told


def _described(bracket: Bracket) -> dict[str, Any]:
    names = ("factor", "rate", "loss", "seeds")
    told = asdict(bracket) | {
        "rates": [dict(zip(names, rate, strict=True)) for rate in bracket.rates]
    }
    return {name: plain(value) for name, value in told.items()}


def _row(bracket: Bracket) -> dict[str, Any]:
    excess = bracket.recipe_excess
    return {
        "size_value": bracket.size_value,
        "params": bracket.params,
        "tokens": bracket.tokens,
        "status": bracket.status,
        "rate": bracket.rate,
        "rate_interval": bracket.rate_interval,
        "factor": bracket.factor,
        "factor_interval": bracket.factor_interval,
        "loss": bracket.loss,
        "recipe_excess_percent": None if excess is None else round(100 * excess, 2),
        "reason": bracket.reason or None,
    }


def _slope(slope: Slope) -> str:
    low, high = slope.interval
    return f"{slope.value:+.2f} [{low:+.2f}, {high:+.2f}]"
