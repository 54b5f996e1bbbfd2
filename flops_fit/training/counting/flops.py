"""Counts the FLOPs of a size without training it and, if possible, without weights.

FLOPs are those of matrix products, convolutions, attention and Fourier transforms, op by op. Only
the forward pass is counted, since a backward pass is counted differently by different kernels
(fused attention recomputes, grouped convolutions are overcounted), while its matrix products are
twice those of the forward pass: one for the inputs, one for the weights (Kaplan et al. 2020,
arXiv:2001.08361, section 2.1). What the loss multiplies (a head that is fused into it, say) counts
too. On the meta device attention is counted in full, as on no other: the CPU's fused kernel has no
formula in `FlopCounterMode`. Causal attention counts as the full square; look-ups and element-wise
work count nothing. What has no formula is named with its module and a bound, never left out in
silence.

A model that cannot run on the meta device is tried there in bf16, which some kernels ask for; one
that asks for a tensor's value (routing, say), or makes tensors on a fixed device, is run on the CPU
with one example and unfused kernels, which are counted exactly.
"""

from __future__ import annotations

import copy
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from flops_fit.errors import PluginError
from flops_fit.training.building import Build, build_on
from flops_fit.training.calling import Loss, bound, run_model
from flops_fit.training.counting.tally import Counting, Tally
from flops_fit.training.data.streams import Batch, map_tensors

Attempt = tuple[str, torch.dtype | None]

_ATTEMPTS: tuple[Attempt, ...] = (("meta", None), ("meta", torch.bfloat16), ("cpu", None))


@dataclass(frozen=True)
class Counted:
    """The FLOPs and parameters of one example.

    Attributes:
        tally: of the forward pass and the loss.
        device: where it was run, `meta` or `cpu`.
        loss_error: why the loss could not be run, so that it is not in the tally; None if it is.
    """

    tally: Tally
    device: str
    loss_error: str | None = None


def count_flops(build: Build, value: Any, example: Batch, loss: Loss | None = None) -> Counted:
    """Tally a forward pass of the model of a size, and the loss, over a batch of one example.

    Args:
        build: makes the model of a size value on torch's current default device.
        value: the size value.
        example: a batch that holds one example.
        loss: (outputs, targets) -> scalar tensor; None: the model alone.

    Raises:
        PluginError: the model cannot be built, does not take the inputs, or can be run only on a
            device that is too small for it.
    """
    first: Exception | None = None
    for device, dtype in _ATTEMPTS:
        if device == "cpu":
            _check_memory(build, value, first)
        try:
            return _count_on(device, dtype, build, value, example, loss)
        except Exception as error:
            # Whatever is wrong on the meta device, the CPU decides: it shows the user's own error.
            first = first or error
            if device == "cpu":
                if isinstance(error, PluginError):
                    raise
                kind = type(error).__name__
                raise PluginError(
                    f"the model's `forward` failed on the data's inputs: {kind}: {error}",
                    hint="call the model by hand on one batch of the data; if it needs a device "
                    'that is not here, set [flops] count = "model" or "plugin"',
                ) from error
    raise AssertionError("the last attempt returns or raises")


def _count_on(
    device: str, dtype: torch.dtype | None, build: Build, value: Any, example: Batch,
    loss: Loss | None,
) -> Counted:  # fmt: skip
    """Count on one device in one dtype."""
    model = build_on(build, value, device)
    example = copy.deepcopy(example) if device == "cpu" else _on_meta(example)
    if dtype is not None:
        model = model.to(dtype)
        example = map_tensors(lambda t: t.to(dtype) if t.is_floating_point() else t, example)
    loss = None if loss is None else bound(loss, model)
    _ready(model)
    counting = Counting(model, looks_outside=device == "cpu")
    loss_error = None
    with _plainly(), torch.random.fork_rng(devices=[]), counting:
        outputs, targets = run_model(model, example, loss)
        root = None
        if loss is not None:
            try:
                root = loss(outputs, targets)
            except Exception as error:
                loss_error = f"{type(error).__name__}: {error}"
        counting.count_backward(root if isinstance(root, torch.Tensor) else _sum_of(outputs))
    return Counted(counting.tally(), device, loss_error)


def _sum_of(outputs: Any) -> torch.Tensor | None:
    """Return the sum of the outputs that have a gradient, to pass backward from; else None."""
    found: list[torch.Tensor] = []
    map_tensors(lambda t: found.append(t) or t, outputs)  # type: ignore[func-returns-value]
    sums = [t.sum() for t in found if t.is_floating_point() and t.requires_grad]
    return torch.stack(sums).sum() if sums else None


def own_flops(count: Callable[[Any, Any], Any], build: Build, value: Any, example: Batch) -> float:
    """Return a plugin's `count_flops(model, batch)` for one example, forward and backward.

    The model and the batch are on the meta device or, where the function fails there, on the CPU.

    Raises:
        PluginError: it raised, or returned no positive number.
    """
    try:
        flops = count(build_on(build, value, "meta"), _on_meta(example))
    except Exception:
        model = build_on(build, value, "cpu")
        try:
            flops = count(model, copy.deepcopy(example))
        except Exception as error:
            raise PluginError(
                f"`count_flops` failed at size {value}: {type(error).__name__}: {error}",
                hint="it is called with (model, batch), the batch holding one example",
            ) from error
    if isinstance(flops, bool) or not isinstance(flops, int | float) or not flops > 0:
        raise PluginError(
            f"`count_flops` returned {flops!r} at size {value}: expected a positive number",
            hint="return the forward and backward FLOPs of the batch that it is given",
        )
    return float(flops)


def _on_meta(example: Batch) -> Batch:
    return map_tensors(lambda t: t.to("meta"), example)


def _ready(model: nn.Module) -> None:
    """Put the model in training, but for batch norms, which refuse a single example there.

    In training, since heads that serve only there cost too, and since some modules take fused
    short cuts elsewhere.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


@contextmanager
def _plainly() -> Iterator[None]:
    """Eager, unfused kernels, each of which can be seen; silent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Fake kernels warn of what they do not compute.
        with (
            sdpa_kernel(SDPBackend.MATH),
            torch.backends.mkldnn.flags(enabled=False),
            torch.enable_grad(),
        ):
            if "torch._dynamo" not in sys.modules:  # Nothing was compiled; to import it is slow.
                yield
                return
            with torch.compiler.set_stance("force_eager"):
                yield


def _check_memory(build: Build, value: Any, reason: Exception | None) -> None:
    """Refuse to put on the CPU a model whose weights would not leave room for the rest.

    Raises:
        PluginError: they take more than half of the memory that is free.
    """
    try:
        model = build_on(build, value, "meta")
    except PluginError:
        return  # Then nothing is known of it: the CPU will tell.
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not on every system
        return
    if weights > free / 2:
        raise PluginError(
            f"the model at size {value} cannot be run on the meta device "
            f"({type(reason).__name__}: {reason}), and its weights ({weights / 1e9:.0f} GB) are "
            "too large to run it here",
            hint='let its `forward` ask for no tensor\'s value, or set [flops] count = "model", '
            "with `flops_per_token()` on the model",
        ) from reason
