"""Exact Newton: the Hessian itself in every step. The fewest passes of all, where a p x p matrix can be had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from coordinator.errors import InputError
from coordinator.problem import Problem
from coordinator.runtime import Runtime
from coordinator.solvers import base
from coordinator.solvers.linesearch import line_search
from coordinator.solvers.metric import Scaled, rounding
from coordinator.solvers.objective import Objective, Vector

MEMORY: Final = 2e9  # bytes of one Hessian
DAMPING: Final = (0.0, 1e-4, 1e-2, 1.0, 1e2)  # of a Hessian of unit diagonal, tried in turn


@dataclass(frozen=True)
class Newton:
    """w <- w - a H^-1 g with the exact Hessian H (spec A3) and a line search.

    Where H is singular (separable or collinear data, softmax without a penalty), the jitter of its factorization takes
    the place of the pseudo-inverse. Where no step along the direction will do, as with a Huber loss whose rows are all
    but a few in its linear part, the diagonal of H is raised until one does (Levenberg and Marquardt).
    """

    name: ClassVar[str] = "newton"
    summary: ClassVar[str] = "exact Newton: fewest passes, a p x p matrix in every step"
    state: ClassVar[type[base.State]] = base.State

    tol: float = base.setting(1e-6, "stop when the gradient's norm is tol times that at zero")
    max_iter: int = base.setting(100, "most steps")

    def check(self, problem: Problem) -> None:
        base.smooth_only(self.name, problem)
        size = 8.0 * problem.n_parameters**2
        if size > MEMORY:
            raise InputError(
                f"newton would need a {problem.n_parameters} x {problem.n_parameters} Hessian ({size / 1e9:.0f} GB): "
                "use oversketched-newton or lbfgs"
            )

    def init(self, problem: Problem, ctx: Runtime, w0: Vector | None = None) -> base.State:
        _, common = base.begin(Objective(problem, ctx), w0, self.tol)
        return base.State(**common)

    def step(self, problem: Problem, state: base.State, ctx: Runtime) -> base.State:
        objective = Objective(problem, ctx)
        point = base.resume(objective, state)
        [H] = objective.gram(point)
        H[np.diag_indices_from(H)] += objective.ridge
        end, step, p, used = None, 0.0, point.gradient, 0.0
        for damping in DAMPING:
            with ctx.linalg():
                p = -Scaled.of(H.copy(), rounding(problem.data.dtype, len(H)) + damping).solve(point.gradient)
            end, step = line_search(objective, point, p, base.wants_double(objective, state))
            if end is not None:
                used = damping
                break
        if end is None:
            return base.stalled(objective, state)
        decrement = -0.5 * float(point.gradient @ p)
        row = {"step": step, "passes": objective.passes, "decrement": decrement, **({"damping": used} if used else {})}
        return base.advance(objective, state, end, self.tol, self.max_iter, row)

    def solution(self, state: base.State) -> Vector:
        return state.w
