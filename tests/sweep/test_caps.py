"""A capped sweep stops under its cap, names what is missing, and goes on when the cap is lifted."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flops_fit.errors import ManifestError
from flops_fit.manifest.files import write_json
from flops_fit.manifest.manifest import parse_manifest
from flops_fit.manifest.trials import Outcome, Size, Status, Trial
from flops_fit.planning.plan import Plan
from flops_fit.sweep.caps import Caps, Limits, make_caps
from flops_fit.sweep.conductor import conduct
from flops_fit.sweep.executors.inline import InlineExecutor
from flops_fit.sweep.ledger import Ledger, read_ledger, replay
from flops_fit.sweep.rundir import RunDir, write_outcome

WORST = st.sampled_from(["finished", "finished", "finished", "diverged", "failed"])


def trial_of(number: int, flops: float) -> Trial:
    size = Size(number + 1, 1000 * (number + 1), None, max(1.0, flops // 6400))
    return Trial.of(budget_flops=flops, size=size, tokens=6400, batch_tokens=64, seed=number)


def conduct_once(run, plan, work, caps, *, max_running=2, stop=lambda: None):
    ledger = Ledger.open(run.ledger)
    try:
        return conduct(
            plan, run, ledger, lambda: InlineExecutor(work, stop),
            max_running=max_running, caps=caps,
        )  # fmt: skip
    finally:
        ledger.close()


@settings(max_examples=60, deadline=None)
@given(
    flops=st.lists(st.floats(1e6, 1e12), min_size=1, max_size=12),
    statuses=st.lists(WORST, min_size=12, max_size=12),
    share=st.floats(0.0, 1.2, allow_subnormal=False),
    workers=st.integers(1, 4),
)
def test_no_plan_passes_its_cap_and_every_plan_goes_on_without(flops, statuses, share, workers):
    plan = Plan(tuple(trial_of(k, each) for k, each in enumerate(flops)))
    status = {t.trial_id: s for t, s in zip(plan.trials, statuses, strict=False)}
    by_id = {t.trial_id: t for t in plan.trials}
    trained, real = [], {}
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder))

        def work(task):
            (trial_id,) = task
            trained.append(trial_id)
            trial, how = by_id[trial_id], status[trial_id]
            loss = 2.0 if how == "finished" else None
            if how == "failed":  # at its last sign of life it stood at step 30 of 100
                run.trial(trial_id).mkdir(parents=True, exist_ok=True)
                write_json(run.progress(trial_id), {"step": 30})
                real[trial_id] = 0.3 * trial.flops
                write_outcome(run, Outcome.of_failure(trial_id, how, seconds=0.0))
                return
            real[trial_id] = trial.flops
            write_outcome(
                run, Outcome(trial_id, Status(how), loss, trial.tokens, trial.flops, 0.0, error=how)
            )

        cap = share * plan.total_flops
        summary = conduct_once(run, plan, work, Caps(flops=cap), max_running=workers)
        assert summary.spent_flops == pytest.approx(sum(real.values()))
        assert summary.spent_flops <= cap
        first = list(trained)
        assert first == [t.trial_id for t in plan.trials][: len(first)]
        if summary.cap is None:
            assert len(first) == len(plan.trials)
            return
        assert summary.cap.missing == tuple(
            t.trial_id for t in plan.trials if t.trial_id not in first
        )
        assert read_ledger(run.ledger)[-1].event == "sweep_capped"
        status_before = dict(status)
        status.update(dict.fromkeys(status, "finished"))
        lifted = conduct_once(run, plan, work, Caps())
        assert (lifted.pending, lifted.failed, lifted.cap) == (0, 0, None)
        state = replay(read_ledger(run.ledger))
        assert state.is_complete
        ended_well = [i for i in first if status_before[i] != "failed"]
        assert set(trained[len(first) :]) == set(by_id) - set(ended_well)


class Slow:
    """A worker whose trials take real time, and that stops when it is asked to."""

    def __init__(self, run, seconds):
        self.run, self.seconds, self.asked = run, seconds, False

    def work(self, task):
        began = time.monotonic()
        while time.monotonic() - began < self.seconds[task[0]]:
            if self.asked:
                return
            time.sleep(0.005)
        wall = time.monotonic() - began
        write_outcome(self.run, Outcome(task[0], Status.FINISHED, 2.0, 6400, 998_400.0, wall))

    def ask(self):
        self.asked = True


def test_a_trial_that_would_pass_the_hours_is_not_started(tmp_path):
    plan = Plan(tuple(trial_of(k, 1e6) for k in range(6)))
    lab = Slow(RunDir(tmp_path), dict.fromkeys((t.trial_id for t in plan.trials), 1.0))
    caps = Caps(device_seconds=5.2, device_seconds_said="--max-hours 0.0014", devices_per_trial=2)
    summary = conduct_once(lab.run, plan, lab.work, caps, max_running=1, stop=lab.ask)
    started = [e.trial_id for e in read_ledger(lab.run.ledger) if e.event == "trial_started"]
    assert (summary.finished, len(started)) == (2, 2)  # a third would come to 6 device seconds
    assert summary.cap.unit == "device seconds"
    assert len(summary.cap.missing) == 4


def test_a_trial_slower_than_forecast_is_stopped_at_the_cap_and_its_time_counts(tmp_path):
    plan = Plan(tuple(trial_of(k, 1e6) for k in range(3)))
    first, second, third = (t.trial_id for t in plan.trials)
    lab = Slow(RunDir(tmp_path), {first: 0.05, second: 60.0, third: 0.05})
    caps = Caps(device_seconds=0.5, device_seconds_said="--max-hours 0.00014")
    began = time.monotonic()
    summary = conduct_once(lab.run, plan, lab.work, caps, max_running=1, stop=lab.ask)
    assert time.monotonic() - began < 10
    assert summary.cap.missing == (second, third)
    state = replay(read_ledger(lab.run.ledger))
    assert 0.2 < state.spent_seconds <= 0.5  # asked to stop before, and gone by then
    assert [e.event for e in read_ledger(lab.run.ledger)][-2:] == ["trial_stopped", "sweep_capped"]
    again = conduct_once(lab.run, plan, lab.work, caps, max_running=1, stop=lab.ask)
    assert again.finished == 1  # what was stopped counts: nothing more is started under this cap
    lab.asked, lab.seconds[second] = False, 0.05
    assert conduct_once(lab.run, plan, lab.work, Caps(), stop=lab.ask).finished == 3
    after = replay(read_ledger(lab.run.ledger))
    assert after.wall_seconds[second] >= state.wall_seconds[second] + 0.05  # both attempts


def test_money_is_device_time_at_a_price():
    text = '[model]\nplugin = "m"\nsize_param = "d"\n[data]\nplugin = "d"\n[loss]\nplugin = "l"\n'
    manifest = parse_manifest(
        f"{text}[sweep]\nbudgets = [1e11]\n[execution]\ndevices_per_trial = 4\n", where="m"
    )
    with pytest.raises(ManifestError, match="price"):
        make_caps(manifest, Limits(max_cost=10))
    caps = make_caps(manifest, Limits(max_cost=10, price_per_hour=2))
    assert caps.device_seconds == 5 * 3600
    assert (
        make_caps(manifest, Limits(max_cost=10, price_per_hour=2, max_hours=1)).device_seconds
        == 3600
    )


def command(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "flops_fit", *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=cwd,
    )  # fmt: skip


def test_the_command_stops_under_the_cap_with_code_7_and_goes_on(tmp_path, write_manifest):
    manifest = write_manifest(report="bootstrap = 0\nbudgets = [1e14]")
    ended = command("run", manifest, "--simulate", "--max-flops", "5e12", cwd=tmp_path)
    assert ended.returncode == 7, ended.stderr
    assert "Traceback" not in ended.stderr
    for text in (
        "--max-flops 5e+12",
        "trials are missing",
        "raise the cap",
        "% of the largest target",
    ):
        assert text in ended.stderr
    ledger = tmp_path / "runs/planted/ledger.jsonl"
    entries = [json.loads(line) for line in ledger.read_text().splitlines()]
    spent = sum(e["flops"] for e in entries if e["event"] == "trial_finished")
    assert 3e12 < spent <= 5e12
    assert entries[-1]["event"] == "sweep_capped"
    assert all(i[:8] in ended.stderr for i in entries[-1]["missing"][:3])
    capped = len(entries)
    again = command("run", manifest, "--simulate", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    entries = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert entries[-1]["event"] == "sweep_finished"
    assert entries[capped]["event"] == "sweep_resumed"
    finished = [e["trial_id"] for e in entries if e["event"] == "trial_finished"]
    assert len(finished) == len(set(finished)) == entries[0]["trials"]
