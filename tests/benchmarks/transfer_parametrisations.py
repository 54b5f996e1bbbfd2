"""Does one learning rate serve all widths? The standard parametrisation against u-muP.

    python tests/benchmarks/transfer_parametrisations.py [--widths 16,32,64] [--tokens 3e4]
        [--seeds 1] [--out FOLDER]

Both models have two layers, contexts of 64 bytes and untied heads, and see the same data in the
same batches at the same seven rates a factor 2 apart, under the rule `constant`: one rate for all
widths. Prints the best rate of each width, how it moves with the width, and what carrying the rate
of the narrowest to the widest costs there. About two minutes of one CPU core as it stands.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

MANIFEST = """
name = "{name}"
[model]
plugin = "{plugin}"
size_param = "d_model"
sizes = [{widths}]
kwargs = {{ {kwargs} }}
[data]
plugin = "stdlib-text"
[loss]
plugin = "{loss}"
[sweep]
design = "fixed-tokens"
tokens = [{tokens}]
[training]
learning_rate = {rate}
learning_rate_rule = "constant"
weight_decay = {decay}
clip_norm = {clip}
warmup_fraction = 0.3
batch_tokens = 768
eps = 1e-10
[transfer]
sizes = [{widths}]
rates = 7
replicates = {seeds}
tokens = {tokens}
"""
MODELS = {
    "standard": {"plugin": "gpt", "kwargs": "tie_head = false", "loss": "cross-entropy",
                 "rate": 8e-3, "decay": 0.1, "clip": 1.0},
    "u-muP": {"plugin": "gpt-umup", "kwargs": "", "loss": "unit-scaled-cross-entropy",
              "rate": 1.0, "decay": 1e-4, "clip": 0.0},
}  # fmt: skip


def study(name: str, folder: Path, **asked: object) -> dict:
    """What `flops-fit transfer --json` says of one model."""
    manifest = folder / f"{name}.toml"
    manifest.write_text(MANIFEST.format(name=name, **MODELS[name], **asked))
    ended = subprocess.run(
        [sys.executable, "-m", "flops_fit", "transfer", str(manifest), "--json"],
        stdout=subprocess.PIPE, text=True, check=True, cwd=folder,
    )  # fmt: skip
    return json.loads(ended.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--widths", default="16,32,64")
    parser.add_argument("--tokens", type=float, default=3e4)
    parser.add_argument("--out", type=Path, help="where run directories and figures are kept")
    asked = parser.parse_args()
    folder = asked.out or Path(tempfile.mkdtemp(prefix="transfer-"))
    folder.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        told = study(name, folder, seeds=asked.seeds, tokens=asked.tokens, widths=asked.widths)
        print(f"\n{name}: the rule `constant` is {told['verdict']}")
        for size in told["sizes"]:
            best = "-" if size["rate"] is None else f"{size['rate']:.3g}"
            low, high = size["rate_interval"] or (float("nan"), float("nan"))
            least = min(rate["loss"] for rate in size["rates"] if rate["loss"] is not None)
            print(f"  width {size['size_value']:4g}: best rate {best} [{low:.3g}, {high:.3g}], "
                  f"least loss {least:.3f}")  # fmt: skip
        if told["slope"]:
            low, high = told["slope"]["interval"]
            print(f"  best rate ~ width^{told['slope']['value']:+.2f} [{low:+.2f}, {high:+.2f}]")
        for rule in told["rules"]:
            if rule["is_own"]:
                more = " or more" if rule["is_beyond"] else ""
                print(f"  one rate for all costs the widest {rule['excess']:.2%}{more}")
    print(f"\nrun directories and figures: {folder / 'runs'}")


if __name__ == "__main__":
    main()
