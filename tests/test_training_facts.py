"""What a reader is told of a trial's device, and of a model whose batch is split."""

import subprocess
import sys
import time

import pytest
import torch
from training_toys import Mlp

from flops_fit.recipe import Recipe
from flops_fit.training.norms import batch_norm_notes
from flops_fit.training.telemetry import matmul_peak


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
