"""The default report on one screen: answer, verdict, table, picture and the next command.

It fits 40 lines of 100 columns and still reads at 80, where intervals give way first. Everything
else stands in the tables of the report (`--full`, `--table NAME`).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flops_fit.errors import Note
from flops_fit.fitting.details import CombinationDetails, MinimumStatus
from flops_fit.reporting import rules
from flops_fit.reporting.codes import explain_code
from flops_fit.reporting.lines import coded_lines, command_lines, step_lines, wrapped
from flops_fit.reporting.reported import Reported
from flops_fit.reporting.sentences import (
    answer_sentence,
    believable,
    joined,
    known_params,
    nearest_words,
)
from flops_fit.reporting.tables.cells import Column, printable, significant
from flops_fit.reporting.tables.picture import PictureCurve, isoflop_picture
from flops_fit.reporting.tables.table import Table
from flops_fit.units import format_count, format_duration, format_flops, plural

LINES = 40
_CURVES = 6  # of the picture
_LEAST_WEIGHT = 0.05  # smaller weights in the combination are not shown
_PICTURE = (7, 12)  # fewest and most lines of it


@dataclass(frozen=True)
class _Amount:
    """How much is shown where at least `room` lines are left: reasons, rows of the table."""

    room: int
    reasons: int
    rows: int
    has_weights: bool


_AMOUNTS = (
    _Amount(_PICTURE[0] + 1, 3, 6, has_weights=True),
    _Amount(_PICTURE[0] + 1, 3, 4, has_weights=True),
    _Amount(0, 3, 6, has_weights=True),
    _Amount(0, 3, 4, has_weights=True),
    _Amount(0, 2, 4, has_weights=False),
)
"""What a screen holds, from the most to the least: the picture goes before reasons do."""
_FIXED = "\u00a0"  # a blank at which no line is broken


@dataclass(frozen=True)
class Screen:
    """Settings of the screen.

    Attributes:
        source: the run directory or table, as the user wrote it.
        width: columns of the terminal.
        page: path of the page; None if no page is written.
        is_unicode: whether the terminal shows more than ASCII.
        lines: lines of the terminal that the report may take.
    """

    source: str
    width: int = 100
    page: str | None = None
    is_unicode: bool = True
    lines: int = LINES - 1  # the prompt takes one


def render_screen(
    result: Reported, screen: Screen, buildable: Sequence[Mapping[str, Any]] = ()
) -> list[str]:
    """Return the lines of the default report; the first line ends with the verdict.

    Args:
        result: the result to print.
        screen: source, width and page.
        buildable: sizes around the optimum, rows of the table of that name.
    """
    width = min(screen.width, 120)
    head = [_title(result, width), *_progress(result), "", *_answer(result, width, buildable)]
    where = _where(result, screen, width)
    for amount in _AMOUNTS:
        upper = [*head, *_reasons(result, screen, width, most=amount.reasons)]
        upper += _table(result, width, most=amount.rows)
        lower = ["", *_facts(result, width, has_weights=amount.has_weights), *where]
        room = screen.lines - len(upper) - len(lower)
        if room >= amount.room:
            break
    picture: list[str] = []
    if room > _PICTURE[0]:
        picture = isoflop_picture(
            _curves(result), width=min(width, 90), height=min(room - 1, _PICTURE[1]),
            is_unicode=screen.is_unicode,
        )  # fmt: skip
    return [*upper, *(["", *picture] if picture else []), *lower]


def _title(result: Reported, width: int) -> str:
    """Return the name, and the verdict flush right."""
    verdict = result.verdict.upper()
    name = textwrap.shorten(printable(result.name or "result"), width - len(verdict) - 2)
    return f"{name:<{width - len(verdict)}}{verdict}"


def _progress(result: Reported) -> list[str]:
    """Return the progress of a sweep that has not ended."""
    record = result.record
    if record is None:
        return []
    ledger, total = record.ledger, len(record.plan.trials)
    ended = len(ledger.finished) + len(ledger.diverged) + len(ledger.failed)
    if ended >= total:
        return []
    bad = [
        f"{len(group)} {word}"
        for word, group in (("diverged", ledger.diverged), ("failed", ledger.failed))
        if group
    ]
    told = f" ({', '.join(bad)})" if bad else ""
    return [f"{ended} of {total} trials done{told}: the numbers below will still change."]


def _answer(result: Reported, width: int, buildable: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the answer at the largest requested budget, with its intervals and sizes."""
    row = headline_row(result)
    if result.verdict == "refuse" or row is None:
        why = result.reasons[0].message if result.reasons else "there is no law"
        text = f"No answer: {printable(why)}."
        return [*textwrap.wrap(text, width, subsequent_indent="  ")[:4], ""]
    sizes = [o.params for o in result.used]
    text = answer_sentence(row, result.unit, result.loss_unit, sizes=sizes, has_intervals=False)
    lines = wrapped(text, width, indent=2)
    intervals = _interval_words(row, result, sizes)
    if intervals:
        lines.append(f"  95 % intervals   {intervals}")
    if known_params(row, sizes):
        near = nearest_words(row, result.size_param, buildable)
        if near:
            lines += wrapped(near, width, first="  You can build    ", indent=19)
        room = row.get("near_optimal")
        if room:
            low, high = map(format_count, room)
            lines.append(f"  Room             {low} to {high} params waste at most 1 % of compute")
    return [*(line[:width] for line in lines), ""]


def headline_row(result: Reported) -> Mapping[str, Any] | None:
    """Return the headline's prediction at the largest requested budget, else of the runs."""
    rows = [row for row in result.rows if row["method"] == result.headline]
    asked = [row for row in rows if row["budget_flops"] in result.asked]
    return max(asked or rows, key=lambda row: float(row["budget_flops"]), default=None)


def _interval_words(row: Mapping[str, Any], result: Reported, sizes: Sequence[float]) -> str:
    """Return `params 95.3k-232k   bytes 6.54M-15.2M   loss 1.274-1.458`, without wide intervals."""
    parts = []
    if known_params(row, sizes):
        for name, key in (("params", "params"), (plural(result.unit), "tokens")):
            pair = row.get(f"{key}_interval")
            if pair is not None and believable(pair):
                parts.append(f"{printable(name)} {joined(pair, format_count)}")
    pair = row.get("loss_interval")
    if pair is not None and believable(pair):
        parts.append(f"loss {joined(pair, _loss)}")
    return "   ".join(parts)


def _reasons(result: Reported, screen: Screen, width: int, *, most: int) -> list[str]:
    """Return the gravest reasons with their next steps, and the number of the others.

    Reasons with one command stand together above it, with the action of the gravest of them.
    """
    told = gravest(result.reasons)
    if not told:
        return []
    lines = ["Why it is refused" if result.verdict == "refuse" else "Before you rely on it"]
    groups: dict[str, list[Note]] = {}
    for note in told[:most]:
        groups.setdefault(next_step(note.code, result, screen.source)[1], []).append(note)
    for command, notes in groups.items():
        for note in notes:
            lines += coded_lines(note.message, note.code, width, most=2)
        lines += step_lines(next_step(notes[0].code, result, screen.source)[0], command, width)
    if len(told) > most:
        command = f"flops-fit report {screen.source} --table reasons"
        more = f"    and {len(told) - most} more: "
        lines += command_lines(command, width, first=more, indent=6)
    return [*lines, ""]


def gravest(reasons: Sequence[Note]) -> list[Note]:
    """Return the reasons in order of gravity; those without a rule come last."""
    order = {rule.code: place for place, rule in reversed(list(enumerate(rules.RULES)))}
    return sorted(reasons, key=lambda note: order.get(note.code, len(order)))


def next_step(code: str, result: Reported, source: str) -> tuple[str, str]:
    """Return the next step for a reason and its command; both are empty for an unknown code."""
    rule = rules.rule_of(code)
    if rule is None:
        is_known = explain_code(code) is not None
        return ("Read what this means.", f"flops-fit explain {code}") if is_known else ("", "")
    command = rule.table_command if result.record is None else rule.command
    return rule.action, _filled(command or f"flops-fit explain {code}", result, source)


def _filled(command: str, result: Reported, source: str) -> str:
    """Return the command of a rule for a result; `{largest}` is the largest budget of the runs."""
    if "{largest}" in command and result.observations:
        largest = max(o.budget_flops or o.flops for o in result.observations)
        command = command.replace("{largest}", format_flops(largest))
    return command.replace("{source}", source)


def reasons_table(result: Reported) -> Table:
    """Return every reason with what to do about it, the gravest first."""
    columns = (
        Column("code", "code"),
        Column("message", "reason"),
        Column("action", "what to do"),
        Column("command", "command"),
    )
    rows = []
    for note in gravest(result.reasons):
        action, command = next_step(note.code, result, "RUN")
        rows.append(
            {"code": note.code, "message": note.message, "action": action, "command": command}
        )
    return Table("Reasons", columns, tuple(rows))


def _table(result: Reported, width: int, *, most: int) -> list[str]:
    """Return the headline's optimum at some budgets; without intervals if they do not fit."""
    rows = [row for row in result.rows if row["method"] == result.headline]
    if not rows or result.verdict == "refuse":
        return []
    shown = _chosen(rows, result.asked, most)
    sizes = [o.params for o in result.used]
    for with_intervals in (("params", "tokens", "loss"), ("params", "loss"), ("params",), ()):
        lines = _laid_out(result, shown, sizes, with_intervals)
        if max(map(len, lines)) <= width:
            break
    far = [row["extrapolation_decades"] for row in shown if row["extrapolation_decades"]]
    if far:
        told = f"{max(far):.1f}"
        unit = "decade" if told == "1.0" else "decades"
        lines.append(f" * extrapolated {told} {unit} beyond the data")
    return lines


def _chosen(
    rows: Sequence[Mapping[str, Any]], asked: Sequence[float], most: int
) -> list[Mapping[str, Any]]:
    """At most `most` rows: the budgets asked for, and others evenly spaced."""
    wanted = [row for row in rows if row["budget_flops"] in asked][-most + 1 :]
    others = [row for row in rows if row not in wanted]
    count = most - len(wanted)
    if len(others) > count:
        step = (len(others) - 1) / max(count - 1, 1)
        others = [others[round(k * step)] for k in range(count)]
    return sorted([*others, *wanted], key=lambda row: float(row["budget_flops"]))


def _laid_out(
    result: Reported,
    rows: Sequence[Mapping[str, Any]],
    sizes: Sequence[float],
    with_intervals: Sequence[str],
) -> list[str]:
    """Return the table as lines, with intervals for these columns."""
    units = printable(plural(result.unit))
    heads = ["FLOPs", "", "params", units, "per param", "loss"]
    for place, key in ((2, "params"), (3, "tokens"), (5, "loss")):
        heads[place] += " (95 %)" if key in with_intervals else ""
    has_size = any(row.get("nearest_size") is not None for row in rows)
    lines = [[*heads, *([printable(result.size_param)] if has_size else [])]]
    for row in rows:
        is_known = known_params(row, sizes)
        cells = [
            format_flops(row["budget_flops"]),
            "*" if row["extrapolation_decades"] else "",
            _cell(row, "params", with_intervals) if is_known else "not known",
            _cell(row, "tokens", with_intervals) if is_known else "not known",
            significant(row["tokens_per_param"], 3) if is_known else "",
            _cell(row, "loss", with_intervals),
        ]
        near = row.get("nearest_size")
        lines.append([*cells, *([f"{near:g}" if near is not None and is_known else "-"]
                                if has_size else [])])  # fmt: skip
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    return [
        " " + "  ".join(cell.rjust(size) for cell, size in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def _cell(row: Mapping[str, Any], key: str, with_intervals: Sequence[str]) -> str:
    """Return a value, and its interval if it is requested and narrow enough."""
    value = row.get(key)
    if value is None:
        return "-"
    write = _loss if key == "loss" else format_count
    pair = row.get(f"{key}_interval") if key in with_intervals else None
    if pair is None:
        return write(value)
    return f"{write(value)} ({joined(pair, write)})" if believable(pair) else f"{write(value)} (?)"


def _loss(value: float) -> str:
    """Return a loss in four digits."""
    return significant(value, 4)


def _facts(result: Reported, width: int, *, has_weights: bool = True) -> list[str]:
    """Return the law, the answers of all methods, and the cost of the runs."""
    made_of = _made_of(result) if has_weights else ""
    facts = [
        ("Law", _law(result)),
        ("Methods", _methods(result)),
        ("Made of", made_of),
        ("Runs", _runs(result)),
    ]
    return [
        line.replace(_FIXED, " ")
        for name, text in facts
        if text
        for line in textwrap.wrap(
            text, width, initial_indent=f"{name:<9}", subsequent_indent=" " * 9
        )[:3]
    ]


def _law(result: Reported) -> str:
    """`L = 1.15 + 172/N^0.64 + 148/D^0.44   N ~ C^0.41 (0.30-0.51)   D ~ C^0.59 (...)`."""
    if result.verdict == "refuse":
        return ""
    fit = next(
        (result.fits[m] for m in ("surface", result.headline or "") if m in result.fits), None
    )
    if fit is None:
        return ""
    parts = []
    if {"E", "A", "B", "alpha", "beta"} <= set(fit.parameters) and "gamma" not in fit.parameters:
        numbers = {name: significant(fit.parameters[name], 4) for name in ("E", "A", "B")}
        alpha, beta = fit.parameters["alpha"], fit.parameters["beta"]
        parts.append(
            f"L = {numbers['E']} + {numbers['A']}/N^{alpha:.3f} + {numbers['B']}/D^{beta:.3f}"
        )
    for letter, short, key in (("N", "a", "params"), ("D", "b", "tokens")):
        value = fit.exponents.get(key)
        if value is not None:
            pair = fit.intervals.get(short)
            told = "" if pair is None else f" ({pair[0]:.2f}-{pair[1]:.2f})"
            parts.append(f"{letter} ~ C^{value:.2f}{told}")
    return "   ".join(part.replace(" ", _FIXED) for part in parts)


def _methods(result: Reported) -> str:
    """Return the params that each method gives at the budget of the answer."""
    row = headline_row(result)
    if row is None or result.verdict == "refuse":
        return ""
    there = [r for r in result.rows if r["budget_flops"] == row["budget_flops"]]
    if len(there) < 2:
        return ""
    sizes = ", ".join(f"{r['method']} {format_count(r['params'])}" for r in there)
    return f"params at {format_flops(row['budget_flops'])} FLOPs: {sizes}"


def _made_of(result: Reported) -> str:
    """Return the largest weights of the combination's methods, for params and for the loss."""
    row, fit = headline_row(result), result.fits.get("combination")
    if row is None or result.verdict == "refuse":
        return ""
    if result.headline != "combination" or fit is None:
        return ""
    details = fit.details
    if not isinstance(details, CombinationDetails):
        return ""
    parts = []
    for name, weights in (("params", details.params_weights), ("loss", details.loss_weights)):
        ordered = sorted(weights.items(), key=lambda pair: -pair[1])
        large = [f"{method} {share:.0%}" for method, share in ordered if share >= _LEAST_WEIGHT]
        if large:
            parts.append(f"{name} {', '.join(large)}".replace("%", f"{_FIXED}%"))
    where = ""
    if not math.isclose(details.at_flops, row["budget_flops"], rel_tol=1e-6):
        where = f" (at {format_flops(details.at_flops)} FLOPs)"
    return f"{'; '.join(parts)}{where}" if parts else ""


def _runs(result: Reported) -> str:
    """Return the number of runs that were fitted and left out, and their cost."""
    text = f"{len(result.used)} fitted"
    if result.excluded:
        text += f", {len(result.excluded)} left out"
    text += f"; {format_flops(math.fsum(o.flops for o in result.observations))} FLOPs"
    if result.record is not None and result.record.wall_seconds:
        text += f", {format_duration(result.record.wall_seconds)}"
    return text


def _where(result: Reported, screen: Screen, width: int) -> list[str]:
    """Return the path of the page, the names of the tables, and the next command."""
    lines = []
    if screen.page is not None:
        lines.append(f"Page     {printable(screen.page)}")
    lines.append("More     --full, or --table NAME: " + ", ".join(result.table_names()))
    lines = [
        each
        for line in lines
        for each in textwrap.wrap(line, width, subsequent_indent=" " * 9, break_on_hyphens=False)
    ]
    return [*lines, *_next(result, screen, width)]


def _next(result: Reported, screen: Screen, width: int) -> list[str]:
    """Return the one command to give next."""
    for note in gravest(result.reasons):
        _, command = next_step(note.code, result, screen.source)
        if command:
            return command_lines(command, width, first="Next     ", indent=9)
    budget = headline_row(result)
    if budget is None or result.record is None:
        return []
    flops = format_flops(budget["budget_flops"])
    command = f"flops-fit report {screen.source} --seal {flops}"
    lines = command_lines(command, width, first="Next     ", indent=9)
    why = "   (before you train it)"
    return [*lines[:-1], lines[-1] + why] if len(lines[-1] + why) <= width else lines


def _curves(result: Reported) -> list[PictureCurve]:
    """Return the isoFLOP curves to draw: at most `_CURVES`, evenly spaced."""
    fit = result.fits.get("isoflop")
    if fit is None:
        return []
    minima = list(fit.minima)
    if len(minima) > _CURVES:
        step = (len(minima) - 1) / (_CURVES - 1)
        minima = [minima[round(k * step)] for k in range(_CURVES)]
    curves = []
    for minimum in minima:
        points = sorted(
            (o.params, o.loss)
            for o in result.used
            if abs(math.log((o.budget_flops or o.flops) / minimum.budget_flops)) < math.log(1.1)
        )
        if len(points) > 1:
            found = None
            if minimum.status is MinimumStatus.OK and minimum.params and minimum.loss:
                found = minimum.params, minimum.loss
            curves.append(PictureCurve(minimum.budget_flops, points, found))
    return curves
