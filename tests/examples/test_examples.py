"""Every example runs as its first lines say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hub_copies import cifar10_batches, tinystories_copy

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(script: str, *arguments: object, cwd: Path) -> str:
    ended = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_custom_model_finds_a_width_for_each_budget(tmp_path):
    told = run("custom_model.py", "here", cwd=tmp_path).splitlines()
    assert told[0].split()[0] in {"trust", "provisional"}
    surface = [float(line.split()[2]) for line in told if " surface " in line]
    assert len(surface) == 3
    assert surface == sorted(surface)
    assert (tmp_path / "here" / "ledger.jsonl").exists()
    again = run("custom_model.py", "here", cwd=tmp_path).splitlines()
    assert again == told


@pytest.mark.slow
def test_gpt_tinystories_answers_for_every_budget_on_a_local_copy(tmp_path):
    copy = tinystories_copy(tmp_path / "stories", times=40)
    told = run("gpt_tinystories.py", "--path", copy, "--small", "--run-dir", "here", cwd=tmp_path)
    assert told.split()[0] in {"trust", "provisional"}
    answers = [line for line in told.splitlines() if "FLOPs, surface: " in line]
    assert len(answers) == 4  # the sweep's three budgets, and ten times the largest
    assert all(line.endswith(" bytes") for line in answers)
    assert (tmp_path / "here" / "ledger.jsonl").exists()


@pytest.mark.slow
def test_vit_cifar_trains_every_size_on_the_original_batches_and_says_what_they_show(tmp_path):
    copy = cifar10_batches(tmp_path, counts=(1000, 200))
    told = run("vit_cifar.py", "--path", copy, "--small", "--run-dir", "here", cwd=tmp_path)
    # The copy's classes show in their colours: too easy a task for a law to be sure of.
    assert told.split()[0] in {"trust", "provisional", "refuse"}
    outcomes = [
        json.loads(path.read_text())
        for path in (tmp_path / "here" / "trials").glob("*/outcome.json")
    ]
    assert len(outcomes) == 15
    assert {outcome["status"] for outcome in outcomes} == {"finished"}
    assert min(outcome["loss"] for outcome in outcomes) < 0.5  # blind guessing gives 2.3


@pytest.mark.slow
def test_a_wrapped_command_line_answers_in_its_own_words_and_with_our_exit_codes(tmp_path):
    told = run("cli_wrapper.py", "3e10", "--run-dir", "here", "--json", cwd=tmp_path)
    answer = json.loads(told.splitlines()[-1])
    assert answer["verdict"] in {"trust", "provisional"}
    assert 1e3 < answer["params"] < 1e7
    sentence = run("cli_wrapper.py", "3e10", "--run-dir", "here", cwd=tmp_path)
    assert "FLOPs:" in sentence
    ended = subprocess.run(
        [sys.executable, str(EXAMPLES / "cli_wrapper.py"), "1e5", "--run-dir", "other"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr.startswith("cli_wrapper.py: ")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_every_example_has_a_test_here(script):
    assert script in Path(__file__).read_text(encoding="utf-8")
