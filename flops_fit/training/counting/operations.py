"""FLOP formulas that torch's counter lacks, and the operations that cost little.

`torch.utils.flop_counter` knows matrix products, convolutions and fused attention. `FORMULAS` adds
the other products, counted as two FLOPs for each multiply-add. `LITTLE` names the operations whose
work grows with the numbers that go in or come out and no faster (element-wise work, reductions,
look-ups, copies): by convention they are not counted. An operation that is in neither is unknown,
and is named as such: what torch adds one day is not taken for free.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import sdpa_flop_count

Shape = Sequence[int]
_aten = torch.ops.aten


def _matrix_vector(a: Shape, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * math.prod(a)


def _added_matrix_vector(_: Shape, a: Shape, *__: Any, out_shape: Any = None, **___: Any) -> int:
    return 2 * math.prod(a)


def _added_outer(_: Shape, a: Shape, b: Shape, *__: Any, out_shape: Any = None, **___: Any) -> int:
    return 2 * a[0] * b[0]


def _added_batch(_: Shape, a: Shape, b: Shape, *__: Any, out_shape: Any = None, **___: Any) -> int:
    return 2 * math.prod(a) * b[-1]


def _grouped(a: Shape, b: Shape, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Products of groups of rows with a matrix each: (rows, in) and (groups, in, out), say."""
    if len(a) == 3 and len(b) == 2:  # each group has its own columns of b
        return int(2 * a[1] * a[2] * b[1])
    return 2 * math.prod(a) * int(b[-1])


def _scaled_grouped(a: Shape, b: Shape, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return _grouped(a, b)


def _bilinear(
    a: Shape, b: Shape, c: Shape, expand_a: Shape, expand_b: Shape, expand_c: Shape, *_: Any,
    out_shape: Any = None, **__: Any,
) -> int:  # fmt: skip
    """Three factors multiplied along shared axes and summed: two products and a sum a point."""
    shapes = []
    for shape, expanded in ((a, expand_a), (b, expand_b), (c, expand_c)):
        axes: list[int] = list(shape)
        for axis in sorted(expanded):
            axes.insert(axis, 1)
        shapes.append(axes)
    points: int = math.prod(max(axes) for axes in zip(*shapes, strict=True))
    return 3 * points


def _distances(a: Shape, b: Shape, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """All distances between two sets: a difference, a power and a sum for each coordinate."""
    return 3 * math.prod(a) * b[-2]


def _attention(q: Shape, k: Shape, v: Shape, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(sdpa_flop_count(q, k, v))  # type: ignore[no-untyped-call]


def _fourier(a: Shape, axes: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    """5 n log2 n for a complex transform of n numbers, half of it where one side is real.

    Source: the convention of FFTW's benchmark (Frigo and Johnson 2005, "The design and
    implementation of FFTW3", Proceedings of the IEEE 93(2), section V).
    """
    points = max(math.prod(a), math.prod(out_shape))
    length = math.prod(max(a[axis], out_shape[axis]) for axis in axes)
    is_real = tuple(a) != tuple(out_shape)
    return round((2.5 if is_real else 5.0) * points * math.log2(max(2, length)))


FOURIER = frozenset({_aten._fft_r2c, _aten._fft_c2r, _aten._fft_c2c})
"""They have no weights: the backward pass is one transform, not two products."""

ONE_WAY = frozenset({
    _aten.mv, _aten.dot, _aten.vdot, _aten.addmv, _aten.addr, _aten._trilinear,
    _aten._cdist_forward,
})  # fmt: skip
"""Products whose backward pass is element-wise work, which is not counted."""

FORMULAS: Mapping[Any, Callable[..., int]] = {
    _aten.mv: _matrix_vector,
    _aten.dot: _matrix_vector,
    _aten.vdot: _matrix_vector,
    _aten.addmv: _added_matrix_vector,
    _aten.addr: _added_outer,
    _aten.addbmm: _added_batch,
    _aten._int_mm: _grouped,
    _aten._grouped_mm: _grouped,
    _aten._scaled_grouped_mm: _scaled_grouped,
    _aten._trilinear: _bilinear,
    _aten._cdist_forward: _distances,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    **dict.fromkeys(FOURIER, _fourier),
}

_LITTLE = """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _add_relu _aminmax _assert_async
    _assert_tensor_metadata _batch_norm_no_update _batch_norm_with_update
    _batch_norm_with_update_functional _chunk_cat _coalesce _copy_from _ctc_loss _cummax_helper
    _cummin_helper _embedding_bag _embedding_bag_forward_only _functional_assert_async
    _functional_assert_scalar _index_put_impl _is_all_true _is_any_true
    _jagged_to_padded_dense_forward _lazy_clone _linalg_check_errors _local_scalar_dense
    _log_softmax _logcumsumexp _masked_scale _masked_softmax _native_batch_norm_legit
    _native_batch_norm_legit_functional _native_batch_norm_legit_no_training
    _pack_padded_sequence _padded_dense_to_jagged_forward _pin_memory _prelu_kernel _reshape_copy
    _resize_output _safe_softmax _sample_dirichlet _softmax _stack _standard_gamma _to_copy
    _to_dense _transform_bias_rescale_qkv _unique _unique2 _unsafe_index _unsafe_index_put
    _unsafe_masked_index _unsafe_masked_index_put_accumulate _unsafe_view
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa _weight_norm_interface abs adaptive_max_pool2d
    adaptive_max_pool3d affine_grid_generator all allclose amax amin aminmax any argmax argmin
    as_strided as_strided_scatter avg_pool2d avg_pool3d batch_norm_elemt batch_norm_stats bernoulli
    binary_cross_entropy binary_cross_entropy_with_logits bincount block_diag bucketize cat cauchy
    channel_shuffle clone col2im complex constant_pad_nd copy copysign count_nonzero cummax cummin
    cumprod cumsum dequantize detach diag_embed diagonal_scatter dist embedding embedding_renorm
    empty_like eq equal exponential fill flip floor_divide fractional_max_pool2d
    fractional_max_pool3d full_like gather gcd ge gelu geometric glu grid_sampler_2d
    grid_sampler_3d gt hardswish heaviside histc huber_loss im2col index index_add index_copy
    index_fill index_put index_reduce index_select isin is_same_size item kthvalue le lift
    lift_fresh lift_fresh_copy linalg_cross linalg_vector_norm linspace log_normal
    log_sigmoid_forward logcumsumexp logspace logsumexp lt masked_fill masked_scatter masked_select
    max max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d mean median min
    mish mode mse_loss multi_margin_loss multilabel_margin_loss_forward multinomial nan_to_num
    nanmedian nansum native_batch_norm native_dropout native_group_norm native_layer_norm ne
    new_empty new_empty_strided new_full new_ones new_zeros nll_loss2d_forward nll_loss_forward
    nonzero nonzero_static norm normal normal_functional one_hot ones_like pixel_shuffle
    pixel_unshuffle poisson polar prod put rand_like randint_like randn_like random
    reflection_pad1d reflection_pad2d reflection_pad3d renorm repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d resize resize_as roll rot90
    rrelu_with_noise scatter scatter_add scatter_reduce searchsorted segment_reduce select_scatter
    set slice_scatter smooth_l1_loss soft_margin_loss sort squeeze stack std std_mean sum t take
    threshold to_padded_tensor topk trace transpose tril triu uniform unique_consecutive unique_dim
    unsafe_split unsafe_split_with_sizes unsqueeze upsample_bicubic2d upsample_bilinear2d
    upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
    var var_mean zero zeros_like _fused_rms_norm _foreach_add _foreach_mul is_nonzero
"""
LITTLE = frozenset(_LITTLE.split())
"""Names of `aten` operations, an in-place one without its trailing underscore."""


def costs_little(func: Any, *, is_backward: bool = False) -> bool:
    """Return whether an operation's work is no more than a few FLOPs for each number in or out.

    In a backward pass torch's own `..._backward` operations are such, but those of libraries.
    """
    if func.is_view or torch.Tag.pointwise in func.tags:
        return True
    space, _, name = func._schema.name.partition("::")
    if is_backward and space == "aten" and re.search(r"_backward(_data)?$", name):
        return not name.startswith(("mkldnn", "miopen", "_cudnn"))
    return space in ("aten", "prim", "prims") and name.removesuffix("_") in LITTLE
