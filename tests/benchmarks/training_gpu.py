"""How much of a GPU the training loop uses, and where the rest goes.

    python tests/benchmarks/training_gpu.py [--device cuda] [--sizes 10M 50M 150M] [--steps 20]

GPTs of about 10, 50 and 150 million parameters at a context of 1,024 and a vocabulary of 8,192, in
the recipe's own precision (bf16 on CUDA), plain, with `compile`, and with `cuda_graphs` too. For
each: tokens/s and FLOP/s of the loop's own steps, their share of what a large matrix product
reaches on the same device (`util`) and of the published peak (`MFU`, where the device is listed),
and the peak of the device's memory. `bare` is the loop's tokens/s over those of a bare loop of the
same plain model, both taking turns. Below each size: where the device's time goes in the plain
loop's steps and in the compiled one's, by kind of kernel, and the share in which it waits.

`--sizes tiny --device cpu` only shows that the script runs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import TensorDataset

from flops_fit.manifest.recipe import Recipe
from flops_fit.manifest.trials import Size, Trial
from flops_fit.training.data.batches import LoadedData, load_data
from flops_fit.training.engine import Training
from flops_fit.training.measuring.meter import matmul_peak, peak_memory, synchronize
from flops_fit.training.measuring.peaks import nominal_peak
from flops_fit.training.orders import Ingredients, TrialFiles
from flops_fit.training.session import Session, open_session
from flops_fit.zoo.gpt import GPT
from flops_fit.zoo.losses import cross_entropy

RATE = 1e-3
MODES = {
    "plain": {},
    "compile": {"compile": True},
    "graphs": {"compile": True, "cuda_graphs": True},
}
KINDS = {
    "matrix products": ("gemm", "nvjet", "cutlass", "mm_", "::mm", "addmm", "xmma", "bmm"),
    "attention": ("flash", "fmha", "attention", "sdpa", "cudnn"),
    "optimizer, clipping": ("adam", "multi_tensor", "foreach", "norm_kernel", "lpnorm"),
    "loss": ("softmax", "nll", "cross_entropy"),
    "norms": ("layer_norm", "layernorm", "gammabeta"),
    "element-wise": ("elementwise", "triton", "aten::mul", "aten::add_", "gelu"),
    "copies": ("memcpy", "memset", "copy"),
}


@dataclass(frozen=True)
class Shape:
    """One GPT and its step."""

    d_model: int
    num_layers: int
    num_heads: int
    context: int
    vocab_size: int
    examples: int

    def build(self, d_model: int) -> GPT:
        return GPT(
            d_model, num_layers=self.num_layers, context=self.context,
            vocab_size=self.vocab_size, num_heads=self.num_heads,
        )  # fmt: skip


SHAPES = {
    "tiny": Shape(64, 2, 2, 64, 256, 8),
    "10M": Shape(320, 6, 5, 1024, 8192, 64),
    "50M": Shape(640, 9, 10, 1024, 8192, 32),
    "150M": Shape(1024, 11, 16, 1024, 8192, 32),
}


def random_text(shape: Shape, examples: int) -> LoadedData:
    tokens = torch.randint(shape.vocab_size, (examples, shape.context + 1))
    rows = TensorDataset(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    heldout = TensorDataset(*(column[:4] for column in rows.tensors))
    facts = {"unit": "token", "units_per_example": shape.context}
    return load_data((rows, heldout), seed=0, overrides=facts)


def trial_of(shape: Shape) -> Trial:
    model, batch = shape.build(shape.d_model), shape.examples * shape.context
    size = Size(shape.d_model, model.num_params(), model.num_params(True), model.flops_per_token())
    tokens = 100_000 * batch
    return Trial.of(
        budget_flops=tokens * size.flops_per_token, size=size, tokens=tokens, batch_tokens=batch,
        seed=0,
    )  # fmt: skip


class BareLoop:
    """The same model and step, written by hand."""

    def __init__(self, shape: Shape, data: LoadedData, session: Session) -> None:
        torch.manual_seed(0)
        self.device, self.session = session.device, session
        self.model = shape.build(shape.d_model).to(self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, fused=True)
        self.columns = [column.to(self.device) for column in data.train.tensors]
        self.examples, self.at = shape.examples, 0

    def take_step(self) -> None:
        rows = slice(self.at, self.at + self.examples)
        self.at = (self.at + self.examples) % (len(self.columns[0]) - self.examples)
        inputs, targets = (column[rows] for column in self.columns)
        is_mixed = self.session.precision != "fp32"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=is_mixed):
            logits = self.model(inputs)
        cross_entropy(logits.float(), targets).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def opened(
    shape: Shape, trial: Trial, data: LoadedData, recipe: Recipe, session: Session, folder: str
) -> Training:
    training = Training(
        trial, Ingredients(partial(Shape.build, shape), data, cross_entropy, recipe),
        TrialFiles(Path(folder)), session=session, threads=torch.get_num_threads(),
    )  # fmt: skip
    training.begin()
    for _ in range(10):  # compiles, records graphs, fills caches
        training.take_step()
    synchronize(session.device)
    return training


def seconds(loop: Training | BareLoop, steps: int, device: torch.device) -> float:
    synchronize(device)
    began = time.perf_counter()
    for _ in range(steps):
        loop.take_step()
    synchronize(device)
    return (time.perf_counter() - began) / steps


def beside_bare(ours: Training, bare: BareLoop, steps: int, device: torch.device) -> float:
    """Tokens/s of ours over those of the bare loop, in turns."""
    ratios = []
    for turn in range(9):
        order = (bare, ours) if turn % 2 else (ours, bare)
        took = {id(loop): seconds(loop, max(2, steps // 4), device) for loop in order}
        ratios.append(took[id(bare)] / took[id(ours)])
    return median(ratios)


def profiled(training: Training, device: torch.device, steps: int = 5) -> str:
    """Shares of the wall-clock of a few steps by kind of kernel."""
    is_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CUDA] if is_cuda else [ProfilerActivity.CPU]
    wall = seconds(training, steps, device) * steps
    with profile(activities=activities) as told:
        seconds(training, steps, device)
    wanted = DeviceType.CUDA if is_cuda else DeviceType.CPU
    spent: dict[str, float] = defaultdict(float)
    for event in told.events():
        if event.device_type != wanted:
            continue
        name = event.name.lower()
        kind = next((k for k, words in KINDS.items() if any(w in name for w in words)), "the rest")
        micros = event.self_device_time_total if is_cuda else event.self_cpu_time_total
        spent[kind] += micros * 1e-6
    spent["waiting"] = max(0.0, wall - sum(spent.values()))
    shares = sorted(spent.items(), key=lambda item: -item[1])
    return ", ".join(f"{kind} {share / wall:.0%}" for kind, share in shares)


def show(name: str, asked: argparse.Namespace) -> None:
    shape = SHAPES[name]
    trial, data = trial_of(shape), random_text(shape, 4096 if asked.device != "cpu" else 64)
    session = open_session(Recipe(), device=asked.device, threads=asked.threads)
    peak = matmul_peak(session.device, session.precision, asked.threads)
    print(
        f"{name}: {trial.size.params / 1e6:.1f}M params, {trial.batch_tokens:,} tokens a step, "
        f"{session.precision}; a matrix product reaches {(peak or 0) / 1e12:.2f} TFLOP/s"
    )
    lines = []
    for mode in asked.modes:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(measured(mode, shape, trial, data, session, peak, asked.steps, folder))
        torch.compiler.reset()
    print("\n".join(lines), flush=True)


def measured(
    mode: str, shape: Shape, trial: Trial, data: LoadedData, session: Session,
    peak: float | None, steps: int, folder: str,
) -> str:  # fmt: skip
    """Print a mode's row, and return where its time goes."""
    device, bare = session.device, "-"
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    recipe = Recipe(learning_rate=RATE, learning_rate_rule="constant", **MODES[mode])
    training = opened(shape, trial, data, recipe, session, folder)
    rate = trial.batch_tokens / median(seconds(training, steps, device) for _ in range(3))
    memory = (peak_memory(device) or 0) / 2**30
    if mode == "plain":
        ratio = beside_bare(training, BareLoop(shape, data, session), steps, device)
        bare = f"{ratio:.3f}"
    flops = rate * trial.size.flops_per_token
    nominal = nominal_peak(card, session.precision)
    util, mfu = (f"{flops / top:.1%}" if top else "-" for top in (peak, nominal))
    print(
        f"  {mode:8s} {rate:12,.0f} tokens/s {flops / 1e12:8.2f} TFLOP/s  util {util:>6s}  "
        f"MFU {mfu:>6s}  memory {memory:6.2f} GiB  bare {bare}",
        flush=True,
    )
    return f"  {mode}: {profiled(training, device)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", nargs="+", choices=SHAPES, default=["10M", "50M", "150M"])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    card = torch.cuda.get_device_name() if asked.device.startswith("cuda") else "CPU"
    print(f"torch {torch.__version__}, {card}")
    for name in asked.sizes:
        show(name, asked)


if __name__ == "__main__":
    main()
