"""Your own command line around the library: your defaults, your words, our exit codes.

    python examples/cli_wrapper.py BUDGET [--target FLOPS] [--run-dir RUN_DIR] [--json]

A team's tool that answers one question about the team's model: BUDGET FLOPs may be spent on a
sweep; how large should the model be for the target? The model here is the built-in GPT on the
sources of Python's standard library, so that this runs anywhere; put yours in `OURS`.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

import flops_fit
from flops_fit.errors import FlopsFitError
from flops_fit.zoo.gpt import GPT
from flops_fit.zoo.losses import cross_entropy
from flops_fit.zoo.stdlib_text import stdlib_text

OURS: Mapping[str, Any] = {
    "model_cls": GPT,
    "model_size_param": "d_model",
    "model_kwargs": {"num_layers": 2, "context": 32},
    "loss_fn": cross_entropy,
    "sizes": [8, 12, 16, 20, 24, 32, 40, 48, 64],
    "training": {"learning_rate": 6e-3, "learning_rate_rule": "width", "reference_size": 64},
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("budget", type=float, help="FLOPs that the sweep may spend")
    parser.add_argument("--target", type=float, help="FLOPs to answer for; 30 budgets if left out")
    parser.add_argument("--run-dir", default="runs/ours", help="run again to resume")
    parser.add_argument("--json", action="store_true", help="data instead of a sentence")
    asked = parser.parse_args(arguments)
    target = asked.target or 30 * asked.budget
    # A fifth of the budget's curves at 1/4, 1/2 and 1 times the largest that it can pay.
    largest = asked.budget / (5 * 1.75)
    try:
        result = flops_fit.find_optimal(
            **OURS,
            dataset=stdlib_text(context=32),
            compute_budgets=[largest / 4, largest / 2, largest],
            target_budgets=[target],
            run_dir=asked.run_dir,
        )
        best = result.predict(target)
    except FlopsFitError as error:  # each carries its message, a hint, and an exit code
        print(f"{parser.prog}: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"try: {error.hint}", file=sys.stderr)
        return error.exit_code
    if asked.json:
        answer = {"verdict": result.verdict, "params": best.params, "tokens": best.tokens}
        print(json.dumps(answer))
    else:
        print(
            f"{target:.2g} FLOPs: {best.params:,.0f} params on {best.tokens:,.0f} bytes "
            f"({result.verdict})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
