"""The adaptive conductor records each decision before it acts on it, and repeats nothing."""

import math

import pytest
from ledgers import entry

from flops_fit.fitting.law import Surface
from flops_fit.manifest.files import read_json, write_json
from flops_fit.manifest.trials import Size
from flops_fit.planning.adaptive.terms import Terms
from flops_fit.planning.plan import Plan
from flops_fit.sweep.conductor import SweepSummary, Watcher
from flops_fit.sweep.ledger import Ledger, read_ledger
from flops_fit.sweep.rounds import conduct_adaptively
from flops_fit.sweep.rundir import RunDir

LAW = Surface(1.8172, 482.01, 2085.43, 0.3478, 0.3658)
TOP = 1e19
COUNTS = [round(math.sqrt(TOP / 120) * 2 ** (k / 4)) for k in range(-60, 40)]
TERMS = Terms(
    tuple(Size(k, n, None, 6.0 * n) for k, n in enumerate(COUNTS)),
    lambda size, tokens: 1,
    tuple(TOP / 3**k for k in range(6)),
    30 * TOP,
    0.2,
    12 * TOP,
)


class Lab:
    """A run directory, and a stand-in for the sweep's conductor that trains by a planted law."""

    def __init__(self, path, fails=lambda trial: False):
        self.run, self.fails = RunDir(path), fails
        write_json(self.run.plan, Plan(()).to_dict())
        self.attempts: dict[str, int] = {}

    def carry_out(self, plan):
        state = self.ledger.state
        for trial in [trial for trial in plan.trials if state.is_pending(trial)]:
            known = {t.trial_id for e in state.decisions for t in e.trials}
            assert trial.trial_id in known
            self.attempts[trial.trial_id] = self.attempts.get(trial.trial_id, 0) + 1
            self.ledger.append(entry("trial_started", trial.trial_id, attempt=1))
            if self.fails(trial):
                self.ledger.append(
                    entry("trial_failed", trial.trial_id, error="no memory", flops=0.0)
                )
                continue
            loss = LAW.loss(trial.size.params, trial.tokens)
            self.ledger.append(entry(
                "trial_finished", trial.trial_id, loss=loss, params=trial.size.params,
                tokens=trial.tokens, flops=trial.flops, wall_seconds=0.0,
            ))  # fmt: skip
        state = self.ledger.state
        return SweepSummary(len(state.finished), 0, 0, 0, False)

    def go(self):
        self.ledger = Ledger.open(self.run.ledger)
        try:
            return conduct_adaptively(self.run, self.ledger, self.carry_out, TERMS, Watcher())
        finally:
            self.ledger.close()

    def decisions(self):
        return [e for e in read_ledger(self.run.ledger) if e.event == "decision_made"]


def test_the_plan_holds_every_trial_that_was_decided(tmp_path):
    lab = Lab(tmp_path)
    summary = lab.go()
    made = lab.decisions()
    assert [d.number for d in made] == list(range(len(made)))
    wanted = [trial.trial_id for d in made for trial in d.trials]
    plan = Plan.from_dict(read_json(lab.run.plan))
    assert [trial.trial_id for trial in plan.trials] == wanted
    assert summary.finished == len(wanted)
    assert set(lab.attempts.values()) == {1}
    assert read_ledger(lab.run.ledger)[-1].event == "sweep_finished"


def test_a_sweep_that_stopped_stays_stopped(tmp_path):
    lab = Lab(tmp_path)
    lab.go()
    before = len(read_ledger(lab.run.ledger))
    lab.go()
    assert len(read_ledger(lab.run.ledger)) == before


@pytest.mark.parametrize("share", [3.0, 1.0])
def test_a_trial_that_fails_is_tried_once_a_session(tmp_path, share):
    lab = Lab(tmp_path, fails=lambda t: t.size.params > share * LAW.optimum(t.budget_flops).params)
    summary = lab.go()
    assert summary.failed >= 1
    assert set(lab.attempts.values()) == {1}
    failed = summary.failed
    assert lab.go().failed >= failed
    assert max(lab.attempts.values()) == 2
