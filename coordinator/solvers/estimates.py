"""Local estimates of the inverse Hessian: tasks that draw rows, or a sketch of them, and solve with what they got.

A task answers with O(p) numbers, whatever it solved with, and tasks are exchangeable: whoever has answered is averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from coordinator.errors import PhaseError
from coordinator.kernels import Problem as Params
from coordinator.kernels import Rowwise, split
from coordinator.kernels.grams import sketch
from coordinator.problem import Problem
from coordinator.solvers.metric import Scaled, rounding
from coordinator.solvers.objective import Matrix, Objective, Point, Vector
from coordinator.tasks import Arrays, Work, kernel
from sketches import ROW_LAWS, Combined, Quorum, combine, correction, draw_rows, scaling, stream

Array = NDArray[Any]

LAWS: Final = (*ROW_LAWS, "sjlt")
CORRECTIONS: Final = ("none", "determinant", "scale")
READ: Final = 1 << 30  # bytes of rows that one estimate draws from, at most
HASHES: Final = 4  # of an SJLT: from 4 on it is as good as any on rows of high leverage (spec D2)
SINGULAR: Final = 10.0  # times what rounding adds: a matrix of unit diagonal with a smaller pivot counts as singular
MISSED: Final = 0.5  # of the exact diagonal: a column with less curvature in a draw has been missed by it
COLLAPSED: Final = 0.1  # share of the estimates below which the effective sample size says that the weights are noise


@dataclass(frozen=True)
class Draw:
    """The law of one estimate, and what is done about its bias.

    Attributes
    ----------
    law : of `sketches.draw_rows`, or "sjlt", a sketch of all rows.
    rows : drawn, or of the sketch; for a sketch about as many.
    correct : "none"; "determinant", for weights that are determinants (`sketches.correction`); or "scale", which
        inflates the data term (`sketches.scaling`), for weights that are equal.
    """

    law: str
    rows: int
    correct: str


@dataclass(frozen=True)
class Estimates:
    """What came back, in task order.

    Attributes
    ----------
    solutions : (q, p, r): H^_t^-1 V.
    diagonals : (q, p): of H^_t^-1; (q, 0) unless asked for.
    logdets, nus : (q,): log det H^_t, and what the data term was divided by.
    missed : (q,): columns whose curvature was taken from the guard.
    """

    solutions: Array
    diagonals: Array
    logdets: Array
    nus: Array
    missed: Array

    def joined(self, more: Estimates) -> Estimates:
        """These and more."""
        return Estimates(
            *(np.concatenate([a, b]) for a, b in zip(vars(self).values(), vars(more).values(), strict=True))
        )

    def average(self, values: Array, *, determinants: bool) -> Combined:
        """Of `values` (q, ...), weighed by determinants or alike."""
        return combine(values, self.logdets if determinants else None)


def draw_estimates(
    objective: Objective,
    at: Point,
    V: Matrix,
    draw: Draw,
    numbers: Sequence[int],
    *,
    path: Sequence[int],
    seed: int = 0,
    spare: int = 0,
    guard: Vector | None = None,
    diagonal: bool = False,
    common: float = 0.0,
) -> Estimates:
    """Estimates number `numbers` of (H + R)^-1 V, V (p, r), at a point; `spare` of them may be missing.

    Estimate t draws from stream(seed, *path, t). `guard` is the exact diagonal of the data term, or None to do without:
    see `cover`. `common` > 0 is added to what no penalty touches and all classes of a
    softmax share, which its Hessian does not see.
    """
    problem = objective.problem
    inputs = {"w": at.key, "v": objective.ctx.put(V), "ridge": objective.ctx.put(objective.ridge)}
    if guard is not None:
        inputs["guard"] = objective.ctx.put(guard)
    blocks = [read_blocks(problem, seed, [*path, t]) for t in numbers]
    shared = {
        "draw": vars(draw),
        "mean": objective.weight / problem.data.n_rows,
        "total": problem.data.n_rows,
        "diagonal": diagonal,
        "common": common,
        "seed": seed,
    }
    params = [shared | {"path": [*path, t]} for t in numbers]
    code = Quorum(max(1, len(numbers) - spare), len(numbers))
    kind = "estimate.inverse"
    results = objective.phase("estimates", kind, blocks, inputs, double=at.double, params=params, code=code)
    share = len(blocks[0]) / len(problem.data.keys) if draw.law == "sjlt" else draw.rows / problem.data.n_rows
    objective.passes += len(numbers) * min(share, 1.0)
    found = [r for r in results if np.all(np.isfinite(r[0])) and np.isfinite(r[2])]
    if not found:
        raise PhaseError("no estimate of the Hessian is finite: scale the columns, or add l2")
    return Estimates(*(np.stack([r[i] for r in found]) for i in range(5)))


def read_blocks(problem: Problem, seed: int, path: Sequence[int]) -> tuple[str, ...]:
    """The row blocks that an estimate draws from: all, or where they hold more than READ bytes as many by chance."""
    keys = problem.data.keys
    count = max(1, min(len(keys), int(READ * len(keys) // max(problem.data.nbytes, 1))))
    if count == len(keys):
        return keys
    chosen = stream(seed, *path, 2).choice(len(keys), size=count, replace=False)
    return tuple(keys[i] for i in sorted(chosen.tolist()))


def default_rows(problem: Problem, wanted: int, per_parameter: int = 10) -> int:
    """Rows of an estimate: `wanted`, or 10 a parameter, at most half of all rows."""
    return wanted or max(1, min(per_parameter * problem.n_parameters, problem.data.n_rows // 2))


@kernel("estimate.inverse")
def inverse(
    work: Work,
    *,
    problem: Params,
    draw: dict[str, Any],
    mean: float,
    total: int,
    diagonal: bool,
    common: float,
    seed: int,
    path: list[int],
) -> Arrays:
    """H^^-1 V (p, r), its diagonal (p,) or (0,), log det H^ (), nu () and columns missed (); H^ = G / nu + R (`Draw`).

    Inputs: `v` is V, `ridge` the diagonal of R, `guard` that of the data term, if given. `mean` is the mean weight of
    a row of all `total`: G estimates the Hessian of the losses per unit of weight.
    """
    law = Draw(**draw)
    ridge = work.input("ridge")
    blocks = [block for _, block in work.blocks()]
    n = sum(block.n_rows for block in blocks)
    rows = float(law.rows)
    if law.law == "sjlt":
        sizes = [HASHES * ceil(law.rows * block.n_rows / (n * HASHES)) for block in blocks]
        laws = [{"kind": "sjlt", "size": size, "hashes": HASHES} for size in sizes]
        rows = 1 / (1 / sum(sizes) + 1 / n - 1 / total)  # a sketch of some of the blocks is also a sample of the rows
        paths = [[*path, 0, i] for i in range(len(blocks))]
        [G] = sketch(work, problem=problem, what="full", sketches=laws, seed=seed, paths=paths)
        G = interleaved(G, problem, work.task.n_features) / (n * mean)
    else:
        A = drawn_roots(work, problem, law, n, stream(seed, *path, 0))
        G = (A.T @ A).astype(np.float64) / (law.rows * mean)
    missed = cover(G, work.input("guard")) if "guard" in work.task.inputs else 0
    nu = 1.0
    if law.correct == "scale":
        nu = scaling(G, ridge, rows)
    elif law.correct == "determinant":
        nu = correction(law.law, G, ridge, law.rows)
    H = G / nu
    H.flat[:: len(H) + 1] += ridge
    if common:
        add_common(H, ridge, problem, common, work.task.n_features)
    solver = invertible(H, blocks[0].X.dtype.name, rows)
    spread = inverse_diagonal(solver) if diagonal else np.zeros(0)
    return solver.solve(work.input("v")), spread, np.array(log_determinant(solver)), np.array(nu), np.array(missed)


def cover(G: Matrix, guard: Array) -> int:
    """Raise to the exact diagonal what a draw has missed of it; how many columns that were.

    A column with few non-zeros is absent from most draws. Its part of the step would be the gradient over the penalty,
    so long that the line search would cut the whole step down to nothing.
    """
    d = np.diag(G)
    missed = np.flatnonzero(d < MISSED * guard)
    G[missed, missed] = guard[missed]
    return int(missed.size)


def drawn_roots(work: Work, problem: Params, law: Draw, n: int, rng: np.random.Generator) -> Array:
    """Rows (m, p K) of the Hessian's square root, drawn from the task's n rows and repeated in their weights.

    Softmax's Hessian is drawn once more, to rows of rank one (Fisher sampling, spec A4.2): determinants need that.
    """
    index, copies = draw_rows(law.law, n, min(law.rows, n) if law.law == "bernoulli" else law.rows, rng)
    parts = []
    start = 0
    for key, block in work.blocks():
        low, high = np.searchsorted(index, [start, start + block.n_rows])
        rowwise = Rowwise(work, key, block, problem)
        parts.append(_roots(work, rowwise, index[low:high] - start, copies[low:high], rng))
        start += block.n_rows
    return np.concatenate(parts)


def _roots(work: Work, rowwise: Rowwise, index: Array, copies: Array, rng: np.random.Generator) -> Array:
    multi = rowwise.loss.multi
    if multi:  # each copy draws a class of its own
        index, copies = np.repeat(index, copies.astype(np.int64)), np.ones(int(copies.sum()))
    X = rowwise.block.X[index]
    if not isinstance(X, np.ndarray):
        X = X.toarray()
    w, bias = split(work.input("w"), rowwise.p, rowwise.intercept)
    w = rowwise.narrow(w)
    h = rowwise.loss.hessian((X @ w + bias).astype(np.float64), rowwise.y[index])
    weight = copies if rowwise.weight is None else copies * rowwise.weight[index]
    if rowwise.intercept:
        X = np.concatenate([X, np.ones((len(X), 1), dtype=X.dtype)], axis=1)
    if not multi:
        return X * np.sqrt(weight * h).astype(X.dtype)[:, None]
    n, K = h.shape
    drawn = (h.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, K - 1)
    q = -h
    q[np.arange(n), drawn] += 1
    q *= np.sqrt(weight)[:, None]
    return (X[:, :, None] * q.astype(X.dtype)[:, None, :]).reshape(n, -1)


def interleaved(G: Matrix, problem: Params, n_features: int) -> Matrix:
    """Class-major columns, as kernels give them, to the C order of (p, K), as parameters are flattened."""
    p = n_features + int(problem["intercept"])
    K = len(G) // p
    return G if K == 1 else G.reshape(K, p, K, p).transpose(1, 0, 3, 2).reshape(K * p, K * p)


def add_common(H: Matrix, ridge: Array, problem: Params, common: float, n_features: int) -> None:
    """Add `common` to the mean over classes of each parameter without a penalty: H += common 11'/K there."""
    p = n_features + int(problem["intercept"])
    K = len(H) // p
    blocks = H.reshape(p, K, p, K)
    for j in np.flatnonzero(ridge.reshape(p, K)[:, 0] == 0):
        blocks[j, :, j, :] += common / K


def invertible(H: Matrix, dtype: str, rows: float) -> Scaled:
    """The factor of an estimate from `rows` rows whose products were taken in `dtype`; H is lost.

    Rows that were not drawn may leave directions without curvature. Steps there must be long, but not endless: 1 / rows
    is added to a singular H at its unit diagonal.
    """
    floor = rounding(dtype, len(H))
    found = Scaled.of(H.copy(), floor)
    if found.factor.jitter or float(np.diag(found.factor.root).min()) ** 2 < SINGULAR * floor:
        found = Scaled.of(H, 1 / rows)
    return found


def inverse_diagonal(scaled: Scaled) -> Array:
    """Diagonal of the inverse, (p,)."""
    half = scaled.factor.inverse
    if half is None:
        half, _ = linalg.lapack.dtrtri(scaled.factor.root, lower=1)
    return np.asarray(scaled.scale**2 * np.einsum("ij,ij->j", half, half))


def log_determinant(scaled: Scaled) -> float:
    """Logarithm of the determinant."""
    return scaled.factor.logdet - 2 * float(np.sum(np.log(scaled.scale)))
