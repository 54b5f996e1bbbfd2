"""Results, plans and estimates in a notebook, and figures' numbers in an author's own axes."""

import csv
import html.parser
import json

import pytest
from command_line import flops_fit as command

import flops_fit
from flops_fit.errors import ManifestError


class Balanced(html.parser.HTMLParser):
    """Fails where a tag is closed that was not opened, and keeps the text."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def text_of(shown):
    parser = Balanced()
    parser.feed(shown)
    assert parser.open == []
    return " ".join(parser.text.split())


@pytest.fixture(scope="module")
def result(table):
    return flops_fit.report(str(table), bootstrap=50)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("notebook") / "a <b> & c.csv"
    rows = ["params,tokens,loss"]
    for budget in (1e18, 3e18, 1e19, 3e19, 1e20):
        for k in range(6):
            params = 1.1e8 * (budget / 1e18) ** 0.5 * 3 ** (-1 + 0.4 * k)
            tokens = budget / 6 / params
            loss = 1.69 + 406.4 / params**0.34 + 410.7 / tokens**0.28
            rows.append(f"{params:.8g},{tokens:.8g},{loss:.6g}")
    path.write_text("\n".join(rows))
    return path


def test_a_result_is_short_in_a_console_and_whole_in_a_notebook(result):
    assert repr(result).startswith("<Result of a <b> & c: trust; For 1e21 FLOPs")
    assert len(repr(result)) < 400
    shown = result._repr_html_()
    text = text_of(shown)
    assert "a <b> & c: trust" in text
    assert "For 1e21 FLOPs: train" in text
    assert 'src="data:image/png;base64,' in shown
    assert "<b>a <b>" not in shown


def test_fits_and_verdicts_are_shown(result):
    fit = result.fits["surface"]
    assert repr(fit).startswith("<Fit by surface: E=1.69")
    assert "alpha 0.34" in text_of(fit._repr_html_())
    verdict = result._judged
    assert repr(verdict) == "<Verdict: trust>"
    assert "Verdict: trust" in text_of(verdict._repr_html_())


def test_plans_and_estimates_are_shown(write_stated, tmp_path):
    manifest = str(write_stated(tmp_path))
    plan = flops_fit.plan(manifest)
    assert repr(plan).startswith(f"<Plan: {len(plan.trials)} trials, ")
    text = text_of(plan._repr_html_())
    assert "params" in text
    assert "more rows" in text or len(plan.trials) <= 30
    costed = flops_fit.estimate(manifest, flops_per_second=1e12)
    assert repr(costed).startswith(f"<Estimate: {len(plan.trials)} trials, ")
    assert "Times: a stated rate" in text_of(costed._repr_html_())


def test_tables_become_data_frames(result, write_stated, tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = result.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame["budget_flops"]) == [1e18, 1e19, 1e20, 1e21]
    assert len(result.to_pandas("observations")) == 30
    plan = flops_fit.plan(str(write_stated(tmp_path)))
    assert plan.to_pandas()["params"].tolist() == [trial.size.params for trial in plan.trials]
    with pytest.raises(ManifestError, match="no table `wrong`"):
        result.to_pandas("wrong")


def test_the_numbers_of_a_figure_can_be_drawn_elsewhere(result, table, tmp_path):
    rows = result.figure_data("isoflop")
    seen = {(row["x"], row["y"]) for row in rows}
    assert {(o.params, o.loss) for o in result.observations} <= seen
    with pytest.raises(ManifestError, match="no figure `wrong`"):
        result.figure_data("wrong")
    ended = command("report", table, "--output", "out", "--figure-data", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    written = {path.stem for path in (tmp_path / "out").glob("*.csv")}
    assert written == {path.stem for path in (tmp_path / "out").glob("*.png")}
    with (tmp_path / "out" / "frontier.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {"panel", "x_axis", "y_axis", "series", "x", "y"} == set(lines[0])
    assert len(lines) > 100


def test_json_is_unchanged_by_how_things_are_shown(result):
    assert json.loads(json.dumps(result.to_dict()))["name"] == "a <b> & c"
