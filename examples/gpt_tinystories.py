"""The built-in GPT on TinyStories, by library calls: how large should a story-teller be?

    python examples/gpt_tinystories.py [--path FOLDER] [--small] [--run-dir RUN_DIR]

Takes `roneneldan/TinyStories` from the Hugging Face hub (`pip install 'flops-fit[data]'`), or from
FOLDER on a machine without a network. As it stands it is a sweep for one GPU and some hours;
`--small` is one for two CPU cores and a minute, which shows the way and no law.
"""

import argparse

import flops_fit
from flops_fit.zoo.gpt import GPT
from flops_fit.zoo.losses import cross_entropy
from flops_fit.zoo.tinystories import tinystories


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", help="a local copy of the data set")
    parser.add_argument("--small", action="store_true", help="minutes on a CPU, no law")
    parser.add_argument("--run-dir", help="where the sweep keeps its state; run again to resume")
    asked = parser.parse_args()
    if asked.small:
        context, tokenizer, vocabulary = 64, "bytes", 256
        sizes, budgets = [8, 12, 16, 24, 32, 48], [6e9, 1.2e10, 2.4e10]
        layers, heads = 2, 2
    else:
        context, tokenizer, vocabulary = 512, "bpe:4096", 4096
        sizes = [64, 80, 96, 128, 160, 192, 256, 320, 384, 448, 512, 640, 768]
        budgets = [5e14, 1.5e15, 5e15, 1.5e16, 5e16]
        layers, heads = 8, 8
    data = tinystories(context=context, tokenizer=tokenizer, path=asked.path)
    result = flops_fit.find_optimal(
        GPT,
        "d_model",
        {"num_layers": layers, "num_heads": heads, "context": context, "vocab_size": vocabulary,
         "norm": "rms"},
        dataset=data,
        loss_fn=cross_entropy,
        compute_budgets=budgets,
        sizes=sizes,
        # The rate is that of embedding and norms, and of matrices at width 64.
        training={"learning_rate": 5e-3, "learning_rate_rule": "width", "reference_size": 64},
        target_budgets=[10 * max(budgets)],
        name="gpt-tinystories",
        run_dir=asked.run_dir,
    )  # fmt: skip
    print(result.verdict, *(f"\n  {reason.message}" for reason in result.reasons))
    for row in result.chinchilla_table():
        print(
            f"{row['budget_flops']:.0e} FLOPs, {row['method']}: {row['params']:.3g} params on "
            f"{row['tokens']:.3g} {data.unit}s"
        )


if __name__ == "__main__":
    main()
