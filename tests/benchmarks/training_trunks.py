"""Losses at the ends of branches off shared trunks, beside those of trials trained separately.

    python tests/benchmarks/training_trunks.py [--widths 24 40] [--horizons 5] [--longest 2e6]

Separate trials have the default recipe, whose rate decays linearly; a trunk holds half of it and
each branch cools down over a fifth. Every figure is the mean over seeds, and the last columns say
how far the two means lie apart, in per cent and in standard errors of their difference. FLOPs are
what each way really spent.
"""

import argparse
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.rules import batch_tokens
from flops_fit.manifest.trials import Size, Trial
from flops_fit.planning.trunks import share_trunks
from flops_fit.training.data.batches import load_data
from flops_fit.training.loop import train
from flops_fit.training.orders import Controls, Ingredients, TrialFiles
from flops_fit.zoo.gpt import GPT
from flops_fit.zoo.losses import cross_entropy
from flops_fit.zoo.stdlib_text import stdlib_text

CONTEXT = 64
SEPARATE = Recipe(curve_points=0)
SHARED = replace(SEPARATE, schedule="wsd")


def planned(width: int, horizons: list[int], seed: int, recipe: Recipe) -> list[Trial]:
    model = GPT(width)
    size = Size(width, model.num_params(), model.num_params(True), model.flops_per_token())
    trials = []
    for tokens in horizons:
        batch = batch_tokens(recipe, size=size, tokens=tokens, units_per_example=CONTEXT)
        whole = round(tokens / batch) * batch
        trials.append(
            Trial.of(budget_flops=whole * size.flops_per_token, size=size, tokens=whole,
                     batch_tokens=batch, seed=seed)
        )  # fmt: skip
    return list(share_trunks(trials, recipe, units_per_example=CONTEXT, multiple_of_examples=1))


def losses(trials: list[Trial], recipe: Recipe, data: object) -> tuple[list[float], float]:
    """The loss of each trial, and the FLOPs really spent on all."""
    found, spent = [], 0.0
    ingredients = Ingredients(GPT, data, cross_entropy, recipe)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        for trial in trials:
            files = TrialFiles(Path(folder) / trial.trial_id, Path(folder) / "trunk")
            outcome = train(trial, ingredients, files, Controls(device="cpu"))
            assert outcome.loss is not None, outcome.error
            found.append(outcome.loss)
            spent += outcome.details.spent_flops or outcome.flops
    return found, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[24, 40])
    parser.add_argument("--horizons", type=int, default=5)
    parser.add_argument("--longest", type=float, default=2e6)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    data = load_data(stdlib_text(context=CONTEXT), seed=0)
    horizons = [round(asked.longest / 2**k) for k in reversed(range(asked.horizons))]
    total = {"separate": 0.0, "shared": 0.0}
    for width in asked.widths:
        by_way: dict[str, list[list[float]]] = {"separate": [], "shared": []}
        for seed in range(asked.seeds):
            for way, recipe in (("separate", SEPARATE), ("shared", SHARED)):
                found, spent = losses(planned(width, horizons, seed, recipe), recipe, data)
                by_way[way].append(found)
                total[way] += spent
        print(f"d {width}\n  tokens       separate (sd)      on a trunk (sd)   apart   errors")
        for k, tokens in enumerate(horizons):
            (a, b) = ([run[k] for run in by_way[way]] for way in ("separate", "shared"))
            error = math.sqrt((stdev(a) ** 2 + stdev(b) ** 2) / asked.seeds)
            apart = mean(b) - mean(a)
            means = f"{mean(a):.4f} ({stdev(a):.4f})   {mean(b):.4f} ({stdev(b):.4f})"
            distance = f"{apart / mean(a):+.2%}   {apart / error:+.1f}"
            print(f"  {tokens:9,d}   {means}   {distance}", flush=True)
    print(
        f"FLOPs: separate {total['separate']:.3g}, shared {total['shared']:.3g}: "
        f"{total['shared'] / total['separate']:.3f} of them"
    )


if __name__ == "__main__":
    main()
