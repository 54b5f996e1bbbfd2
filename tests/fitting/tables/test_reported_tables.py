"""The tables of public reports (`shared/data/bugs`): each gives its planted law, or a question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flops_fit.errors import ObservationsError
from flops_fit.fitting.surface import solve_surface
from flops_fit.fitting.tables.table import Table, TableOptions, read_table

BUGS = Path(__file__).parents[4] / "shared" / "data" / "bugs"
pytestmark = pytest.mark.skipif(not BUGS.is_dir(), reason="the reported tables are not here")


def planted(n: float, d: float) -> float:
    return 1.7 + 400 / n**0.34 + 410 / d**0.28


def read(path: str, **options: Any) -> Table:
    return read_table(BUGS / path, TableOptions(**options))


def assert_planted(table: Table, *, rows: int, rel: float = 0.005) -> None:
    assert len(table.observations) == rows
    law = solve_surface(table.observations).law
    for n, d in ((1e8, 2e9), (5e8, 1e10), (1e9, 2e10)):
        assert law.loss(n, d) == pytest.approx(planted(n, d), rel=rel)


@pytest.mark.parametrize(
    ("path", "columns"),
    [
        ("01-no-tokens-column/n_c_loss.json", {}),
        ("01-no-tokens-column/n_c_loss.json",
         {"params": "parameters", "budget_flops": "compute_budget", "loss": "final_loss"}),
        ("01-no-tokens-column/c_d_loss.csv", {"loss": "paloma_macro"}),
        ("01-no-tokens-column/c_d_loss.csv", {"budget_flops": "budget", "loss": "paloma_macro"}),
        ("02-steps-and-model-columns/runs.csv", {}),
        ("02-steps-and-model-columns/runs_without.csv", {}),
        ("06-loss-beside-eval-loss/runs.csv", {}),
        *((f"07-optional-column-rejects-rows/{name}.csv", {})
          for name in ("seed_text", "iso_zero", "budget_text", "step_text", "flops_text")),
        *((f"09-numbers-as-people-write-them/{name}", {})
          for name in ("thousands.csv", "suffix.csv", "german.csv", "sepline.csv", "utf16.csv",
                       "latin1.csv", "blanklead.csv", "comment.csv", "trailing2.csv",
                       "orient_columns.json", "commacol.csv")),
    ],
)  # fmt: skip
def test_a_reported_table_gives_its_law(path, columns):
    table = read(path, columns=columns)
    assert_planted(table, rows=len(table.observations))
    assert len(table.observations) >= 30
    assert table.rejected == ()


@pytest.mark.parametrize(
    ("name", "scale"),
    [("n_in_millions_d_in_billions", "params=1e6,tokens=1e9"), ("mixed", "params=1e6,tokens=1e9")],
)
def test_reported_units_are_asked_about_and_the_hint_reads_them(name, scale):
    path = f"04-units-millions-billions/{name}.csv"
    with pytest.raises(ObservationsError) as caught:
        read(path)
    assert f"--scale {scale};" in (caught.value.hint or "")
    table = read(path, scale=dict(pair.split("=") for pair in scale.split(",")))
    assert_planted(table, rows=len(table.observations))


def test_the_reported_data_sets_are_asked_about_and_each_has_its_law():
    with pytest.raises(ObservationsError, match="differ in `dataset`"):
        read("08-several-datasets-in-one-file/runs.csv")
    whole = read("08-several-datasets-in-one-file/runs.csv", group="dataset")
    for label in dict.fromkeys(whole.labels):
        table = read("08-several-datasets-in-one-file/runs.csv", group=f"dataset={label}")
        law = solve_surface(table.observations).law
        for seen in table.observations:
            assert law.loss(seen.params, seen.tokens) == pytest.approx(seen.loss, rel=0.02)
