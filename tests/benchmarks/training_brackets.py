"""Whether a recipe's learning rate is near the best: a log-spaced bracket around it.

    python tests/benchmarks/training_brackets.py [--manifest manifests/quickstart.toml]
        [--trials 3] [--rates 7] [--step 1.5] [--seeds 3]

Takes the planned trials of the manifest (the smallest size at the lowest budget, a middle one, the
largest size at the highest budget), trains each at rates spaced by a factor around the recipe's
own, and prints every mean loss, the best rate, and how far the recipe's loss lies above the best.
The recipe is near-tuned where that is within 1 % and the best rate is no end of the bracket.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

from flops_fit.experiment.loading import load_experiment
from flops_fit.experiment.prepared import prepare
from flops_fit.manifest.manifest import read_manifest
from flops_fit.manifest.trials import Trial
from flops_fit.planning.from_manifest import make_plan
from flops_fit.training.loop import train
from flops_fit.training.orders import Controls, TrialFiles


def chosen_trials(manifest: Path, count: int) -> list[Trial]:
    """`count` planned trials, from the smallest size at the lowest budget to the largest."""
    trials = make_plan(prepare(manifest)).trials
    ordered = sorted(trials, key=lambda t: (t.budget_flops, t.size.params))
    budgets = sorted({t.budget_flops for t in trials})
    chosen = []
    for index in range(count):
        at = index / max(1, count - 1)
        curve = [t for t in ordered if t.budget_flops == budgets[round(at * (len(budgets) - 1))]]
        chosen.append(curve[round(at * (len(curve) - 1))])
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--manifest", type=Path, default=Path("manifests/quickstart.toml"))
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--rates", type=int, default=7)
    parser.add_argument("--step", type=float, default=1.5)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    manifest = read_manifest(asked.manifest)
    experiment = load_experiment(manifest, search_path=[asked.manifest.parent])
    recipe = manifest.training
    factors = [asked.step ** (i - asked.rates // 2) for i in range(asked.rates)]
    for trial in chosen_trials(asked.manifest, asked.trials):
        print(
            f"size {trial.size.size_value:g}, {trial.tokens:,} {experiment.data.facts.unit}s, "
            f"{trial.steps:,} steps, {trial.budget_flops:g} FLOPs",
            flush=True,
        )
        means = {}
        for factor in factors:
            losses = []
            for seed in range(asked.seeds):
                with tempfile.TemporaryDirectory() as folder:
                    outcome = train(
                        replace(trial, seed=seed, learning_rate_factor=factor),
                        replace(experiment.ingredients, recipe=recipe),
                        TrialFiles(Path(folder)),
                        Controls(device="cpu"),
                    )
                losses.append(outcome.loss if outcome.loss is not None else float("inf"))
            means[factor] = mean(losses)
            spread = f" (sd {stdev(losses):.4f})" if len(losses) > 1 else ""
            print(f"  rate x {factor:.3g}: {means[factor]:.4f}{spread}", flush=True)
        best = min(means, key=lambda factor: means[factor])
        where = "inside" if factors[0] < best < factors[-1] else "at an END of"
        print(
            f"  best x {best:.3g}, {where} the bracket; the recipe's own lies "
            f"{means[1.0] / means[best] - 1:.2%} above it",
            flush=True,
        )


if __name__ == "__main__":
    main()
