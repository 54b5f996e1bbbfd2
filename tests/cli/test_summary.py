"""Plans and estimates begin with their totals; a warning is one sentence with its code."""

import re

import pytest
from command_line import flops_fit

from flops_fit.cli.summary import summary_lines
from flops_fit.errors import Note
from flops_fit.reporting.codes import explain_code


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize(
    "command", [("plan",), ("estimate", "--flops-per-second", "1e9", "--price-per-hour", "2")]
)
def test_the_totals_stand_first_and_each_warning_has_a_code_that_is_explained(
    tmp_path, write_stated, command, width
):
    name, *more = command
    ended = flops_fit(name, write_stated(tmp_path), *more, cwd=tmp_path, COLUMNS=str(width))
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert [line for line in lines if len(line) > width] == []
    assert re.match(rf"{name.title()} of planted: \d+ trials, [\d.e]+ FLOPs", lines[0])
    block = re.split("\nWarnings?\n|Explained by", ended.stdout)[1]
    codes = [warning.split()[-1] for warning in block.split("  ! ")[1:]]
    assert codes
    assert all(explain_code(code) for code in codes)
    table = next(k for k, line in enumerate(lines) if line.lstrip().startswith("trial "))
    assert table > len(codes)
    assert "continued" not in ended.stdout


def test_warnings_of_one_kind_are_one_line_and_what_only_informs_is_none():
    notes = [
        Note("sizes_missing", "1e11 FLOPs: 3 of 5 sizes"),
        Note("sizes_missing", "1e12 FLOPs: 4 of 5 sizes"),
        Note("basis", "timed here"),
        Note("few_budgets", "3 budgets: 5 or more make an exponent credible"),
    ]
    lines = summary_lines("Plan", [("Share", "89 % of it")], notes, 80)
    assert lines[:3] == ["Plan", "  Share      89 % of it", ""]
    assert lines[3] == "Warnings"
    assert lines[4].startswith("  ! 1e11 FLOPs: 3 of 5 sizes; 1 more of this kind ")
    assert lines[4].endswith(" sizes_missing")
    assert lines[5].endswith(" few_budgets")
    assert lines[6].strip() == "Explained by: flops-fit explain CODE"
    assert len(lines) == 7
    assert max(map(len, lines)) <= 80
