"""The command line: what it prints where, with which exit code, and what it never does."""

import csv
import json
import math
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ledgers import rewrite


def flops_fit(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "flops_fit", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )


def assert_is_one_clear_error(ended, code: int, *texts: str):
    assert ended.returncode == code, ended.stderr
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert ended.stderr.startswith("error: ")
    for text in texts:
        assert text in ended.stderr


MODEL = """
import torch

class Net(torch.nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.inner = torch.nn.Linear(4, width)
        self.outer = torch.nn.Linear(width, 1)
    def forward(self, x):
        return self.outer(self.inner(x).relu())
    def num_params(self):
        return sum(p.numel() for p in self.parameters())

class Unfinished(torch.nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.inner = torch.nn.Linear(4, width)

class Fragile(Net):
    def forward(self, x):
        if self.training and len(x) > 1 and self.inner.out_features == 8:
            raise RuntimeError("eight is too much for me")
        return super().forward(x)

class Raises(Net):
    def __init__(self, width: int):
        raise RuntimeError("no such width")

def data(n: int = 4000):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    y = (x @ torch.ones(4, 1)).tanh()
    return torch.utils.data.TensorDataset(x, y)

def nothing():
    empty = torch.utils.data.TensorDataset(torch.zeros(0, 4), torch.zeros(0, 1))
    return empty, empty

def loss(outputs, targets):
    return torch.nn.functional.mse_loss(outputs, targets)

def vector_loss(outputs, targets):
    return (outputs - targets).square().flatten()

def dead_loss(outputs, targets):
    return torch.nn.functional.mse_loss(outputs.detach(), targets)
"""


@pytest.fixture
def user(tmp_path):
    """A user's folder: a module of their own, and manifests that name it."""
    (tmp_path / "mine.py").write_text(MODEL)

    def manifest(model="mine:Net", data="mine:data", loss="mine:loss", sizes="[2, 4, 8, 16, 32]"):
        path = tmp_path / "experiment.toml"
        path.write_text(
            f'name = "mine"\n[model]\nplugin = "{model}"\nsize_param = "width"\nsizes = {sizes}\n'
            f'[data]\nplugin = "{data}"\n[loss]\nplugin = "{loss}"\n'
            "[sweep]\nbudgets = [4e4, 1e5, 2.5e5]\ntokens_per_param = 40\n"
            "[training]\nbatch_tokens = 16\n[report]\nbootstrap = 0\n"
        )
        return path

    return manifest


def names_in(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()} - {"__pycache__"}


@pytest.mark.parametrize(
    ("replaced", "code", "texts"),
    [
        ({"sweep": "budgts = [1e11]"}, 2, ["`sweep.budgts`", "did you mean `budgets`?"]),
        ({"sweep": 'budgets = [1e11, "x"]'}, 2, ["`sweep.budgets[1]`", "`x`", "1e18"]),
        ({"sweep": "budgets = [-1e11]"}, 2, ["`sweep.budgets[0]`", "positive"]),
        ({"sweep": "budgets = [1e5]"}, 2, ["all too large", "smaller sizes"]),
        ({"model": 'plugin = "gtp"\nsize_param = "d_model"\nsizes = [16]'}, 3, ["`gtp`", "`gpt`"]),
        ({"data": 'plugin = "nope"'}, 3, ["no dataset plugin `nope`", "stdlib-text"]),
    ],
)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_mistake_is_one_error_and_writes_nothing(
    tmp_path, write_manifest, command, replaced, code, texts
):
    manifest = write_manifest(**replaced)
    ended = flops_fit(command, manifest, cwd=tmp_path)
    assert_is_one_clear_error(ended, code, *texts)
    assert names_in(tmp_path) == {"experiment.toml"}


@pytest.mark.parametrize(
    ("broken", "texts"),
    [
        ({"model": "mine:Unfinished"}, ["mine:Unfinished", "forward"]),
        ({"model": "mine:Raises"}, ["mine:Raises", "no such width", "mine.py line"]),
        ({"model": "mine:Missing"}, ["mine:Missing", "has no `Missing`"]),
        ({"model": "absent:Net"}, ["no module `absent`"]),
        ({"data": "mine:nothing"}, ["mine:nothing"]),
        ({"loss": "mine:vector_loss"}, ["mine:vector_loss", "scalar"]),
        ({"loss": "mine:dead_loss"}, ["mine:dead_loss", "gradient"]),
    ],
)
def test_a_broken_plugin_is_found_before_anything_trains(tmp_path, user, broken, texts):
    ended = flops_fit("run", user(**broken), cwd=tmp_path)
    assert_is_one_clear_error(ended, 3, *texts)
    assert names_in(tmp_path) == {"experiment.toml", "mine.py"}


def test_the_whole_way_on_a_users_own_model(tmp_path, user):
    manifest = user()
    planned = json.loads(flops_fit("plan", manifest, "--json", cwd=tmp_path).stdout)
    assert set(planned) == {
        "trials", "total_flops", "separate_flops", "has_curves", "warnings"
    }  # fmt: skip
    assert len(planned["trials"]) == 14  # five sizes, of which the cheapest budget affords four
    ended = flops_fit("run", manifest, cwd=tmp_path)
    assert ended.returncode in (0, 6), ended.stderr
    ledger = (tmp_path / "runs/mine/ledger.jsonl").read_text()
    entries = [json.loads(line) for line in ledger.splitlines()]
    finished = {e["trial_id"]: e for e in entries if e["event"] == "trial_finished"}
    assert set(finished) == {trial["trial_id"] for trial in planned["trials"]}
    for trial in planned["trials"]:
        assert finished[trial["trial_id"]]["tokens"] == trial["tokens"]
        assert finished[trial["trial_id"]]["flops"] == trial["flops"]
    assert (tmp_path / "runs/mine/report/isoflop.png").stat().st_size > 1000
    told = json.loads(flops_fit("report", "runs/mine", "--json", cwd=tmp_path).stdout)
    assert told["observations"]["used"] + len(told["observations"]["excluded"]) >= 14
    # So small a sweep need not show a law; a rehearsal of it does.
    ended = flops_fit("run", manifest, "--simulate", "--run-dir", "runs/planted", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(flops_fit("report", "runs/planted", "--json", cwd=tmp_path).stdout)
    assert_optima_satisfy_the_flop_count(told["predictions"], planned["trials"])


def assert_optima_satisfy_the_flop_count(predictions, trials):
    """FLOPs per token at an optimum lie between those of the built sizes on either side."""
    assert predictions
    sizes = sorted({(t["params"], t["flops_per_token"]) for t in trials})
    for row in predictions:
        per_token = row["budget_flops"] / row["tokens"]
        below = [k for n, k in sizes if n <= row["params"]]
        above = [k for n, k in sizes if n >= row["params"]]
        assert not below or per_token >= below[-1] * (1 - 1e-6)
        assert not above or per_token <= above[0] * (1 + 1e-6)


def test_a_trial_that_fails_is_named_and_the_others_are_kept(tmp_path, user):
    ended = flops_fit("run", user(model="mine:Fragile"), cwd=tmp_path)
    assert ended.returncode == 5, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "eight is too much for me" in ended.stderr
    ledger = (tmp_path / "runs/mine/ledger.jsonl").read_text()
    entries = [json.loads(line) for line in ledger.splitlines()]
    failed = [e["trial_id"] for e in entries if e["event"] == "trial_failed"]
    assert failed
    assert all(trial_id in ended.stderr for trial_id in failed)
    log = tmp_path / "runs/mine/trials" / failed[0] / "log.txt"
    assert "eight is too much for me" in log.read_text()
    assert sum(e["event"] == "trial_finished" for e in entries) == 14 - len(failed)


def test_estimate_by_a_stated_rate_is_arithmetic(tmp_path, write_manifest):
    manifest = write_manifest()
    ended = flops_fit(
        "estimate", manifest, "--flops-per-second", "1e10", "--price-per-hour", "3.6",
        "--workers", "1", "--json", cwd=tmp_path,
    )  # fmt: skip
    told = json.loads(ended.stdout)
    assert told["wall_seconds"] == pytest.approx(told["total_flops"] / 1e10)
    assert told["cost"] == pytest.approx(told["wall_seconds"] * 0.001)
    assert told["memory_bytes"] is None


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory, write_stated):
    """A folder with a rehearsed sweep in runs/planted, and its manifest."""
    folder = tmp_path_factory.mktemp("rehearsed")
    manifest = write_stated(folder)
    ended = flops_fit("run", manifest, "--simulate", cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return manifest


@pytest.mark.parametrize("layout", ["terminal", "markdown", "latex", "csv"])
def test_every_layout_of_a_report_renders(rehearsed, layout):
    ended = flops_fit(
        "report", "runs/planted", "--format", layout, "--no-figures", cwd=rehearsed.parent
    )
    assert ended.returncode == 0, ended.stderr
    # A CSV holds one table and nothing else, so there the verdict goes to standard error.
    first = (ended.stderr if layout == "csv" else ended.stdout).splitlines()[0]
    assert "PROVISIONAL" in first or "TRUST" in first or "verdict: " in first
    mark = {"terminal": "For 3e12 FLOPs", "markdown": "|", "latex": "\\toprule", "csv": ","}[layout]
    assert mark in ended.stdout


@pytest.mark.parametrize("width", [80, 100])
def test_the_default_report_is_one_screen(rehearsed, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    for more in ([], ["--budget", "1e13"]):
        ended = flops_fit("report", "runs/planted", *more, "--no-figures", cwd=rehearsed.parent)
        lines = ended.stdout.splitlines()
        assert len(lines) < 40
        assert [line for line in lines if len(line) > width] == []
        text = " ".join(ended.stdout.split())
        assert re.search(r"Made of params \w+ \d+ %.*; loss \w+ \d+ %", text)


def test_every_table_is_printed_by_its_name_and_in_full(rehearsed):
    folder = rehearsed.parent
    wrong = flops_fit("report", "runs/planted", "--table", "nothing", cwd=folder)
    assert_is_one_clear_error(wrong, 2, "no table `nothing`", "methods", "observations")
    names = wrong.stderr.split("it has: ")[1].strip().split(", ")
    for name in names:
        ended = flops_fit(
            "report", "runs/planted", "--table", name, "--format", "csv", "--no-figures", cwd=folder
        )
        rows = list(csv.reader(ended.stdout.splitlines()))
        assert len(rows) > 1
        assert {len(row) for row in rows} == {len(rows[0])}
    full = flops_fit("report", "runs/planted", "--full", "--no-figures", cwd=folder).stdout
    for title in ("IsoFLOP minima", "Laws", "Checklist of a credible study", "Observations"):
        assert title in full


def test_csv_never_holds_two_tables(rehearsed):
    for more in (["--full"], ["--table", "laws", "--table", "minima"]):
        ended = flops_fit("report", "runs/planted", "--format", "csv", *more, cwd=rehearsed.parent)
        assert_is_one_clear_error(ended, 2, "one table", "--table NAME")


def test_a_rehearsal_recovers_the_law_that_it_planted(rehearsed):
    folder = rehearsed.parent
    told = json.loads(flops_fit("report", "runs/planted", "--json", cwd=folder).stdout)
    planted = json.loads((folder / "runs/planted/provenance.json").read_text())["planted"]
    a = planted["beta"] / (planted["alpha"] + planted["beta"])
    # Seven sizes at five budgets with 0.3 % noise leave a standard error of a near 0.01.
    for method in ("surface", "isoflop"):
        assert told["fits"][method]["exponents"]["params"] == pytest.approx(a, abs=0.04)
    for row in told["predictions"]:
        assert 6 * row["params"] * row["tokens"] == pytest.approx(row["budget_flops"], rel=1e-6)


def test_a_second_run_goes_on_and_a_changed_manifest_is_refused(rehearsed, write_manifest):
    folder = rehearsed.parent
    ledger = folder / "runs/planted/ledger.jsonl"
    before = ledger.read_bytes()
    assert flops_fit("run", rehearsed, "--simulate", cwd=folder).returncode == 0
    assert flops_fit("run", "runs/planted", cwd=folder).returncode == 0
    assert ledger.read_bytes() == before
    changed = write_manifest(training="learning_rate = 0.01")
    ended = flops_fit("run", changed, "--simulate", "--run-dir", "runs/planted", cwd=folder)
    assert_is_one_clear_error(ended, 4, "training.learning_rate", "--run-dir")
    trained = flops_fit("run", rehearsed, cwd=folder)
    assert_is_one_clear_error(trained, 4, "never mix")


def test_a_table_of_finished_runs_is_reported_and_its_bad_rows_are_named(tmp_path):
    rows = ["N,D,val_loss"]
    for n in (1e6, 2e6, 4e6, 8e6, 16e6):
        rows += [f"{n:g},{d:g},{1.7 + 400 * n**-0.34 + 410 * d**-0.28}" for d in (1e8, 4e8, 16e8)]
    (tmp_path / "runs.csv").write_text("\n".join([*rows, "x,1e9,2.0"]))
    ended = flops_fit("report", "runs.csv", "--method", "surface", "--json", cwd=tmp_path)
    told = json.loads(ended.stdout)
    assert told["fits"]["surface"]["parameters"]["alpha"] == pytest.approx(0.34, abs=1e-4)
    assert [each["row"] for each in told["observations"]["excluded"]] == ["row 17"] or [
        each.get("row") for each in told["observations"]["excluded"]
    ] == [17]
    assert "flops_assumed" in {note["code"] for note in told["notes"]}


def test_a_large_table_is_reported_without_resampling_and_says_so(tmp_path):
    law, draw = (1.8172, 482.01, 2085.43, 0.3478, 0.3658), random.Random(0)
    rows = ["params,tokens,loss"]
    for _ in range(21_000):
        n, d = 10 ** draw.uniform(7, 9), 10 ** draw.uniform(9, 11)
        loss = law[0] + law[1] * n ** -law[3] + law[2] * d ** -law[4]
        rows.append(f"{n},{d},{loss * math.exp(draw.gauss(0, 0.01))}")
    (tmp_path / "runs.csv").write_text("\n".join(rows))
    told = json.loads(flops_fit("report", "runs.csv", "--json", cwd=tmp_path).stdout)
    assert "no_resampling" in {note["code"] for note in told["notes"]}
    surface = told["fits"]["surface"]
    assert surface["details"]["resampled"] == "none"
    low, high = surface["intervals"]["alpha"]
    assert low < 0.3478 < high
    assert high - low < 0.02
    rows = [row for row in told["predictions"] if row["method"] == "surface"]
    assert all(row["loss_interval"] for row in rows)
    assert all(row["loss_interval"][1] < 1.7 * row["loss_interval"][0] for row in rows)


TABLE = ["params,tokens,loss"] + [
    f"{n:g},{d:g},{1.7 + 400 * n**-0.34 + 410 * d**-0.28}"
    for n in (1e6, 2e6, 4e6, 8e6, 16e6)
    for d in (1e8, 4e8, 16e8)
]


def test_a_report_begins_with_the_verdict_and_the_answer_in_words(rehearsed, tmp_path):
    quick = ["--no-figures", "--method", "surface"]
    asked = flops_fit("report", "runs/planted", "--budget", "1e13", *quick, cwd=rehearsed.parent)
    lines = asked.stdout.splitlines()
    assert lines[0].endswith(("TRUST", "PROVISIONAL"))
    assert lines[2].startswith("For 1e13 FLOPs: train ")
    assert "params on" in lines[2]
    assert "expect a loss of" in lines[2]
    assert "You can build    d_model = 96 (" in asked.stdout
    # Where nothing is asked for, it speaks of the largest budget; with a question, of that alone.
    unasked = flops_fit("report", "runs/planted", *quick, cwd=rehearsed.parent).stdout
    assert unasked.splitlines()[2].startswith("For 3e12 FLOPs: ")
    question = ["--question", "loss=3"]
    assert "For " not in flops_fit(
        "report", "runs/planted", *question, *quick, cwd=rehearsed.parent
    ).stdout.split("Answers")[0]  # fmt: skip


def test_the_goal_of_a_sweep_is_answered(tmp_path, write_manifest):
    sweep = "budgets = [3e10, 1e11, 3e11]\ngoal = { at = 2e13, params_within = 1.2 }"
    manifest = write_manifest(sweep=sweep)
    ended = flops_fit("run", manifest, "--simulate", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[2].startswith("For 2e13 FLOPs: ")


def test_a_table_that_is_not_there_is_a_usage_error(tmp_path):
    ended = flops_fit("report", "nope.csv", cwd=tmp_path)
    assert_is_one_clear_error(ended, 2, "there is no file `nope.csv`")


def test_a_table_of_too_few_rows_says_how_many_it_takes(tmp_path):
    (tmp_path / "runs.csv").write_text("\n".join(TABLE[:3]))
    ended = flops_fit("report", "runs.csv", cwd=tmp_path)
    assert ended.returncode == 6
    assert "2 usable observations; a fit needs 6" in ended.stderr
    assert "hint: finish more trials, or add rows to the table" in ended.stderr


@pytest.mark.parametrize("held", ["9", "1.99"])
def test_an_irreducible_loss_above_a_loss_is_refused(tmp_path, held):
    (tmp_path / "runs.csv").write_text("\n".join([*TABLE, "64e6,1e10,1.99"]))
    ended = flops_fit("report", "runs.csv", "--irreducible-loss", held, cwd=tmp_path)
    assert_is_one_clear_error(ended, 2, "--irreducible-loss", "the lowest loss of the runs, 1.99")


def test_what_is_no_run_directory_is_said(tmp_path):
    assert_is_one_clear_error(
        flops_fit("report", "nothing", cwd=tmp_path), 4, "not a run directory"
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    assert_is_one_clear_error(flops_fit("run", "full", cwd=tmp_path), 4, "not a run directory")


def test_a_plan_is_sized_to_a_total_and_says_its_share_of_the_target(tmp_path, write_manifest):
    manifest = write_manifest(report="budgets = [1e14]")
    ended = flops_fit("plan", manifest, "--total-flops", "5e12", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "of the largest target budget, 1e14 FLOPs" in " ".join(ended.stdout.split())
    assert "total_flops = 5e12" in ended.stderr
    sized = json.loads(
        flops_fit("plan", manifest, "--total-flops", "5e12", "--json", cwd=tmp_path).stdout
    )
    assert 0.9 * 5e12 < sized["total_flops"] <= 5e12
    budgets = sorted({t["budget_flops"] for t in sized["trials"]})
    assert budgets[-1] / budgets[0] == pytest.approx(100, rel=0.02)  # as the manifest's own
    wrong = flops_fit("plan", manifest, "--total-flops", "many", cwd=tmp_path)
    assert_is_one_clear_error(wrong, 2, "--total-flops", "many")


def test_a_ladder_of_the_template_is_rehearsed_end_to_end(tmp_path, write_manifest):
    manifest = write_manifest(sweep='design = "ladder"\ntotal_flops = 2e13')
    ended = flops_fit("run", manifest, "--simulate", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(flops_fit("report", "runs/planted", "--json", cwd=tmp_path).stdout)
    assert {"surface", "isoflop", "extrapolation", "kaplan"} <= set(report["fits"])
    assert "too_few_sizes" not in ended.stdout


def test_init_writes_a_ladder_for_a_total_budget(tmp_path):
    ended = flops_fit("init", "--total-flops", "7e13", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    text = (tmp_path / "experiment.toml").read_text()
    assert 'design = "ladder"' in text
    assert "total_flops = 7e13" in text


def test_what_init_writes_can_be_rehearsed_as_it_stands(tmp_path):
    flops_fit("init", cwd=tmp_path)
    ended = flops_fit("run", "experiment.toml", "--simulate", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "sizes_missing" not in ended.stdout


def test_init_writes_a_manifest_once(tmp_path):
    assert flops_fit("init", cwd=tmp_path).returncode == 0
    assert_is_one_clear_error(flops_fit("init", cwd=tmp_path), 2, "exists already")


def test_questions_are_answered_from_the_law_and_nonsense_is_refused(rehearsed):
    folder = rehearsed.parent
    asked = ["--question", "params=1e5 budget=1e13", "--question", "loss=2.4"]
    told = json.loads(flops_fit("report", "runs/planted", *asked, "--json", cwd=folder).stdout)
    first, second = told["answers"]
    assert 6 * first["params"] * first["tokens"] == pytest.approx(1e13)
    assert second["loss"] == pytest.approx(2.4, abs=1e-6)
    ended = flops_fit("report", "runs/planted", "--question", "los=2.4", cwd=folder)
    assert_is_one_clear_error(ended, 2, "los=2.4", "loss=L")


@pytest.mark.parametrize(
    ("question", "opening", "numbers"),
    [
        ("loss=2.4", "To reach a loss of 2.400", ["FLOPs: train", "params on"]),
        ("params=1e5 budget=1e13", "Expect a loss of", ["100k params", "1e13 FLOPs", "wastes"]),
        ("tokens=1e7 loss=2.4", "To reach a loss of 2.400", ["on 10M", "wastes"]),
        ("budget=1e13 multiple=4", "With 1e13 FLOPs and 4.00 times", ["expect a loss", "wastes"]),
        ("unique_tokens=1e6 budget=1e12", "With 1M different", ["epochs", "With fresh data"]),
        ("loss=2.4 served_tokens=1e9", "To reach a loss of 2.400", ["and serve 1B", "less than"]),
    ],
)
def test_a_question_is_answered_in_a_sentence_above_its_numbers(
    rehearsed, question, opening, numbers
):
    asked = ["report", "runs/planted", "--question", question]
    said, table = flops_fit(*asked, cwd=rehearsed.parent).stdout.split("Answers", 1)
    sentence = " ".join(said.split("\n\n")[-2].split())
    assert sentence.startswith(opening)
    assert all(number in sentence for number in numbers)
    assert question in " ".join(table.split())
    written = flops_fit(*asked, "--format", "csv", cwd=rehearsed.parent)
    assert opening not in written.stdout
    assert opening in written.stderr


def test_two_runs_are_drawn_over_each_other_and_tables_have_figures_too(rehearsed, tmp_path):
    folder = rehearsed.parent
    told = flops_fit("report", "runs/planted", "--json", cwd=folder)
    both = flops_fit(
        "report", "runs/planted", "runs/planted", "--output", tmp_path / "both",
        "--figure-formats", "pdf", "--figure-columns", "1", cwd=folder,
    )  # fmt: skip
    assert both.returncode == told.returncode == 0, both.stderr
    assert names_in(tmp_path / "both") == {"frontier.pdf"}
    ended = flops_fit(
        "report", "runs/planted", "--output", tmp_path / "one", "--figure-formats", "png", "--json",
        cwd=folder,
    )  # fmt: skip
    assert json.loads(ended.stdout) == json.loads(told.stdout)
    assert {"report.html", "result.json", "isoflop.png", "gains.png"} <= names_in(tmp_path / "one")
    bad = flops_fit("report", "runs/planted", "--figure-formats", "gif", cwd=folder)
    assert_is_one_clear_error(bad, 2, "--figure-formats", "gif", "png,pdf")


@pytest.mark.parametrize(
    ("option", "path", "told"),
    [
        ("--output", "taken", "expected a folder, got the file `taken`"),
        ("--output", "taken/within", "expected a folder, got the file `taken`"),
        ("--html", "folder", "expected a file to write the page to, got the folder `folder`"),
        ("--html", "taken/page.html", "expected a folder, got the file `taken`"),
    ],
)
def test_where_a_report_cannot_be_written_is_said_before_anything_is_fitted(
    tmp_path, option, path, told
):
    (tmp_path / "taken").write_text("kept")
    (tmp_path / "folder").mkdir()
    # There is no such source either: what is asked for is looked at first.
    ended = flops_fit("report", "runs.csv", option, path, cwd=tmp_path)
    assert_is_one_clear_error(ended, 2, option, told)
    assert (tmp_path / "taken").read_text() == "kept"


def test_a_run_compared_with_itself_needs_the_same_compute(rehearsed):
    ended = flops_fit("report", "runs/planted", "runs/planted", "--json", cwd=rehearsed.parent)
    told = json.loads(ended.stdout)
    assert [row["multiplier"] for row in told["multipliers"]] == pytest.approx([1.0] * 5)


def test_the_page_is_one_file_that_asks_for_nothing(rehearsed, tmp_path):
    page = tmp_path / "page.html"
    ended = flops_fit(
        "report", "runs/planted", "--html", page, "--no-figures", cwd=rehearsed.parent
    )
    assert ended.returncode == 0, ended.stderr
    text = page.read_text(encoding="utf-8")
    assert text.count("<script") == 1  # its own, allowed by its hash
    assert "script-src 'sha256-" in text
    assert 'src="http' not in text
    assert 'href="http' not in text


def test_the_fit_of_a_table_can_be_chosen_as_in_the_literature(tmp_path):
    rows = ["params,tokens,loss"]
    for n in (1e6, 2e6, 4e6, 8e6, 16e6):
        rows += [f"{n:g},{d:g},{1.7 + 400 * n**-0.34 + 410 * d**-0.28}" for d in (1e8, 4e8, 16e8)]
    (tmp_path / "runs.csv").write_text("\n".join(rows))
    choice = ["--method", "surface", "--loss", "huber", "--huber-delta", "1e-3"]
    ended = flops_fit("report", "runs.csv", *choice, "--bootstrap", "200", "--json", cwd=tmp_path)
    surface = json.loads(ended.stdout)["fits"]["surface"]
    assert surface["parameters"]["beta"] == pytest.approx(0.28, abs=1e-3)
    assert surface["objective"] < 1e-9
    held = ["--irreducible-loss", "1.5", "--interpolation", "akima", "--bootstrap", "0", "--json"]
    ended = flops_fit("report", "runs.csv", "--method", "surface", *held, cwd=tmp_path)
    surface = json.loads(ended.stdout)["fits"]["surface"]
    assert surface["parameters"]["E"] == pytest.approx(1.5)
    assert surface["parameters"]["beta"] < 0.28


def test_a_second_seal_says_so_and_the_first_is_scored(rehearsed):
    folder = rehearsed.parent
    first, second = (
        flops_fit("report", "runs/planted", "--seal", "2e13", "--json", *more, cwd=folder)
        for more in ([], ["--method", "surface", "--irreducible-loss", "0.5"])
    )
    assert first.stderr == ""
    assert "was sealed already" in second.stderr
    one, other = json.loads(first.stdout), json.loads(second.stdout)
    assert one["prediction"]["loss"] != other["prediction"]["loss"]
    ended = flops_fit("report", "runs/planted", "--score", "2e13=2.2", "--json", cwd=folder)
    scored = json.loads(ended.stdout)
    assert scored["predicted"] == one["prediction"]["loss"]
    assert scored["sha256"] == one["sha256"]
    assert [each["sha256"] for each in scored["later_seals"]] == [other["sha256"]]


@pytest.mark.parametrize("option", [("--seal", "1e21"), ("--score", "1e21=2.2")])
def test_a_table_has_no_ledger_to_seal_in(tmp_path, option):
    (tmp_path / "runs.csv").write_text("params,tokens,loss\n1e6,1e8,3.1\n")
    ended = flops_fit("report", "runs.csv", *option, cwd=tmp_path)
    assert_is_one_clear_error(ended, 2, option[0], "`runs.csv` is a table", "--json")


def test_a_prediction_is_sealed_before_the_run_and_scored_after_it(rehearsed):
    folder = rehearsed.parent
    ended = flops_fit("report", "runs/planted", "--score", "1e13=2.2", cwd=folder)
    assert_is_one_clear_error(ended, 4, "no prediction", "--seal 1e+13")
    seal = ["report", "runs/planted", "--seal", "1e13"]
    sealed = json.loads(flops_fit(*seal, "--json", cwd=folder).stdout)
    assert len(sealed["sha256"]) == 64
    scored = json.loads(
        flops_fit("report", "runs/planted", "--score", "1e13=2.2", "--json", cwd=folder).stdout
    )
    assert scored["predicted"] == sealed["prediction"]["loss"]
    assert scored["error"] == pytest.approx(scored["predicted"] - 2.2)
    low, high = sealed["prediction"]["loss_interval"]
    assert low < sealed["prediction"]["loss"] < high
    assert scored["is_inside"] is (low <= 2.2 <= high)
    said = flops_fit("report", "runs/planted", "--score", "1e13=2.2", cwd=folder).stdout
    assert f"The prediction was {abs(scored['error_percent']):.2g} % too" in said
    assert f"SHA-256 of the prediction: {sealed['sha256']}" in flops_fit(*seal, cwd=folder).stdout
    ledger = folder / "runs/planted/ledger.jsonl"
    text = ledger.read_text()
    changed = text.replace(f'"loss": {scored["predicted"]}', '"loss": 2.2')
    ledger.write_text(changed)
    edited = flops_fit("report", "runs/planted", "--score", "1e13=2.2", cwd=folder)
    assert_is_one_clear_error(edited, 4, "was edited", "flops-fit repair")
    rewrite(ledger, changed.splitlines())
    broken = flops_fit("report", "runs/planted", "--score", "1e13=2.2", cwd=folder)
    assert_is_one_clear_error(broken, 4, "the seal is broken")
    ledger.write_text(text)
