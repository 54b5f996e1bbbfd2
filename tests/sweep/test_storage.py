"""What the disk or the output's reader refuses: said in one sentence, never as a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flops_fit.errors import StorageError
from flops_fit.manifest.files import write_atomic

FULL = Path("/dev/full")
has_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """A table of finished runs, one of a planted law."""
    rows = ["params,tokens,loss"]
    for n in (1e6, 2e6, 4e6, 8e6, 16e6):
        rows += [f"{n:g},{d:g},{1.7 + 400 * n**-0.34 + 410 * d**-0.28}" for d in (1e8, 4e8, 16e8)]
    path = tmp_path_factory.mktemp("table") / "runs.csv"
    path.write_text("\n".join(rows))
    return path


def report(table: Path, *more: object, **options) -> subprocess.CompletedProcess[str]:
    quick = ["--bootstrap", "0", "--method", "surface"]
    command = [sys.executable, "-m", "flops_fit", "report", table.name, *quick, *more]
    return subprocess.run(
        [str(each) for each in command], text=True, check=False, cwd=table.parent, **options
    )


@has_full
def test_an_output_that_takes_nothing_is_one_error(table):
    with FULL.open("w") as full:
        ended = report(table, stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 4
    assert ended.stderr.startswith("error: the output cannot be written: No space left on device")
    assert "hint: free some space" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr


def test_a_reader_that_leaves_early_is_no_error(table):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        ended = report(table, stdout=pipe, stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_help_whose_reader_leaves_is_no_error(table):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        ended = report(table, "--help", stdout=pipe, stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc takes no files, root's neither")
@pytest.mark.parametrize(("option", "path"), [("--output", "/proc/zz"), ("--html", "/proc/z.html")])
def test_a_place_that_takes_no_files_is_refused_before_the_fit(table, option, path):
    ended = report(table, option, path, capture_output=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: `{option}`: the folder `/proc` is not writable")
    assert ended.stdout == ""


def test_a_report_that_its_run_directory_does_not_take_is_printed(write_stated, tmp_path):
    manifest = write_stated(tmp_path)
    run = [sys.executable, "-m", "flops_fit", "run", str(manifest), "--simulate"]
    subprocess.run(run, check=True, capture_output=True, cwd=tmp_path)
    folder = tmp_path / "runs" / "planted" / "report"
    for written in folder.iterdir():
        written.unlink()
    folder.rmdir()
    folder.symlink_to("/proc/self/fdinfo")  # a folder that takes no files, root's neither
    ended = subprocess.run(
        [sys.executable, "-m", "flops_fit", "report", "runs/planted"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "For 3e12 FLOPs: train 152k params" in ended.stdout
    assert (
        "warning: the report was not written: `runs/planted/report` is a link to "
        "`/proc/self/fdinfo`" in ended.stderr
    )
    assert "--output" in ended.stderr


def test_a_write_that_fails_leaves_nothing_and_names_its_file(tmp_path):
    target = tmp_path / "report.html"
    target.mkdir()  # it cannot be replaced by a file
    with pytest.raises(OSError, match="directory") as caught:
        write_atomic(target, "text")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    told = StorageError.of(caught.value)
    assert told is not None
    assert f"`{target}`" in told.message
    assert told.exit_code == 4


def test_an_error_of_the_network_is_none_of_the_disk():
    assert StorageError.of(ConnectionRefusedError(111, "refused")) is None
    assert StorageError.of(OSError("of a library, without a number")) is None
