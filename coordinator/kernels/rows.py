"""Rows as kernels see them: a loss on a block, chunk by chunk, and products with the parameters.

`w` and `p` are flattened (p, K) matrices with the intercept in the last row (see `coordinator.problem`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from coordinator.data.blocks import Block, csr_rows
from coordinator.losses import Loss, loss_from_spec
from coordinator.tasks import Arrays, Work

Array = NDArray[Any]
Problem = Mapping[str, Any]  # `coordinator.problem.Problem.task_params`, and "double"
Rows = Any  # dense (n, d), or CSR

# Two products over a chunk of rows that stays in cache between them. A thread that waits for the interpreter's lock
# sleeps, for 33 us where this was measured (2 virtual cores that share 32 MB of cache, float32 rows of 8 kB): chunks
# are large enough that waits are few, and of up to 500 such rows, for which elementwise functions keep the lock.
# Of the rate of reading, gradient passes ran at 59 % with chunks of 2 MB, 61-63 % with 3 to 6 MB and 60 % with 8 MB;
# the two products alone, with nothing between them, at 68 %, and at 75 % in two processes, which share no lock.
CHUNK_BYTES: Final = 15 << 18
CHUNK_ROWS: Final = 128


def chunks(X: Rows, nbytes: int, least: int = 1) -> Iterator[tuple[int, int, Rows]]:
    """Row ranges of like sizes, about `nbytes` dense bytes (sparse rows: stored bytes) and at least `least` rows."""
    n, d = X.shape
    width = d * X.dtype.itemsize if isinstance(X, np.ndarray) else 12 * X.nnz // max(n, 1) + 8
    count = max(1, round(n * width / nbytes))
    size = max(least, -(-n // count))
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


def right(X: Rows, w: Array, out: Array) -> None:
    """X w into `out`. `dot` frees the interpreter's lock; `matmul` keeps it for products of up to 500 rows."""
    if isinstance(X, np.ndarray):
        np.dot(X, w, out=out)
    else:
        out[:] = X @ w


def left(X: Rows, r: Array) -> Array:
    """X' r without a transposed copy."""
    return np.dot(r, X) if isinstance(X, np.ndarray) and r.ndim == 1 else X.T @ r


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
        tag = f"{params['loss']} {params['classes']} {params['class_weight']}"
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

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of margins, losses and gradients."""
        return np.dtype(np.float64) if self.double else self.block.X.dtype

    def chunks(self, dtype: np.dtype[Any]) -> Iterator[tuple[slice, Rows]]:
        """Rows by the chunk, in their own dtype or float64: the same cuts wherever margins are, so that bits agree."""
        X = self.block.X
        upcast = X.dtype != dtype
        # sparse gradients are as long as w: one chunk, so that they are added once
        size = CHUNK_BYTES >> int(upcast) if isinstance(X, np.ndarray) or upcast else 1 << 62
        for start, stop, part in chunks(X, size, CHUNK_ROWS):
            yield slice(start, stop), as_double(part) if upcast else part

    def empty(self, w: Array) -> Array:
        """Room for the block's margins at coefficients `w`."""
        return np.empty((self.block.n_rows, *w.shape[1:]), w.dtype)

    def narrow(self, w: Array) -> Array:
        """A parameter in the dtype of the products."""
        return w.astype(self.dtype, copy=False)

    def margins(self, name: str) -> Array:
        """Z of the block for the parameter input `name`, from the memo where it is."""
        found = self._work.memo.get(self.key, self._work.key(name), self._kept("z"))
        if found is not None:
            return found[0]
        w, bias = split(self._work.input(name), self.p, self.intercept)
        w = self.narrow(w)
        z = self.empty(w)
        for rows, part in self.chunks(w.dtype):
            right(part, w, z[rows])
        z += np.asarray(bias, w.dtype)
        z = z.astype(np.float64, copy=False)
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


def memo_bytes(n_rows: int, n_outputs: int) -> int:
    """Memory for what kernels keep of a problem between phases: six numbers a margin, or 64 MB.

    They are margins at both ends of a search, targets, weights and second derivatives; what is older only takes room.
    """
    return max(64 << 20, 6 * 8 * n_rows * n_outputs)


def add(total: Array | None, part: Array) -> Array:
    """A sum that starts from nothing; it may be taken in `total`."""
    if total is None:
        return part
    total += part
    return total


def through(
    rowwise: Rowwise, w: Array, bias: Array | float, derive: Callable[[Array, slice], Array]
) -> tuple[Array, Array, Array]:
    """Z = X w + bias, r = derive(z, rows) and X'r in one reading of the rows; all in the dtype of w.

    Returns z, the sum of r over rows and X'r, in float64. Little stands in the loop: it holds the interpreter's lock.
    """
    z = rowwise.empty(w)
    bias = np.asarray(bias, w.dtype)
    sums = np.zeros(w.shape[1:])
    products = []
    for rows, part in rowwise.chunks(w.dtype):
        here = z[rows]
        right(part, w, here)
        if rowwise.intercept:
            here += bias
        r = derive(here, rows)
        if rowwise.intercept:
            sums += r.sum(axis=0, dtype=np.float64)
        products.append(left(part, r.astype(w.dtype, copy=False)))
    total = np.asarray(np.sum(products, axis=0, dtype=np.float64))
    return z.astype(np.float64, copy=False), sums, total
