"""The default report is one screen on real tables too, and each reason says what to do."""

import shlex

import pytest
from reference_runs import FOLDER, need_runs

from flops_fit.reporting.lines import coded_lines, command_lines, grouped, step_lines
from flops_fit.reporting.reading import read_source
from flops_fit.reporting.rules import RULES, Severity
from flops_fit.reporting.screen import Screen, gravest, next_step, reasons_table

TABLES = ["epoch_chinchilla_240", "mlscalefit_chinchilla_isoflop", "gemstones_hot"]


@pytest.mark.parametrize("name", TABLES)
def test_a_real_table_is_reported_in_one_screen_whose_reasons_end_in_a_command(name):
    need_runs()
    source = FOLDER / f"{name}.csv"
    result = read_source(source, bootstrap=50)
    for width in (80, 100, 120):
        for written in (f"{name}.csv", str(source)):
            lines = result.to_text(Screen(written, width, lines=37))  # two are of what was read
            assert len(lines) <= 38
            assert [line for line in lines if len(line) > width] == []
    for reason in result.reasons:
        action, command = next_step(reason.code, result, "RUN")
        assert action
        assert command.startswith("flops-fit ")
        assert "{" not in command
    rows = reasons_table(result).rows
    assert [row["code"] for row in rows] == [note.code for note in gravest(result.reasons)]


@pytest.mark.parametrize(
    "rule", [r for r in RULES if r.severity in (Severity.REFUSED, Severity.WARNED)],
    ids=lambda rule: rule.code,
)  # fmt: skip
def test_each_reason_of_a_verdict_has_an_action(rule):
    assert rule.action
    assert rule.meaning or rule.statement


def test_a_long_command_is_continued_as_a_shell_reads_it():
    command = "flops-fit report " + "a/long/path/" * 4 + "runs.csv --columns params=N,loss=L --full"
    lines = command_lines(command, 60, first="Next     ")
    assert len(lines) > 1
    assert all(line.endswith(" \\") for line in lines[:-1])
    text = "\n".join(lines).removeprefix("Next     ")
    assert shlex.split(text.replace("\\\n", "")) == shlex.split(command)


def test_an_action_and_its_command_share_a_line_where_they_fit():
    assert step_lines("Add a budget.", "flops-fit plan", 80) == [
        "      Add a budget: flops-fit plan"
    ]
    assert step_lines("Add a budget.", "flops-fit plan", 30) == [
        "      Add a budget.",
        "      flops-fit plan",
    ]


def test_a_number_is_not_parted_from_its_percent_sign():
    lines = coded_lines("the loss is uncertain by about 95 % here", "a_code", 39)
    assert not any(line.lstrip().startswith("%") for line in lines)
    assert lines[-1].endswith("a_code")


def test_messages_of_one_code_are_counted():
    assert grouped([("a", "x"), ("b", "y"), ("a", "z")]) == [
        ("a", "x; 1 more of this kind"),
        ("b", "y"),
    ]
