"""Tables say the same in every format, with units, and nothing in them can break out."""

import csv
import io
import json
import shutil
import subprocess

import pytest
from planted_results import observe, planted_result, surface_fit, with_outlier
from rich.console import Console

from flops_fit.errors import Note
from flops_fit.fitting.details import Minimum, MinimumStatus
from flops_fit.fitting.points import Excluded, Optimum
from flops_fit.manifest.trials import Size, Trial
from flops_fit.reporting.tables.cells import Column, cell, format_value, printable
from flops_fit.reporting.tables.latex import PREAMBLE
from flops_fit.reporting.tables.table import (
    Table,
    chinchilla_table,
    estimate_table,
    excluded_table,
    laws_table,
    minima_table,
    plan_table,
)
from flops_fit.units import plural


def in_terminal(table, width=160):
    console = Console(file=io.StringIO(), width=width, no_color=True)
    console.print(table.to_rich())
    return console.file.getvalue()


def rows_of(table):
    return list(csv.DictReader(io.StringIO(table.to_csv())))


@pytest.fixture
def trials():
    sizes = [Size(16, 20_480, 12_288, 1.5e5), Size(24.0, 45_000, None, 3.1e5)]
    return [
        Trial.of(budget_flops=6e10, size=size, tokens=409_600, batch_tokens=4096, seed=3)
        for size in sizes
    ]


def test_a_plan_says_its_trials_its_total_and_its_warnings(trials):
    table = plan_table(trials, [Note("one_sided", "the grid at 6e10 is one-sided")])
    text = in_terminal(table)
    assert "20.5k" in text
    assert "D (tokens)" in table.to_markdown()
    total = sum(trial.flops for trial in trials)
    assert f"2 trials, {total / 1e11:.2f}e11 FLOPs in all" in text
    assert "warning (one_sided): the grid at 6e10 is one-sided" in text
    assert [row["size_value"] for row in rows_of(table)] == ["16", "24.0"]
    assert [int(row["params"]) for row in rows_of(table)] == [20_480, 45_000]
    assert " 24 " in text


def test_every_format_has_every_row_and_every_column(trials):
    for table in (plan_table(trials), chinchilla_table(planted_result().chinchilla_table())):
        assert len(rows_of(table)) == len(table.rows) == len(table.to_json())
        latex = table.to_latex()
        body = latex[latex.index(r"\midrule") : latex.index(r"\bottomrule")]
        assert [line.count(" & ") for line in body.split("\n")[1:-1]] == [
            len(table.for_people) - 1
            for row in table.rows
            for _ in range(1 + any(row.get(f"{c.key}_interval") for c in table.columns))
        ]
        body = [line for line in table.to_markdown().splitlines() if line.startswith("|")]
        assert len(body) == len(table.rows) + 2
        assert {line.count("|") for line in body} == {len(table.for_people) + 1}
        for command in (r"\toprule", r"\midrule", r"\bottomrule"):
            assert latex.count(command) == 1


def test_csv_keeps_every_digit_and_gives_intervals_columns_of_their_own():
    row = {"params": 1234567.8901234567, "params_interval": (1.1e6, 1.4e6)}
    (read,) = rows_of(Table("t", (Column("params", "N", "count", has_interval=True),), (row,)))
    assert float(read["params"]) == row["params"]
    assert (float(read["params_low"]), float(read["params_high"])) == (1.1e6, 1.4e6)


def test_people_read_an_interval_in_the_cell_of_its_value():
    row = {"params": 1234567.89, "params_interval": (1.1e6, 1.4e6)}
    table = Table(
        "t", (Column("params", "N", "count", has_interval=True),), (row, {"params": None})
    )
    lines = in_terminal(table).splitlines()
    (place,) = [k for k, line in enumerate(lines) if "1.23M" in line]
    assert "(1.1M\u20131.4M)" in lines[place + 1]
    assert "1.23M (1.1M\u20131.4M)" in table.to_markdown()
    value, interval = table.to_latex().split(r"\midrule")[1].splitlines()[1:3]
    assert value == r"1.23M \\*"
    assert interval == r"\scriptsize (1.1M--1.4M) \\[2pt]"


def test_an_unknown_number_is_absent_and_never_zero():
    row = {"trial_id": "a", "flops": 1e9, "wall_seconds": None}
    table = estimate_table([row])
    assert rows_of(table)[0]["wall_seconds"] == ""
    assert rows_of(table)[0]["cost"] == ""
    assert "in money" not in in_terminal(table)


def test_an_estimate_sums_time_and_money_and_takes_the_largest_memory():
    rows = [
        {"trial_id": "a", "flops": 1e9, "wall_seconds": 60.0, "memory_bytes": 2**30, "cost": 1.25},
        {"trial_id": "b", "flops": 3e9, "wall_seconds": 90.0, "memory_bytes": 2**31, "cost": 2.5},
    ]
    (note,) = estimate_table(rows).notes
    assert "4e9 FLOPs" in note
    assert "2 min 30 s" in note
    assert "2 GiB" in note
    assert "3.75" in note
    (side_by_side,) = estimate_table(rows, totals={"wall_seconds": 75.0}).notes
    assert "1 min 15 s" in side_by_side


def test_an_estimate_with_one_unknown_trial_has_no_total():
    rows = [{"trial_id": "a", "flops": 1e9, "wall_seconds": 60.0}, {"trial_id": "b", "flops": 1e9}]
    (note,) = estimate_table(rows).notes
    assert "min" not in note


def test_law_parameters_have_at_least_four_digits():
    fit = surface_fit(
        parameters={"E": 1.817218, "A": 477.826, "B": 2143.417, "alpha": 0.34731, "beta": 0.367172},
        intervals={"alpha": (0.3171, 0.3722)},
        standard_errors={"alpha": 0.0154},
    )
    text = in_terminal(laws_table({"surface": fit}))
    for digits in ("1.8172", "477.83", "2143.4", "0.34731", "(0.31710 to 0.37220)", "0.36717"):
        assert digits in text
    latex = laws_table({"surface": fit}).to_latex()
    assert "0.34731" in latex
    assert "(0.31710 to 0.37220)" in latex


def test_a_standard_error_that_a_few_wild_draws_made_is_not_told():
    fit = surface_fit(
        intervals={"A": (269.0, 1.85e6), "alpha": (0.2, 0.4)},
        standard_errors={"A": 1.4e10, "alpha": 0.05},
    )
    told = {row["parameter"]: row["standard_error"] for row in laws_table({"surface": fit}).rows}
    assert (told["A"], told["alpha"]) == (None, 0.05)


def test_minima_say_which_are_left_out_and_why():
    minima = [
        Minimum(6e10, 1.2e4, 8e5, 2.5, MinimumStatus.OK, "", 7, 9.4, (2.5, 0.0, 0.1)),
        Minimum(
            1e12, None, None, None, MinimumStatus.CONCAVE, "it curves down", 7, 9.4, (2.5, 0.0, -1)
        ),
    ]
    table = minima_table(minima, "image", "nats per image")
    assert "it curves down" in in_terminal(table)
    assert "D (images)" in table.to_markdown()
    assert "loss (nats per image)" in table.to_markdown()


def test_markup_of_any_kind_in_a_name_stays_text():
    name = "[red]x[/red]|<b>|a_b|$1 & 50%|\x1b[31m"
    table = excluded_table([Excluded(name, "reason\nwith a line break")])
    assert "[red]x[/red]" in in_terminal(table)
    for text in (in_terminal(table), table.to_markdown(), table.to_latex()):
        assert "\x1b" not in text
    assert r"\$1 \& 50\%" in table.to_latex()
    assert "<b>" not in table.to_markdown()
    (body,) = [line for line in table.to_markdown().splitlines() if "red" in line]
    assert body.replace("\\|", "").count("|") == 3
    assert rows_of(table)[0]["name"] == printable(name)


def test_latex_sets_powers_of_ten_in_math_mode():
    row = {"budget_flops": 1.5e20, "params": 2.5e9}
    latex = chinchilla_table([row]).to_latex()
    assert r"$1.5 \times 10^{20}$" in latex
    assert r"$10^{9}$" in chinchilla_table([{"budget_flops": 1e9}]).to_latex()


def test_rows_are_ready_for_json():
    rows = chinchilla_table(
        planted_result(observations=observe([1e17, 1e18, 1e19])).chinchilla_table()
    ).to_json()
    assert json.loads(json.dumps(rows)) == rows


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (None, "loss", "-"),
        (float("nan"), "loss", "-"),
        (2.34567, "loss", "2.3457"),
        (20.04, "number", "20.0"),
        (0.99996, "number", "1.00"),
        (2.5e-7, "parameter", "2.5e-7"),
        (-2.5e-7, "parameter", "-2.5e-7"),
        (64.0, "plain", "64"),
        (1234.5, "money", "1,234.50"),
        (float("inf"), "count", "inf"),
    ],
)
def test_a_value_reads_as_its_kind(value, kind, text):
    assert format_value(value, kind) == text


def test_units_have_a_plural():
    assert [plural(u) for u in ("token", "patch", "bytes")] == ["tokens", "patches", "bytes"]


PDFLATEX, PDFTOTEXT = shutil.which("pdflatex"), shutil.which("pdftotext")


def compiled(tmp_path, tables):
    """The exit status of pdflatex on a document of these tables, and what it has to say."""
    lines = [r"\documentclass{article}", r"\usepackage[T1]{fontenc}", PREAMBLE]
    lines += [r"\begin{document}", *(table.to_latex() for table in tables), r"\end{document}"]
    (tmp_path / "report.tex").write_text("\n".join(lines), encoding="utf-8")
    for _ in range(2):
        done = subprocess.run(
            [PDFLATEX, "-interaction=nonstopmode", "-halt-on-error", "report.tex"],
            cwd=tmp_path, capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            break
    return done.returncode, done.stdout.decode(errors="replace")


@pytest.mark.skipif(PDFLATEX is None, reason="no pdflatex on this machine")
def test_latex_compiles_whatever_stands_in_the_cells(tmp_path, trials):
    evil = Excluded("a_b^c & 50% of $1 ~ #3 \\x {y} <z> | é", "outlier: 9 % above\n\x1b[31m")
    result = planted_result(excluded=(evil,))
    status, said = compiled(tmp_path, [*result.tables().values(), plan_table(trials)])
    assert status == 0, said[-2000:]


@pytest.mark.skipif(PDFLATEX is None, reason="no pdflatex on this machine")
@pytest.mark.parametrize("name", ["[run 5]", "*run 5", "[2pt] run"])
def test_a_cell_is_never_taken_for_an_argument_of_the_line_before_it(tmp_path, name):
    table = Table(
        "Names",
        (Column("name", "run", has_interval=True), Column("loss", "loss", "loss")),
        tuple({"name": name, "loss": 2.0, "name_interval": pair} for pair in (None, (1, 2))),
    )
    for shown in (table, excluded_table([Excluded(name, "outlier")] * 2)):
        status, said = compiled(tmp_path, [shown])
        assert status == 0, said[-2000:]
        if PDFTOTEXT is not None:
            text = subprocess.run(
                [PDFTOTEXT, "report.pdf", "-"], cwd=tmp_path, capture_output=True, check=True
            ).stdout.decode()
            assert text.count(name) == 2, text


@pytest.mark.skipif(PDFLATEX is None, reason="no pdflatex on this machine")
@pytest.mark.parametrize("budgets", [5, 12])
def test_latex_is_no_wider_and_no_longer_than_a_page(tmp_path, budgets):
    seen, excluded = with_outlier(observe([1e17 * 2**k for k in range(budgets)]), 4)
    why = Excluded(excluded[0].name, "outlier: its loss is 9 % above the robust surface, " * 2)
    predictions = tuple(
        Optimum(1e17 * 2**k, 1e9, 8e9, 2.5, (8e8, 1.1e9), (7e9, 9e9), (2.4, 2.6), method=method)
        for k in range(budgets)
        for method in ("surface", "isoflop")
    )
    result = planted_result(observations=seen, excluded=(why,), predictions=predictions)
    status, said = compiled(tmp_path, result.tables().values())
    assert status == 0, said[-2000:]
    assert "Overfull" not in said
    assert "too large" not in said
    assert (r"\begin{longtable}" in result.tables()["observations"].to_latex()) is (budgets == 12)


def test_numbers_stay_whole_on_a_narrow_terminal():
    table = chinchilla_table(planted_result().chinchilla_table())
    text = in_terminal(table, width=80)
    assert max(len(line) for line in text.splitlines()) <= 80
    for row in table.rows:
        for column in table.columns:
            assert format_value(row[column.key], column.kind) in text


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_column_vanishes_and_no_word_is_broken_on_a_narrow_terminal(width):
    rows = [
        {**row, "params_interval": (0.9 * row["params"], 1.1 * row["params"]), "cost": 12.5}
        for row in planted_result().chinchilla_table()
    ]
    table = chinchilla_table(rows)
    text = in_terminal(table, width=width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    words = text.split()
    for column in table.for_people:
        assert set(column.header.split()) <= set(words), column.header
        for row in table.rows:
            value, _, interval = cell(row, column).partition(" ")
            assert value in words
            assert not interval or interval in words
    # The columns that say what a row is about begin every part.
    heads = sum("method" in line for line in lines)
    assert heads == sum("Compute-optimal allocation" in line for line in lines)
    assert (heads > 1) is (width < 100)
    methods = {row["method"] for row in rows}
    assert sum(bool(methods & set(line.split())) for line in lines) == heads * len(rows)


def test_a_very_long_table_shows_its_beginning_and_says_how_much_is_missing():
    table = excluded_table([Excluded(f"row {k}", "no loss") for k in range(1, 100_001)])
    text = in_terminal(table)
    assert "row 200" in text
    assert "row 201" not in text
    assert "99,800 more rows" in text
    assert len(rows_of(table)) == 100_000
