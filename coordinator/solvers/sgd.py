"""Mini-batch stochastic gradient descent, run locally on every row block and averaged once an epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from coordinator.errors import InputError
from coordinator.kernels import Problem as Params
from coordinator.kernels import Rowwise, each
from coordinator.problem import Problem
from coordinator.runtime import Runtime
from coordinator.solvers import base
from coordinator.solvers.first_order import start_metric
from coordinator.solvers.objective import Objective, Vector
from coordinator.tasks import Arrays, Work, kernel
from sketches import stream


@dataclass(frozen=True)
class SgdState(base.State):
    """With the step size of the first epoch."""

    rate: float = 1.0


@dataclass(frozen=True)
class Sgd:
    """Local SGD: every block of rows starts an epoch at the same w, runs mini-batches of its rows in an order drawn for
    (seed, epoch, block), and the blocks' results are averaged by weight.

    Stich, "Local SGD converges fast and communicates little" (ICLR 2019). The blocks are those of the data set, so the
    result does not depend on the number of workers. The step size of epoch e is rate / ((1 + e)^decay L), where
    L = g'Hg / g'g + tr(H) / batch at the start estimates the curvature that a mini-batch meets: that of the mean row,
    and its own noise. Two passes an epoch: one to learn, one to measure.

    It reaches a few digits only: the noise of the mini-batches and, between blocks, of averaging, falls as slowly as
    the step size does. Columns must be of like scale.
    """

    name: ClassVar[str] = "sgd"
    summary: ClassVar[str] = "local mini-batch SGD: two or three digits, cheaply"
    state: ClassVar[type[SgdState]] = SgdState

    tol: float = base.setting(1e-3, "stop when the gradient's norm is tol times that at zero; 1e-6 is out of reach")
    max_iter: int = base.setting(50, "most epochs")
    batch: int = base.setting(64, "rows of a mini-batch")
    rate: float = base.setting(1.0, "step size of the first epoch, in units of 1 / curvature")
    decay: float = base.setting(0.5, "the step size falls as (1 + epoch)^-decay")
    seed: int = base.setting(0, "names the random order of rows")

    def check(self, problem: Problem) -> None:
        base.smooth_only(self.name, problem)
        for name, least in (("batch", 1), ("decay", 0)):
            if getattr(self, name) < least:
                raise InputError(f"sgd: {name} must be >= {least}, not {getattr(self, name)}")
        if not self.rate > 0:
            raise InputError(f"sgd: rate must be > 0, not {self.rate}")

    def init(self, problem: Problem, ctx: Runtime, w0: Vector | None = None) -> SgdState:
        objective = Objective(problem, ctx)
        point, common = base.begin(objective, w0, self.tol)
        noise = float(objective.diagonal(point).sum()) / problem.n_outputs / self.batch
        _, lipschitz = start_metric(objective, point, "none")
        common["passes"] = objective.passes
        return SgdState(**common, rate=self.rate / (lipschitz + noise))

    def step(self, problem: Problem, state: SgdState, ctx: Runtime) -> SgdState:
        objective = Objective(problem, ctx)
        point = base.resume(objective, state)
        step = state.rate / (1 + state.iteration) ** self.decay
        keys = [(key,) for key in problem.data.keys]
        shared = {"l2": problem.penalty.l2, "step": step, "batch": self.batch, "seed": self.seed}
        params: list[dict[str, Any]] = [{**shared, "path": [state.iteration, i]} for i in range(len(keys))]
        results = objective.phase("epoch", "sgd.epoch", keys, {"w": point.key}, double=False, params=params)
        objective.passes += 1
        w = sum(weight * local for local, weight in results) / sum(float(weight) for _, weight in results)
        end = objective.at(np.asarray(w), base.wants_double(objective, state))
        row = {"step": step, "passes": objective.passes, "batches": sum(-(-n // self.batch) for n in problem.data.rows)}
        return base.advance(objective, state, end, self.tol, self.max_iter, row)

    def solution(self, state: SgdState) -> Vector:
        return state.w


@kernel("sgd.epoch")
def epoch(work: Work, *, problem: Params, l2: float, step: float, batch: int, seed: int, path: list[int]) -> Arrays:
    """Parameters (p K,) after one epoch over the task's block from input `w`, and the block's weight ().

    Besides w, memory is that of a mini-batch. Sparse mini-batches touch only their own columns: w is kept as
    `scale` x v, and l2 shrinks the scale.
    """
    [rowwise] = each(work, problem)
    W = np.array(work.input("w")).reshape(rowwise.p, -1)
    v, bias = (W[:-1], W[-1].copy()) if rowwise.intercept else (W, np.zeros(W.shape[1]))
    scale, flat = 1.0, not rowwise.loss.multi
    order = stream(seed, *path).permutation(rowwise.block.n_rows)
    for start in range(0, order.size, batch):
        rows = np.sort(order[start : start + batch])
        x, columns = _batch(rowwise, rows)
        u = scale * v[columns]
        z = x @ u + bias
        dz = rowwise.loss.gradient(z[:, 0] if flat else z, rowwise.y[rows]).reshape(z.shape)
        weight = np.ones(rows.size) if rowwise.weight is None else rowwise.weight[rows]
        total = float(weight.sum())
        if total == 0:
            continue
        dz = dz * (step / total) * weight[:, None]
        scale /= 1 + step * l2  # the implicit step on l2: stable for any step
        v[columns] -= (x.T @ dz) / scale
        if rowwise.intercept:
            bias -= dz.sum(axis=0)
        if scale < 1e-100:
            v *= scale
            scale = 1.0
    out = scale * v
    if rowwise.intercept:
        out = np.vstack([out, bias])
    weight_of_block = rowwise.block.n_rows if rowwise.weight is None else rowwise.weight.sum()
    return out.ravel(), np.array(float(weight_of_block))


def _batch(rowwise: Rowwise, rows: NDArray[np.int64]) -> tuple[Any, Any]:
    """Rows in float64, restricted to the columns in which they are not zero, and those columns."""
    X = rowwise.block.X
    part = X[rows]
    if isinstance(part, np.ndarray):
        return part.astype(np.float64), slice(None)
    columns, position = np.unique(part.indices, return_inverse=True)
    dense = np.zeros((rows.size, columns.size))
    np.add.at(dense, (np.repeat(np.arange(rows.size), np.diff(part.indptr)), position), part.data)
    return dense, columns
