"""What a reader is told of a trial's device, and of a model whose batch is split."""

import json
import subprocess
import sys
import time

import pytest
import torch
from training_toys import Mlp, mse, toy_data, toy_trial
from trials_of_one_call import train

from flops_fit.experiment.checks.norms import batch_norm_notes
from flops_fit.manifest.files import to_plain
from flops_fit.manifest.recipe import Recipe
from flops_fit.training.measuring import meter as telemetry
from flops_fit.training.measuring.meter import matmul_peak
from flops_fit.training.measuring.peaks import nominal_peak


def test_the_peak_is_what_a_large_product_reaches_and_draws_no_random_number():
    before = torch.get_rng_state()
    peak = matmul_peak(torch.device("cpu"), "fp32", torch.get_num_threads())
    assert torch.equal(before, torch.get_rng_state())
    matrix = torch.ones(768, 768)
    began = time.perf_counter()
    for _ in range(10):
        torch.matmul(matrix, matrix)
    mean = 10 * 2 * 768**3 / (time.perf_counter() - began)
    assert 0.3 * mean < peak < 30 * mean


def test_a_peak_that_cannot_be_measured_is_absent_and_no_error_of_the_trial(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 256.00 MiB.")

    built = []
    telemetry._measured_peak.cache_clear()
    monkeypatch.setattr(torch, "matmul", full)
    outcome = train(
        toy_trial(), build=lambda width: built.append(1) or Mlp(width), data=toy_data(), loss=mse,
        recipe=Recipe(), directory=tmp_path, device="cpu",
    )  # fmt: skip
    assert len(built) == 1
    assert outcome.status == "finished"
    assert outcome.details.utilisation is None
    assert outcome.details.matmul_flops_per_second is None
    assert outcome.details.tokens_per_second > 0
    json.dumps(to_plain(outcome.details), allow_nan=False)


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("nvidia h100 pcie", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.5),  # 1,979 with sparsity
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA GH200 480GB", 990),
        ("NVIDIA B300 SXM6 AC", 2250),
        ("NVIDIA L40", 181.05),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA GeForce RTX 4090", 165.2),  # 330 with sparsity, or adding up in fp16
        ("AMD Instinct MI300X", 1307.4),
    ],
)
def test_a_listed_accelerator_has_its_vendors_dense_peak(name, teraflops):
    assert nominal_peak(name, "bf16") == pytest.approx(teraflops * 1e12)
    assert nominal_peak(name, "fp16") == nominal_peak(name.upper(), "bf16")
    assert nominal_peak(name, "fp32") is None


@pytest.mark.parametrize(
    "name",
    [
        "cpu (x86_64)",
        "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA RTX 4090S",
        "NVIDIA H10",
        "",
    ],
)
def test_what_is_not_listed_to_the_letter_has_no_nominal_peak(name):
    assert nominal_peak(name, "bf16") is None


class Normed(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, width, 3), torch.nn.BatchNorm2d(width), torch.nn.ReLU()
        )

    def num_params(self):
        return sum(p.numel() for p in self.parameters())


@pytest.mark.parametrize(
    ("build", "micro", "devices", "device", "says"),
    [
        (Normed, None, 1, "cpu", None),
        (Normed, None, 2, "cpu", "each normalises its own part"),
        (Normed, None, 2, "cuda", "as one device would"),
        (Normed, 8, 1, "cpu", "depend on `micro_batch_examples`"),
        (Mlp, 8, 2, "cpu", None),
    ],
)
def test_batch_norm_is_said_where_a_batch_is_split(build, micro, devices, device, says):
    recipe = Recipe(micro_batch_examples=micro)
    notes = batch_norm_notes(build, 4, recipe=recipe, device=device, devices_per_trial=devices)
    assert [says in note.message for note in notes] == ([] if says is None else [True])


MANIFEST = """
[model]
plugin = "gpt"
size_param = "d_model"
sizes = [8, 12, 16]
[data]
plugin = "stdlib-text"
[loss]
plugin = "cross-entropy"
[sweep]
budgets = [1e10, 3e10, 1e11]
[training]
batch_rule = "fixed"
batch_tokens = {batch}
[execution]
devices_per_trial = {devices}
device = "cpu"
"""


@pytest.mark.parametrize(
    ("batch", "devices", "says"),
    [(500, 1, "set it to 448 or 512"), (320, 2, "shared by 2 devices"), (32, 1, "set it to 64")],
)
def test_a_batch_that_does_not_divide_is_refused_when_planning(tmp_path, batch, devices, says):
    (tmp_path / "m.toml").write_text(MANIFEST.format(batch=batch, devices=devices))
    ended = subprocess.run(
        [sys.executable, "-m", "flops_fit", "plan", "m.toml"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert f"`training.batch_tokens` is {batch}" in ended.stderr
    assert says in ended.stderr
