"""Broken files of a run directory end in a documented exit code, never in a traceback.

A rehearsed sweep is the start. Each example breaks one of its files, by structure (a value of the
JSON is replaced, removed or nested) or by bytes, and calls the commands that read it as the command
line does.
"""

import json
import random
import shutil
import sys
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st

from flops_fit.cli.main import main
from flops_fit.manifest.trials import Outcome, Size, Status, Trial
from flops_fit.sweep.rundir import RunDir, read_outcome, write_outcome

SIZE = Size(16, 10_000, 6_000, 60_000.0)
TRIAL = Trial.of(budget_flops=1e9, size=SIZE, tokens=16_640, batch_tokens=256, seed=0)
GOOD = Outcome(TRIAL.trial_id, Status.FINISHED, 2.5, TRIAL.tokens, TRIAL.flops, 1.0)
FILES = ("plan.json", "provenance.json", "ledger.jsonl")
DOCUMENTED = {0, 2, 3, 4, 5, 6, 7}
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from([[], {}, -1, 0, 1e308, 10**30, "0" * 12, "../../x", "\x1b[2J", [[[[]]]]]),
)  # fmt: skip
QUICK = settings(
    max_examples=60, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


@pytest.fixture(scope="module")
def swept(tmp_path_factory, write_stated):
    folder = tmp_path_factory.mktemp("swept")
    manifest = write_stated(folder, sweep="budgets = [3e10, 1e11, 3e11]\nsizes_per_budget = 3")
    assert call("run", manifest, "--simulate", "--run-dir", folder / "run") in (0, 6)
    return folder / "run"


def call(*arguments):
    """The exit code of a command; an exception that is no exit fails the test."""
    with mock.patch.object(sys, "argv", ["flops-fit", *map(str, arguments)]):
        try:
            main()
        except SystemExit as ended:
            return ended.code or 0
    return 0


def places(data, at=()):
    """Where the values of plain data are, as tuples of keys."""
    yield at
    if isinstance(data, dict | list):
        pairs = data.items() if isinstance(data, dict) else enumerate(data)
        for key, value in pairs:
            yield from places(value, (*at, key))


def mutated(data, place, value, *, is_removed):
    """Plain data with one value replaced, or removed."""
    if not place:
        return value
    changed = json.loads(json.dumps(data))
    at = changed
    for key in place[:-1]:
        at = at[key]
    if is_removed:
        del at[place[-1]]
    else:
        at[place[-1]] = value
    return changed


def broken_copy(swept, tmp_path, name, content):
    """The run directory with one file replaced."""
    run = tmp_path / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(swept, run)
    (run / name).write_bytes(content)
    return run


def assert_commands_stay_calm(run, capsys):
    for command in (["status", run], ["plan", run], ["report", run, "--json"]):
        code = call(*command)
        said = capsys.readouterr().err
        assert code in DOCUMENTED, (command, code, said)
        assert "Traceback" not in said
        if code:
            assert "error: " in said


@seed(20)
@QUICK
@given(name=st.sampled_from(FILES), pick=st.integers(0, 10**6), value=VALUES, removed=st.booleans())
@example(name="plan.json", pick=0, value={"trials": 3}, removed=False)
@example(name="provenance.json", pick=0, value={}, removed=False)
def test_a_changed_value_is_read_or_refused(swept, tmp_path, capsys, name, pick, value, removed):
    lines = (swept / name).read_text().splitlines() if name == "ledger.jsonl" else None
    if lines is None:
        data = json.loads((swept / name).read_text())
        found = list(places(data))
        text = json.dumps(mutated(data, found[pick % len(found)], value, is_removed=removed))
    else:
        number = pick % len(lines)
        data = json.loads(lines[number])
        del data["check"]
        found = list(places(data))
        lines[number] = json.dumps(
            mutated(data, found[pick % len(found)], value, is_removed=removed)
        )
        text = "\n".join(lines) + "\n"
    assert_commands_stay_calm(broken_copy(swept, tmp_path, name, text.encode()), capsys)


@seed(20)
@QUICK
@given(name=st.sampled_from(FILES), number=st.integers(0, 2**32), count=st.integers(1, 6))
def test_changed_bytes_are_read_or_refused(swept, tmp_path, capsys, name, number, count):
    draw = random.Random(number)
    content = bytearray((swept / name).read_bytes())
    for _ in range(count):
        at = draw.randrange(len(content))
        kind = draw.randrange(3)
        if kind == 0:
            content[at] = draw.randrange(256)
        elif kind == 1:
            del content[at : at + draw.randrange(1, 40)]
        else:
            content[at:at] = draw.choice([b"\xff", b"\x00", b"[" * 500, b'"', b"1e999", b"\n"])
    assert_commands_stay_calm(broken_copy(swept, tmp_path, name, bytes(content)), capsys)


@seed(20)
@settings(QUICK, max_examples=300)
@given(pick=st.integers(0, 10**6), value=VALUES, removed=st.booleans())
def test_a_changed_outcome_is_read_or_fails_its_trial(tmp_path, pick, value, removed):
    run = RunDir(tmp_path)
    shutil.rmtree(run.trial(TRIAL.trial_id), ignore_errors=True)
    write_outcome(run, GOOD)
    path = run.outcome(TRIAL.trial_id)
    data = json.loads(path.read_text())
    found = list(places(data))
    path.write_text(json.dumps(mutated(data, found[pick % len(found)], value, is_removed=removed)))
    outcome = read_outcome(run, TRIAL)
    assert outcome is not None
    assert outcome.trial_id == TRIAL.trial_id


@pytest.mark.parametrize(
    ("name", "place", "value", "texts"),
    [
        ("plan.json", ("trials", 1, "tokens"), "many", ["`trials[1].tokens`", "'many'", "integer"]),
        ("plan.json", ("trials",), None, ["`trials`", "None"]),
        ("provenance.json", ("fingerprint",), 3, ["`fingerprint`", "`3`", "string"]),
        ("provenance.json", ("description", "sizes", 0, "params"), -1,
         ["`description.sizes[0].params`", "`-1`", "greater than 0"]),
        ("estimate.json", ("timings", 0, "seconds_per_token"), 0,
         ["`timings[0].seconds_per_token`", "`0`", "greater than 0"]),
    ],
)  # fmt: skip
def test_a_broken_file_is_one_error_with_field_found_and_expected(
    swept, tmp_path, capsys, name, place, value, texts
):
    if name == "estimate.json":
        told = {"flops_per_token": 6e4, "seconds_per_token": 1e-6}
        data = {"trials": [], "timings": [told], "basis": "timed"}
    else:
        data = json.loads((swept / name).read_text())
    changed = mutated(data, place, value, is_removed=False)
    run = broken_copy(swept, tmp_path, name, json.dumps(changed).encode())
    capsys.readouterr()
    assert call("report", run, "--json") == 4
    said = capsys.readouterr().err
    assert said.count("error: ") == 1
    for text in [name, *texts]:
        assert text in said


def test_a_broken_result_is_one_error(swept, tmp_path):
    from flops_fit.errors import RunDirError
    from flops_fit.reporting.archive import LATER_FIELDS
    from flops_fit.reporting.reading import read_run
    from flops_fit.reporting.result import Result

    read_run(swept, bootstrap=0).save(tmp_path)
    path = tmp_path / "result.json"
    data = json.loads(path.read_text())
    assert Result.load(tmp_path).name == "planted"
    for place, value, said in (
        (("observations", "params", 0), "x", "`observations`"),
        (("fits",), [3], "`fits`"),
        (("targets",), ["x"], "`targets`"),
        (("notes",), {"code": 1}, "`notes`"),
    ):
        path.write_text(json.dumps(mutated(data, place, value, is_removed=False)))
        with pytest.raises(RunDirError, match=said):
            Result.load(tmp_path)
    for name in data:
        path.write_text(json.dumps(mutated(data, (name,), None, is_removed=True)))
        if name not in LATER_FIELDS:
            with pytest.raises(RunDirError, match=r"result\.json"):
                Result.load(tmp_path)
