"""Tables as people have them: each kind gives the planted law, or one clear question."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flops_fit.errors import ManifestError, ObservationsError
from flops_fit.fitting.surface import solve_surface
from flops_fit.fitting.tables.table import Table, TableOptions, read_table, split

E, A, B, ALPHA, BETA = 1.7, 420.0, 1500.0, 0.34, 0.36
Runs = dict[str, list[float]]


def loss_of(n: float, d: float, *, scale: float = 1.0) -> float:
    return scale * (E + A / n**ALPHA + B / d**BETA)


def planted(*, noise: float = 0.002, seed: int = 0, scale: float = 1.0, k: float = 6.0) -> Runs:
    """Params, tokens, FLOPs and loss of five isoFLOP curves of seven sizes."""
    rng = np.random.default_rng(seed)
    runs: Runs = {"N": [], "D": [], "C": [], "L": []}
    for budget in (1e18, 3e18, 1e19, 3e19, 1e20):
        for spread in np.linspace(-1.2, 1.2, 7):
            n = round(1.1e8 * (budget / 1e18) ** 0.5 * math.exp(spread))
            d = budget / (k * n)
            runs["N"].append(n)
            runs["D"].append(d)
            runs["C"].append(budget)
            runs["L"].append(loss_of(n, d, scale=scale) * math.exp(noise * rng.standard_normal()))
    return runs


def text_of(columns: dict[str, list[Any]], *, delimiter: str = ",") -> str:
    """Columns as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return out.getvalue()


def read(tmp_path: Path, text: str | bytes, name: str = "runs.csv", **options: Any) -> Table:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_table(path, TableOptions(**options))


def assert_planted(table: Table, *, scale: float = 1.0, rows: int = 35) -> None:
    """The rows are all there, and the law through them predicts the planted losses within 1 %."""
    assert len(table.observations) == rows
    law = solve_surface(table.observations).law
    for n, d in ((1e8, 2e9), (1e9, 2e10), (5e9, 1e11)):
        assert law.loss(n, d) == pytest.approx(loss_of(n, d, scale=scale), rel=0.01)


def codes(table: Table) -> set[str]:
    return {note.code for note in table.notes}


R = planted()


@pytest.mark.parametrize(
    "columns",
    [
        {"params": R["N"], "compute": R["C"], "loss": R["L"]},
        {"parameters": R["N"], "compute_budget": R["C"], "final_loss": R["L"]},
        {"tokens": R["D"], "flops": R["C"], "loss": R["L"]},
        {"budget": R["C"], "tokens": R["D"], "val_loss": R["L"]},
        {"N": R["N"], "tokens_per_param": [d / n for n, d in zip(R["N"], R["D"], strict=True)],
         "loss": R["L"]},
        {"Model Size": R["N"], "Training FLOP": R["C"], "loss": R["L"]},
    ],
)  # fmt: skip
def test_any_two_of_params_tokens_and_flops_give_the_third(tmp_path, columns):
    table = read(tmp_path, text_of(columns))
    assert_planted(table)
    assert codes(table) & {"flops_assumed", "tokens_assumed", "params_assumed"}


@pytest.mark.parametrize(
    "extra",
    [
        {"steps": [int(d / 5e5) for d in R["D"]], "model": [f"gpt-{n}" for n in R["N"]]},
        {"global_step": [int(d / 5e5) for d in R["D"]], "run_id": [f"r{k}" for k in range(35)]},
        {"step": ["final"] * 35, "run": ["a"] * 35},
        {"iteration": list(range(35)), "model": ["m"] * 35},
        {"step": [1000] * 35, "run_name": ["x"] * 35},
    ],
)
def test_steps_of_finished_runs_make_no_training_curve(tmp_path, extra):
    table = read(tmp_path, text_of({"N": R["N"], "D": R["D"], "loss": R["L"], **extra}))
    assert_planted(table)
    assert all(seen.step is None for seen in table.observations)


def test_one_run_with_many_rising_steps_is_a_training_curve_and_can_be_undone(tmp_path):
    text = "N,D,loss,step,run\n" + "".join(
        f"1000000,{1e8 * k},{4 - 0.1 * k},{k},a\n" for k in range(1, 9)
    )
    assert {seen.step for seen in read(tmp_path, text).observations} == set(range(1, 9))
    undone = read(tmp_path, text, columns={"step": "none"})
    assert {seen.step for seen in undone.observations} == {None}


@pytest.mark.parametrize(
    ("columns", "fix"),
    [
        ({"N": [n / 1e6 for n in R["N"]], "D": [d / 1e9 for d in R["D"]]},
         "params=1e6,tokens=1e9"),
        ({"N": [n / 1e6 for n in R["N"]], "D": R["D"]}, "params=1e6"),
        ({"N": R["N"], "D": [d / 1e9 for d in R["D"]]}, "tokens=1e9"),
        ({"N": [n / 1e9 for n in R["N"]], "D": R["D"], "C": R["C"]}, "params=1e9"),
        ({"N": R["N"], "D": R["D"], "C": [c / 1e9 for c in R["C"]]}, "flops=1e9"),
        ({"N": R["N"], "D": R["D"], "C": [c / 8.64e19 for c in R["C"]]}, "flops=8.64e19"),
        ({"N": R["N"], "D": R["D"], "C": [c / 1e18 for c in R["C"]]}, "flops=1e18"),
        ({"N": [n / 1e6 for n in R["N"]], "D": [d / 1e9 for d in R["D"]], "C": R["C"]},
         "params=1e6,tokens=1e9"),
        ({"N": R["N"], "D": R["D"], "C": [c / 3 for c in R["C"]]}, "flops=3"),
        ({"N": R["N"], "D": R["D"], "flops_per_token": [2 * n for n in R["N"]]},
         "flops_per_token=3"),
    ],
)  # fmt: skip
def test_other_units_are_refused_with_the_scale_that_reads_them(tmp_path, columns, fix):
    text = text_of({**columns, "loss": R["L"]})
    with pytest.raises(ObservationsError) as caught:
        read(tmp_path, text)
    assert f"--scale {fix};" in (caught.value.hint or "")
    scale: dict[str, float | str] = dict(pair.split("=") for pair in fix.split(","))
    assert_planted(read(tmp_path, text, scale=scale))


@pytest.mark.parametrize(
    ("columns", "factors"),
    [
        ({"params_millions": 1e6, "tokens_billions": 1e9}, ("N", "D")),
        ({"N (M)": 1e6, "D (B)": 1e9}, ("N", "D")),
        ({"total_params": 1, "total_tokens_billions": 1e9}, ("N", "D")),
        ({"params": 1, "total_gflops": 1e9}, ("N", "C")),
        ({"params": 1, "compute_pf_days": 8.64e19}, ("N", "C")),
    ],
)
def test_a_column_that_states_its_unit_is_read_in_it(tmp_path, columns, factors):
    cells = {
        name: [value / factor for value in R[key]]
        for (name, factor), key in zip(columns.items(), factors, strict=True)
    }
    assert_planted(read(tmp_path, text_of({**cells, "loss": R["L"]})))


def test_forward_flops_that_the_caller_confirms_are_used_as_they_are(tmp_path):
    text = text_of({"N": R["N"], "D": R["D"], "C": [c / 3 for c in R["C"]], "loss": R["L"]})
    table = read(tmp_path, text, scale={"flops": 1})
    assert [seen.flops for seen in table.observations] == [c / 3 for c in R["C"]]


@pytest.mark.parametrize(
    ("params", "tokens", "loss"),
    [
        ("config.n_params", "config.tokens", "summary.val_loss"),
        ("params.n_params", "params.tokens_seen", "metrics.eval_loss"),
        ("config/num_params", "summary/tokens_seen", "summary/eval/loss"),
    ],
)
def test_prefixes_of_trackers_are_read(tmp_path, params, tokens, loss):
    assert_planted(read(tmp_path, text_of({params: R["N"], tokens: R["D"], loss: R["L"]})))


@pytest.mark.parametrize("sign", ["\u00b1", "+/-", " +- "])
def test_a_loss_with_its_plus_minus_is_read(tmp_path, sign):
    losses = [f"{loss:.5f}{sign}0.01" for loss in R["L"]]
    assert_planted(read(tmp_path, text_of({"N": R["N"], "D": R["D"], "loss": losses})))


def test_exchanged_columns_are_refused_with_the_exchange(tmp_path):
    text = text_of({"params": R["D"], "tokens": R["N"], "loss": R["L"]})
    with pytest.raises(ObservationsError, match="look exchanged") as caught:
        read(tmp_path, text)
    assert "--columns params=tokens,tokens=params" in (caught.value.hint or "")
    assert_planted(read(tmp_path, text, columns={"params": "tokens", "tokens": "params"}))


def test_numbers_that_the_caller_confirms_are_used_as_they_are(tmp_path):
    text = text_of({"N": R["N"], "D": [d / 1e4 for d in R["D"]], "loss": R["L"]})
    with pytest.raises(ObservationsError):
        read(tmp_path, text)
    assert len(read(tmp_path, text, scale={"tokens": 1.0}).observations) == 35


@pytest.mark.parametrize(
    "other", ["eval_loss", "val_loss", "validation_loss", "test/loss", "val/c4"]
)
def test_held_out_losses_go_before_a_plain_loss_and_the_choice_is_a_warning(tmp_path, other):
    text = text_of(
        {"params": R["N"], "tokens": R["D"], "loss": [0.93 * x for x in R["L"]], other: R["L"]}
    )
    table = read(tmp_path, text)
    assert_planted(table)
    assert "loss_chosen" in codes(table)
    assert_planted(read(tmp_path, text, loss_column="loss"), scale=0.93)


def test_a_training_loss_alone_is_asked_about(tmp_path):
    text = text_of({"params": R["N"], "tokens": R["D"], "train_loss": R["L"]})
    with pytest.raises(ObservationsError, match="is the training loss") as caught:
        read(tmp_path, text)
    assert '--loss-column "train_loss"' in (caught.value.hint or "")
    assert_planted(read(tmp_path, text, loss_column="train_loss"))


def test_several_held_out_losses_are_asked_about_and_each_can_be_read(tmp_path):
    text = text_of(
        {"N": R["N"], "D": R["D"], "val/c4": R["L"], "val/wiki": [0.8 * x for x in R["L"]]}
    )
    with pytest.raises(ObservationsError, match="several held-out losses"):
        read(tmp_path, text)
    each = split(tmp_path / "runs.csv", TableOptions(), losses=["all"])
    assert list(each) == ["val/c4", "val/wiki"]
    assert_planted(read_table(tmp_path / "runs.csv", each["val/wiki"]), scale=0.8)


@pytest.mark.parametrize(
    "extra",
    [
        {"seed": ["not_recorded"] * 35},
        {"step": ["final"] * 35},
        {"budget": ["small"] * 35},
        {"budget": [0.0 if k % 2 else c for k, c in enumerate(R["C"])]},
        {"flops": [f"{c:.3e} FLOPs" for c in R["C"]]},
        {"flops": ["lost"] * 35},
        {"size_value": ["d12"] * 35},
        {"params_active": ["n/a"] * 35, "seed": [None, 1] * 17 + [2]},
    ],
)
def test_an_optional_column_never_costs_a_row(tmp_path, extra):
    table = read(tmp_path, text_of({"params": R["N"], "tokens": R["D"], "loss": R["L"], **extra}))
    assert_planted(table)
    assert table.rejected == ()


def test_budgets_of_some_rows_are_those_of_the_rows_with_the_same_flops(tmp_path):
    text = text_of({"N": R["N"], "D": R["D"], "loss": R["L"],
                    "budget": [0.0 if k % 2 else c for k, c in enumerate(R["C"])]})  # fmt: skip
    assert [seen.budget_flops for seen in read(tmp_path, text).observations] == R["C"]


def mixture(factor: float, *, noise: float = 0.003, seed: int = 0) -> dict[str, list[Any]]:
    first, second = (
        planted(noise=noise, seed=seed),
        planted(noise=noise, seed=seed + 1, scale=factor),
    )
    return {
        "dataset": ["c4"] * 35 + ["wiki"] * 35,
        **{key: first[key] + second[key] for key in ("N", "D")},
        "loss": first["L"] + second["L"],
    }


@pytest.mark.parametrize(
    "column", ["dataset", "experiment", "optimizer", "architecture", "loss_kind"]
)
def test_two_populations_are_asked_about_and_each_is_read(tmp_path, column):
    columns = mixture(1.2)
    columns[column] = columns.pop("dataset")
    with pytest.raises(ObservationsError, match=f"differ in `{column}`") as caught:
        read(tmp_path, text_of(columns))
    assert "--group none" in (caught.value.hint or "")
    each = split(tmp_path / "runs.csv", TableOptions(group=column))
    assert list(each) == ["c4", "wiki"]
    assert_planted(read_table(tmp_path / "runs.csv", each["wiki"]), scale=1.2)
    assert len(read_table(tmp_path / "runs.csv", TableOptions(group="none")).observations) == 70


def test_one_population_in_two_groups_is_pooled_and_said(tmp_path):
    table = read(tmp_path, text_of(mixture(1.0)))
    assert_planted(table, rows=70)
    assert "groups_pooled" in codes(table)


def test_planted_mixtures_are_noticed_and_single_populations_are_not():
    noticed = false = 0
    for seed in range(20):
        for factor in (1.03, 1.0):
            try:
                read_table(mixture(factor, noise=0.005, seed=10 * seed))
            except ObservationsError:
                noticed += factor > 1
                false += factor == 1
    assert (noticed, false) == (20, 0)


def test_names_of_sizes_are_no_populations(tmp_path):
    names = {n: f"gpt-{n / 1e6:.0f}M" for n in R["N"]}
    table = read(
        tmp_path,
        text_of({"model": [names[n] for n in R["N"]], "N": R["N"], "D": R["D"], "loss": R["L"]}),
    )
    assert_planted(table)


@pytest.mark.parametrize(
    ("name", "values"),
    [("lr", [1e-4, 3e-4, 1e-3]), ("batch_size", [32, 64, 128]), ("weight_decay", [0.0, 0.1, 0.3])],
)
def test_the_best_of_a_tuned_setting_is_used_and_said(tmp_path, name, values):
    penalty = (1.04, 1.0, 1.03)
    columns = {
        "N": [n for n in R["N"] for _ in values],
        "D": [d for d in R["D"] for _ in values],
        name: values * 35,
        "loss": [x * each for x in R["L"] for each in penalty],
    }
    table = read(tmp_path, text_of(columns))
    assert_planted(table)
    assert "best_of_tuned" in codes(table)
    assert len(table.aside) == 70
    assert table.rejected == ()


def test_seeds_are_replicates_and_all_stay(tmp_path):
    columns = {
        "N": R["N"] * 2, "D": R["D"] * 2, "seed": [1] * 35 + [2] * 35,
        "loss": R["L"] + planted(seed=5)["L"],
    }  # fmt: skip
    assert_planted(read(tmp_path, text_of(columns)), rows=70)


def german(value: float) -> str:
    return f"{value:.5f}".replace(".", ",")


PLAIN = text_of({"params": R["N"], "tokens": [round(d) for d in R["D"]], "loss": R["L"]})
WRITTEN = {
    "thousands": text_of({"params": [f"{n:,}" for n in R["N"]],
                          "tokens": [f"{d:,.0f}" for d in R["D"]], "loss": R["L"]}),
    "spaces": text_of({"params": [f"{n:,}".replace(",", " ") for n in R["N"]],
                       "tokens": R["D"], "loss": R["L"]}),
    "suffix": text_of({"params": [f"{n / 1e6:.3f}M" for n in R["N"]],
                       "tokens": [f"{d / 1e9:.4f}B" for d in R["D"]], "loss": R["L"]}),
    "words": text_of({"params": [f"{n / 1e6:.3f} million" for n in R["N"]],
                      "tokens": [f"{d / 1e9:.4f} B tokens" for d in R["D"]], "loss": R["L"]}),
    "powers": text_of({"params": [f"{n / 1e6:.4f}x10^6" for n in R["N"]],
                       "tokens": [f"{d / 1e9:.4f}*10**9" for d in R["D"]], "loss": R["L"]}),
    "german": text_of({"params": R["N"], "tokens": [german(d) for d in R["D"]],
                       "loss": [german(x) for x in R["L"]]}, delimiter=";"),
    "sep": "sep=;\r\n" + PLAIN.replace(",", ";"),
    "blank lines": "\n\n" + PLAIN + "\n\n",
    "comments": "# made by a trainer\n// and again\n" + PLAIN,
    "trailing commas": "\n".join(f"{line}," for line in PLAIN.split()),
    "tabs": PLAIN.replace(",", "\t"),
    "header twice": PLAIN + PLAIN.splitlines()[0] + "\n",
    "quoted": PLAIN.replace("params", '"params"'),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRITTEN)
def test_numbers_are_read_as_people_write_them(tmp_path, kind):
    assert_planted(read(tmp_path, WRITTEN[kind]))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_any_common_encoding_is_read(tmp_path, encoding):
    text = PLAIN.replace("loss\r\n", "loss,Größe\r\n", 1)
    head, *lines = text.splitlines()
    text = "\n".join([head, *(f"{line},groß" for line in lines)])
    assert_planted(read(tmp_path, text.encode(encoding)))


def test_commas_of_both_kinds_are_refused(tmp_path):
    text = "params;tokens;loss\n" + "1,234,567;2,5;3,21\n" * 3
    with pytest.raises(ObservationsError, match="commas before decimals"):
        read(tmp_path, text)


@pytest.mark.parametrize("orient", ["columns", "index", "records", "split", "table"])
def test_every_orient_of_pandas_that_has_names_is_read(tmp_path, orient):
    frame = pytest.importorskip("pandas").DataFrame(
        {"params": R["N"], "tokens": R["D"], "loss": R["L"]}
    )
    assert_planted(read(tmp_path, frame.to_json(orient=orient), "runs.json"))
    assert_planted(read_table(frame))


def test_excel_and_parquet_files_are_read(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["My runs"])
    book.active.append(["params", "tokens", "loss"])
    for row in zip(R["N"], R["D"], R["L"], strict=True):
        book.active.append(list(row))
    book.save(tmp_path / "runs.xlsx")
    assert_planted(read_table(tmp_path / "runs.xlsx"))
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = arrow.table({"params": R["N"], "tokens": R["D"], "loss": R["L"]})
    parquet.write_table(table, tmp_path / "runs.parquet")
    assert_planted(read_table(tmp_path / "runs.parquet"))


@pytest.mark.parametrize(
    ("column", "values", "unit"),
    [
        ("loss", [x / math.log(2) for x in R["L"]], "bits"),
        ("val_bpb", [x / math.log(2) for x in R["L"]], None),
        ("val_ppl", [math.exp(x) for x in R["L"]], None),
        ("loss", [math.exp(x) for x in R["L"]], "perplexity"),
        ("loss", R["L"], "nats"),
    ],
)
def test_losses_in_bits_and_perplexities_are_converted_and_said(tmp_path, column, values, unit):
    text = text_of({"N": R["N"], "D": R["D"], column: values})
    table = read(tmp_path, text, loss_unit=unit, loss_column=column)
    assert_planted(table)
    assert ("loss_converted" in codes(table)) == (unit != "nats")


def test_what_is_no_loss_is_refused(tmp_path):
    accuracy = [1 - x / 10 for x in R["L"]]
    for column, values, says in (
        ("accuracy", accuracy, "holds accuracies"),
        ("loss", accuracy, "rises with compute"),
        ("error_rate", R["L"], "holds error rates"),
        ("loss", [math.exp(x) for x in R["L"]], "too large for nats"),
    ):
        text = text_of({"N": R["N"], "D": R["D"], column: values})
        with pytest.raises(ObservationsError, match=says):
            read(tmp_path, text, loss_column=column)
    with pytest.raises(ManifestError, match="--loss-unit"):
        read(tmp_path, text, loss_unit="accuracy")


def test_blank_flops_are_filled_by_one_convention(tmp_path):
    runs = planted(k=8.0)
    counted = [n * d * (6 + 4e8 / (n + 1e8)) for n, d in zip(runs["N"], runs["D"], strict=True)]
    cells = {"N": runs["N"], "D": runs["D"], "loss": runs["L"]}
    some = [None if k % 3 == 1 else c for k, c in enumerate(counted)]
    table = read(tmp_path, text_of({**cells, "C": some}))
    assert "flops_filled" in codes(table)
    for seen, true in zip(table.observations, counted, strict=True):
        assert seen.flops == pytest.approx(true, rel=0.02)
    few = [c if k % 9 == 1 else None for k, c in enumerate(counted)]
    table = read(tmp_path, text_of({**cells, "C": few}))
    assert {round(o.flops / o.params / o.tokens, 6) for o in table.observations} == {6.0}
    assert "flops_assumed" in codes(table)


def test_a_stated_multiple_or_column_gives_the_flops_per_token(tmp_path):
    cells = {"N": R["N"], "D": R["D"], "loss": R["L"]}
    table = read(tmp_path, text_of(cells), flops_per_token="8N")
    assert {round(o.flops / o.params / o.tokens, 6) for o in table.observations} == {8.0}
    per_token = text_of({**cells, "fpt": [7 * n for n in R["N"]]})
    table = read(tmp_path, per_token, flops_per_token="fpt")
    assert {round(o.flops / o.params / o.tokens, 6) for o in table.observations} == {7.0}


def test_without_guesses_only_our_own_names_are_read(tmp_path):
    with pytest.raises(ObservationsError, match="no column for params, tokens"):
        read(tmp_path, text_of({"N": R["N"], "D": R["D"], "loss": R["L"]}), guesses=False)
    assert_planted(read(tmp_path, PLAIN, guesses=False))
    with pytest.raises(ObservationsError, match="no column for params, tokens"):
        read(tmp_path, text_of({"n": R["N"], "d": R["D"], "loss": R["L"]}))


# Public layouts, with numbers of our own.


def test_the_layout_of_kyo_takano_gives_the_law(tmp_path):
    assert_planted(read(tmp_path, text_of({"C": R["C"], "N": R["N"], "D": R["D"], "loss": R["L"]})))


def test_the_layout_of_epoch_gives_the_law(tmp_path):
    text = text_of({"Model Size": R["N"], "Training FLOP": R["C"], "loss": R["L"]})
    assert_planted(read(tmp_path, text))


def test_the_layout_of_cs336_gives_the_law(tmp_path):
    rows = [
        {"parameters": n, "compute_budget": c, "final_loss": x}
        for n, c, x in zip(R["N"], R["C"], R["L"], strict=True)
    ]
    assert_planted(read(tmp_path, json.dumps(rows), "isoflops_curves.json"))


def test_the_layout_of_open_athena_asks_for_the_experiment(tmp_path):
    columns = mixture(1.15)
    names = [f"marin__{each}__llama" for each in columns["dataset"]]
    text = text_of(
        {
            "source": ["marin"] * 70, "dataset": columns["dataset"], "model": ["llama"] * 70,
            "condition": [""] * 70, "experiment": names, "tokens": columns["D"],
            "params": columns["N"], "budget": R["C"] * 2, "loss": columns["loss"],
        }
    )  # fmt: skip
    with pytest.raises(ObservationsError, match="one law for all fits clearly worse"):
        read(tmp_path, text)
    assert_planted(read(tmp_path, text, group="experiment=marin__wiki__llama"), scale=1.15)


def test_a_wandb_export_leaves_out_what_did_not_finish(tmp_path):
    text = text_of(
        {
            "Name": [f"run-{k}" for k in range(37)],
            "State": ["finished"] * 35 + ["crashed", "running"],
            "Notes": ["-"] * 37, "User": ["me"] * 37,
            "Created": [f"2026-01-{k}" for k in range(37)],
            "Runtime": list(range(37)), "num_params": [*R["N"], 1e8, 1e8],
            "total_tokens": [*R["D"], 1e9, 1e9], "eval/loss": [*R["L"], 9.9, ""],
        }
    )  # fmt: skip
    table = read(tmp_path, text)
    assert_planted(table)
    assert [each.reason for each in table.rejected] == [
        "its state is `crashed`, not finished", "its state is `running`, not finished",
    ]  # fmt: skip


def test_a_hugging_face_trainer_log_asks_for_what_it_lacks(tmp_path):
    state = {
        "global_step": 30,
        "log_history": [
            {"loss": 4.0, "step": 10, "epoch": 0.1},
            {"eval_loss": 3.9, "step": 10, "epoch": 0.1},
            {"loss": 3.5, "step": 20, "epoch": 0.2},
        ],
    }
    with pytest.raises(ObservationsError, match="no column for params, tokens"):
        read(tmp_path, json.dumps(state), "trainer_state.json")
    lines = [
        json.dumps({"eval_loss": x, "num_input_tokens_seen": d, "num_parameters": n})
        for n, d, x in zip(R["N"], R["D"], R["L"], strict=True)
    ]
    lines += [json.dumps({"train_runtime": 3.0, "total_flos": 1e18})]
    table = read(tmp_path, "\n".join(lines), "logs.jsonl")
    assert_planted(table)


def test_the_layout_of_nanochat_gives_the_law(tmp_path):
    text = text_of(
        {
            "flops_budget": R["C"], "depth": [12] * 35, "model_dim": [768] * 35,
            "num_params": R["N"], "num_scaling_params": [0.9 * n for n in R["N"]],
            "num_iterations": [int(d / 524288) for d in R["D"]], "tokens_trained": R["D"],
            "param_data_ratio": [d / n for n, d in zip(R["N"], R["D"], strict=True)],
            "val_bpb": [x / math.log(2) for x in R["L"]], "core_score": [0.1] * 35,
            "train_time_sec": list(range(35)),
        }
    )  # fmt: skip
    table = read(tmp_path, text)
    assert_planted(table)
    assert "(bits)" in table.summary


# Spellings of the nine kinds, beyond those of the reports.


COUNTS = {
    "params": ("Number of parameters", "#params", "n_params_total", "model_num_params", "nParams"),
    "tokens": ("tokens_processed", "n_train_tokens", "trainTokens", "Tokens seen", "D_tokens"),
    "flops": ("compute_flops", "total_compute", "train FLOPs", "estimated_flops", "num_flops"),
}


@pytest.mark.parametrize(
    ("quantity", "name"), [(key, name) for key, names in COUNTS.items() for name in names]
)
def test_counts_are_known_by_the_words_of_their_names(tmp_path, quantity, name):
    columns = {"params": R["N"], "tokens": R["D"], "loss": R["L"]}
    if quantity == "flops":
        del columns["tokens"]
        columns[name] = R["C"]
    else:
        columns[name] = columns.pop(quantity)
    assert_planted(read(tmp_path, text_of(columns)))


@pytest.mark.parametrize(
    "name", ["dataset_tokens", "tokens_per_step", "eval_tokens", "batch_tokens", "data_size"]
)
def test_a_name_that_may_mean_something_else_is_asked_about(tmp_path, name):
    with pytest.raises(ObservationsError, match="no column for tokens") as caught:
        read(tmp_path, text_of({"params": R["N"], name: R["D"], "loss": R["L"]}))
    assert f'--columns "tokens={name}"' in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("name", "key", "factor"),
    [
        ("N_M", "N", 1e6), ("N/1e6", "N", 1e6), ("Mparams", "N", 1e6), ("Params(M)", "N", 1e6),
        ("tokens (Mtok)", "D", 1e6), ("D_B", "D", 1e9), ("train_tokens_b", "D", 1e9),
        ("FLOPs (1e18)", "C", 1e18), ("flops (x1e18)", "C", 1e18), ("compute_1e18", "C", 1e18),
        ("petaflop_s_days", "C", 8.64e19), ("compute (EFLOPs)", "C", 1e18),
    ],
)  # fmt: skip
def test_a_unit_in_a_name_is_read_however_it_is_written(tmp_path, name, key, factor):
    columns = {"N": R["N"], "D": R["D"], "loss": R["L"]}
    columns.pop("D" if key == "C" else key)
    columns[name] = [value / factor for value in R[key]]
    assert_planted(read(tmp_path, text_of(columns)))


@pytest.mark.parametrize("known", ["C", "D", "N"])
def test_tokens_per_parameter_and_one_count_give_the_others(tmp_path, known):
    ratio = [d / n for n, d in zip(R["N"], R["D"], strict=True)]
    text = text_of({known: R[known], "tokens_per_param": ratio, "loss": R["L"]})
    assert_planted(read(tmp_path, text))


@pytest.mark.parametrize(
    ("column", "factor"), [("params", 1e6), ("params", 1e9), ("tokens", 1e9), ("tokens", 1e6)]
)
@pytest.mark.parametrize("rows", [2, 7, 20])
def test_two_units_in_one_column_are_refused(tmp_path, column, factor, rows):
    columns = {"params": list(R["N"]), "tokens": list(R["D"]), "loss": R["L"]}
    columns[column] = [x / factor if k < rows else x for k, x in enumerate(columns[column])]
    with pytest.raises(ObservationsError, match="mixes units"):
        read(tmp_path, text_of(columns))


@pytest.mark.parametrize(
    "heldout",
    [
        "loss_val", "loss/eval", "dev_loss", "holdout_loss", "C4 val loss", "lm_loss_val", "ce_val",
        "validation", "Eval Loss", "evalLoss", "held-out loss",
    ],
)  # fmt: skip
def test_a_held_out_loss_is_known_by_its_words_in_any_order(tmp_path, heldout):
    columns = {"N": R["N"], "D": R["D"], "loss": [0.9 * x for x in R["L"]], heldout: R["L"]}
    table = read(tmp_path, text_of(columns))
    assert_planted(table)
    assert "loss_chosen" in codes(table)


@pytest.mark.parametrize(
    ("name", "value"),
    [("val_loss_std", 0.01), ("eval/lr", 1e-3), ("val/hellaswag", 0.31), ("val_loss_delta", 2.0),
     ("eval/loss__MIN", 2.2), ("eval/runtime", 12.0), ("val_accuracy", 0.4)],
)  # fmt: skip
def test_what_only_resembles_a_held_out_loss_is_not_read_as_one(tmp_path, name, value):
    table = read(tmp_path, text_of({"N": R["N"], "D": R["D"], "loss": R["L"], name: [value] * 35}))
    assert_planted(table)


@pytest.mark.parametrize("name", ["loss (bits)", "loss [bits/token]", "val_loss_bits", "bpb"])
def test_a_loss_whose_name_says_bits_is_converted(tmp_path, name):
    bits = [x / math.log(2) for x in R["L"]]
    table = read(tmp_path, text_of({"N": R["N"], "D": R["D"], name: bits}))
    assert_planted(table)
    assert "loss_converted" in codes(table)


@pytest.mark.parametrize("other", [{}, {"loss": [0.9 * x for x in R["L"]]}, {"train_loss": R["L"]}])
def test_a_perplexity_is_read_and_said(tmp_path, other):
    table = read(
        tmp_path,
        text_of({"N": R["N"], "D": R["D"], **other, "val_ppl": [math.exp(x) for x in R["L"]]}),
    )
    assert_planted(table)
    assert "loss_converted" in codes(table)


@pytest.mark.parametrize("name", ["val_accuracy", "error_rate", "top1"])
def test_a_table_with_scores_alone_is_told_to_add_a_loss(tmp_path, name):
    text = text_of({"N": R["N"], "D": R["D"], name: [1 - x / 9 for x in R["L"]]})
    with pytest.raises(ObservationsError, match=r"holds (accuracies|error rates)") as caught:
        read(tmp_path, text)
    assert "cross-entropy" in (caught.value.hint or "")


def test_runs_of_several_lengths_are_no_training_curve(tmp_path):
    lines = ["run_name,steps,params,tokens,loss"]
    for n in (3e7, 6e7, 1.2e8, 2.5e8, 5e8, 1e9):
        for ratio in (10, 20, 40, 80):
            d = n * ratio
            lines.append(f"size-{n:g},{d / 5e5:.0f},{n},{d},{loss_of(n, d)}")
    table = read(tmp_path, "\n".join(lines))
    assert_planted(table, rows=24)
    assert {seen.step for seen in table.observations} == {None}
    assert "steps_not_read" in codes(table)


@pytest.mark.parametrize("name", ["vocab_size", "experiment", "use_mup"])
def test_a_column_of_numbers_by_which_losses_differ_is_warned_of(tmp_path, name):
    columns = mixture(1.05)
    columns[name] = [0 if label == "c4" else 1 for label in columns.pop("dataset")]
    table = read(tmp_path, text_of(columns))
    assert "groups_differ" in codes(table)
    each = split(tmp_path / "runs.csv", TableOptions(group=name))
    assert_planted(read_table(tmp_path / "runs.csv", each["1"]), scale=1.05)


def test_a_label_on_some_rows_only_tells_populations_apart(tmp_path):
    columns = mixture(1.05)
    columns["notes"] = ["" if label == "c4" else "muon" for label in columns.pop("dataset")]
    with pytest.raises(ObservationsError, match="differ in `notes`"):
        read(tmp_path, text_of(columns))


def test_equal_runs_whose_losses_differ_for_no_reason_are_warned_of(tmp_path):
    columns = mixture(1.1)
    del columns["dataset"]
    assert "repeats_differ" in codes(read(tmp_path, text_of(columns)))
    assert "repeats_differ" not in codes(read(tmp_path, text_of(mixture(1.0))))


SPACED = "\n".join(f"{n} {d!r} {x!r}" for n, d, x in zip(R["N"], R["D"], R["L"], strict=True))
MARKED = "\n".join(f"| {n} | {d} | {x} |" for n, d, x in zip(R["N"], R["D"], R["L"], strict=True))
LAID_OUT = {
    "spaces": f"params tokens loss\n{SPACED}",
    "aligned": f"   params      tokens    loss\n{SPACED}".replace(" ", "   "),
    "savetxt": f"# params tokens loss\n{SPACED}",
    "header in a comment": "# made on Monday\n# " + PLAIN,
    "title": "Runs of 2026\n" + PLAIN,
    "title with commas": "Runs of 2026,,\n" + PLAIN,
    "markdown": f"| params | tokens | loss |\n|---|:---:|---|\n{MARKED}",
    "old Mac": PLAIN.replace("\r\n", "\r"),
    "apostrophes": "params,tokens,loss\n"
    + "\n".join(f"'{n},'{d},{x}" for n, d, x in zip(R["N"], R["D"], R["L"], strict=True)),
    "superscripts": text_of({"params": [f"{n / 1e6:.4f} \u00d7 10⁶" for n in R["N"]],
                             "tokens": [f"{d / 1e9:.5f} · 10⁹" for d in R["D"]], "loss": R["L"]}),
    "units": text_of({"params": [f"~{n / 1e6:.3f} M params" for n in R["N"]],
                      "tokens": [f"{d / 1e9:.4f}bn" for d in R["D"]],
                      "loss": [f"{x:.4f} nats/token" for x in R["L"]]}),
    "minus": text_of({"params": R["N"], "tokens": R["D"],
                      "loss": [f"{10 * x:.5f}e\u22121" for x in R["L"]]}),
    "three decimals": text_of({"params": R["N"], "tokens": [round(d) for d in R["D"]],
                               "loss": [f"{x:.3f}".replace(".", ",") for x in R["L"]]},
                              delimiter="\t"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAID_OUT)
def test_text_is_read_as_people_lay_it_out(tmp_path, kind):
    table = read(tmp_path, LAID_OUT[kind])
    assert_planted(table)
    assert table.rejected == ()


def test_a_gzip_file_is_read_and_a_bomb_is_not(tmp_path, monkeypatch):
    assert_planted(read(tmp_path, gzip.compress(PLAIN.encode()), "runs.csv.gz"))
    with pytest.raises(ObservationsError, match="not a sound gzip"):
        read(tmp_path, b"\x1f\x8b" + b"x" * 100, "runs.csv.gz")
    monkeypatch.setattr("flops_fit.fitting.tables.formats.MAX_BYTES", 10_000)
    with pytest.raises(ObservationsError, match="holds more than"):
        read(tmp_path, gzip.compress(b" " * 10**6), "runs.csv.gz")


RECORDS = [
    {"params": n, "tokens": d, "loss": x} for n, d, x in zip(R["N"], R["D"], R["L"], strict=True)
]
OBJECTS = {
    "runs by name": {f"run-{k}": row for k, row in enumerate(RECORDS)},
    "runs by name, inside": {"made": 1, "runs": {f"r{k}": row for k, row in enumerate(RECORDS)}},
    "names first": [["params", "tokens", "loss"], *(list(row.values()) for row in RECORDS)],
    "columns inside": {"data": {key: [row[key] for row in RECORDS] for key in RECORDS[0]}},
    "two lists": {"runs": RECORDS, "tags": [{"x": 1}]},
    "nested": [
        {"config": {"model": {"n_params": row["params"]}, "data": {"train_tokens": row["tokens"]}},
         "metrics": {"eval": {"loss": row["loss"]}, "train": {"loss": 0.9 * row["loss"]}}}
        for row in RECORDS
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", OBJECTS)
def test_json_is_read_as_people_nest_it(tmp_path, kind):
    assert_planted(read(tmp_path, json.dumps(OBJECTS[kind]), "runs.json"))


def test_json_lists_by_data_set_are_groups(tmp_path):
    other = [{**row, "loss": 1.1 * row["loss"]} for row in RECORDS]
    text = json.dumps({"c4": RECORDS, "wiki": other})
    with pytest.raises(ObservationsError, match="differ in `group`"):
        read(tmp_path, text, "runs.json")
    assert_planted(read(tmp_path, text, "runs.json", group="group=wiki"), scale=1.1)


def test_budgets_as_logarithms_are_not_used_and_said(tmp_path):
    columns = {"N": R["N"], "D": R["D"], "loss": R["L"], "budget": [math.log10(c) for c in R["C"]]}
    table = read(tmp_path, text_of(columns))
    assert_planted(table)
    assert "budgets_ignored" in codes(table)


@pytest.mark.parametrize(
    ("ours", "other", "key"),
    [("tokens", "train_tokens", "D"), ("params", "total_params", "N"), ("flops", "compute", "C")],
)
def test_two_columns_for_one_quantity_are_warned_of_if_they_differ(tmp_path, ours, other, key):
    columns = {"params": R["N"], "tokens": R["D"], "flops": R["C"], "loss": R["L"]}
    columns[other] = [2 * x for x in R[key]]
    assert "column_chosen" not in codes(read(tmp_path, text_of(columns)))
    columns[other] = [x * (1 + k % 3) for k, x in enumerate(R[key])]
    table = read(tmp_path, text_of(columns))
    assert_planted(table)
    assert "column_chosen" in codes(table)
    assert "column_chosen" not in codes(read(tmp_path, text_of(columns), columns={ours: ours}))


def test_rows_with_params_and_tokens_exchanged_are_warned_of(tmp_path):
    columns = {"N": list(R["N"]), "D": list(R["D"]), "loss": R["L"]}
    assert "ratios_differ" not in codes(read(tmp_path, text_of(columns)))
    for k in range(0, 35, 3):
        columns["N"][k], columns["D"][k] = columns["D"][k], columns["N"][k]
    assert "ratios_differ" in codes(read(tmp_path, text_of(columns)))
