"""GIANT: averaged local Newton directions, two passes an iteration and O(p) numbers from every task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from coordinator.errors import InputError
from coordinator.kernels import Problem as Params
from coordinator.kernels import gram, weigh
from coordinator.problem import Problem
from coordinator.runtime import Runtime
from coordinator.solvers import base
from coordinator.solvers.exact import MEMORY
from coordinator.solvers.lbfgs import safe_diagonal
from coordinator.solvers.linesearch import line_search
from coordinator.solvers.metric import Scaled, rounding
from coordinator.solvers.objective import Objective, Point, Vector
from coordinator.tasks import Arrays, Work, kernel
from sketches import Quorum, debias

ROWS: Final = 10  # rows of a group per column, at least, by default: the direction's error is about d / rows
LOCAL_FLOOR: Final = 1.0  # over the rows of a group: added to a local Hessian of unit diagonal
MOST: Final = 32  # groups by default


@dataclass(frozen=True)
class Giant:
    """p = -mean over groups of (H_k + R)^-1 g, with the exact gradient g and the Hessian H_k of a group of row blocks.

    Wang, Roosta-Khorasani, Xu and Mahoney, "GIANT: globally improved approximate Newton method for distributed
    optimization" (arXiv 1709.03528). H_k is of the rows weighted by the second derivatives at w, and a line search
    takes the step. Two additions: each local solve is debiased with its own effective dimension, which removes an
    error that averaging cannot (arXiv 2007.01327; spec C1, C3); and since groups are exchangeable, `spare` of them may
    be missing: a step waits for no straggler.

    Blocks must hold rows in random order, with many more rows in a group than columns. Rows of high leverage make it
    fail: every group but one has not seen them.
    """

    name: ClassVar[str] = "giant"
    summary: ClassVar[str] = "averaged local Newton directions; groups of rows that are late may be left out"
    state: ClassVar[type[base.State]] = base.State

    tol: float = base.setting(1e-6, "stop when the gradient's norm is tol times that at zero")
    max_iter: int = base.setting(200, "most steps")
    groups: int = base.setting(0, "groups of row blocks; 0: as many as leave 10 rows per column in each, at most 32")
    spare: int = base.setting(0, "groups that a step may leave out when they are late")
    debias: bool = base.setting(True, "correct each local solve for the rows it has not seen")

    def check(self, problem: Problem) -> None:
        base.smooth_only(self.name, problem)
        if 8.0 * problem.n_parameters**2 > MEMORY:
            raise InputError(
                f"giant would need a {problem.n_parameters} x {problem.n_parameters} matrix in every task: "
                "use oversketched-newton or lbfgs"
            )
        if self.groups < 0 or self.spare < 0:
            raise InputError("giant: groups and spare must be >= 0")
        count = self.n_groups(problem)
        if self.groups > count:
            raise InputError(
                f"giant: the data has {count} blocks, fewer than groups={self.groups}: import smaller blocks"
            )
        if self.spare >= count:
            raise InputError(f"giant: spare must be less than the {count} groups, not {self.spare}")

    def n_groups(self, problem: Problem) -> int:
        wanted = self.groups or min(MOST, problem.data.n_rows // (ROWS * problem.n_parameters))
        return max(1, min(wanted, len(problem.data.keys)))

    def init(self, problem: Problem, ctx: Runtime, w0: Vector | None = None) -> base.State:
        _, common = base.begin(Objective(problem, ctx), w0, self.tol)
        return base.State(**common)

    def step(self, problem: Problem, state: base.State, ctx: Runtime) -> base.State:
        objective = Objective(problem, ctx)
        point = base.resume(objective, state)
        directions, nus = self._directions(objective, point)
        p = np.mean(directions, axis=0)
        double = base.wants_double(objective, state)
        end, step = line_search(objective, point, p, double)
        if end is None:  # too few rows of a group bend, as those of a Huber loss may
            diagonal = safe_diagonal(objective.diagonal(point) + objective.ridge)
            end, step = line_search(objective, point, -point.gradient / diagonal, double)
        if end is None:
            return base.stalled(objective, state)
        row = {"step": step, "passes": objective.passes, "groups": len(directions), "debias": float(np.mean(nus))}
        return base.advance(objective, state, end, self.tol, self.max_iter, row)

    def _directions(self, objective: Objective, point: Point) -> tuple[list[Vector], list[float]]:
        count, keys = self.n_groups(objective.problem), objective.problem.data.keys
        # strided, so that a drift along the rows does not part the groups
        blocks = [keys[i::count] for i in range(count)]
        inputs = {"w": point.key, "g": objective.ctx.put(point.gradient), "ridge": objective.ctx.put(objective.ridge)}
        params = [{"unbias": self.debias}] * count
        code = Quorum(count - self.spare, count)
        results = objective.phase(
            "local-newton", "giant.direction", blocks, inputs, double=point.double, params=params, code=code
        )
        objective.passes += 1
        return [p for p, _ in results], [float(nu) for _, nu in results]

    def solution(self, state: base.State) -> Vector:
        return state.w


@kernel("giant.direction")
def direction(work: Work, *, problem: Params, unbias: bool) -> Arrays:
    """The Newton direction (p K,) of the task's rows for the gradient in input `g`, and its debiasing factor ().

    Input `ridge` is the diagonal of R. The local Hessian is per unit of weight of the task's own rows.
    """
    [H] = gram(work, problem=problem, what="full")
    weight = float(weigh(work, problem=problem)[0])
    blocks = [block for _, block in work.blocks()]
    n_rows = sum(block.n_rows for block in blocks)
    g, ridge = work.input("g"), work.input("ridge")
    p = work.task.n_features + int(problem["intercept"])
    K = g.size // p
    # the Gram is class-major, parameters are (p, K) in C order
    H = H.reshape(K, p, K, p).transpose(1, 0, 3, 2).reshape(g.size, g.size) / max(weight, 1e-300)
    nu = debias(H, ridge, n_rows).nu if unbias else 1.0
    H /= nu
    H[np.diag_indices_from(H)] += ridge
    # n rows do not tell a small eigenvalue of a matrix with a unit diagonal from 0
    floor = max(rounding(blocks[0].X.dtype.name, len(H)), LOCAL_FLOOR / n_rows)
    step: NDArray[np.float64] = -Scaled.of(H, floor).solve(g)
    return step, np.array(nu)
