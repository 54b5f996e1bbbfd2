"""Tables of finished runs: what is read, what is guessed, what is rejected, and how it is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flops_fit.errors import ObservationsError
from flops_fit.fitting.tables.table import TableOptions, read_table

CSV = "params,tokens,loss,flops\n1e6,2e7,4.5,1.2e14\n2e6,2e7,4.2,2.4e14\n"


def write(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_becomes_observations_named_by_line(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "runs.csv", CSV))
    first, second = table.observations
    assert (first.params, first.tokens, first.loss, first.flops) == (1e6, 2e7, 4.5, 1.2e14)
    assert (first.name, second.name) == ("row 2", "row 3")
    assert table.rejected == ()
    assert [note.code for note in table.notes] == ["table_read"]
    assert table.summary == (
        "read: params = `params`, tokens = `tokens`, flops = `flops`, loss = `loss` (nats); "
        "2 rows used, 0 left out"
    )


def test_json_jsonl_and_columns_say_the_same_as_csv(tmp_path: Path) -> None:
    records = [
        {"params": 1e6, "tokens": 2e7, "loss": 4.5, "flops": 1.2e14},
        {"params": 2e6, "tokens": 2e7, "loss": 4.2, "flops": 2.4e14},
    ]
    columns = {key: [r[key] for r in records] for key in records[0]}
    sources: list[Any] = [
        write(tmp_path, "runs.csv", CSV),
        write(tmp_path, "runs.json", json.dumps(records)),
        write(tmp_path, "columns.json", json.dumps(columns)),
        write(tmp_path, "runs.jsonl", "\n".join(map(json.dumps, records))),
        write(tmp_path, "runs.tsv", CSV.replace(",", "\t")),
        columns,
        {key: np.array(values) for key, values in columns.items()},
    ]
    read = [
        [(o.params, o.tokens, o.loss, o.flops) for o in read_table(s).observations] for s in sources
    ]
    assert all(points == read[0] for points in read)


def test_anything_with_columns_and_getitem_is_a_frame() -> None:
    class Frame:
        columns = ("params", "tokens", "loss")

        def __getitem__(self, name: str) -> np.ndarray:
            return {"params": np.array([5, 6]), "tokens": np.array([7, 8]), "loss": np.ones(2)}[
                name
            ]

    assert [o.params for o in read_table(Frame()).observations] == [5, 6]


def test_missing_flops_are_six_n_d_and_that_is_said(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "t.csv", "params,tokens,loss\n10,100,3\n"))
    assert table.observations[0].flops == 6000
    assert [n.code for n in table.notes] == ["table_read", "flops_assumed"]


def test_a_blank_flops_cell_beside_a_counted_one_makes_all_rows_six_n_d(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "t.csv", "params,tokens,loss,flops\n10,100,3,\n5,9,2,300\n"))
    assert [o.flops for o in table.observations] == [6000, 270]
    assert "in every row" in table.notes[1].message


def test_usual_names_are_guessed_and_the_guess_is_said(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "t.csv", "N,D,val_loss,C\n10,100,3,6000\n"))
    assert table.observations[0].params == 10
    _, note = table.notes
    assert note.code == "columns_guessed"
    assert "params = `N`" in note.message
    assert "loss = `val_loss`" in note.message


def test_named_columns_win_over_ours(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", "params,tokens,loss,other\n10,100,3,7\n")
    assert read_table(path, TableOptions({"params": "other"})).observations[0].params == 7


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ("ten,100,3", "params is not a number: 'ten'"),
        ("0,100,3", "params is not positive: 0"),
        ("10,-1,3", "tokens is not positive: -1"),
        ("10,100,nan", "loss is not finite: nan"),
        ("10,100,inf", "loss is not finite: inf"),
        ("10,,3", "tokens is missing"),
        ("10,100", "2 cells where the header has 3"),
    ],
)
def test_a_bad_row_is_left_out_with_its_line_and_reason(
    tmp_path: Path, cells: str, reason: str
) -> None:
    path = write(tmp_path, "t.csv", f"params,tokens,loss\n7,70,2\n{cells}\n")
    table = read_table(path)
    assert len(table.observations) == 1
    assert [(r.name, r.reason) for r in table.rejected] == [("row 3", reason)]


def test_strict_refuses_a_table_with_a_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", "params,tokens,loss\n7,70,2\n0,1,1\n")
    with pytest.raises(ObservationsError, match="row 3: params is not positive"):
        read_table(path, TableOptions(strict=True))


def test_an_exact_duplicate_is_merged_and_is_no_reason_to_refuse(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", "params,tokens,loss\n7,70,2\n7,70,2\n8,80,1\n")
    table = read_table(path, TableOptions(strict=True))
    assert len(table.observations) == 2
    assert [(r.name, r.reason) for r in table.aside] == [("row 3", "the same as row 2")]
    assert table.rejected == ()
    said = {note.code: note.message for note in table.notes}
    assert "1 of 3 rows repeat another row exactly" in said["duplicates_merged"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("t.csv", "", "is empty"),
        ("t.csv", "a,b\n1,2\n", "no column for params, tokens, loss"),
        ("t.csv", "params,tokens,loss\n", "no usable row"),
        ("t.csv", "params,tokens,loss\n0,0,0\n", "no usable row: row 2: loss is not positive"),
        ("t.csv", "params,params,tokens,loss\n1,1,1,1\n", "two columns called `params`"),
        ("t.json", "{", "is not JSON"),
        ("t.json", "3", "holds no table"),
        ("t.jsonl", "oops\n", "no object with columns"),
    ],
)
def test_a_useless_table_is_refused_with_exit_code_2(
    tmp_path: Path, name: str, text: str, says: str
) -> None:
    with pytest.raises(ObservationsError, match=says) as caught:
        read_table(write(tmp_path, name, text))
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_a_broken_jsonl_line_is_rejected_and_the_rest_read(tmp_path: Path) -> None:
    good = json.dumps({"params": 1, "tokens": 2, "loss": 3})
    table = read_table(write(tmp_path, "t.jsonl", f"{good}\n{{torn\n"))
    assert len(table.observations) == 1
    assert [(r.name, r.reason) for r in table.rejected] == [("row 2", "not a JSON object")]


def test_a_missing_file_and_an_unknown_column_say_so(tmp_path: Path) -> None:
    with pytest.raises(ObservationsError, match="cannot be read"):
        read_table(tmp_path / "absent.csv")
    path = write(tmp_path, "t.csv", CSV)
    with pytest.raises(ObservationsError, match="no column `lost`"):
        read_table(path, TableOptions({"loss": "lost"}))
    with pytest.raises(ObservationsError, match="`los` is no column"):
        read_table(path, TableOptions({"los": "loss"}))


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ObservationsError, match="differ in length"):
        read_table({"params": [1, 2], "tokens": [1], "loss": [1]})


def test_a_curve_keeps_its_step_and_run(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", "params,tokens,loss,step,model\n1,2,3,100,big\n1,4,2,200,big\n")
    asked = TableOptions({"step": "step", "run": "model"})
    seen = read_table(path, asked).observations
    assert [(o.step, o.run) for o in seen] == [(100, "big"), (200, "big")]
