"""The conductor runs what the ledger lacks, records what came of it, and stops cleanly."""

import time
from concurrent.futures import Future

import pytest

from flops_fit.manifest.trials import Outcome, Size, Status, Trial
from flops_fit.planning.plan import Plan
from flops_fit.sweep.conductor import conduct
from flops_fit.sweep.executors.inline import InlineExecutor
from flops_fit.sweep.ledger import Ledger, read_ledger, replay
from flops_fit.sweep.rundir import RunDir, write_outcome

SIZES = [Size(d, d * 1000, None, d * 6000.0) for d in (1, 2, 3, 4)]
PLAN = Plan(
    tuple(Trial.of(budget_flops=1e9, size=s, tokens=6400, batch_tokens=64, seed=0) for s in SIZES)
)
IDS = [trial.trial_id for trial in PLAN.trials]
FLOPS = {trial.trial_id: trial.flops for trial in PLAN.trials}


class Lab:
    """A run directory and workers that leave the outcomes that a test wants."""

    def __init__(self, path, statuses=()):
        path.mkdir(exist_ok=True)
        self.run = RunDir(path)
        self.statuses = dict(zip(IDS, statuses, strict=False))
        self.trained = []

    def work(self, task):
        for trial_id in task:
            self.trained.append(trial_id)
            status = self.statuses.get(trial_id, "finished")
            if status == "raise":
                time.sleep(0.2)
                raise OSError("the machine is gone")
            if status == "interrupt":
                raise KeyboardInterrupt
            loss = 2.0 if status == "finished" else None
            write_outcome(
                self.run,
                Outcome(trial_id, Status(status), loss, 6400, FLOPS[trial_id], 0.1, error=status),
            )

    def go(self, **options):
        ledger = Ledger.open(self.run.ledger)
        try:
            return conduct(
                PLAN, self.run, ledger,
                lambda: InlineExecutor(self.work, lambda: None), max_running=2, **options,
            )  # fmt: skip
        finally:
            ledger.close()

    def events(self, name):
        return [e.trial_id for e in read_ledger(self.run.ledger) if e.event == name]


def test_every_trial_is_trained_once_and_recorded(tmp_path):
    lab = Lab(tmp_path / "r")
    summary = lab.go()
    assert lab.trained == IDS
    assert lab.events("trial_finished") == IDS
    assert (summary.finished, summary.failed, summary.pending) == (4, 0, 0)
    assert read_ledger(lab.run.ledger)[-1].event == "sweep_finished"


def test_resume_runs_only_what_the_ledger_lacks(tmp_path):
    lab = Lab(tmp_path / "r", ["finished", "failed", "diverged", "finished"])
    assert lab.go().failed == 1
    lab.statuses = {}
    lab.trained.clear()
    summary = lab.go()
    assert lab.trained == [IDS[1]]
    assert (summary.finished, summary.diverged, summary.failed) == (3, 1, 0)
    starts = [e.attempt for e in read_ledger(lab.run.ledger) if e.event == "trial_started"]
    assert starts == [1, 1, 1, 1, 2]


def test_a_trial_that_ended_no_better_than_untrained_has_its_loss_in_the_ledger(tmp_path):
    lab = Lab(tmp_path / "r")
    lab.work = lambda task: write_outcome(
        lab.run, Outcome(task[0], Status.DIVERGED, 3.47, 6400, 1e9, 0.1, error="no better")
    )
    assert lab.go().diverged == 4
    ended = [e for e in read_ledger(lab.run.ledger) if e.event == "trial_diverged"]
    assert [entry.heldout_loss for entry in ended] == [3.47] * 4
    assert replay(read_ledger(lab.run.ledger)).finished == {}


def test_an_outcome_that_the_ledger_lacks_is_harvested_not_trained(tmp_path):
    lab = Lab(tmp_path / "r")
    write_outcome(lab.run, Outcome(IDS[2], Status.FINISHED, 1.5, 6400, FLOPS[IDS[2]], 0.1))
    lab.go()
    assert IDS[2] not in lab.trained
    (entry,) = [e for e in read_ledger(lab.run.ledger)
                if e.event == "trial_finished" and e.trial_id == IDS[2]]  # fmt: skip
    assert entry.loss == 1.5


def test_a_complete_sweep_starts_no_executor_and_adds_no_line(tmp_path):
    lab = Lab(tmp_path / "r")
    lab.go()
    before = lab.run.ledger.read_bytes()
    lab.go()
    assert lab.run.ledger.read_bytes() == before
    assert len(lab.trained) == 4


def test_a_worker_that_dies_is_a_failed_trial_and_the_sweep_goes_on(tmp_path):
    lab = Lab(tmp_path / "r", ["finished", "raise", "finished", "finished"])
    summary = lab.go()
    assert (summary.finished, summary.failed) == (3, 1)
    first, last = [e for e in read_ledger(lab.run.ledger) if e.event == "trial_failed"]
    for entry in (first, last):
        assert (entry.trial_id, entry.error) == (IDS[1], "the machine is gone")
        assert 0.2 <= entry.wall_seconds < 5  # what it took counts, as for caps
    assert (first.tried_again, last.tried_again) == (True, None)


def test_a_trial_whose_worker_was_killed_once_is_finished_by_the_same_sweep(tmp_path):
    lab = Lab(tmp_path / "r", ["finished", "raise", "finished", "finished"])
    work = lab.work

    def killed_once(task):
        try:
            work(task)
        finally:
            lab.statuses.pop(task[0], None)

    lab.work = killed_once
    summary = lab.go()
    assert (summary.finished, summary.failed) == (4, 0)
    assert sorted(lab.trained) == sorted([*IDS, IDS[1]])
    assert lab.events("trial_started").count(IDS[1]) == 2


def test_where_every_worker_dies_the_trials_are_not_all_tried_twice(tmp_path):
    lab = Lab(tmp_path / "r", ["raise"] * 4)
    summary = lab.go()
    assert summary.failed == 4
    assert len(lab.trained) <= 6


def test_a_bug_of_ours_is_not_hidden_as_a_failed_trial(tmp_path):
    lab = Lab(tmp_path / "r")
    lab.work = lambda task: {}["missing"]
    with pytest.raises(KeyError):
        lab.go()


class Interrupting:
    """An executor whose user presses Ctrl-C while the second trial runs."""

    def __init__(self, lab):
        self.lab = lab
        self.is_shut = False

    def submit(self, task, resources):
        future = Future()
        if task[0] == IDS[0]:
            self.lab.work(task)
            future.set_result(None)
            return future
        raise KeyboardInterrupt

    def shutdown(self):
        self.is_shut = True


def test_an_interrupt_keeps_what_was_finished_and_says_what_is_pending(tmp_path):
    lab = Lab(tmp_path / "r")
    executor = Interrupting(lab)
    ledger = Ledger.open(lab.run.ledger)
    summary = conduct(PLAN, lab.run, ledger, lambda: executor, max_running=2)
    ledger.close()
    assert executor.is_shut
    assert summary.is_interrupted
    assert (summary.finished, summary.pending) == (1, 3)
    last = read_ledger(lab.run.ledger)[-1]
    assert (last.event, last.pending) == ("sweep_interrupted", 3)
    assert lab.go().finished == 4
    assert lab.trained.count(IDS[0]) == 1
