"""Text from manifest, ledger and table steers no terminal, and leaves no comment or cell."""

import csv
import io
import unicodedata
from contextlib import closing

import pytest
from ledgers import entry
from planted_results import MANIFEST, observe, planted_result, run_directory

from flops_fit.errors import Note
from flops_fit.fitting.points import Excluded
from flops_fit.manifest.files import read_json
from flops_fit.planning.plan import Plan
from flops_fit.reporting.screen import Screen
from flops_fit.sweep.ledger import Ledger
from flops_fit.sweep.rundir import RunDir

HOSTILE = [
    "\x1b[2J\x1b]0;owned\x07",
    "\u202egnp.exe",
    "two\nlines\r\\end{document}",
    "=1+1",
    '@SUM("A1")',
    "<script>alert(1)</script>",
    "\x9b31m\u2066|`*_",
]


@pytest.fixture(params=HOSTILE, ids=range(len(HOSTILE)))
def hostile(request):
    return request.param


@pytest.fixture
def result(tmp_path, hostile):
    """A result into which every text comes from somebody else."""
    run = RunDir(run_directory(tmp_path, manifest=MANIFEST))
    trial = Plan.from_dict(read_json(run.plan)).trials[1]
    with closing(Ledger.open(run.ledger)) as ledger:
        ledger.append(entry("trial_failed", trial.trial_id, error=hostile))
    seen = observe((1e17, 1e18, 1e19))
    return planted_result(
        observations=seen,
        name=hostile,
        unit=f"token{hostile}",
        loss_unit=hostile,
        excluded=(Excluded(seen[0].name, hostile), Excluded(hostile, "diverged")),
        notes=(Note("outliers", hostile),),
        plan_warnings=(Note(hostile, hostile),),
        run_dir=run.path,
    )


def is_safe(text):
    """Whether a text holds no character that a terminal obeys, but the ends of lines."""
    return all(c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Zl", "Zp") for c in text)


def written(result):
    """The result in every format, by name."""
    tables = {name: result.table(name) for name in result.table_names()}
    yield "screen", "\n".join(result.to_text(Screen("here", 80)))
    yield "page", result.to_html()
    yield "answers", "\n".join(result.answers())
    for name, table in tables.items():
        yield f"{name} markdown", table.to_markdown()
        yield f"{name} latex", table.to_latex()
        yield f"{name} csv", table.to_csv()
        yield f"{name} terminal", terminal(table)


def terminal(table):
    from rich.console import Console

    console = Console(width=100, file=io.StringIO(), color_system=None)
    console.print(table.to_rich())
    return console.file.getvalue()


def test_no_output_obeys_a_text_from_a_file(result, hostile):
    for name, text in written(result):
        assert is_safe(text), name
        if "markdown" in name or name == "page":
            assert "<script>alert" not in text, name


def test_no_csv_cell_is_a_formula(result):
    for name in result.table_names():
        for row in csv.reader(io.StringIO(result.table(name).to_csv())):
            for cell in row:
                assert not cell.startswith(("=", "@", "+")), (name, cell)
                assert not cell.startswith("-") or float(cell) < 0, (name, cell)


@pytest.mark.parametrize(("layout", "mark"), [("latex", "%"), ("markdown", ">"), ("csv", None)])
def test_what_is_said_beside_a_table_stays_a_comment(result, layout, mark, capsys):
    from flops_fit.cli.output import print_verdict

    print_verdict(result, layout, with_answers=True)
    told = capsys.readouterr()
    assert is_safe(told.out + told.err)
    if mark is None:
        assert told.out == ""
    assert all(line.startswith(mark) for line in told.out.splitlines() if mark and line)
