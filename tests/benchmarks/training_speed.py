"""How fast the training loop is beside a bare one: same model, data, optimizer and precision.

    python tests/benchmarks/training_speed.py [--device cpu] [--widths 32 64 128] [--rounds 20]

Both loops live in one process and take turns of a few steps, so that whatever else the machine does
meets both alike; the ratio is of the medians over the rounds. The last columns are what evaluating
and looking at losses cost, from a whole trial.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.trials import Size, Trial
from flops_fit.training.data.batches import LoadedData, load_data
from flops_fit.training.engine import Training
from flops_fit.training.loop import train
from flops_fit.training.orders import Controls, Ingredients, TrialFiles
from flops_fit.training.session import open_session
from flops_fit.zoo.gpt import GPT
from flops_fit.zoo.losses import cross_entropy
from flops_fit.zoo.stdlib_text import stdlib_text

CONTEXT = 64
RECIPE = Recipe(learning_rate=1e-3, learning_rate_rule="constant")


class BareLoop:
    """What a careful person writes by hand, in twenty lines."""

    def __init__(self, width: int, examples: int, data: LoadedData, device: str) -> None:
        torch.manual_seed(0)
        self.model = GPT(width).to(device)
        parameters = list(self.model.parameters())
        matrices = [p for p in parameters if p.ndim >= 2 and p.shape[0] != 256]
        others = [p for p in parameters if not any(p is m for m in matrices)]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
            lr=1e-3, betas=(0.9, 0.95), fused=True,
        )  # fmt: skip
        self.parameters, self.data, self.examples, self.device = (
            parameters, data.train, examples, device,
        )  # fmt: skip
        self.order = torch.randperm(len(self.data))
        self.at = 0

    def take_step(self) -> None:
        indices = self.order[self.at : self.at + self.examples]
        self.at += self.examples
        batch = self.data.batch_of(indices)
        loss = cross_entropy(
            self.model(batch["inputs"].to(self.device)), batch["targets"].to(self.device)
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-3
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def trial_of(width: int, tokens: int, batch: int) -> Trial:
    model = GPT(width)
    size = Size(width, model.num_params(), model.num_params(True), model.flops_per_token())
    return Trial.of(
        budget_flops=tokens * size.flops_per_token,
        size=size,
        tokens=tokens // batch * batch,
        batch_tokens=batch,
        seed=0,
    )


def timed(loop: Training | BareLoop, steps: int, device: str) -> float:
    # On a CPU, processor time: what else the machine does is then in neither figure.
    clock = time.process_time if device == "cpu" else time.perf_counter
    began = clock()
    for _ in range(steps):
        loop.take_step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return (clock() - began) / steps


def compare(width: int, batch: int, data: LoadedData, device: str, rounds: int) -> str:
    session = open_session(Recipe(precision="fp32"), device=device, threads=1)
    trial = trial_of(width, 50_000 * batch, batch)
    with tempfile.TemporaryDirectory() as folder:
        ours = Training(
            trial, Ingredients(GPT, data, cross_entropy, RECIPE), TrialFiles(Path(folder)),
            session=session, threads=1,
        )  # fmt: skip
        ours.begin()
        bare = BareLoop(width, batch // CONTEXT, data, device)
        for loop in (bare, ours):
            timed(loop, 10, device)
        pairs = []
        for turn in range(rounds):
            order = (bare, ours) if turn % 2 else (ours, bare)
            took = {id(loop): timed(loop, 5, device) for loop in order}
            pairs.append((took[id(bare)], took[id(ours)]))
    ratio = median(b / o for b, o in pairs)
    rate = batch / median(o for _, o in pairs)
    flops = rate * trial.size.flops_per_token
    return f"{width:5d} {batch:6d} {rate:12,.0f} {flops / 1e9:9.1f} {ratio:12.3f}"


def overhead(data: LoadedData, device: str) -> str:
    """The share of a whole trial that is no training."""
    trial = trial_of(32, 4_000_000, 1024)
    with tempfile.TemporaryDirectory() as folder:
        outcome = train(
            trial, Ingredients(GPT, data, cross_entropy, RECIPE), TrialFiles(Path(folder)),
            Controls(device=device),
        )  # fmt: skip
    details = outcome.details
    share = 1 - details.training_seconds / outcome.wall_seconds
    return (
        f"one trial of {outcome.tokens:,} bytes at width 32: {outcome.wall_seconds:.1f} s, "
        f"{details.evaluation_seconds:.2f} s of it evaluation "
        f"({details.evaluation_seconds / outcome.wall_seconds:.1%}), "
        f"{share:.1%} outside training steps"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--batches", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--skip-overhead", action="store_true")
    asked = parser.parse_args()
    data = load_data(stdlib_text(context=CONTEXT), seed=0)
    print(f"torch {torch.__version__}, {asked.device}, one thread")
    print("width  batch    tokens/s   GFLOP/s  ours / bare")
    for width in asked.widths:
        for batch in asked.batches:
            print(compare(width, batch, data, asked.device, asked.rounds), flush=True)
    if not asked.skip_overhead:
        print(overhead(data, asked.device))


if __name__ == "__main__":
    main()
