"""The conductor on trunks: a trial waits for the state it starts from, which outlives a failure."""

import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from ledgers import entry

from flops_fit.manifest.trials import Details, Outcome, SharedTrunk, Size, Status, Trial, Trunk
from flops_fit.planning.plan import Plan
from flops_fit.planning.trunks import TrunkStates
from flops_fit.sweep.conductor import conduct
from flops_fit.sweep.ledger import Ledger, observations_of
from flops_fit.sweep.rundir import RunDir, write_outcome
from flops_fit.training.checkpoint import load_checkpoint, save_checkpoint

SHORT, MIDDLE, LONG = 80_000, 240_000, 720_000  # units of data where each leaves the trunk


def trial(tokens, *kept):
    """A trial of the one size and seed of these tests, with the states that it keeps."""
    return Trial.of(
        budget_flops=tokens * 6e6, size=Size(64, 10**6, None, 6e6), tokens=tokens,
        batch_tokens=1000, seed=0, trunk=Trunk(200_000, 10, 0, kept),
    )  # fmt: skip


ADAPTIVE = [
    trial(900_000, SHORT, MIDDLE),
    trial(100_000, SHORT),
    trial(300_000, SHORT, MIDDLE),
]


class Lab:
    """A run directory, and workers in two threads that leave what trials of a trunk leave."""

    def __init__(self, path, trials, fails=()):
        path.mkdir(exist_ok=True)
        self.run, self.plan, self.fails = RunDir(path), Plan(tuple(trials)), set(fails)
        self.found = {}  # tokens -> whether the state to start from was there
        self.started = []

    def work(self, task):
        (made,) = [t for t in self.plan.trials if t.trial_id == task[0]]
        states, start = self.run.trunk(made.trunk_id), made.trunk.shared_tokens
        self.found[made.tokens] = start == 0 or (states / str(start)).exists()
        self.started.append(made.tokens)
        time.sleep(0.1)
        if made.tokens in self.fails:
            write_outcome(self.run, Outcome.of_failure(task[0], "no memory", seconds=0.1))
            return
        states.mkdir(parents=True, exist_ok=True)
        kept = [n for n in made.trunk.kept_tokens if n > start]
        for tokens in kept:
            (states / str(tokens)).touch()
        told = SharedTrunk(made.trunk_id, start, tuple(kept))
        details = Details(trunk=told, spent_flops=made.cost_flops)
        write_outcome(
            self.run,
            Outcome(task[0], Status.FINISHED, 2.0, made.tokens, made.flops, 0.1, details=details),
        )

    def go(self):
        ledger = Ledger.open(self.run.ledger)
        try:
            summary = conduct(self.plan, self.run, ledger, lambda: Pool(self.work), max_running=2)
            return summary, ledger.state
        finally:
            ledger.close()


class Pool:
    """An executor of two threads."""

    def __init__(self, work):
        self.threads, self.work = ThreadPoolExecutor(2), work

    def submit(self, task, resources):
        return self.threads.submit(self.work, task)

    def shutdown(self):
        self.threads.shutdown(wait=True)


@pytest.mark.parametrize("has_diverged", [False, True])
def test_whatever_the_order_a_trial_starts_once_the_state_that_it_goes_on_from_is_left(
    tmp_path, has_diverged
):
    # Where the middle one diverged in an earlier batch, the longest goes on from the short one.
    before = ADAPTIVE[2:] if has_diverged else []
    decided = TrunkStates({}).settled([t for t in ADAPTIVE if t not in before])
    lab = Lab(tmp_path / "r", [*before, *decided])
    for ended in before:
        write_outcome(lab.run, Outcome(ended.trial_id, Status.DIVERGED, None, 1000, 6e9, 0.1))
    summary, state = lab.go()
    assert summary.finished == len(decided)
    assert all(lab.found.values())
    ids = [t.trial_id for t in decided]
    assert sum(state.flops[i] for i in ids) == sum(t.cost_flops for t in decided)
    assert sum(t.cost_flops for t in decided) < sum(t.flops for t in decided)


def test_trials_that_only_cool_down_from_what_is_there_wait_for_none(tmp_path):
    states = TrunkStates({}).after(ADAPTIVE[0])
    lab = Lab(tmp_path / "r", states.settled(ADAPTIVE[1:]))
    for start in (SHORT, MIDDLE):
        assert not lab.plan.before(lab.plan.trials[0 if start == SHORT else 1])
    lab.go()
    assert lab.started == [100_000, 300_000]


def test_a_sweep_that_ends_with_a_failure_keeps_the_trunk_that_its_retry_goes_on_from(tmp_path):
    lab = Lab(tmp_path / "r", TrunkStates({}).settled(ADAPTIVE), fails=[300_000])
    trunk = lab.run.trunk(ADAPTIVE[0].trunk_id)
    summary, state = lab.go()
    assert summary.failed == 1
    assert (trunk / str(SHORT)).exists()
    assert SHORT in state.trunk_tokens[ADAPTIVE[0].trunk_id]
    lab.fails = set()
    summary, state = lab.go()
    assert (summary.finished, summary.failed) == (3, 0)
    assert lab.found[300_000]
    assert state.flops[ADAPTIVE[2].trial_id] == pytest.approx((300_000 - SHORT) * 6e6)
    assert not trunk.exists()
    assert not state.trunk_tokens


def test_a_sweep_killed_before_it_dropped_its_trunks_drops_them_when_it_is_started_again(tmp_path):
    lab = Lab(tmp_path / "r", TrunkStates({}).settled(ADAPTIVE))
    lab.go()
    ledger = lab.run.ledger.read_bytes()
    lab.run.trunk(ADAPTIVE[0].trunk_id).mkdir(parents=True)
    lab.go()
    assert lab.run.ledger.read_bytes() == ledger
    assert not lab.run.trunk(ADAPTIVE[0].trunk_id).exists()


def test_a_trial_retried_with_another_seed_is_no_point_of_its_trunk(tmp_path):
    ledger = Ledger.open(tmp_path / "ledger.jsonl")
    told = {"params": 10**6, "flops": 6e11, "loss": 2.0, "wall_seconds": 1.0}
    ledger.append(entry("trial_finished", ADAPTIVE[0].trial_id, tokens=900_000, seed=81723, **told))
    ledger.append(entry("trial_finished", ADAPTIVE[1].trial_id, tokens=100_000, seed=0, **told))
    ledger.append(entry("trial_finished", ADAPTIVE[2].trial_id, tokens=300_000, **told))
    points = observations_of(ledger.state, ADAPTIVE)
    ledger.close()
    assert [(p.seed, p.run) for p in points] == [
        (81723, None), (0, ADAPTIVE[0].trunk_id), (0, ADAPTIVE[0].trunk_id)
    ]  # fmt: skip


def _keep(directory, barrier):
    state = {"weights": torch.arange(200_000)}
    for step in range(20):
        barrier.wait(30)
        save_checkpoint(directory, state, step=step, most_kept=None)


def test_two_processes_may_keep_the_same_states_of_a_trunk_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    both = [context.Process(target=_keep, args=(tmp_path, barrier)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert len(list((tmp_path / "checkpoint").iterdir())) == 20
    assert torch.equal(load_checkpoint(tmp_path)["weights"], torch.arange(200_000))
