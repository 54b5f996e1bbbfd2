"""Hostile, huge and broken tables: one clear error each, quickly; trackers' projects are read."""

from __future__ import annotations

import os
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

from flops_fit.errors import FlopsFitError, ObservationsError
from flops_fit.fitting.tables import formats
from flops_fit.fitting.tables.table import TableOptions, read_table

ROWS = [
    f"{n},{d},{1.7 + 400 / n**0.34 + 1500 / d**0.36:.6f}"
    for n in (1e7, 3e7, 1e8, 3e8, 1e9)
    for d in (1e9, 3e9, 1e10, 3e10)
]
TEXT = "params,tokens,loss\n" + "\n".join(ROWS) + "\n"


def sparse(path: Path, size: int, start: bytes = b"") -> Path:
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)
    return path


def made(tmp_path: Path, kind: str) -> Path:
    """A file, or something like one, that holds no table."""
    path = tmp_path / "runs.csv"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        return Path("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse 10 GB":
        sparse(path, 10 * 10**9, TEXT.encode())
    elif kind == "sparse 200 MB":
        sparse(path, 200 * 10**6, TEXT.encode())
    elif kind == "binary":
        path.write_bytes(bytes(range(256)) * 100)
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "deep JSON":
        path = tmp_path / "runs.json"
        path.write_text("[" * 200_000)
    elif kind == "deep objects":
        path = tmp_path / "runs.json"
        path.write_text('{"a":' * 50_000 + "1" + "}" * 50_000)
    elif kind == "many digits":
        path = tmp_path / "runs.json"
        path.write_text('[{"params": ' + "9" * 100_000 + ', "tokens": 1, "loss": 2}]')
    elif kind == "open quote":
        path.write_text(TEXT + '"1e8,2e9,3\n' + "\n".join(ROWS))
    elif kind == "no excel":
        path = tmp_path / "runs.xlsx"
        path.write_bytes(b"PK\x03\x04" + b"x" * 100)
    elif kind == "no parquet":
        path = tmp_path / "runs.parquet"
        path.write_bytes(b"PAR1" + b"x" * 100)
    return path


KINDS = (
    "fifo", "device", "folder", "sparse 10 GB", "sparse 200 MB", "binary", "link to itself",
    "deep JSON", "deep objects", "many digits", "open quote", "no excel", "no parquet",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_table_is_one_error_within_five_seconds(tmp_path, kind):
    started = time.monotonic()
    with pytest.raises(ObservationsError) as caught:
        read_table(made(tmp_path, kind))
    assert time.monotonic() - started < 5
    assert caught.value.hint


def test_a_table_with_too_many_rows_is_refused(monkeypatch):
    monkeypatch.setattr(formats, "MAX_ROWS", 10)
    with pytest.raises(ObservationsError, match="more than 10 rows"):
        read_table({"params": [1] * 11, "tokens": [1] * 11, "loss": [1] * 11})


def mutated(rng: np.random.Generator) -> bytes:
    """A sound table with one to three things broken."""
    lines = TEXT.splitlines()
    for _ in range(rng.integers(1, 4)):
        k = int(rng.integers(0, len(lines)))
        cells = lines[k].split(",")
        j = int(rng.integers(0, len(cells)))
        kind = int(rng.integers(0, 14))
        if kind == 0:
            cells[j] = str(
                rng.choice(["", "nan", "inf", "-1", "0", "1e400", "ten", "null", "\u202e1"])
            )
        elif kind == 1:
            cells[j] = f"{cells[j]}000"
        elif kind == 2:
            cells[j] = f'"{cells[j]}'
        elif kind == 3:
            del cells[j]
        elif kind == 4:
            cells.insert(j, "7")
        elif kind == 5:
            lines.insert(k, lines[k])
        elif kind == 6:
            lines = [line.replace(",", ";") for line in lines]
        elif kind == 7:
            lines[0] = lines[0].replace("params", str(rng.choice(["N", "n", "params_M", "Tokens"])))
        elif kind == 8:
            lines = [",".join(reversed(line.split(","))) for line in lines]
        elif kind == 9:
            cells[j] = cells[j].replace(".", ",")
        elif kind == 10:
            lines.insert(k, str(rng.choice(["", "#", ",,", "\u2028", "sep=;", "\r"])))
        elif kind == 11:
            cells[j] = f"{cells[j]}{rng.choice(['M', 'B', ' FLOPs', '%', 'x'])}"
        elif kind == 12:
            lines = lines[: max(1, k)]
        elif kind == 13:
            rng.shuffle(lines[1:])
        if kind in (0, 1, 2, 3, 4, 9, 11) and k < len(lines):
            lines[k] = ",".join(cells)
    data = bytearray("\n".join(lines).encode())
    if rng.random() < 0.2 and data:
        data[int(rng.integers(0, len(data)))] = int(rng.integers(0, 256))
    return bytes(data)


SAID = {
    "rows_far_off", "cells_unknown", "decimal_commas", "read_as_latin1", "columns_guessed",
    "duplicates_merged", "flops_assumed", "loss_chosen", "best_of_tuned", "groups_pooled",
}  # fmt: skip


def broken_tables(tmp_path: Path, count: int, seed: int) -> tuple[int, list[bytes]]:
    """How many of the mutated tables were read, and those that changed the law without a word."""
    from flops_fit.fitting.surface import solve_surface

    rng = np.random.default_rng(seed)
    path = tmp_path / "runs.csv"
    path.write_text(TEXT)
    true = solve_surface(read_table(path).observations).law.optimum(1e21)
    read, silent = 0, []
    for _ in range(count):
        data = mutated(rng)
        path.write_bytes(data)
        try:
            table = read_table(path)
            best = solve_surface(table.observations).law.optimum(1e21)
        except FlopsFitError:
            continue
        except (ValueError, ZeroDivisionError, np.linalg.LinAlgError):
            if len(table.observations) >= 6:
                raise
            continue
        read += 1
        is_said = table.rejected or {n.code for n in table.notes} & (SAID - {"flops_assumed"})
        off = abs(np.log(best.params / true.params))
        if off > 0.1 and not is_said and len(table.observations) == len(ROWS):
            silent.append(data)
    return read, silent


def test_mutated_tables_end_in_a_law_or_a_sentence_and_change_nothing_silently(tmp_path):
    read, silent = broken_tables(tmp_path, 150, seed=1)
    assert read > 30
    assert silent == []


@pytest.mark.slow
def test_two_thousand_mutated_tables_end_in_a_law_or_a_sentence(tmp_path):
    read, silent = broken_tables(tmp_path, 2000, seed=0)
    assert read > 400
    assert silent == []


def test_an_mlflow_experiment_is_read(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    # The file store: a database needs a driver that mlflow-skinny does not bring.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient()
    experiment = client.create_experiment("sweep")
    for row in ROWS:
        n, d, loss = row.split(",")
        run = client.create_run(experiment)
        client.log_param(run.info.run_id, "n_params", n)
        client.log_metric(run.info.run_id, "train_tokens", float(d))
        client.log_metric(run.info.run_id, "val_loss", float(loss))
        client.set_terminated(run.info.run_id)
    client.create_run(experiment)
    table = read_table("mlflow:sweep")
    assert len(table.observations) == len(ROWS)
    with pytest.raises(ObservationsError, match="no experiment `other`"):
        read_table("mlflow:other")


def test_a_wandb_project_is_read_through_its_client(monkeypatch):
    numbers = [[float(cell) for cell in row.split(",")] for row in ROWS]
    runs = [
        types.SimpleNamespace(
            name=f"run-{k}",
            id=f"id{k}",
            state="finished" if k else "crashed",
            config={"n_params": n, "nested": {"x": 1}},
            summary={"train_tokens": d, "val_loss": loss},
        )
        for k, (n, d, loss) in enumerate(numbers)
    ]
    api = types.SimpleNamespace(runs=lambda project, per_page: runs)
    wandb = types.SimpleNamespace(Api=lambda: api, Error=RuntimeError)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    table = read_table("wandb:me/sweep", TableOptions())
    assert len(table.observations) == len(ROWS) - 1
    assert table.rejected[0].reason == "its state is `crashed`, not finished"
