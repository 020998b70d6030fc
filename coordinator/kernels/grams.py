"""Hessians: exact, sketched, and their diagonals. Sums are weighted by the rows' second derivatives at input `w`."""

from __future__ import annotations

import threading
from typing import Any, Final

import numpy as np

from coordinator.data.blocks import csr_rows
from coordinator.kernels.rows import Array, Problem, Rows, Rowwise, add, chunks, each, join, left
from coordinator.tasks import Arrays, Work, kernel
from sketches import sketch_from_spec, stream

GRAM_BYTES: Final = 32 << 20
GRAM_TILE: Final = 1000
MIRROR_TILE: Final = 250
SPARSE_PAIR: Final = 16  # a pair of non-zeros in a sparse product costs as much as 16 multiplications in a dense one

_local = threading.local()


def roots(rowwise: Rowwise, what: str, rng: np.random.Generator) -> list[list[Array]]:
    """Row scalings that build the Hessian's square root: per diagonal block of the model, one per class of columns.

    Scalar losses: [[sqrt(s h)]]. Softmax "full": Fisher sampling (spec A4.2), one rank-one row
    (e_k - p_i) x x_i a sample, k drawn from p_i, as its K class scalings. Softmax "class": its K diagonal blocks,
    [[sqrt(s p_c (1 - p_c))], ...].
    """
    h = rowwise.hessian()
    if not rowwise.loss.multi:
        return [[np.sqrt(rowwise.weighed(h))]]
    if what == "class":
        return [[column] for column in np.sqrt(rowwise.weighed(h * (1 - h))).T]
    n, K = h.shape
    drawn = (h.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, K - 1)
    q = -h
    q[np.arange(n), drawn] += 1
    root = np.ones(n) if rowwise.weight is None else np.sqrt(rowwise.weight)
    return [[column * root for column in q.T]]


@kernel("glm.sketch")
def sketch(
    work: Work, *, problem: Problem, what: str, sketches: list[dict[str, Any]], seed: int, paths: list[list[int]]
) -> Arrays:
    """Grams of the sketched Hessian square root, one (q, q) per diagonal block: q = K p ("full") or p ("class").

    Columns are class-major. Each block of rows has its own sketch (row-local layout, spec D2) from
    stream(seed, *path); they are stacked, so that one symmetric product gives the sum of their Grams.
    """
    stacked: list[list[Array]] = []
    for rowwise, spec, path in zip(each(work, problem), sketches, paths, strict=True):
        X = rowwise.block.X
        law = sketch_from_spec(spec)
        ones = np.ones((rowwise.block.n_rows, 1), dtype=X.dtype)
        for b, scales in enumerate(roots(rowwise, what, stream(seed, *path, 1))):
            columns = []
            for scale in scales:
                # the same stream gives the same S to every class and to the intercept's column of ones
                columns.append(law.apply(X, stream(seed, *path, 0), scale.astype(X.dtype)))
                if rowwise.intercept:
                    columns.append(law.apply(ones, stream(seed, *path, 0), scale.astype(X.dtype)))
            if b == len(stacked):
                stacked.append([])
            stacked[b].append(np.concatenate(columns, axis=1))
    grams = []
    for pieces in stacked:
        A = np.concatenate(pieces)
        pieces.clear()
        G = np.zeros((A.shape[1], A.shape[1]))
        add_gram(G, A)
        grams.append(mirrored(G))
    return tuple(grams)


@kernel("glm.gram")
def gram(work: Work, *, problem: Problem, what: str) -> Arrays:
    """Exact Hessian of the losses at `w`, laid out as by `sketch`."""
    return _gram(work, problem, what, None)


@kernel("glm.gram_columns")
def gram_columns(work: Work, *, problem: Problem, what: str, every: int) -> Arrays:
    """Hessian of the losses at `w` in the features of input `columns` (int64) and the intercept, as by `gram`.

    From each `every`-th row of a block, which then counts as many times: 1 is exact.
    """
    return _gram(work, problem, what, work.input("columns"), every)


def _gram(work: Work, problem: Problem, what: str, columns: Array | None, every: int = 1) -> Arrays:
    grams: list[Array] = []
    for rowwise in each(work, problem):
        h, X = rowwise.hessian()[::every], rowwise.block.X[::every]
        if columns is not None:
            X = X[:, columns]
        p = X.shape[1] + rowwise.intercept

        def weighed(values: Array, rowwise: Rowwise = rowwise) -> Array:
            return every * rowwise.weighed(values, slice(None, None, every))

        if rowwise.loss.multi and what == "full":
            K = h.shape[1]
            grams = grams or [np.zeros((K, p, K, p))]
            for a in range(K):
                for b in range(a + 1):
                    # negative off the diagonal: the Gram of the magnitude with the sign outside
                    part = np.zeros((p, p))
                    weighted_gram(part, X, weighed(h[:, a] * (1 - h[:, a] if a == b else h[:, b])), rowwise)
                    part = mirrored(part)
                    grams[0][a, :, b, :] += part if a == b else -part
                    if a != b:
                        grams[0][b, :, a, :] -= part.T
            continue
        weights = weighed(h * (1 - h)).T if rowwise.loss.multi else [weighed(h)]
        grams = grams or [np.zeros((p, p)) for _ in weights]
        for G, weight in zip(grams, weights, strict=True):
            weighted_gram(G, X, weight, rowwise)
    return tuple(G.reshape(G.shape[0] * G.shape[1], -1) if G.ndim == 4 else mirrored(G) for G in grams)


def weighted_gram(G: Array, X: Rows, weight: Array, rowwise: Rowwise) -> None:
    """G += [X 1]' diag(weight) [X 1] above the diagonal, weight >= 0; products in the dtype of X, sums in float64."""
    d = X.shape[1]
    intercept = rowwise.intercept
    if not isinstance(X, np.ndarray) and (X.nnz / max(X.shape[0], 1)) ** 2 * SPARSE_PAIR < d * d:
        # few pairs of non-zeros a row: the sparse product beats the dense one
        scaled = csr_rows(X, 0, X.shape[0])
        scaled.data = X.data * np.repeat(weight, np.diff(X.indptr))
        G[:d, :d] += (X.T @ scaled).toarray()
        if intercept:
            _add_border(G, X.T @ weight, float(weight.sum()))
        return
    root = np.sqrt(weight).astype(X.dtype)
    step = max(256, GRAM_BYTES // (d * X.dtype.itemsize))
    for start in range(0, X.shape[0], step):
        rows = slice(start, min(start + step, X.shape[0]))
        part = X[rows] if isinstance(X, np.ndarray) else csr_rows(X, rows.start, rows.stop).toarray()
        A = np.multiply(part, root[rows, None], out=_workspace(part.shape, X.dtype))
        add_gram(G[:d, :d], A)
        if intercept:
            _add_border(G, root[rows] @ A, float(weight[rows].sum()))


def add_gram(G: Array, A: Array) -> None:
    """G += A'A on and above the diagonal.

    In tiles, whose products are small beside G; those on the diagonal are symmetric products.
    """
    d = A.shape[1]
    tile = d if d < 2 * GRAM_TILE else GRAM_TILE
    for i in range(0, d, tile):
        rows = slice(i, i + tile)
        for j in range(i, d, tile):
            G[rows, j : j + tile] += A[:, rows].T @ A[:, j : j + tile]


def mirrored(G: Array) -> Array:
    """G made symmetric from its upper triangle: in place and by the tile, for new pages cost more than copying does."""
    d = len(G)
    for i in range(0, d, MIRROR_TILE):
        rows = slice(i, i + MIRROR_TILE)
        G[rows, rows] = np.triu(G[rows, rows]) + np.triu(G[rows, rows], 1).T
        for j in range(i + MIRROR_TILE, d, MIRROR_TILE):
            G[j : j + MIRROR_TILE, rows] = G[rows, j : j + MIRROR_TILE].T
    return G


def _workspace(shape: tuple[int, int], dtype: Any) -> Array:
    """An array of this thread's that the next call hands out again: new pages cost as much as scaling rows does."""
    size = shape[0] * shape[1] * np.dtype(dtype).itemsize
    if len(getattr(_local, "space", b"")) < size:
        _local.space = np.empty(size, dtype=np.uint8)
    return _local.space[:size].view(dtype).reshape(shape)


def _add_border(G: Array, column: Array, corner: float) -> None:
    G[:-1, -1] += column
    G[-1, -1] += corner


@kernel("glm.diagonal")
def diagonal(work: Work, *, problem: Problem) -> Arrays:
    """Diagonal of the Hessian of the losses at `w`, (p K,)."""
    out: Array | None = None
    for rowwise in each(work, problem):
        h, X = rowwise.hessian(), rowwise.block.X
        weight = rowwise.weighed(h * (1 - h) if rowwise.loss.multi else h)
        squares = []
        for start, stop, part in chunks(X, GRAM_BYTES):
            if isinstance(part, np.ndarray):
                squares.append(left(np.square(part), weight[start:stop].astype(part.dtype, copy=False)))
            else:
                squared = csr_rows(part, 0, part.shape[0])
                squared.data = np.square(part.data)
                squares.append(left(squared, weight[start:stop]))
        out = add(out, join(np.sum(squares, axis=0), weight.sum(axis=0) if rowwise.intercept else None))
    assert out is not None
    return (out,)
