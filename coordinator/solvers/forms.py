"""Convex programs in the form of the interior-point solver: min q(x) subject to slacks > 0, q linear or diagonal.

A linear program is in that form; the lasso is solved through its dual, whose variables are as many as rows
("OverSketched Newton", arXiv 1903.08857, section 4.3 and 4.4). At a Newton step that stays inside, the barrier's
multipliers are dual feasible (linear program) or give a primal point (lasso), and the gap between the two is what the
iteration stops on. On the central path it is (number of constraints) / tau at most.

Every form has `linear` and `quadratic`, q being linear'x + x'diag(quadratic)x / 2, the barrier's `objective`, the
`count` of constraints, and a `normal` where normal'x = 0 is asked for. `certify` says what holds at x, the unit Newton
step from a point; `pull` is the proximal term's gradient there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coordinator.data.blocks import RowBlocks
from coordinator.linear_program import LinearProgram
from coordinator.problem import Penalty, Problem
from coordinator.runtime import Runtime
from coordinator.solvers.barriers import BoxBarrier, LogBarrier
from coordinator.solvers.objective import Objective, Point, Vector
from coordinator.tasks import total


@dataclass(frozen=True)
class Newton:
    """A Newton step on the barrier objective.

    Attributes
    ----------
    p : direction, inside the equality.
    force : gradient + Hessian p, inside the equality: zero as far as the system was solved.
    decrement : sqrt(-p'gradient), the length of the step in the Hessian's norm; nan when there is no step.
    inner : conjugate gradient iterations.
    """

    p: Vector
    force: Vector
    decrement: float
    inner: int


@dataclass(frozen=True)
class Certificate:
    """What is proved at a Newton step: a solution `w`, its objective `value`, and how far it can be from the best.

    Attributes
    ----------
    gap, lacking : any solution w* is better by gap + lacking |w*|_1 at most. What the multipliers lack to be dual
        feasible, by its largest entry, is `lacking`; 0 for the lasso.
    """

    w: Vector
    value: float
    gap: float
    lacking: float = 0.0


@dataclass(frozen=True, eq=False)
class LinearForm:
    """A linear program, or with `violation` its first phase: min t subject to Ax - t <= b, -t being the intercept."""

    objective: Objective
    linear: Vector
    normal: Vector | None = None

    @classmethod
    def of(cls, program: LinearProgram, ctx: Runtime, *, violation: bool) -> LinearForm:
        problem = Problem(program.data, LogBarrier(), Penalty(), intercept=violation)
        linear = np.append(np.zeros_like(program.c), -1.0) if violation else program.c
        return cls(Objective(problem, ctx), linear)

    @property
    def quadratic(self) -> Vector:
        return np.zeros_like(self.linear)

    @property
    def count(self) -> int:
        return self.objective.problem.data.n_rows

    def certify(self, x: Vector, point: Point, newton: Newton, squares: float, tau: float, pull: Vector) -> Certificate:  # noqa: ARG002
        rest = (newton.force - pull) / tau  # c + A'multipliers
        # multipliers (1 + rate) / slack times slacks slack (1 - rate), over tau
        gap = (self.count - squares) / tau + abs(float(rest @ x))
        return Certificate(x, float(self.linear @ x), gap, float(np.abs(rest).max()))


@dataclass(frozen=True, eq=False)
class LassoForm:
    """The dual of sum s (y - Xw - b)^2 / 2 + bound |w|_1 over transposed rows: min |y - t/s|^2_s / 2, |X't| <= bound.

    The variable t is s times the residual, and sums to zero when there is an intercept: so are columns centred without
    touching them. The objective is divided by sum s, as `coordinator.problem` has it.
    """

    objective: Objective
    y: Vector
    s: Vector
    bound: float
    intercept: bool

    @classmethod
    def of(cls, turned: RowBlocks, y: Vector, s: Vector, problem: Problem, ctx: Runtime) -> LassoForm:
        """The dual of the lasso `problem` over `turned`, its data transposed, with targets y and row weights s."""
        bound = problem.penalty.l1 * float(s.sum())
        columns = Problem(turned, BoxBarrier(bound), Penalty(), intercept=False)
        return cls(Objective(columns, ctx), y, s, bound, problem.intercept)

    @property
    def linear(self) -> Vector:
        return -self.y

    @property
    def quadratic(self) -> Vector:
        return 1.0 / self.s

    @property
    def normal(self) -> Vector | None:
        return np.ones_like(self.y) if self.intercept else None

    @property
    def count(self) -> int:
        return 2 * self.objective.problem.data.n_rows

    def certify(self, x: Vector, point: Point, newton: Newton, squares: float, tau: float, pull: Vector) -> Certificate:  # noqa: ARG002
        w = self.multipliers(point, newton.p, None) / tau
        # Xw by the Newton system, but for a multiple of the normal, which the intercept takes up
        return self.gap(x, w, newton.force / tau + self.y - x / self.s)

    def gap(self, t: Vector, w: Vector, product: Vector) -> Certificate:
        """Primal at coefficients `w`, whose Xw is `product`, against the dual at `t`; both feasible.

        P - D = sum s (r - t/s)^2 / 2 + sum (bound |w| - w a), a = X't, needs no difference of large numbers.
        """
        total_weight = self.s.sum()
        b = float(self.s @ (self.y - product)) / total_weight if self.intercept else 0.0
        r = self.y - product - b
        size = self.bound * float(np.abs(w).sum())
        primal = 0.5 * float(self.s @ r**2) + size
        gap = 0.5 * float(self.s @ (r - t / self.s) ** 2) + size - float(product @ t)
        parameters = np.append(w, b) if self.intercept else w
        return Certificate(parameters, primal / total_weight, gap / total_weight)

    def polish(self, found: Certificate, x: Vector, point: Point, newton: Newton, tau: float) -> Certificate:
        """Zero the coefficients that no solution can have, by the gap found at x, and take Xw anew from the data.

        The dual is strongly concave in the metric 1/s, so that its solution is within sqrt(2 gap) of x.
        """
        radius = float(np.sqrt(2 * max(found.gap, 0.0) * self.s.sum()))
        w = self.multipliers(point, newton.p, radius) / tau
        return self.gap(x, w, self.combine(w))

    def multipliers(self, point: Point, p: Vector, radius: float | None) -> Vector:
        """Net multipliers of all columns at the Newton step, (d,)."""
        ctx = self.objective.ctx
        inputs = {"w": point.key, "p": ctx.put(p), "s": ctx.put(self.s)}
        parts = self.objective.run("multipliers", "barrier.multipliers", inputs, double=True, radius=radius)
        return np.concatenate([part for (part,) in parts])

    def combine(self, w: Vector) -> Vector:
        """Xw (n,) from the transposed rows: one pass."""
        data = self.objective.problem.data
        params = [{"offset": int(end) - n} for end, n in zip(np.cumsum(data.rows), data.rows, strict=True)]
        blocks = [(key,) for key in data.keys]
        inputs = {"v": self.objective.ctx.put(w)}
        (out,) = total(self.objective.phase("combine", "barrier.combine", blocks, inputs, double=True, params=params))
        self.objective.passes += 1
        return out


Form = LinearForm | LassoForm
