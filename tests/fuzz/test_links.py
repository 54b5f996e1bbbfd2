"""Hostile run directories and tables: what each gives, and nothing written outside."""

import json
import os
import shutil
import sys
from pathlib import Path
from unittest import mock

import pytest

from flops_fit.cli.main import main
from flops_fit.errors import RunDirError
from flops_fit.sweep.rundir import RunDir


def call(*arguments):
    with mock.patch.object(sys, "argv", ["flops-fit", *map(str, arguments)]):
        try:
            main()
        except SystemExit as ended:
            return ended.code or 0
    return 0


@pytest.fixture(scope="module")
def swept(tmp_path_factory, write_stated):
    folder = tmp_path_factory.mktemp("swept")
    manifest = write_stated(folder, sweep="budgets = [3e10, 1e11]\nsizes_per_budget = 3")
    assert call("run", manifest, "--simulate", "--run-dir", folder / "run") in (0, 6)
    return folder / "run"


@pytest.fixture
def copied(swept, tmp_path):
    """The run directory, with one trial whose outcome and ledger lines are missing."""
    run = tmp_path / "run"
    shutil.copytree(swept, run, symlinks=True)
    return run


@pytest.fixture
def outside(tmp_path):
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "kept.txt").write_text("kept")
    return folder


def unfinish(run):
    """Make the sweep one that has still to be run."""
    (run / "ledger.jsonl").unlink()
    shutil.rmtree(run / "trials")


def link_folder(name):
    def change(run, outside):
        shutil.rmtree(run / name, ignore_errors=True)
        (run / name).symlink_to(outside)

    return change


def link_file(name):
    def change(run, outside):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(outside / "kept.txt")

    return change


def fifo(name):
    def change(run, outside):
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return change


def device(name):
    def change(run, outside):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to("/dev/zero")

    return change


def sparse(name):
    def change(run, outside):
        with (run / name).open("wb") as file:
            file.truncate(10**10)

    return change


def deep(name):
    return lambda run, outside: (run / name).write_text('{"trials": ' + "[" * 10**6)


def trial_named(name):
    def change(run, outside):
        plan = json.loads((run / "plan.json").read_text())
        plan["trials"][0]["trial_id"] = name
        (run / "plan.json").write_text(json.dumps(plan))

    return change


def trial_link(run, outside):
    trial = json.loads((run / "plan.json").read_text())["trials"][0]["trial_id"]
    (run / "trials").mkdir()
    (run / "trials" / trial).symlink_to(outside)


RUN_DIRECTORIES = {
    "trials is a link": (link_folder("trials"), "is a link"),
    "a trial is a link": (trial_link, "is a link"),
    "trunks is a link": (link_folder("trunks"), "is a link"),
    "the ledger is a link": (link_file("ledger.jsonl"), "is a link"),
    "the lock is a link": (link_file("lock"), "is a link"),
    "the log of workers is a link": (link_file("workers.log"), "is a link"),
    "the plan is a link": (link_file("plan.json"), "is a link"),
    "the manifest is a FIFO": (fifo("manifest.toml"), "is not a run directory"),
    "the plan is a FIFO": (fifo("plan.json"), "is not a run directory"),
    "the provenance is a FIFO": (fifo("provenance.json"), "is a FIFO"),
    "the ledger is a FIFO": (fifo("ledger.jsonl"), "FIFO"),
    "the plan is /dev/zero": (device("plan.json"), "is not a run directory"),
    "the provenance is /dev/zero": (device("provenance.json"), "is a link"),
    "the plan is sparse": (sparse("plan.json"), "too large"),
    "the provenance is sparse": (sparse("provenance.json"), "too large"),
    "the manifest is sparse": (sparse("manifest.toml"), "too large"),
    "the plan is deep": (deep("plan.json"), "is not JSON"),
    "the provenance is deep": (deep("provenance.json"), "is not JSON"),
    "a trial is called ../../x": (trial_named("../../x"), "`trials[0].trial_id`"),
    "a trial is called /tmp/x": (trial_named("/tmp/x"), "`trials[0].trial_id`"),
    "a trial is called by an escape code": (trial_named("\x1b[2J"), "`trials[0].trial_id`"),
}


@pytest.mark.parametrize(("change", "said"), RUN_DIRECTORIES.values(), ids=RUN_DIRECTORIES)
def test_a_hostile_run_directory_is_one_error_and_writes_nothing_outside(
    copied, outside, capsys, change, said
):
    unfinish(copied)
    change(copied, outside)
    capsys.readouterr()
    assert call("run", copied) == 4
    told = capsys.readouterr().err
    assert "\x1b" not in told
    assert told.count("error: ") == 1
    assert said in told
    for command in ("status", "report", "plan"):
        assert call(command, copied) in (0, 4, 6)
        assert "Traceback" not in capsys.readouterr().err
    assert [path.name for path in outside.iterdir()] == ["kept.txt"]
    assert (outside / "kept.txt").read_text() == "kept"


def test_a_report_that_is_a_link_is_not_written(copied, outside, capsys):
    shutil.rmtree(copied / "report", ignore_errors=True)
    (copied / "report").symlink_to(outside)
    assert call("report", copied) in (0, 6)
    assert [path.name for path in outside.iterdir()] == ["kept.txt"]


def test_a_run_directory_may_itself_be_reached_by_a_link(copied, tmp_path):
    unfinish(copied)
    (tmp_path / "link").symlink_to(copied)
    assert call("run", tmp_path / "link") in (0, 6)
    assert (copied / "ledger.jsonl").is_file()


def test_links_of_trackers_are_theirs(copied):
    (copied / "trackers" / "wandb").mkdir(parents=True)
    (copied / "trackers" / "wandb" / "latest-run").symlink_to("run-1")
    RunDir(copied).refuse_links()


def table(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


ROWS = "params,tokens,loss\n" + "".join(
    f"{n},{d},{1.7 + 400 * n**-0.34 + 410 * d**-0.28}\n"
    for n in (1e6, 2e6, 4e6, 8e6) for d in (1e8, 4e8, 16e8)
)  # fmt: skip
TABLES = {
    "a folder": (lambda path: path.mkdir(), 4),
    "a FIFO": (os.mkfifo, 2),
    "/dev/zero": (lambda path: path.symlink_to("/dev/zero"), 2),
    "sparse": (lambda path: sparse("runs.csv")(path.parent, None), 2),
    "empty": (lambda path: path.write_text(""), 2),
    "a pickle": (
        lambda path: path.write_bytes(b"\x80\x04\x95cos\nsystem\n(S'touch owned'\ntR."),
        2,
    ),
    "zero bytes": (lambda path: path.write_bytes(b"\0" * 1000), 2),
    "an open quote": (lambda path: path.write_text(ROWS + '"'), 2),
    "a formula": (lambda path: path.write_text(ROWS + "=1+1,=2,@SUM(1)\n"), None),
    "an escape code": (lambda path: path.write_text("\x1b[2J," + ROWS), None),
    "bidi marks": (lambda path: path.write_text(ROWS.replace("loss", "loss\u202e")), None),
    "a million columns": (lambda path: path.write_text("a," * 10**6 + "\n"), 2),
    "huge numbers": (lambda path: path.write_text(ROWS + "1e999,1e999,1e999\n"), None),
    "many digits": (lambda path: path.write_text(ROWS + "9" * 10_000 + ",1,1\n"), None),
}


@pytest.mark.parametrize(("make", "code"), TABLES.values(), ids=TABLES)
def test_a_hostile_table_is_read_or_is_one_error(tmp_path, monkeypatch, capsys, make, code):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "runs.csv"
    make(path)
    ended = call("report", path, "--bootstrap", "0", "--method", "surface")
    told = capsys.readouterr()
    assert ended in ({code} if code else {0, 2, 6})
    assert "Traceback" not in told.err
    assert "\x1b" not in told.out + told.err
    assert "\u202e" not in told.out + told.err
    assert [each.name for each in tmp_path.iterdir()] == ["runs.csv"]


@pytest.mark.parametrize("name", ["deep.json", "deep.jsonl"])
def test_a_deep_table_is_one_error(tmp_path, capsys, name):
    path = table(tmp_path, name, "[" * 10**6)
    assert call("report", path) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_owner_of_a_lock_is_named(copied, capsys):
    from filelock import FileLock

    from flops_fit.manifest.files import write_as
    from flops_fit.sweep.rundir import LockOwner

    with FileLock(copied / "lock", timeout=0):
        write_as(copied / "lock-owner.json", LockOwner("node17", 4242, "2026-01-01T00:00:00"))
        assert call("run", copied) == 4
    assert "process 4242 on `node17`, since 2026-01-01" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_a_file_system_without_locks_is_one_error(tmp_path, monkeypatch, number):
    import errno

    import filelock

    def refuse(self, *arguments, **more):
        code = getattr(errno, number)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with (
        pytest.raises(RunDirError, match=r"cannot be locked"),
        RunDir(Path(tmp_path)).lock(),
    ):
        pass


def test_an_exception_of_ten_megabytes_is_cut_in_the_ledger(tmp_path, monkeypatch):
    from flops_fit.manifest.trials import Outcome, shortened

    outcome = Outcome.of_failure("0" * 12, "x" * 10**7, seconds=1.0)
    assert len(outcome.error or "") < 20_000
    assert len(shortened("x" * 10**7)) < 20_000
