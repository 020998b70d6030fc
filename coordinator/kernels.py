"""Kernels of a generalized linear problem on row blocks: what workers compute for every solver.

All sums are weighted, s_i = sample weight x class weight, and not yet divided by the total weight. `w` and `p` are
flattened (p, K) matrices with the intercept in the last row (see `coordinator.problem`). A block's rows are read once
per call: products with X and with X' are taken chunk by chunk while the chunk is in cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from coordinator.data.blocks import Block, csr_rows
from coordinator.losses import Loss, loss_from_spec
from coordinator.tasks import Arrays, Work, kernel
from sketches import sketch_from_spec, stream

Array = NDArray[Any]
Problem = Mapping[str, Any]  # `coordinator.problem.Problem.task_params`, and "double"
Rows = Any  # dense (n, d), or CSR

# Two products over a chunk of rows that stays in cache between them. Measured, 2 cores, dense float32 rows of 8 kB, of
# a memory that reads 34-48 GB/s: 15 GB/s with chunks of 64 rows, where threads wait for each other at the interpreter's
# lock, 17-20 GB/s from 128 to 600 rows, 15 GB/s from 1,000 rows, which leave the cache.
CHUNK_BYTES: Final = 3 << 20
CHUNK_ROWS: Final = 128
GRAM_BYTES: Final = 32 << 20
SPARSE_PAIR: Final = 16  # a pair of non-zeros in a sparse product costs as much as 16 multiplications in a dense one


def chunks(X: Rows, nbytes: int, least: int = 1) -> Iterator[tuple[int, int, Rows]]:
    """Row ranges of about `nbytes` dense bytes (sparse rows: stored bytes) and at least `least` rows."""
    n, d = X.shape
    width = d * X.dtype.itemsize if isinstance(X, np.ndarray) else 12 * X.nnz // max(n, 1) + 8
    size = max(least, min(n, nbytes // max(width, 1)), 1)
    if size >= n:
        yield 0, n, X
        return
    for start in range(0, n, size):
        stop = min(start + size, n)
        yield start, stop, X[start:stop] if isinstance(X, np.ndarray) else csr_rows(X, start, stop)


def as_double(X: Rows) -> Rows:
    """Values in float64; sparse index arrays are shared."""
    if X.dtype == np.float64:
        return X
    if isinstance(X, np.ndarray):
        return X.astype(np.float64)
    out = csr_rows(X, 0, X.shape[0])
    out.data = X.data.astype(np.float64)
    return out


def split(w: Array, p: int, intercept: bool) -> tuple[Array, Array | float]:
    """Coefficients (d,) or (d, K), and intercept() or (K,), of a flattened parameter."""
    W = w.reshape(p, -1)
    flat = W.shape[1] == 1
    rows = W[:-1] if intercept else W
    bias: Array | float = W[-1] if intercept else 0.0
    return (rows[:, 0], bias[0] if isinstance(bias, np.ndarray) else bias) if flat else (rows, bias)


def join(coefficients: Array, intercept: Array | float | None) -> Array:
    """The inverse of `split`: one flat float64 vector."""
    top = np.asarray(coefficients, dtype=np.float64)
    if intercept is None:
        return top.ravel()
    return np.concatenate([top.reshape(top.shape[0], -1), np.reshape(intercept, (1, -1))]).ravel()


def left(X: Rows, r: Array) -> Array:
    """X' r without a transposed copy."""
    return r @ X if isinstance(X, np.ndarray) and r.ndim == 1 else X.T @ r


class Rowwise:
    """The loss on one block: targets and weights, encoded once and kept in the memo.

    `double`: margins, losses and gradients in float64 whatever the dtype of the rows (spec D6).
    """

    def __init__(self, work: Work, key: str, block: Block, params: Problem) -> None:
        self.loss: Loss = loss_from_spec(params["loss"])
        self.block = block
        self.key = key
        self.intercept: bool = params["intercept"]
        self.double: bool = params["double"] and block.X.dtype != np.float64
        self._work = work
        tag = json.dumps([params["loss"], params["classes"], params["class_weight"]])
        found = work.memo.get(key, tag)
        if found is None:
            found = self._encode(params)
            work.memo.put(key, tag, value=found)
        self.y = found[0]
        self.weight: Array | None = found[1] if len(found) > 1 else None

    def _encode(self, params: Problem) -> Arrays:
        classes, class_weight = params["classes"], params["class_weight"]
        y = self.loss.encode(self.block.y, None if classes is None else tuple(classes))
        weight = self.block.weight
        if class_weight is not None:
            index = ((y + 1) / 2).astype(np.intp) if self.loss.target == "binary" else y
            by_class = np.asarray(class_weight, dtype=np.float64)[index]
            weight = by_class if weight is None else weight * by_class
        return (y,) if weight is None else (y, weight)

    @property
    def p(self) -> int:
        """Rows of W: features and intercept."""
        return self.block.X.shape[1] + self.intercept

    def weighed(self, values: Array, rows: slice = slice(None)) -> Array:
        if self.weight is None:
            return values
        s = self.weight[rows]
        return values * (s if values.ndim == 1 else s[:, None])

    def chunks(self, exact: bool = False) -> Iterator[tuple[slice, Rows]]:
        """Rows by the chunk: the same cuts wherever margins are computed, so that their bits agree."""
        X = self.block.X
        upcast = (self.double or exact) and X.dtype != np.float64
        # sparse gradients are as long as w: one chunk, so that they are added once
        size = CHUNK_BYTES >> int(upcast) if isinstance(X, np.ndarray) or upcast else 1 << 62
        for start, stop, part in chunks(X, size, CHUNK_ROWS):
            yield slice(start, stop), as_double(part) if upcast else part

    def narrow(self, w: Array) -> Array:
        """A parameter in the dtype of the products."""
        return w if self.double else w.astype(self.block.X.dtype, copy=False)

    def margins(self, name: str) -> Array:
        """Z of the block for the parameter input `name`, from the memo where it is."""
        found = self._work.memo.get(self.key, self._work.key(name), self._kept("z"))
        if found is not None:
            return found[0]
        w, bias = split(self._work.input(name), self.p, self.intercept)
        w = self.narrow(w)
        bias = np.asarray(bias, dtype=w.dtype)
        z = np.concatenate([part @ w + bias for _, part in self.chunks()]).astype(np.float64, copy=False)
        self._work.memo.put(self.key, self._work.key(name), self._kept("z"), value=(z,))
        return z

    def hessian(self) -> Array:
        """The rows' second derivatives at input `w` (weights not in), from the memo where they are."""
        found = self._work.memo.get(self.key, self._work.key("w"), self._kept("h"))
        if found is not None:
            return found[0]
        h = self.loss.hessian(self.margins("w"), self.y)
        self._work.memo.put(self.key, self._work.key("w"), self._kept("h"), value=(h,))
        return h

    def keep(self, z: Array) -> None:
        """Keep the margins at input `w`."""
        self._work.memo.put(self.key, self._work.key("w"), self._kept("z"), value=(z,))

    def _kept(self, what: str) -> str:
        """Values of either precision are kept apart, or what a memo has dropped would come back with other bits."""
        return what + "64" * self.double


def each(work: Work, params: Problem) -> Iterator[Rowwise]:
    """The task's blocks."""
    for key, block in work.blocks():
        yield Rowwise(work, key, block, params)


def add(total: Array | None, part: Array) -> Array:
    """A sum that starts from nothing."""
    return part if total is None else total + part


def through(
    parts: Iterable[tuple[slice, Rows]], w: Array, bias: Array | float, derive: Callable[[Array, slice], Array]
) -> tuple[Array, Array, Array]:
    """Z = X w + bias, r = derive(z, rows) and X'r in one reading of the rows; r and z in the dtype of w.

    Returns z, the sum of r over rows and X'r, both in float64. As little Python as can be stands in the loop.
    """
    zs, rs, products = [], [], []
    for rows, part in parts:
        z = part @ w
        z += bias
        r = derive(z, rows)
        zs.append(z)
        rs.append(r)
        products.append(left(part, r))
    sums = np.asarray(np.sum(np.concatenate(rs), axis=0, dtype=np.float64))
    return np.concatenate(zs), sums, np.asarray(np.sum(products, axis=0, dtype=np.float64))


@kernel("glm.evaluate")
def evaluate(work: Work, *, problem: Problem) -> Arrays:
    """Sum of losses () and gradient (p K,) at input `w`."""
    value = 0.0
    gradient: Array | None = None
    for rowwise in each(work, problem):
        w, bias = split(work.input("w"), rowwise.p, rowwise.intercept)
        w = rowwise.narrow(w)

        def slope(z: Array, rows: slice, rowwise: Rowwise = rowwise, dtype: Any = w.dtype) -> Array:
            dz = rowwise.weighed(rowwise.loss.gradient(z, rowwise.y[rows]), rows)
            return dz.astype(dtype, copy=False)

        z, g0, g = through(rowwise.chunks(), w, np.asarray(bias, dtype=w.dtype), slope)
        z = z.astype(np.float64, copy=False)
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
            value, dz, _ = rowwise.loss.all(z0 + step * u, rowwise.y)
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
        G = np.sum([left(part, R[rows].astype(part.dtype)) for rows, part in rowwise.chunks()], axis=0, dtype=float)
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
        dtype = np.dtype(np.float64) if exact else rowwise.block.X.dtype
        v, v0 = split(work.input("v"), rowwise.p, rowwise.intercept)
        hessian = rowwise.hessian()
        loss = rowwise.loss
        scale = (hessian if loss.multi else rowwise.weighed(hessian)).astype(dtype, copy=False)

        def bend(u: Array, rows: slice, rowwise: Rowwise = rowwise, scale: Array = scale) -> Array:
            if not rowwise.loss.multi:
                return scale[rows] * u
            return rowwise.weighed(rowwise.loss.product(scale[rows], u), rows).astype(scale.dtype, copy=False)

        _, hv0, hv = through(rowwise.chunks(exact), v.astype(dtype, copy=False), np.asarray(v0, dtype=dtype), bend)
        out = add(out, join(hv, hv0 if rowwise.intercept else None))
    assert out is not None
    return (out,)


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
        grams.append((A.T @ A).astype(np.float64))  # NumPy hands A.T @ A to syrk: half the work
    return tuple(grams)


@kernel("glm.gram")
def gram(work: Work, *, problem: Problem, what: str) -> Arrays:
    """Exact Hessian of the losses at `w`, laid out as by `sketch`."""
    return _gram(work, problem, what, None)


@kernel("glm.gram_columns")
def gram_columns(work: Work, *, problem: Problem, what: str) -> Arrays:
    """Exact Hessian of the losses at `w` in the features of input `columns` (int64) and the intercept, as by `gram`."""
    return _gram(work, problem, what, work.input("columns"))


def _gram(work: Work, problem: Problem, what: str, columns: Array | None) -> Arrays:
    grams: list[Array] = []
    for rowwise in each(work, problem):
        h, X = rowwise.hessian(), rowwise.block.X
        if columns is not None:
            X = X[:, columns]
        p = X.shape[1] + rowwise.intercept
        if rowwise.loss.multi and what == "full":
            K = h.shape[1]
            grams = grams or [np.zeros((K, p, K, p))]
            for a in range(K):
                for b in range(a + 1):
                    # negative off the diagonal: the Gram of the magnitude with the sign outside
                    part = np.zeros((p, p))
                    weighted_gram(part, X, rowwise.weighed(h[:, a] * (1 - h[:, a] if a == b else h[:, b])), rowwise)
                    grams[0][a, :, b, :] += part if a == b else -part
                    if a != b:
                        grams[0][b, :, a, :] -= part.T
            continue
        weights = rowwise.weighed(h * (1 - h)).T if rowwise.loss.multi else [rowwise.weighed(h)]
        grams = grams or [np.zeros((p, p)) for _ in weights]
        for G, weight in zip(grams, weights, strict=True):
            weighted_gram(G, X, weight, rowwise)
    return tuple(G.reshape(G.shape[0] * G.shape[1], -1) if G.ndim == 4 else G for G in grams)


def weighted_gram(G: Array, X: Rows, weight: Array, rowwise: Rowwise) -> None:
    """G += [X 1]' diag(weight) [X 1], weight >= 0; products in the dtype of X, the sum over chunks in float64."""
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
        A = part * root[rows, None]
        G[:d, :d] += A.T @ A
        if intercept:
            _add_border(G, root[rows] @ A, float(weight[rows].sum()))


def _add_border(G: Array, column: Array, corner: float) -> None:
    G[-1, :-1] += column
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


@kernel("glm.weigh")
def weigh(work: Work, *, problem: Problem) -> Arrays:
    """Total weight of the rows, ()."""
    sums = 0.0
    for rowwise in each(work, problem):
        sums += rowwise.block.n_rows if rowwise.weight is None else float(rowwise.weight.sum())
    return (np.array(sums),)
