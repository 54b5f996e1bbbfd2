"""Objective of the surface fit with gradient and Hessian, for many rows of parameters at once.

The model of log loss is f = log(exp(e) + exp(a - alpha x) + exp(b - beta y)), where x and y are the
centred and scaled logarithms of N and D, and theta = (e, a, b, alpha, beta). The objective of row r
is sum_i w[r, i] rho(log L_i - f_i), or sum_i w[r, i] rho(L_i - exp f_i) on request, with Huber's
rho and an optional prior on the exponents. All rows share x and y. So every sum over observations
is one matrix product; gradient and Hessian are a fixed linear map of these sums.

Source: objective of Hoffmann et al. 2022 (arXiv:2203.15556), eq. 3; the derivatives are derived
here from the softmax weights p_k = exp(component k - f).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Powers of x and y in the sums of gradient and Hessian.

    Attributes:
        by_x, by_y: float64, shape (n, 3): 1, -x, x^2 and 1, -y, y^2.
        by_xy: float64, shape (n, 4): 1, -x, -y, xy.
        line_x, line_y: float64, shape (2, n): 1, -x and 1, -y.
    """

    by_x: Array
    by_y: Array
    by_xy: Array
    line_x: Array
    line_y: Array


@dataclass(frozen=True)
class ExponentPrior:
    """Weak normal priors on the mean and the difference of the two log exponents.

    Attributes:
        mean: centre of (log alpha + log beta) / 2.
        sd: standard deviation of this mean and of log(alpha / beta).
        variance: noise variance; it scales the prior to the units of the objective.
    """

    mean: float
    sd: float
    variance: float


@dataclass(frozen=True)
class Problem:
    """Data, bounds and prior that all rows share.

    Attributes:
        x, y: float64, shape (n,); (log N - centre) / scale, (log D - centre) / scale.
        log_loss: float64, shape (n,) or (rows, n).
        delta: Huber's threshold; infinity means least squares.
        is_linear: whether residuals are L - exp(f) instead of log L - f.
        lower, upper: bounds of theta, float64, shape (5,).
        x_scale, y_scale: alpha = theta[3] / x_scale and beta = theta[4] / y_scale.
        prior: prior on the exponents, or None.
    """

    x: Array
    y: Array
    log_loss: Array
    delta: float
    lower: Array
    upper: Array
    x_scale: float = 1.0
    y_scale: float = 1.0
    is_linear: bool = False
    prior: ExponentPrior | None = None

    @cached_property
    def moments(self) -> Moments:
        """Powers of x and y, computed once."""
        x, y, ones = self.x, self.y, np.ones_like(self.x)
        return Moments(
            np.stack([ones, -x, x * x], axis=1),
            np.stack([ones, -y, y * y], axis=1),
            np.stack([ones, -x, -y, x * y], axis=1),
            np.stack([ones, -x]),
            np.stack([ones, -y]),
        )


class Workspace:
    """Arrays reused in every iteration; allocating them anew would cost more than the sums."""

    def __init__(self, rows: int, n: int) -> None:
        """Allocate room for `rows` rows of `n` observations."""
        self.arrays = np.empty((6, rows, n))
        self.mask = np.empty((rows, n), dtype=bool)
        self.sums = np.empty((rows, _NUM_SUMS))


# Positions of the sums over observations. With the weights s: s p_A^2 and s p_B^2, each times
# 1, -x, x^2 (y for B); s p_A p_B times 1, -x, -y, xy; s p_A times 1, -x; s p_B times 1, -y; s.
# With the weights g: g p_A and g p_B, each times 1, -x, x^2 (y for B); g.
_AA, _BB, _AB, _A, _B, _S = slice(0, 3), slice(3, 6), slice(6, 10), slice(10, 12), slice(12, 14), 14
_GA, _GB, _G = slice(15, 18), slice(18, 21), 21
_NUM_SUMS = 22


def _outer_map() -> Array:
    """Return the linear map from the sums to sum s j j', shape (22, 25).

    j = (p_E, p_A, p_B, -x p_A, -y p_B). Since p_E = 1 - p_A - p_B, its row follows from the others.
    """
    m = np.zeros((_NUM_SUMS, 5, 5))
    m[0, 1, 1] = m[1, 1, 3] = m[2, 3, 3] = 1
    m[3, 2, 2] = m[4, 2, 4] = m[5, 4, 4] = 1
    m[6, 1, 2] = m[7, 2, 3] = m[8, 1, 4] = m[9, 3, 4] = 1
    for first, own, other in ((10, (0, 1), (6, 7)), (12, (3, 4), (6, 8))):
        for k, place in enumerate((1, 3) if first == 10 else (2, 4)):
            m[first + k, 0, place] = 1
            m[own[k], 0, place] = m[other[k], 0, place] = -1
    m[_S, 0, 0], m[10, 0, 0], m[12, 0, 0] = 1, -1, -1
    m[:, 0, 0] -= m[:, 0, 1] + m[:, 0, 2]
    upper = np.triu(np.ones((5, 5)), 1).astype(bool)
    m.transpose(0, 2, 1)[:, upper] = m[:, upper]
    return m.reshape(_NUM_SUMS, 25)


def _slope_map() -> Array:
    """Return the linear map from the sums to sum g j, shape (22, 5)."""
    m = np.zeros((_NUM_SUMS, 5))
    m[15, 1] = m[16, 3] = m[18, 2] = m[19, 4] = 1
    m[_G, 0], m[15, 0], m[18, 0] = 1, -1, -1
    return m


def _curvature_map() -> Array:
    """Return the linear map from the sums to sum g sum_k p_k v_k v_k', shape (22, 25).

    v_E = (1,0,0,0,0), v_A = (0,1,0,-x,0), v_B = (0,0,1,0,-y).
    """
    m = np.zeros((_NUM_SUMS, 5, 5))
    m[15, 1, 1] = m[16, 1, 3] = m[16, 3, 1] = m[17, 3, 3] = 1
    m[18, 2, 2] = m[19, 2, 4] = m[19, 4, 2] = m[20, 4, 4] = 1
    m[_G, 0, 0], m[15, 0, 0], m[18, 0, 0] = 1, -1, -1
    return m.reshape(_NUM_SUMS, 25)


_OUTER = _outer_map()
_SLOPE = -_slope_map()
_HESSIAN = _OUTER - _curvature_map()


def components(problem: Problem, theta: Array, work: Workspace) -> tuple[Array, Array, Array]:
    """Log of the fitted loss and softmax weights of the A and B terms, each (rows, n)."""
    pa, pb, total, f = work.arrays[:4, : len(theta)]
    e, moments = theta[:, :1], problem.moments
    relative = theta - e
    relative[:, 3:] = theta[:, 3:]
    np.exp(np.matmul(relative[:, 1::2], moments.line_x, out=pa), out=pa)
    np.exp(np.matmul(relative[:, 2::2], moments.line_y, out=pb), out=pb)
    np.add(pa, pb, out=total)
    total += 1.0
    np.log(total, out=f)
    f += e
    np.divide(1.0, total, out=total)
    pa *= total
    pb *= total
    return f, pa, pb


def evaluate(
    problem: Problem, theta: Array, w: Array, log_loss: Array, work: Workspace
) -> tuple[Array, Array, Array]:
    """Return objective (rows,), gradient (rows, 5) and Hessian (rows, 5, 5).

    The gradient of f is j = sum p_k v_k; its Hessian is sum p_k v_k v_k' - j j'. The objective
    therefore has the gradient -sum w psi j and the Hessian
    sum (w psi' + w psi) j j' - w psi sum p_k v_k v_k'.
    """
    rows = len(theta)
    f, pa, pb = components(problem, theta, work)
    wpsi, psi, s = work.arrays[2, :rows], work.arrays[4, :rows], work.arrays[5, :rows]
    fitted = np.exp(f) if problem.is_linear else None
    if fitted is None:
        r = np.subtract(log_loss, f, out=f)
    else:
        r = np.subtract(np.exp(log_loss), fitted, out=f)
    if np.isinf(problem.delta):
        psi = r
        np.multiply(w, r, out=wpsi)
        s[...] = w
    else:
        np.minimum(r, problem.delta, out=psi)
        np.maximum(psi, -problem.delta, out=psi)
        np.multiply(psi, w, out=wpsi)
        np.multiply(np.equal(psi, r, out=work.mask[:rows]), w, out=s)
    value = np.einsum("ri,ri->r", wpsi, r) - 0.5 * np.einsum("ri,ri->r", wpsi, psi)
    if fitted is None:
        s += wpsi
    else:
        # F = exp(f) has the gradient F j and the Hessian F sum p_k v_k v_k'.
        wpsi *= fitted
        s *= fitted
        s *= fitted
    moments, sums = problem.moments, work.sums[:rows]
    _sum_squares(moments, pa, pb, s, sums, work.arrays[4, :rows], r)
    np.add.reduce(wpsi, axis=1, out=sums[:, _G])
    pa *= wpsi
    pb *= wpsi
    np.matmul(pa, moments.by_x, out=sums[:, _GA])
    np.matmul(pb, moments.by_y, out=sums[:, _GB])
    gradient, hessian = sums @ _SLOPE, (sums @ _HESSIAN).reshape(rows, 5, 5)
    if problem.prior is not None:
        _add_prior(problem, theta, value, gradient, hessian)
    return value, gradient, hessian


def evaluate_resamples(
    problem: Problem, theta: Array, weights: Array
) -> tuple[Array, Array, Array, Array]:
    """Return the results of `evaluate` and `reweighted` for rows that share one theta.

    All results are linear in the weights: each is the weights times the terms of the observations.

    Args:
        problem: with `log_loss` of shape (n,).
        theta: float64, shape (5,).
        weights: float64, shape (rows, n).
    """
    rows, n = weights.shape
    work = Workspace(1, n)
    f, pa, pb = (part[0] for part in components(problem, theta[None, :], work))
    x, y, nothing = problem.x, problem.y, np.zeros(n)
    j = np.stack([1 - pa - pb, pa, pb, -x * pa, -y * pb], axis=1)
    outer = j[:, :, None] * j[:, None, :]
    v_a = np.stack([nothing, nothing + 1, nothing, -x, nothing], axis=1)
    v_b = np.stack([nothing, nothing, nothing + 1, nothing, -y], axis=1)
    curved = pa[:, None, None] * v_a[:, :, None] * v_a[:, None, :]
    curved += pb[:, None, None] * v_b[:, :, None] * v_b[:, None, :]
    curved[:, 0, 0] += 1 - pa - pb
    fitted = np.exp(f) if problem.is_linear else np.ones(n)
    r = np.exp(problem.log_loss) - fitted if problem.is_linear else problem.log_loss - f
    psi = np.clip(r, -problem.delta, problem.delta)
    square = (psi == r) * fitted**2 + (0.0 if problem.is_linear else psi)
    hessian = square[:, None, None] * outer - (psi * fitted)[:, None, None] * curved
    ratio = np.divide(psi, r, out=np.ones(n), where=r != 0) * fitted**2
    value = weights @ (psi * (r - 0.5 * psi))
    gradient = weights @ (-(psi * fitted)[:, None] * j)
    summed = (weights @ hessian.reshape(n, 25)).reshape(rows, 5, 5)
    metric = (weights @ (ratio[:, None, None] * outer).reshape(n, 25)).reshape(rows, 5, 5)
    if problem.prior is not None:
        _add_prior(problem, np.repeat(theta[None, :], rows, axis=0), value, gradient, summed)
    return value, gradient, summed, metric


def _sum_squares(
    moments: Moments, pa: Array, pb: Array, s: Array, sums: Array, room: Array, more: Array
) -> None:
    """Fill the sums with the weights s; `room` and `more`, shape (rows, n), are overwritten."""
    np.add.reduce(s, axis=1, out=sums[:, _S])
    sa = np.multiply(s, pa, out=room)
    np.matmul(sa, moments.by_x[:, :2], out=sums[:, _A])
    np.matmul(np.multiply(sa, pb, out=more), moments.by_xy, out=sums[:, _AB])
    np.matmul(np.multiply(sa, pa, out=more), moments.by_x, out=sums[:, _AA])
    sb = np.multiply(s, pb, out=room)
    np.matmul(sb, moments.by_y[:, :2], out=sums[:, _B])
    np.matmul(np.multiply(sb, pb, out=more), moments.by_y, out=sums[:, _BB])


def reweighted(problem: Problem, theta: Array, w: Array, log_loss: Array, work: Workspace) -> Array:
    """Return sum w psi(r)/r j j', the matrix of iteratively reweighted least squares."""
    f, pa, pb = components(problem, theta, work)
    r = np.exp(log_loss) - np.exp(f) if problem.is_linear else log_loss - f
    if np.isfinite(problem.delta):
        w = w * (problem.delta / np.maximum(np.abs(r), problem.delta))
    if problem.is_linear:
        w = w * np.exp(2 * f)
    rows = len(theta)
    sums = work.sums[:rows]
    sums[:, _S + 1 :] = 0.0
    s = np.broadcast_to(w, f.shape)
    _sum_squares(problem.moments, pa, pb, s, sums, work.arrays[4, :rows], work.arrays[5, :rows])
    outer: Array = (sums @ _OUTER).reshape(rows, 5, 5)
    return outer


def _add_prior(
    problem: Problem, theta: Array, value: Array, gradient: Array, hessian: Array
) -> None:
    """Add the prior to objective, gradient and Hessian, in place.

    With u = log alpha and v = log beta the penalty is variance / (2 sd^2) times
    ((u + v) / 2 - mean)^2 + (u - v)^2.
    """
    prior = problem.prior
    assert prior is not None
    strength = prior.variance / prior.sd**2
    exponents = np.maximum(theta[:, 3:5], 1e-9)
    u = np.log(exponents[:, 0] / problem.x_scale)
    v = np.log(exponents[:, 1] / problem.y_scale)
    mean, gap = (u + v) / 2 - prior.mean, u - v
    value += 0.5 * strength * (mean**2 + gap**2)
    slope = strength * np.stack([mean / 2 + gap, mean / 2 - gap], axis=1)
    gradient[:, 3:5] += slope / exponents
    hessian[:, 3, 4] += strength * -0.75 / exponents.prod(axis=1)
    hessian[:, 4, 3] += strength * -0.75 / exponents.prod(axis=1)
    for k in (0, 1):
        hessian[:, 3 + k, 3 + k] += (1.25 * strength - slope[:, k]) / exponents[:, k] ** 2
