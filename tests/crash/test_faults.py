"""A fault at every write, flush and rename of a sweep, one by one, and disks that are full.

Each fault is met by a child process of its own: it is ended on the spot, as by `kill -9`, or the
system says that the disk is full or broken. The next start finds the sweep whole, or completes it.
A part of the faults is tried here; all of them: `pytest -n 0 -m slow tests/crash/test_faults.py`.
"""

import contextlib
import errno
import io
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from tiny_sweeps import losses

from flops_fit.cli.main import main

DOCUMENTED = {0, 2, 3, 4, 5, 6, 7}
KILLED = 77
KINDS = ("before", "after", "full", "broken", "short")


class Faults:
    """Counts the writes, flushes and renames below a folder, and fails at one of them."""

    def __init__(self, folder: Path, at: int | None, kind: str) -> None:
        self.folder, self.at, self.kind = str(folder), at, kind
        self.count = 0
        self.real = {"write": os.write, "fsync": os.fsync, "replace": os.replace}
        self.open = io.open

    def is_ours(self, target) -> bool:
        if isinstance(target, int):
            target = Path(f"/proc/self/fd/{target}").readlink()
        return str(target).startswith(self.folder)

    def call(self, name, target, do, *, short=None):
        """Do what was asked for, unless this is the call to fail at."""
        if not self.is_ours(target):
            return do()
        self.count += 1
        if self.count - 1 != self.at:
            return do()
        if self.kind == "before":
            os._exit(KILLED)
        if self.kind == "after":
            do()
            os._exit(KILLED)
        if self.kind == "short" and short is not None:
            return short()
        number = errno.EIO if self.kind == "broken" else errno.ENOSPC
        raise OSError(number, os.strerror(number))

    def install(self) -> None:
        """Stand between this process and the system."""
        real = self.real

        def write(descriptor, data):
            return self.call(
                "write", descriptor, lambda: real["write"](descriptor, data),
                short=lambda: real["write"](descriptor, bytes(data)[: len(data) // 2]),
            )  # fmt: skip

        def fsync(descriptor):
            return self.call("fsync", descriptor, lambda: real["fsync"](descriptor))

        def replace(source, target, **more):
            return self.call("replace", target, lambda: real["replace"](source, target, **more))

        def opened(path, *arguments, **more):
            mode = arguments[0] if arguments else more.get("mode", "r")
            if set(mode) & set("wxa") and not isinstance(path, int):
                self.call("open", path, lambda: None)
            return self.open(path, *arguments, **more)

        os.write, os.fsync, os.replace = write, fsync, replace
        io.open = opened
        pathlib.io.open = opened


def command_of(folder: Path) -> list[str]:
    return ["flops-fit", "run", str(folder / "m.toml"), "--simulate", "--run-dir",
            str(folder / "run")]  # fmt: skip


def in_a_child(folder: Path, *, at: int | None, kind: str) -> tuple[int, str, int]:
    """The exit code of a sweep with a fault, what it said, and how many calls there were."""
    said = folder.with_suffix(".said")
    counted = folder.with_suffix(".count")
    pid = os.fork()
    if pid == 0:  # pragma: no cover  # the child of a fork
        code = 1
        try:
            with said.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
                faults = Faults(folder, at, kind)
                faults.install()
                sys.argv = command_of(folder)
                try:
                    main()
                except SystemExit as ended:
                    code = ended.code if isinstance(ended.code, int) else 0
                sys.stdout.flush()
                sys.stderr.flush()
                counted.write_text(str(faults.count))
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
            os._exit(99)
        os._exit(code)
    _, status = os.waitpid(pid, 0)
    count = int(counted.read_text()) if counted.exists() else 0
    return os.waitstatus_to_exitcode(status), said.read_text(), count


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, write_stated) -> Path:
    folder = tmp_path_factory.mktemp("manifest")
    return write_stated(folder, sweep="budgets = [3e10, 1e11]\nsizes_per_budget = 3")


def prepare(folder: Path, manifest: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(manifest, folder / "m.toml")
    return folder


def check_faults(tmp_path: Path, manifest: Path, every: int) -> None:
    # Once in this process, so that the children need not load the libraries again.
    warm = command_of(prepare(tmp_path / "warm", manifest))
    with mock.patch.object(sys, "argv", warm), contextlib.suppress(SystemExit):
        main()
    whole = prepare(tmp_path / "whole", manifest)
    code, said, count = in_a_child(whole, at=None, kind="none")
    assert code in (0, 6), said
    expected = losses(whole / "run")
    assert len(expected) == 6
    assert count > 60
    tried = 0
    for number in range(0, count, every):
        for kind in KINDS:
            folder = prepare(tmp_path / "faulty", manifest)
            code, said, _ = in_a_child(folder, at=number, kind=kind)
            assert code in (DOCUMENTED | {KILLED}), (number, kind, code, said)
            assert "Traceback" not in said, (number, kind, said)
            if code not in (0, 6, KILLED):
                assert said.count("error: ") == 1, (number, kind, said)
            again, said, _ = in_a_child(folder, at=None, kind="none")
            assert again in (0, 6), (number, kind, code, again, said)
            assert losses(folder / "run") == expected, (number, kind)
            assert not list((folder / "run").rglob("*.broken*")), (number, kind)
            tried += 1
    print(f"{tried} faults at {count} calls: each was whole or completed by the next start")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fault_at_some_writes_of_a_sweep_loses_nothing(tmp_path, manifest):
    check_faults(tmp_path, manifest, every=23)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fault_at_every_write_of_a_sweep_loses_nothing(tmp_path, manifest):
    check_faults(tmp_path, manifest, every=1)


@pytest.fixture
def disk():
    """Mounts a small disk in memory at a folder, or skips with the reason."""
    folder = Path(tempfile.mkdtemp(prefix="flops-fit-disk-"))

    def mount(size: str, *, again: bool = False) -> Path:
        options = f"{'remount,' if again else ''}size={size}"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"no disk can be mounted: {done.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)
    folder.rmdir()


@pytest.mark.skipif(not shutil.which("mount"), reason="mounts a disk")
@pytest.mark.parametrize(
    "size", ["4k", "8k", "16k", "24k", "32k", "48k", "64k", "96k", "128k", "256k", "512k", "2m"]
)
def test_a_disk_that_is_full_is_one_error_and_a_larger_one_completes_the_sweep(
    disk, tmp_path, manifest, size
):
    whole = prepare(tmp_path / "whole", manifest)
    in_a_child(whole, at=None, kind="none")
    place = disk(size)
    code, said = run_on(place, manifest, tmp_path)
    assert code in DOCUMENTED, said
    assert "Traceback" not in said
    if code not in (0, 6):
        assert said.count("error: ") == 1
        assert "space" in said
    disk("64m", again=True)
    code, said = run_on(place, manifest, tmp_path)
    assert code in (0, 6), said
    assert losses(place / "run") == losses(whole / "run")


def run_on(place: Path, manifest: Path, folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "flops_fit", "run", str(manifest), "--simulate", "--run-dir",
         str(place / "run")],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr
