"""Values, gradients, line searches and Hessian-vector products: kernels that read a block's rows once."""

from __future__ import annotations

import numpy as np

from coordinator.kernels.rows import Array, Problem, Rowwise, add, each, join, left, split, through
from coordinator.tasks import Arrays, Work, kernel


@kernel("glm.evaluate")
def evaluate(work: Work, *, problem: Problem) -> Arrays:
    """Sum of losses () and gradient (p K,) at input `w`."""
    value = 0.0
    gradient: Array | None = None
    for rowwise in each(work, problem):
        w, bias = split(work.input("w"), rowwise.p, rowwise.intercept)
        w = rowwise.narrow(w)
        y = rowwise.y if rowwise.loss.multi else rowwise.y.astype(w.dtype, copy=False)

        def slope(z: Array, rows: slice, rowwise: Rowwise = rowwise, y: Array = y) -> Array:
            return rowwise.weighed(rowwise.loss.gradient(z, y[rows]), rows)

        z, g0, g = through(rowwise, w, bias, slope)
        rowwise.keep(z)
        value += float(rowwise.weighed(rowwise.loss.value(z, rowwise.y)).sum())
        gradient = add(gradient, join(g, g0 if rowwise.intercept else None))
    assert gradient is not None
    return np.array(value), gradient


@kernel("glm.search")
def search(work: Work, *, problem: Problem, steps: list[float]) -> Arrays:
    """Sums of losses and of their slopes at w + step (w1 - w) for all `steps`, (n_steps,) each: one phase for a search.

    Inputs `w` and `w1`: both ends have usually been evaluated, so that the margins are at hand and no row is read.
    """
    values, slopes = np.zeros(len(steps)), np.zeros(len(steps))
    for rowwise in each(work, problem):
        z0 = rowwise.margins("w")
        u = rowwise.margins("w1") - z0
        for i, step in enumerate(steps):
            value, dz = rowwise.loss.both(z0 + step * u, rowwise.y)
            values[i] += rowwise.weighed(value).sum()
            slopes[i] += (rowwise.weighed(dz) * u).sum()
    return values, slopes


@kernel("glm.gradients")
def gradients(work: Work, *, problem: Problem, steps: list[float]) -> Arrays:
    """Gradients (n_steps, p K) at w + step (w1 - w) for all `steps`, in one reading of the rows."""
    out: Array | None = None
    for rowwise in each(work, problem):
        z0 = rowwise.margins("w")
        u = rowwise.margins("w1") - z0
        slopes = [rowwise.weighed(rowwise.loss.gradient(z0 + step * u, rowwise.y)) for step in steps]
        R = np.concatenate([dz.reshape(dz.shape[0], -1) for dz in slopes], axis=1)
        parts = rowwise.chunks(rowwise.dtype)
        G = np.sum([left(part, R[rows].astype(part.dtype)) for rows, part in parts], axis=0, dtype=float)
        if rowwise.intercept:
            G = np.concatenate([G, R.sum(axis=0, keepdims=True)])
        K = R.shape[1] // len(steps)
        out = add(out, np.stack([G[:, i * K : (i + 1) * K].ravel() for i in range(len(steps))]))
    assert out is not None
    return (out,)


@kernel("glm.product")
def product(work: Work, *, problem: Problem, exact: bool) -> Arrays:
    """Hessian at `w` times input `v`, (p K,); in the dtype of the rows unless `exact` asks for float64."""
    out: Array | None = None
    for rowwise in each(work, problem):
        v, v0 = split(work.input("v"), rowwise.p, rowwise.intercept)
        v = v if exact else v.astype(rowwise.block.X.dtype, copy=False)
        hessian = rowwise.hessian()
        scale = (hessian if rowwise.loss.multi else rowwise.weighed(hessian)).astype(v.dtype, copy=False)

        def bend(u: Array, rows: slice, rowwise: Rowwise = rowwise, scale: Array = scale) -> Array:
            product = rowwise.loss.product(scale[rows], u)
            return rowwise.weighed(product, rows) if rowwise.loss.multi else product

        _, hv0, hv = through(rowwise, v, v0, bend)
        out = add(out, join(hv, hv0 if rowwise.intercept else None))
    assert out is not None
    return (out,)


@kernel("glm.weigh")
def weigh(work: Work, *, problem: Problem) -> Arrays:
    """Total weight of the rows, ()."""
    sums = 0.0
    for rowwise in each(work, problem):
        sums += rowwise.block.n_rows if rowwise.weight is None else float(rowwise.weight.sum())
    return (np.array(sums),)
