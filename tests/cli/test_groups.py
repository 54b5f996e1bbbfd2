"""`report TABLE --group`: one law, one page and one set of figures for each group of rows."""

import json
import math

import pytest
from command_line import flops_fit


def write_table(path, *, factors, columns="data"):
    """Runs of Hoffmann's law in five budgets, the losses of each group times its factor."""
    lines = [f"{columns},params,tokens,val_loss"]
    for budget in (1e18, 3e18, 1e19, 3e19, 1e20):
        for k in range(6):
            params = 1.1e8 * (budget / 1e18) ** 0.5 * math.exp(-1.2 + 0.48 * k)
            tokens = budget / 6 / params
            loss = 1.69 + 406.4 / params**0.34 + 410.7 / tokens**0.28
            lines += [
                f"{name},{params:.4g},{tokens:.4g},{loss * by:.5f}" for name, by in factors.items()
            ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "runs.csv", factors={"c4": 1.0, "wiki/en": 1.05, "wiki en": 1.1})


def test_each_group_has_its_law_its_page_and_its_figures(table, tmp_path):
    ended = flops_fit("report", table, "--group", "data", "--output", "out", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    folders = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert folders == ["c4", "wiki_en", "wiki_en-2"]
    for name in folders:
        assert (tmp_path / "out" / name / "report.html").read_text().startswith("<!doctype html>")
        assert (tmp_path / "out" / name / "isoflop.png").stat().st_size > 1000
    told = flops_fit("report", table, "--group", "data", "--json", cwd=tmp_path)
    groups = json.loads(told.stdout)["groups"]
    irreducible = [group["fits"]["surface"]["parameters"]["E"] for group in groups.values()]
    assert irreducible == pytest.approx([1.69, 1.69 * 1.05, 1.69 * 1.1], rel=0.02)


def test_one_group_is_reported_as_a_table_of_its_own(table, tmp_path):
    told = flops_fit("report", table, "--group", "data=c4", "--json", cwd=tmp_path)
    result = json.loads(told.stdout)
    assert result["observations"]["used"] == 30
    assert result["fits"]["surface"]["parameters"]["E"] == pytest.approx(1.69, rel=0.02)


def test_groups_without_any_law_are_an_error(tmp_path):
    rising = write_table(tmp_path / "flat.csv", factors={"one": 0.0, "two": 0.0})
    text = "\n".join(
        line if k == 0 else ",".join([*line.split(",")[:3], "2.0"])
        for k, line in enumerate(rising.read_text().splitlines())
    )
    rising.write_text(text)
    ended = flops_fit("report", rising, "--group", "data", cwd=tmp_path)
    assert ended.returncode == 6
    assert "Traceback" not in ended.stderr


def test_the_largest_compute_goes_by_the_budget_that_was_meant(tmp_path):
    """6 N D of sizes in four digits misses 1e20 by a little; the report says 1e20, once."""
    table = write_table(tmp_path / "runs.csv", factors={"c4": 1.0})
    told = flops_fit("report", table, "--table", "answer", "--format", "csv", cwd=tmp_path)
    budgets = [float(line.split(",")[0]) for line in told.stdout.splitlines()[1:]]
    assert budgets == [1e18, 1e19, 1e20, 1e21]
