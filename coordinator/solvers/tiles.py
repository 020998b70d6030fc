"""OverSketch in the layout of its paper: column slabs, independent sketches, and products of tiles.

Gupta, Wang, Courtade and Ramchandran, "OverSketch" (arXiv 1811.02653), section 3, as used for Hessians in "OverSketched
Newton" (arXiv 1903.08857), algorithm 2. Tasks (k, I) sketch the column slab I of the Hessian's square root A with the
k-th CountSketch; tasks (k, I, J), I <= J, multiply two sketched slabs. It bounds what one worker holds and sends by a
tile, whatever the number of columns, at the price of two rounds more than the row-local layout of `Objective.sketch`.

Deviations from the paper and the published script:

* Hashes are drawn anew from a named stream in every task, one stream for each sketch and row block; they never travel.
* A sketch index is used whole or not at all, so that what is averaged are Gram matrices, hence positive semidefinite.
* All sketches that arrived are used, and the sum is divided by their number.
* A round before the sketches stores the rows' second derivatives, so that a sketch task reads its columns only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from coordinator.errors import InputError
from coordinator.kernels import Array, Problem, Rows, Rowwise, roots
from coordinator.phases import Phase
from coordinator.solvers.objective import Matrix, Objective, Point
from coordinator.storage import version_of
from coordinator.tasks import Arrays, Task, Work, kernel
from sketches import CountSketch, GroupQuorum, Uncoded, stream

LEAST: Final = 4  # sketches that are enough; with fewer, rows of high leverage collide (spec A1, iii)


def tiled_sketch(
    objective: Objective,
    at: Point,
    *,
    block: int,
    n: int,
    extra: int,
    seed: int,
    path: Sequence[int],
    slabs: int | None = None,
) -> list[Matrix]:
    """Sketched Hessian without the penalty at `at`, as `Objective.sketch` gives it.

    Parameters
    ----------
    block : rows b of each CountSketch.
    n, extra : sketches that are enough, >= 4, and spare ones. The Hessian stands on at least n x block sketch rows.
        The rounds of sketches and of products can each lose half of the spare ones (the first the larger half).
    seed, path : sketch k of row block r is drawn from stream(seed, *path, k, r, 0).
    slabs : column slabs; by default as many as make a tile about square, block x block.

    Returns
    -------
    One (p K, p K) matrix in the order of the flattened parameters. Multi-class losses are Fisher-sampled, anew for each
    sketch (`kernels.roots`).

    Raises InputError for sizes out of range, PhaseError when fewer than n sketches can be completed.
    """
    _check(block, n, extra)
    ctx, data = objective.ctx, objective.problem.data
    p = objective.problem.n_rows_of_w
    count = min(p, slabs or -(-p // block))
    edges = list(pairwise(np.linspace(0, p, count + 1).astype(int).tolist()))
    # the names of intermediates say all that they depend on, so that equal names are equal bits
    law = [block, n, extra, count, seed, *path]
    digest = version_of(json.dumps([at.key, at.double, law]).encode())[:16]
    folder = f"{ctx.prefix}/tiles-{digest}"
    problem = objective.problem.task_params() | {"double": at.double}
    _sweep(objective, folder)
    try:
        whole = [
            Task("tiles.curvature", f"{folder}/h-{r:05d}", (key,), data.n_features, {"w": at.key}, {"problem": problem})
            for r, key in enumerate(data.keys)
        ]
        ctx.run(Phase(objective.label("tiles-curvature"), whole, Uncoded(len(whole))))
        common = {"problem": problem, "block": block, "seed": seed, "path": list(path), "folder": folder}
        sketched = [
            Task(
                "tiles.sketch",
                _name(folder, k, i),
                data.keys,
                data.n_features,
                {"w": at.key},
                {**common, "k": k, "columns": edge},
            )
            for k in range(n + extra)
            for i, edge in enumerate(edges)
        ]
        # half of the spare sketches are for the stragglers of this round, the others for those of the next
        enough = n + extra // 2
        [tokens] = ctx.run(Phase(objective.label("tiles-sketch"), sketched, _whole(enough, n + extra, count)))
        ks = sorted({int(token) for (token,) in tokens})
        pairs = [(i, j) for i in range(count) for j in range(i, count)]
        products = [
            Task(
                "tiles.product",
                f"{folder}/product-{k:04d}-{i:04d}-{j:04d}",
                inputs={"left": _name(folder, k, i), "right": _name(folder, k, j)},
            )
            for k in ks
            for i, j in pairs
        ]
        [tiles] = ctx.run(Phase(objective.label("tiles-product"), products, _whole(n, len(ks), len(pairs))))
    finally:
        ctx.scratch.delete(folder)
    objective.passes += 1
    used = len(tiles) // len(pairs)
    K = objective.problem.n_outputs
    out = np.zeros((p, K, p, K))
    for t, (tile,) in enumerate(tiles):
        (a, b), (c, d) = (edges[i] for i in pairs[t % len(pairs)])
        # columns of a slab are class-major, parameters feature-major
        part = tile.reshape(K, b - a, K, d - c).transpose(1, 0, 3, 2) / (used * objective.weight)
        out[a:b, :, c:d, :] += part
        if a != c:
            out[c:d, :, a:b, :] += part.transpose(2, 3, 0, 1)
    return [out.reshape(p * K, p * K)]


def _check(block: int, n: int, extra: int) -> None:
    if n < LEAST:
        raise InputError(f"tiled sketch: n must be >= {LEAST}, not {n}: fewer sketches fail on rows of high leverage")
    if block < 1 or extra < 0:
        raise InputError(f"tiled sketch: block must be >= 1 and extra >= 0, not {block} and {extra}")


def _name(folder: str, k: int, slab: int) -> str:
    return f"{folder}/sketch-{k:04d}-{slab:04d}"


def _whole(n: int, groups: int, size: int) -> GroupQuorum:
    """Any n of so many whole sketches, of `size` tasks each."""
    return GroupQuorum(n, tuple(tuple(range(g * size, (g + 1) * size)) for g in range(groups)))


def _sweep(objective: Objective, folder: str) -> None:
    """Delete what stragglers of the call before have stored since it ended."""
    before = objective.ctx.cache.get("tiles")
    if before is not None:
        objective.ctx.scratch.delete(before)
    objective.ctx.cache["tiles"] = folder


class _Stored(Rowwise):
    """A block whose second derivatives were stored by the curvature round."""

    def __init__(self, work: Work, key: str, params: Problem, row_block: int, folder: str) -> None:
        super().__init__(work, key, work.worker.block(key, work.task.n_features), params)
        self._where = f"{folder}/h-{row_block:05d}"

    def hessian(self) -> Array:
        return self._work.worker.scratch.get_arrays(self._where)["array"]


@kernel("tiles.curvature")
def curvature(work: Work, *, problem: Problem) -> Arrays:
    """Store the second derivatives of one block's rows at `w`, (n,) or (n, K)."""
    if not work.kept():
        [(key, block)] = work.blocks()
        work.keep(Rowwise(work, key, block, problem).hessian())
    return (np.zeros(()),)


@kernel("tiles.sketch")
def sketch(
    work: Work, *, problem: Problem, block: int, seed: int, path: list[int], folder: str, k: int, columns: list[int]
) -> Arrays:
    """Store S_k A of the columns [start, stop) of the Hessian's square root A over all rows, (block, K |I|).

    Columns are class-major; the intercept is the column after the last feature. Returns k.
    """
    token = (np.array(k),)
    if work.kept():
        return token
    out: Array | None = None
    for r, key in enumerate(work.task.blocks):
        rowwise = _Stored(work, key, problem, r, folder)
        [scales] = roots(rowwise, "full", stream(seed, *path, k, r, 1))
        parts = []
        for scale in scales:  # the same stream gives the same S_k to every class, and to every slab
            S = CountSketch(block).matrix(scale.size, stream(seed, *path, k, r, 0), scale, rowwise.block.X.dtype)
            parts.append(_slab(S, rowwise, columns[0], columns[1]))
        part = np.concatenate(parts, axis=1)
        out = part if out is None else out + part
    assert out is not None
    work.keep(out)
    return token


def _slab(S: Any, rowwise: Rowwise, start: int, stop: int) -> NDArray[Any]:
    X: Rows = rowwise.block.X
    d = X.shape[1]
    part = X if (start, min(stop, d)) == (0, d) else X[:, start : min(stop, d)]
    product = S @ part if isinstance(X, np.ndarray) else (S.tocsr() @ part).toarray()
    if stop <= d:
        return product
    ones: NDArray[Any] = S @ np.ones((X.shape[0], 1), dtype=X.dtype)
    return np.concatenate([product, ones], axis=1)


@kernel("tiles.product")
def product(work: Work) -> Arrays:
    """Product of two sketched slabs, (K |I|, K |J|), in float64 whatever their dtype."""
    left = work.input("left").astype(np.float64)
    right = left if work.key("left") == work.key("right") else work.input("right").astype(np.float64)
    return (left.T @ right,)
