"""Every manifest plans without a warning that would spoil it; the quickstart tells the truth."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from hub_copies import cifar10_copy, tinystories_copy

MANIFESTS = Path(__file__).parents[2] / "manifests"


def flops_fit(*arguments: object, cwd: Path) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "flops_fit", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


HUB = {
    "gpt-tinystories.toml": ('tokenizer = "bpe:4096"', partial(tinystories_copy, times=4)),
    "vit-cifar10.toml": ('plugin = "cifar10"', cifar10_copy),
}
"""Manifests whose data lie on the hub: a line of theirs, and a small local copy of the data."""


def offline(name: str, folder: Path) -> Path:
    """The manifest, on a small local copy of its data where they lie on the hub."""
    if name not in HUB:
        return MANIFESTS / name
    line, make = HUB[name]
    copy = f'path = "{make(folder / "copy")}"'
    text = (MANIFESTS / name).read_text(encoding="utf-8")
    assert line in text
    if line.startswith("plugin"):
        text = text.replace(line, f"{line}\nkwargs = {{ {copy} }}")
    else:
        text = text.replace(line, f'tokenizer = "bpe:300", {copy}')
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize("name", sorted(path.name for path in MANIFESTS.glob("*.toml")))
def test_every_manifest_plans_at_least_three_budgets_of_five_sizes(tmp_path, name):
    planned = json.loads(flops_fit("plan", offline(name, tmp_path), "--json", cwd=tmp_path))
    budgets: dict[float, set[float]] = {}
    for trial in planned["trials"]:
        budgets.setdefault(trial["budget_flops"], set()).add(trial["size_value"])
        assert trial["flops"] == pytest.approx(trial["budget_flops"], rel=0.01)
    assert len(budgets) >= 3
    assert all(len(sizes) >= 5 for sizes in budgets.values())
    codes = {warning["code"] for warning in planned["warnings"]}
    assert not codes & {"one_sided", "sizes_missing"}
    assert name in HUB or "data_repeated" not in codes  # the copies are small


@pytest.mark.slow
def test_the_quickstart_ends_with_bracketed_minima_and_the_law_that_it_states(tmp_path):
    # A sweep lies beside its manifest unless that is below the current folder.
    flops_fit("run", shutil.copy(MANIFESTS / "quickstart.toml", tmp_path), cwd=tmp_path)
    told = json.loads(flops_fit("report", "runs/quickstart", "--json", cwd=tmp_path))
    assert told["verdict"] in {"trust", "provisional"}
    assert told["observations"]["used"] >= 18  # another processor may give an outlier or two
    minima = told["fits"]["isoflop"]["details"]["minima"]
    assert [minimum["status"] for minimum in minima] == ["ok"] * 4
    # What the manifest's opening comment promises.
    promised = {1e11: (24e3, 1.89), 2.2e11: (32e3, 1.74), 4.6e11: (46e3, 1.64), 1e12: (65e3, 1.53)}
    for minimum in minima:
        params, loss = promised[minimum["budget_flops"]]
        assert minimum["params"] == pytest.approx(params, rel=0.25)
        assert minimum["loss"] == pytest.approx(loss, abs=0.05)
    assert told["fits"]["isoflop"]["exponents"]["params"] == pytest.approx(0.43, abs=0.1)
    assert told["fits"]["isoflop"]["r_squared"]["params"] > 0.98
    run = tmp_path / "runs/quickstart"
    ended = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    ended = [entry for entry in ended if entry["event"] == "trial_finished"]
    evaluating, whole = (
        sum(entry[f"{what}_seconds"] for entry in ended) for what in ("evaluation", "wall")
    )
    assert evaluating < 0.03 * whole
    folder = run / "report"
    for name in ("isoflop", "frontier"):
        for kind in ("png", "svg"):
            assert (folder / f"{name}.{kind}").stat().st_size > 1000


SMALL = {
    # Each: the minima that the manifest's opening comment promises, and the exponent of N_opt.
    "gpt-umup": ({5e10: (24e3, 1.97), 1e11: (26e3, 1.88), 2e11: (34e3, 1.77), 4e11: (44e3, 1.65)},
                 0.30),
    "vit-glyphs": ({5e10: (7e3, 0.75), 1e11: (1e4, 0.58), 2e11: (17e3, 0.43), 4e11: (25e3, 0.31)},
                   0.63),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_small_sweep_ends_with_bracketed_minima_and_the_law_that_it_states(tmp_path, name):
    flops_fit("run", shutil.copy(MANIFESTS / f"{name}.toml", tmp_path), cwd=tmp_path)
    told = json.loads(flops_fit("report", f"runs/{name}", "--json", cwd=tmp_path))
    assert told["verdict"] in {"trust", "provisional"}
    assert told["observations"]["used"] >= 17
    promised, exponent = SMALL[name]
    minima = told["fits"]["isoflop"]["details"]["minima"]
    assert [minimum["status"] for minimum in minima] == ["ok"] * 4
    for minimum in minima:
        params, loss = promised[minimum["budget_flops"]]
        assert minimum["params"] == pytest.approx(params, rel=0.3)
        assert minimum["loss"] == pytest.approx(loss, rel=0.15)
    assert told["fits"]["isoflop"]["exponents"]["params"] == pytest.approx(exponent, abs=0.15)
    assert told["fits"]["isoflop"]["r_squared"]["params"] > 0.95
