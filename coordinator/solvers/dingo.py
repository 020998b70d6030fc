"""DINGO: distributed Newton steps that decrease the gradient's norm, for objectives that need not be convex."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from scipy import linalg

from coordinator.kernels import Problem as Params
from coordinator.problem import Problem
from coordinator.runtime import Runtime
from coordinator.solvers import base
from coordinator.solvers.averaging import AveragedState, begin, fits, guarded
from coordinator.solvers.estimates import cover
from coordinator.solvers.objective import Objective, Point, Vector
from coordinator.solvers.shares import Part, check_shares, local_hessian, n_shares, on_shares
from coordinator.solvers.weak import weak_search
from coordinator.tasks import Arrays, Work, kernel

THETA: Final = 1e-4  # of |g|^2 that p'Hg must fall below
PHI: Final = 1e-6  # regularises the local solves of cases 2 and 3, relative to the largest eigenvalue


@dataclass(frozen=True)
class Dingo:
    """Crane and Roosta, "DINGO: distributed Newton-type method for gradient-norm optimization" (arXiv 1901.05134).

    The norm of the gradient is what decreases, so that no convexity is needed, and no penalty. Of three averages of
    local directions the first that is one of descent for |g|^2 is taken: of H_k^+ g; of [H_k; phi I]^+ [g; 0]; or the
    second with each local direction corrected by a multiplier until it is. Groups that are late may be left out of the
    averages; H g, on which the choice stands, is exact. Deviations: phi is relative to the local Hessian's size, and
    columns that a group misses take their curvature from the Hessian's diagonal.
    """

    name: ClassVar[str] = "dingo"
    summary: ClassVar[str] = "averaged local steps that decrease the gradient's norm: weakly convex problems"
    state: ClassVar[type[AveragedState]] = AveragedState

    tol: float = base.setting(1e-6, "stop when the gradient's norm is tol times that at zero")
    max_iter: int = base.setting(200, "most steps")
    groups: int = base.setting(0, "groups of rows; 0: as many as leave 20 rows a parameter in each, at most 32")
    spare: int = base.setting(0, "groups that a step may leave out when they are late")

    def check(self, problem: Problem) -> None:
        fits(self.name, problem)
        check_shares(self.name, problem, self.groups, self.spare)

    def init(self, problem: Problem, ctx: Runtime, w0: Vector | None = None) -> AveragedState:
        return begin(problem, ctx, w0, self.tol)

    def step(self, problem: Problem, state: AveragedState, ctx: Runtime) -> AveragedState:
        objective = Objective(problem, ctx)
        point = base.resume(objective, state)
        state = guarded(objective, state, point)
        hg = objective.product(point, point.gradient)
        p, case, used, missed = self._direction(objective, point, state.guard, hg)
        end, step = weak_search(objective, point, p, -float(p @ hg), base.wants_double(objective, state))
        if end is None:
            return base.stalled(objective, state)
        row = {"step": step, "passes": objective.passes, "groups": used, "case": case}
        return base.advance(objective, state, end, self.tol, self.max_iter, row, missed=missed)

    def _direction(self, objective: Objective, point: Point, guard: Vector, hg: Vector) -> tuple[Vector, int, int, int]:
        """The direction, which of the three cases it is, of how many groups, and columns that they missed."""
        ctx, g = objective.ctx, point.gradient
        inputs = {"w": point.key, "g": ctx.put(g), "hg": ctx.put(hg), "ridge": ctx.put(objective.ridge)}
        inputs["guard"] = ctx.put(guard)
        count = n_shares(objective.problem, self.groups)
        found = on_shares(objective, "local-newton", "dingo.solve", count, self.spare, inputs, point.double)
        missed = max(int(parts[3]) for parts in found)
        wanted = THETA * float(g @ g)
        for case in (1, 2):
            p = -np.mean([parts[case - 1] for parts in found], axis=0)
            if float(p @ hg) <= -wanted:
                return p, case, len(found), missed
        corrected = [-z - max(wanted - float(z @ hg), 0.0) / max(float(c @ hg), 1e-300) * c for _, z, c, _ in found]
        return np.mean(corrected, axis=0), 3, len(found), missed

    def solution(self, state: AveragedState) -> Vector:
        return state.w


@kernel("dingo.solve")
def solve(work: Work, *, problem: Params, part: int, parts: int) -> Arrays:
    """H^+ g, (H^2 + phi^2)^-1 H g and (H^2 + phi^2)^-1 h, (p K,) each, for inputs `g` and `hg` = h; H of the share.

    And columns missed (), which input `guard` made up for (`estimates.cover`).
    """
    H, _, _ = local_hessian(Part.of(work, part, parts), problem)
    missed = cover(H, work.input("guard"))
    H.flat[:: len(H) + 1] += work.input("ridge")
    values, vectors = linalg.eigh(H)
    eps = np.finfo(next(block for _, block in work.blocks()).X.dtype).eps
    top = max(float(np.abs(values).max()), 1e-300)
    kept = np.abs(values) > len(H) * eps * top
    inverse = np.where(kept, 1 / np.where(kept, values, 1.0), 0.0)
    damped = 1 / (values**2 + (PHI * top) ** 2)
    g, h = vectors.T @ work.input("g"), vectors.T @ work.input("hg")
    return vectors @ (inverse * g), vectors @ (damped * values * g), vectors @ (damped * h), np.array(missed)
