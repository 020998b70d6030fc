"""L-BFGS: the method to beat on well-conditioned problems, one pass an iteration and O(p) memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from coordinator.errors import InputError
from coordinator.problem import Problem
from coordinator.runtime import Runtime
from coordinator.solvers import base
from coordinator.solvers.linesearch import line_search
from coordinator.solvers.memory import Memory
from coordinator.solvers.objective import Objective, Vector


@dataclass(frozen=True)
class LbfgsState(base.State):
    """With the curvature pairs, and the diagonal (p,) of the initial Hessian up to a factor."""

    memory: Memory = field(default_factory=Memory)
    metric: NDArray[np.float64] = field(default_factory=lambda: np.ones(0))


@dataclass(frozen=True)
class Lbfgs:
    """Limited-memory BFGS (Nocedal 1980; Liu and Nocedal 1989).

    Deviation: the initial Hessian is not a multiple of the identity but of the diagonal of the Hessian at the start,
    which takes one more pass and makes the method indifferent to the scale of columns. The multiple is the usual
    y'D^-1 y / s'y of the newest pair.
    """

    name: ClassVar[str] = "lbfgs"
    summary: ClassVar[str] = "limited-memory BFGS: one pass an iteration, any number of columns"
    state: ClassVar[type[LbfgsState]] = LbfgsState

    tol: float = base.setting(1e-6, "stop when the gradient's norm is tol times that at zero")
    max_iter: int = base.setting(1000, "most iterations")
    memory: int = base.setting(10, "curvature pairs kept")
    initial: str = base.setting("diagonal", "initial Hessian", ("diagonal", "identity"))

    def check(self, problem: Problem) -> None:
        base.smooth_only(self.name, problem)
        if self.memory < 1:
            raise InputError(f"lbfgs: memory must be >= 1, not {self.memory}")

    def init(self, problem: Problem, ctx: Runtime, w0: Vector | None = None) -> LbfgsState:
        objective = Objective(problem, ctx)
        point, common = base.begin(objective, w0, self.tol)
        metric = np.ones(problem.n_parameters)
        if self.initial == "diagonal":
            metric = safe_diagonal(objective.diagonal(point) + objective.ridge)
            common["passes"] = objective.passes
        return LbfgsState(**common, memory=Memory(), metric=metric)

    def step(self, problem: Problem, state: LbfgsState, ctx: Runtime) -> LbfgsState:
        objective = Objective(problem, ctx)
        point = base.resume(objective, state)
        memory, g = state.memory, point.gradient
        end, step = None, 0.0
        while end is None:
            p = self._direction(memory, g, state.metric)
            if float(p @ g) < 0:
                end, step = line_search(objective, point, p, base.wants_double(objective, state))
            if end is None and not len(memory):
                return base.stalled(objective, state)
            if end is None:
                memory = Memory()  # stale pairs: once more from the diagonal
        memory = memory.push(end.w - point.w, end.gradient - g, self.memory)
        row = {"step": step, "passes": objective.passes, "pairs": len(memory)}
        return base.advance(objective, state, end, self.tol, self.max_iter, row, memory=memory)

    def _direction(self, memory: Memory, g: Vector, metric: Vector) -> Vector:
        if len(memory):
            s, y = memory.S[-1], memory.Y[-1]
            gamma = float(s @ y) / float(y @ (y / metric))
        elif self.initial == "identity":
            gamma = 1 / max(float(np.linalg.norm(g)), 1e-300)
        else:
            gamma = 1.0
        return memory.direction(g, lambda q: gamma * q / metric)

    def solution(self, state: LbfgsState) -> Vector:
        return state.w


def safe_diagonal(diagonal: Vector) -> Vector:
    """A diagonal to divide by: entries that are next to nothing (empty columns) become the mean."""
    mean = float(diagonal.mean())
    if not (np.isfinite(mean) and mean > 0):
        return np.ones_like(diagonal)
    return np.where(diagonal > 1e-12 * mean, diagonal, mean)
