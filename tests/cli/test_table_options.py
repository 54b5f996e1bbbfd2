"""`report TABLE`: the rows as they were read, and two tables of different conventions."""

import json
import math
import re

import pytest
from command_line import flops_fit


def loss_of(n, d):
    return 1.69 + 406.4 / n**0.34 + 410.7 / d**0.28


def write_table(path, header, row, more=()):
    """Runs of Hoffmann's law in five budgets, each as `row(params, tokens, loss)` gives it."""
    lines = [header]
    for budget in (1e18, 3e18, 1e19, 3e19, 1e20):
        for k in range(6):
            params = 1.1e8 * (budget / 1e18) ** 0.5 * math.exp(-1.2 + 0.48 * k)
            tokens = budget / 6 / params
            lines.append(",".join(map(str, row(params, tokens, loss_of(params, tokens)))))
    path.write_text("\n".join([*lines, *more]) + "\n")
    return path


@pytest.fixture
def plain(tmp_path):
    return write_table(tmp_path / "plain.csv", "params,tokens,loss", lambda n, d, x: (n, d, x))


def multipliers(ended):
    assert ended.returncode == 0, ended.stderr
    return [row["multiplier"] for row in json.loads(ended.stdout)["multipliers"]]


def test_the_page_and_explain_show_how_each_row_was_read(tmp_path):
    table = write_table(
        tmp_path / "runs.csv", "params,tokens,loss,lr", lambda n, d, x: (n, d, x, 1e-3),
        more=["1e8,2e9,3.3,0.001", "1e8,2e9,3.4,0.01", "1e8,2e9,3.3,0.001", "ten,1e9,3.1,0.001"],
    )  # fmt: skip
    ended = flops_fit("report", table, "--html", "page.html", "--bootstrap", 0, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    page = re.sub(r"\s*<[^>]+>\s*", " ", (tmp_path / "page.html").read_text())
    page = " ".join(page[page.index("How each row was read") :].split())
    told = flops_fit("report", table, "--explain", "--json", cwd=tmp_path)
    rows = json.loads(told.stdout)["rows"]
    assert [row["used"] for row in rows] == [True] * 31 + [False] * 3
    assert rows[0] | {"row": "row 2", "used": True, "reason": ""} == rows[0]
    assert rows[0]["loss"] == pytest.approx(loss_of(rows[0]["params"], rows[0]["tokens"]))
    for name, reason in (
        ("row 33", "row 32 of the same params and tokens has a better setting"),
        ("row 34", "the same as row 32"),
        ("row 35", "params is not a number: 'ten'"),
    ):
        assert reason in next(row["reason"] for row in rows if row["row"] == name)
        assert re.search(f"{name} - - - - {re.escape(reason)}", page.replace("&#39;", "'"))
    assert "row 2 33.1M 5.03B 1e18" in page


def test_a_long_table_lists_the_rows_that_are_not_used_on_its_page(tmp_path):
    table = write_table(
        tmp_path / "runs.csv", "params,tokens,loss", lambda n, d, x: (n, d, x),
        more=[*(f"{n}e7,2e9,{loss_of(n * 1e7, 2e9)}" for n in range(1, 200)), "1e8,0,3"],
    )  # fmt: skip
    ended = flops_fit("report", table, "--html", "page.html", "--bootstrap", 0, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    page = (tmp_path / "page.html").read_text()
    page = page[page.index("How each row was read") :]
    assert "tokens is not positive: 0" in page
    assert "row 3<" not in page
    assert "--explain" in page


def test_counted_flops_are_compared_as_6nd_and_said(plain, tmp_path):
    def counted(n, d, x):
        return n, d, n * d * (6 + 4e8 / (n + 1e8)), x

    other = write_table(tmp_path / "counted.csv", "params,tokens,flops,loss", counted)
    for pair in ((plain, other), (other, plain)):
        ended = flops_fit("report", *pair, "--json", "--bootstrap", 0, cwd=tmp_path)
        assert multipliers(ended) == pytest.approx([1.0] * len(multipliers(ended)), rel=1e-3)
        assert "both are taken as 6 N D" in ended.stderr
    ended = flops_fit("report", other, other, "--json", "--bootstrap", 0, cwd=tmp_path)
    assert "6 N D" not in ended.stderr


def test_losses_in_other_units_are_converted_or_refused(plain, tmp_path):
    def table(name, column, of):
        return write_table(
            tmp_path / name, f"params,tokens,{column}", lambda n, d, x: (n, d, of(x))
        )

    perplexity = table("ppl.csv", "perplexity", math.exp)
    ended = flops_fit("report", plain, perplexity, "--json", "--bootstrap", 0, cwd=tmp_path)
    assert multipliers(ended) == pytest.approx([1.0] * len(multipliers(ended)), rel=1e-3)
    bits = table("bits.csv", "loss", lambda x: x / math.log(2))
    refused = flops_fit("report", plain, bits, "--bootstrap", 0, cwd=tmp_path)
    assert refused.returncode == 6
    assert "--loss-unit" in refused.stderr
    ended = flops_fit(
        "report", plain, bits, "--loss-unit", "nats,bits", "--json", "--bootstrap", 0, cwd=tmp_path
    )
    assert multipliers(ended) == pytest.approx([1.0] * len(multipliers(ended)), rel=1e-3)
    per_byte = table("bytes.csv", "val_bpb", lambda x: x / math.log(2) / 4)
    refused = flops_fit("report", plain, per_byte, "--bootstrap", 0, cwd=tmp_path)
    assert refused.returncode == 6
    assert "`nats`, `nats per byte`" in refused.stderr
