"""How the commands are asked: versions, help, slips of the keyboard, quiet and verbose."""

import re

import pytest
from command_line import flops_fit

from flops_fit import __version__
from flops_fit.cli.main import app

COMMANDS = [command.callback.__name__ for command in app.registered_commands if not command.hidden]


def test_the_version_names_ours_and_those_that_the_numbers_depend_on(tmp_path):
    ended = flops_fit("--version", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    first, others, devices = ended.stdout.splitlines()
    assert first == f"flops-fit {__version__}"
    assert "python 3." in others
    assert "torch " in others
    assert "CPU cores" in devices


@pytest.mark.parametrize(
    ("given", "told", "helps"),
    [
        (["rnu", "experiment.toml"], "'run'", "flops-fit --help"),
        (["run", "experiment.toml", "--worker", "2"], "--workers", "flops-fit run --help"),
        (["run"], "missing argument", "flops-fit run --help"),
        (["run", "m.toml", "--workers", "none"], "--workers", "flops-fit run --help"),
    ],
)
def test_a_slip_is_one_error_that_names_the_nearest_and_the_help(tmp_path, given, told, helps):
    ended = flops_fit(*given, cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: ")
    assert told in ended.stderr
    assert f"hint: see `{helps}`" in ended.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_fits_80_columns_and_shows_two_examples(tmp_path, command):
    ended = flops_fit(command, "--help", cwd=tmp_path, COLUMNS="80")
    assert ended.returncode == 0, ended.stderr
    assert max(map(len, ended.stdout.splitlines())) <= 80
    assert len(re.findall(rf"^ +flops-fit {command}\b", ended.stdout, re.MULTILINE)) == 2
    # Every option says what it does, in a sentence.
    assert "\x1b" not in ended.stdout


def test_no_color_is_respected(tmp_path):
    ended = flops_fit("run", "--help", cwd=tmp_path, NO_COLOR="1", FORCE_COLOR="1")
    assert not re.search("\x1b\\[[0-9;]*3[0-9]m", ended.stdout)


def test_quiet_leaves_results_and_errors(tmp_path, write_manifest):
    manifest = write_manifest()
    loud = flops_fit("run", manifest, "--simulate", "--run-dir", "noisy", cwd=tmp_path)
    quiet = flops_fit("run", manifest, "--simulate", "--run-dir", "quiet", "-q", cwd=tmp_path)
    assert loud.returncode == quiet.returncode == 0, quiet.stderr
    assert "written: " in loud.stderr
    assert quiet.stderr == ""
    assert quiet.stdout.replace("quiet", "noisy") == loud.stdout
    wrong = flops_fit("--quiet", "run", "missing.toml", cwd=tmp_path)
    assert wrong.stderr.startswith("error: ")


def test_verbose_shows_the_starts_of_trials_and_where_an_error_arose(tmp_path, write_manifest):
    ended = flops_fit("-v", "run", write_manifest(), "--simulate", cwd=tmp_path)
    assert ended.stderr.count("started") == 35
    wrong = flops_fit("run", "missing.toml", "--verbose", cwd=tmp_path)
    assert "Traceback" in wrong.stderr
    assert "Traceback" not in flops_fit("run", "missing.toml", cwd=tmp_path).stderr


def test_completion_can_be_shown(tmp_path):
    ended = flops_fit(
        "--show-completion", "bash", cwd=tmp_path, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"
    )
    assert ended.returncode == 0, ended.stderr
    assert "COMPREPLY" in ended.stdout


@pytest.mark.parametrize("total", [None, "7e13", "1e20"])
def test_what_init_writes_is_planned_as_it_stands(tmp_path, total):
    asked = [] if total is None else ["--total-flops", total]
    assert flops_fit("init", *asked, cwd=tmp_path).returncode == 0
    ended = flops_fit("plan", "experiment.toml", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    # More data than the standard library has is needed for larger totals.
    warned = set(re.findall(r"warning \((\w+)\)", ended.stdout))
    assert warned <= (set() if total is None else {"data_seen_again", "data_repeated"})


def test_a_hint_names_keys_of_the_manifest_only(tmp_path, write_manifest):
    manifest = write_manifest(training="pydantic_config = 1")
    ended = flops_fit("plan", manifest, cwd=tmp_path)
    assert ended.returncode == 2
    assert "__" not in ended.stderr
