"""First-order methods: gradient descent and Nesterov's accelerated gradient, both with l1 by proximal steps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import sqrt
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from coordinator.problem import Problem
from coordinator.runtime import Runtime
from coordinator.solvers import base
from coordinator.solvers.lbfgs import safe_diagonal
from coordinator.solvers.linesearch import line_search
from coordinator.solvers.objective import Objective, Point, Vector

SHRINK: Final = 0.9  # of the Lipschitz estimate after a step that it proved right
GROW: Final = 2.0  # of the estimate, at least, after one that proved it wrong
LARGEST: Final = 60  # doublings of an estimate in one step before giving up


def soft(w: Vector, threshold: Vector) -> Vector:
    """The proximal map of sum_j threshold_j |w_j|."""
    return np.sign(w) * np.maximum(np.abs(w) - threshold, 0.0)


def start_metric(objective: Objective, point: Point, kind: str) -> tuple[Vector, float]:
    """Diagonal metric D and a first estimate of the Lipschitz constant in it, g'D^-1 H D^-1 g / g'D^-1 g.

    One or two passes.
    """
    metric = np.ones(point.w.size)
    if kind == "diagonal":
        metric = safe_diagonal(objective.diagonal(point) + objective.ridge)
    p = point.gradient / metric
    norm = float(p @ point.gradient)
    bend = float(p @ objective.product(point, p)) if norm > 0 else 0.0
    lipschitz = bend / norm if norm > 0 and np.isfinite(bend) and bend > 0 else 1.0
    return metric, lipschitz


@dataclass(frozen=True)
class DescentState(base.State):
    """With the length of the last step."""

    length: float = 1.0


@dataclass(frozen=True)
class GradientDescent:
    """w <- prox(w - t g) with a line search; the first length tried is twice the last one accepted.

    With l1 the search is along the segment to the proximal point, which is a descent direction for any t.
    """

    name: ClassVar[str] = "gradient-descent"
    summary: ClassVar[str] = "gradient descent with a line search: a yardstick"
    state: ClassVar[type[DescentState]] = DescentState

    tol: float = base.setting(1e-6, "stop when the (proximal) gradient's norm is tol times that at zero")
    max_iter: int = base.setting(1000, "most iterations")

    def check(self, problem: Problem) -> None:
        """Any problem will do."""

    def init(self, problem: Problem, ctx: Runtime, w0: Vector | None = None) -> DescentState:
        objective = Objective(problem, ctx)
        point, common = base.begin(objective, w0, self.tol)
        _, lipschitz = start_metric(objective, point, "none")
        common["passes"] = objective.passes
        return DescentState(**common, length=0.5 / lipschitz)

    def step(self, problem: Problem, state: DescentState, ctx: Runtime) -> DescentState:
        objective = Objective(problem, ctx)
        point = base.resume(objective, state)
        length = 2 * state.length
        p = soft(point.w - length * point.gradient, length * objective.lasso) - point.w
        end, step = line_search(objective, point, p, base.wants_double(objective, state))
        if end is None:
            return base.stalled(objective, state)
        row = {"step": step * length, "passes": objective.passes}
        return base.advance(objective, state, end, self.tol, self.max_iter, row, length=step * length)

    def solution(self, state: DescentState) -> Vector:
        return state.w


@dataclass(frozen=True)
class NesterovState(base.State):
    """Iterates: `w` is the extrapolated point, where the gradient is known.

    Attributes
    ----------
    x : (p,) the last proximal point.
    metric : (p,) diagonal of the metric.
    lipschitz : estimate of the Lipschitz constant of the gradient in the metric.
    theta : Nesterov's t, 1 after a restart.
    """

    x: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    metric: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    lipschitz: float = 1.0
    theta: float = 1.0


@dataclass(frozen=True)
class Nesterov:
    """Accelerated proximal gradient: one pass an iteration.

    Beck and Teboulle, "A fast iterative shrinkage-thresholding algorithm" (SIAM J. Imaging Sciences 2, 2009), with the
    gradient scheme of restarts of O'Donoghue and Candes, "Adaptive restart for accelerated gradient schemes" (2015).
    Deviations: the metric is the diagonal of the Hessian at the start, under which prox remains separable; and the
    objective is evaluated at extrapolated points only, so that an iteration is one pass. The Lipschitz estimate is
    therefore tested between successive extrapolated points: refused and grown when the quadratic bound fails there,
    shrunk by a tenth when it holds.
    """

    name: ClassVar[str] = "nesterov"
    summary: ClassVar[str] = "accelerated proximal gradient with restarts: one pass an iteration, takes l1"
    state: ClassVar[type[NesterovState]] = NesterovState

    tol: float = base.setting(1e-6, "stop when the (proximal) gradient's norm is tol times that at zero")
    max_iter: int = base.setting(2000, "most iterations")
    metric: str = base.setting("diagonal", "scaling of the columns", ("diagonal", "none"))

    def check(self, problem: Problem) -> None:
        """Any problem will do."""

    def init(self, problem: Problem, ctx: Runtime, w0: Vector | None = None) -> NesterovState:
        objective = Objective(problem, ctx)
        point, common = base.begin(objective, w0, self.tol)
        metric, lipschitz = start_metric(objective, point, self.metric)
        common["passes"] = objective.passes
        return NesterovState(**common, x=point.w, metric=metric, lipschitz=lipschitz)

    def step(self, problem: Problem, state: NesterovState, ctx: Runtime) -> NesterovState:
        objective = Objective(problem, ctx)
        at = base.resume(objective, state)
        double = base.wants_double(objective, state)
        lipschitz, theta = state.lipschitz, state.theta
        for _ in range(LARGEST):
            D = lipschitz * state.metric
            x = soft(at.w - at.gradient / D, objective.lasso / D)
            if float((D * (at.w - x)) @ (x - state.x)) > 0:
                theta = 1.0  # the momentum points uphill: restart
            grown = 0.5 * (1 + sqrt(1 + 4 * theta * theta * lipschitz / state.lipschitz))
            end = objective.at(x + (theta - 1) / grown * (x - state.x), double)
            bend = self._curvature(objective, at, end, state.metric)
            if bend <= lipschitz * (1 + 1e-6):
                row = {"step": 1 / lipschitz, "passes": objective.passes, "restart": theta == 1.0}
                new = base.advance(objective, state, end, self.tol, self.max_iter, row)
                return replace(new, x=x, lipschitz=max(SHRINK * lipschitz, 1e-300), theta=grown)
            lipschitz = max(GROW * lipschitz, bend) if np.isfinite(bend) else 16 * lipschitz
        return base.stalled(objective, state)

    @staticmethod
    def _curvature(objective: Objective, start: Point, end: Point, metric: Vector) -> float:
        """The least Lipschitz constant for which the quadratic bound from `start` holds at `end`."""
        if not (np.isfinite(end.value) and np.all(np.isfinite(end.gradient))):
            return np.inf
        d = end.w - start.w
        square = float(d @ (metric * d))
        if square == 0:
            return 0.0
        smooth = end.value - start.value - float(objective.lasso @ (np.abs(end.w) - np.abs(start.w)))
        excess = smooth - float(start.gradient @ d)
        if abs(excess) < 1e-6 * abs(start.value):  # differences of values are rounding here, those of gradients are not
            excess = 0.5 * float((end.gradient - start.gradient) @ d)
        return 2 * excess / square

    def solution(self, state: NesterovState) -> Vector:
        return state.w
