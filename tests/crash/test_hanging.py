"""Nothing waits for ever: imports, data and steps that hang are ended and named."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_sweeps import COMMAND, entries, write_sweep

from flops_fit.errors import PluginError
from flops_fit.experiment.child import ask_description

SWEEP = 'design = "fixed-tokens"\ntokens = [400]'
HANG = "import time\ntime.sleep(3600)\n"


def limit(folder: Path, minutes: float) -> None:
    path = folder / "m.toml"
    path.write_text(path.read_text().replace(
        "[execution]\n", f"[execution]\nstall_minutes = {minutes}\n"
    ))  # fmt: skip


def still_running(mark: Path) -> list[str]:
    """The processes whose working folder, or command, lies in a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(mark) in str((entry / "cwd").readlink()):
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_an_import_that_hangs_is_ended_and_named(tmp_path, monkeypatch):
    write_sweep(tmp_path, sweep=SWEEP)
    plugins = tmp_path / "tiny_plugins.py"
    plugins.write_text(HANG + plugins.read_text())
    monkeypatch.chdir(tmp_path)
    said = r"no answer within 0.1 minutes \(`stall_minutes` in \[execution\]\)"
    with pytest.raises(PluginError, match=said):
        ask_description(Path("m.toml"), search_path=[tmp_path], most_minutes=0.1)
    # What is left is this process itself, which has come to the folder.
    assert len(still_running(tmp_path)) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_while_plugins_hang_ends_with_130_and_leaves_no_process(tmp_path, number):
    write_sweep(tmp_path, sweep=SWEEP)
    plugins = tmp_path / "tiny_plugins.py"
    plugins.write_text(f"open('begun', 'w').close()\n{HANG}{plugins.read_text()}")
    child = subprocess.Popen(COMMAND, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(number)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 130, said
    assert "Traceback" not in said
    assert not still_running(tmp_path)


def test_a_conductor_that_is_killed_while_plugins_hang_leaves_no_process(tmp_path):
    write_sweep(tmp_path, sweep=SWEEP)
    plugins = tmp_path / "tiny_plugins.py"
    plugins.write_text(f"open('begun', 'w').close()\n{HANG}{plugins.read_text()}")
    child = subprocess.Popen(COMMAND, cwd=tmp_path, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    while still_running(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "said"),
    [("def data():\n", "no plugin or data set was loaded within 0.5 minutes"),
     ("    def forward(self, inputs):\n", "no step ended within 0.5 minutes")],
)  # fmt: skip
def test_data_and_steps_that_hang_fail_their_trial_and_are_named(tmp_path, place, said):
    run_dir = write_sweep(tmp_path, sweep=SWEEP, sizes=(2,), workers=1)
    limit(tmp_path, 0.5)
    plugins = tmp_path / "tiny_plugins.py"
    indent = "    " * (place.count("    ") + 1)
    hang = f"{indent}import os, time\n{indent}if os.getenv('HANG'): time.sleep(3600)\n"
    plugins.write_text(plugins.read_text().replace(place, place + hang))
    # The sweep is laid down without the hang, as on the machine where it was planned.
    first = subprocess.run(
        [*COMMAND, "--max-flops", "1"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert first.returncode in (5, 7), first.stderr
    ended = subprocess.run(
        COMMAND, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "HANG": "1"},
    )  # fmt: skip
    assert ended.returncode == 5, ended.stderr
    (failed,) = [e for e in entries(run_dir) if e["event"] == "trial_failed"][-1:]
    assert said in failed["error"]
    assert not still_running(tmp_path)


@pytest.mark.parametrize("command", ["plugins", "check"])
def test_a_file_named_as_a_module_of_python_is_not_imported(tmp_path, command):
    write_sweep(tmp_path, sweep=SWEEP)
    for name in ("types.py", "random.py", "selectors.py"):
        (tmp_path / name).write_text("raise SystemExit('a file of the folder was imported')\n")
    arguments = [command] if command == "plugins" else [command, "m.toml"]
    # As the installed script does: the folder is not in the import path of the first process.
    started = "import sys; from flops_fit.cli.main import main; main()"
    ended = subprocess.run(
        [sys.executable, "-P", "-c", started, *arguments], cwd=tmp_path, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "a file of the folder" not in ended.stdout + ended.stderr
