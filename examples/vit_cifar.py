"""The built-in vision transformer on CIFAR-10, by library calls. One unit of data is one image.

    python examples/vit_cifar.py [--path FOLDER] [--small] [--run-dir RUN_DIR]

Takes `uoft-cs/cifar10` from the Hugging Face hub (`pip install 'flops-fit[data]'`), or from FOLDER:
the original Python batches, or a copy of the hub's files. As it stands it is a sweep for one GPU
and some hours; `--small` is one for two CPU cores and a minute, which shows the way and no law.
"""

import argparse

import flops_fit
from flops_fit.zoo.cifar10 import cifar10
from flops_fit.zoo.losses import cross_entropy
from flops_fit.zoo.vit import ViT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", help="a local copy of the data set")
    parser.add_argument("--small", action="store_true", help="minutes on a CPU, no law")
    parser.add_argument("--run-dir", help="where the sweep keeps its state; run again to resume")
    asked = parser.parse_args()
    if asked.small:
        patch, sizes, budgets, per_param = 8, [8, 16, 24, 32, 48], [5e9, 1e10, 2e10], 0.5
        batch = {"batch_tokens": 32, "batch_reference_tokens": 1e4}
    else:
        patch, sizes, budgets, per_param = (
            4, [32, 40, 48, 64, 80, 96, 128, 160, 192, 224], [3e13, 1e14, 3e14, 1e15, 3e15], 6.0,
        )  # fmt: skip
        batch = {"batch_tokens": 128, "batch_reference_tokens": 1e6}
    result = flops_fit.find_optimal(
        ViT,
        "d_model",
        {"image_size": 32, "patch_size": patch, "channels": 3, "num_classes": 10},
        dataset=cifar10(path=asked.path),
        loss_fn=cross_entropy,
        compute_budgets=budgets,
        sizes=sizes,
        tokens_per_param=per_param,
        training={
            "learning_rate": 4e-3,
            "learning_rate_rule": "mup",
            "reference_size": 64,
            **batch,
        },
        target_budgets=[10 * max(budgets)],
        name="vit-cifar",
        run_dir=asked.run_dir,
    )
    print(result.verdict, *(f"\n  {reason.message}" for reason in result.reasons))
    for row in result.chinchilla_table():
        print(
            f"{row['budget_flops']:.0e} FLOPs, {row['method']}: {row['params']:.3g} params on "
            f"{row['tokens']:.3g} images"
        )


if __name__ == "__main__":
    main()
