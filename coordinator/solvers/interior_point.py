"""The interior-point solver: linear programs and the lasso, by barrier Newton steps with sketched Hessians.

"OverSketched Newton" (arXiv 1903.08857), sections 4.3 and 4.4, after Boyd and Vandenberghe, "Convex Optimization",
chapter 11. Each step is a Newton step on tau q(x) - sum log(slack); once a step is centred tau grows tenfold.

Deviations from the paper:

* A sketched Hessian is the preconditioner of conjugate gradients on the exact one, not its replacement, so that the
  duality gap, which needs true Newton steps, certifies the result.
* The gap is taken at the Newton step, where the multipliers are dual feasible, not assumed to be constraints / tau.
* The paper starts from a feasible point; here a first phase, the same method with one variable more, finds one.
* A small proximal term around the centre of each tau keeps the path where the set of solutions is unbounded. Its pull
  counts in the gap.
* The lasso's intercept is an equality in the dual; coefficients that the gap proves to be zero are zeroed in the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from coordinator.errors import InputError
from coordinator.linear_program import LinearProgram
from coordinator.losses import Squared
from coordinator.problem import Problem
from coordinator.runtime import Runtime
from coordinator.solvers.base import State, setting
from coordinator.solvers.coded import read_targets
from coordinator.solvers.forms import Certificate, Form, LassoForm, LinearForm, Newton
from coordinator.solvers.objective import Objective, Point, Vector
from coordinator.solvers.systems import barrier_hessian, newton_step
from coordinator.solvers.transpose import transpose_blocks
from coordinator.tasks import total
from sketches.factor import factor

CENTRED: Final = 0.5  # decrement from which tau grows; below 1 all slacks and multipliers stay positive
SAFE: Final = 0.25  # decrement from which the unit step needs no search
MARGIN: Final = 0.99  # of the way to the boundary
STEPS: Final = (4.0, 2.0, 1.0, *(2.0**-j for j in range(1, 11)))
PROXIMAL: Final = 1e-6  # of the barrier's curvature at the start
START: Final = 0.1  # of the tau at which the cost pulls as hard as a barrier can push
RAY: Final = 1e-10  # climb towards constraints, per fall of the objective and both relative, that counts as none
FARKAS: Final = 1e4  # a point that many times farther out than x, or more, is not searched for
FALL: Final = 1e-8  # fall of the objective, relative to |c||p|, that is not rounding
SHALLOW: Final = 0.1  # largest rate along a step that may be a ray
INSIDE: Final = 0.9  # of the lasso's box at which its dual starts
LARGEST: Final = 20_000  # variables of the dense Newton system
DENSE: Final = 500  # variables up to which an exact Hessian is cheap
TALL: Final = 20  # constraints per variable up to which it is
CONVERGED: Final = "converged"


@dataclass(frozen=True)
class BarrierState(State):
    """An iterate of the barrier method. `residual` is the duality gap of `w` and `value`; inf while none is known.

    Attributes
    ----------
    residual0 : violation at the start; 0 if there was none.
    x, gradient : iterate and the barrier's gradient there, per row. In the first phase the last entry of x is -t, t
        being an upper bound of all violations.
    tau : weight of the objective against the barrier; 0 before it is chosen.
    first : whether this is the first phase.
    proximal, anchor : the proximal term is sum proximal (x - anchor)^2 / 2.
    chosen : how Hessians are taken, and the figures it was chosen on.
    """

    x: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    tau: float = 0.0
    first: bool = False
    proximal: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    anchor: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    chosen: dict[str, Any] = field(default_factory=dict)

    @property
    def relative(self) -> float:
        """The gap over 1 + |objective|: what the tolerance is compared with."""
        return self.residual / (1 + abs(self.value))


@dataclass(frozen=True)
class InteriorPoint:
    """Barrier Newton steps to a duality gap <= tol (1 + |objective|)."""

    name: ClassVar[str] = "interior-point"
    summary: ClassVar[str] = "linear programs, and the lasso with more columns than rows, to a duality gap"
    state: ClassVar[type[BarrierState]] = BarrierState
    measure: ClassVar[str] = "relative gap"  # what `relative` of its states is

    tol: float = setting(1e-8, "stop at a duality gap of tol x (1 + |objective|)")
    max_iter: int = setting(500, "Newton steps, both phases together")
    mu: float = setting(10.0, "growth of tau once a step is centred, > 1")
    hessian: str = setting("auto", "exact, or a sketch that preconditions it", ("auto", "exact", "sketch", "tiles"))
    rows: float = setting(6.0, "sketch rows in units of variables")
    spare: int = setting(0, "tiled sketches that a step may leave out when they are late")
    seed: int = setting(0, "seed of the sketches")

    def check(self, problem: Problem | LinearProgram) -> None:
        if not self.mu > 1 or not self.rows >= 1 or self.spare < 0:
            raise InputError(
                "interior-point: mu must be > 1, rows >= 1 and spare >= 0, "
                f"not {self.mu:g}, {self.rows:g} and {self.spare}"
            )
        if isinstance(problem, LinearProgram):
            size, what = problem.data.n_features, "columns of a linear program"
        elif isinstance(problem.loss, Squared) and problem.penalty.l1 > 0 and problem.penalty.l2 == 0:
            size, what = problem.data.n_rows, "rows of a lasso"
        else:
            raise InputError(
                "interior-point solves linear programs and the lasso (loss 'squared', l1 > 0, l2 = 0), "
                f"not loss {problem.loss.name!r} with l1 = {problem.penalty.l1} and l2 = {problem.penalty.l2}"
            )
        if size > LARGEST:
            raise InputError(f"interior-point takes up to {LARGEST} {what}, not {size}: use oversketched-newton")

    def init(self, problem: Problem | LinearProgram, ctx: Runtime, w0: Vector | None = None) -> BarrierState:
        """The start at `w0` (default 0): where that is infeasible, with its violation as one variable more."""
        w = np.zeros(problem.n_parameters) if w0 is None else np.array(w0, dtype=np.float64)
        if w.shape != (problem.n_parameters,):
            raise InputError(f"the starting point has {w.size} parameters, the problem {problem.n_parameters}")
        if isinstance(problem, LinearProgram):
            return self._init_linear(problem, ctx, w)
        return self._init_lasso(problem, ctx, w)

    def step(self, problem: Problem | LinearProgram, state: BarrierState, ctx: Runtime) -> BarrierState:
        """One Newton step; `reason` begins with "infeasible" or "unbounded" where a linear program is so."""
        form = _form(problem, ctx, first=state.first)
        objective = form.objective
        point = _resume(objective, state)
        how = state.chosen["strategy"]
        H = barrier_hessian(
            objective, point, how, rows=self.rows, spare=self.spare, seed=self.seed, iteration=state.iteration
        )
        if not state.tau:
            state = _choose_tau(form, state, H)
        g = state.tau * (form.linear + form.quadratic * state.x) + state.proximal * (state.x - state.anchor)
        extra = state.tau * form.quadratic + state.proximal
        exact = how == "exact" and objective.problem.data.dtype == "float64"
        push = point.gradient * objective.weight  # of the barrier
        newton = newton_step(objective, point, g + push, H, extra, form.normal, exact=exact)
        inputs = {"w": point.key, "p": ctx.put(newton.p)}
        looks = np.array([look for (look,) in objective.run("look", "barrier.look", inputs, double=True)])
        objective.passes += 1
        top, size, squares = float(looks[:, 0].max()), float(looks[:, 1].max()), float(looks[:, 2].sum())
        row = {"strategy": how, "phase": 1 if state.first else 2, "tau": state.tau, "decrement": newton.decrement}
        row |= {"cg": newton.inner} if newton.inner else {}
        if isinstance(problem, LinearProgram) and not state.first and _endless(form, newton, inputs, top):
            reason = "unbounded: the objective falls without end along a feasible ray; bound the variables"
            return _end(state, objective, row, reason)
        step = 1.0
        if not newton.decrement <= SAFE:
            growth = float(g @ newton.p), 0.5 * float(newton.p @ (extra * newton.p))
            step = _search(objective, inputs, growth, MARGIN / max(top, 1e-300))
        x = state.x + step * newton.p
        new = objective.at(x, double=True) if step else None
        if new is None or not np.isfinite(new.value):
            return _end(state, objective, row, _stalled(state))
        ctx.cache["barrier-point"] = new
        ctx.release()
        found = None
        if size < 1:  # the unit step stays inside, and its multipliers are positive
            unit = state.x + newton.p
            found = form.certify(unit, point, newton, squares, state.tau, state.proximal * (unit - state.anchor))
        state = replace(state, iteration=state.iteration + 1, x=x, gradient=new.gradient, row={**row, "step": step})
        if isinstance(problem, LinearProgram) and state.first:
            state = self._violation(problem, ctx, objective, state, found)
        elif found is not None:
            state = self._certified(form, state, point, newton, found)
        elif not np.isfinite(state.residual):
            state = replace(state, w=x, value=float(form.linear @ x))
        if newton.decrement <= CENTRED and state.tau:
            state = replace(state, tau=state.tau * self.mu, anchor=state.x)
        state = replace(state, passes=state.passes + objective.passes)
        if state.reason is None and state.iteration >= self.max_iter:
            where = "before a feasible point was found" if state.first else f"at a gap of {state.residual:.3g}"
            reason = f"stopped after {self.max_iter} iterations, {where}: raise max_iter, or scale the columns"
            return replace(state, reason=reason)
        return state

    def solution(self, state: BarrierState) -> Vector:
        """Parameters of the last certified iterate."""
        return state.w

    def _certified(
        self, form: Form, state: BarrierState, point: Point, newton: Newton, found: Certificate
    ) -> BarrierState:
        reason = None
        limit = self.tol * (1 + abs(found.value))
        if found.gap <= limit and found.lacking <= self.tol * (1 + float(np.abs(form.linear).max())):
            reason = CONVERGED
            if isinstance(form, LassoForm):
                polished = form.polish(found, state.x, point, newton, state.tau)
                # with Xw taken anew; where that shows a larger gap the iteration goes on
                reason = CONVERGED if polished.gap <= limit else None
                found = polished if reason else found
        return replace(state, w=found.w, value=found.value, residual=found.gap, reason=reason)

    def _violation(
        self,
        problem: LinearProgram,
        ctx: Runtime,
        objective: Objective,
        state: BarrierState,
        found: Certificate | None,
    ) -> BarrierState:
        """The first phase after a step: whether it has reached the inside, or can never."""
        t, x = -float(state.x[-1]), state.x[:-1]
        state = replace(state, w=x, value=float(problem.c @ x), row={**state.row, "violation": max(t, 0.0)})
        if t < 0:
            inside = LinearForm.of(problem, ctx, violation=False).objective
            ctx.cache["barrier-point"] = point = inside.at(x, double=True)
            objective.passes += inside.passes
            return replace(state, x=x, gradient=point.gradient, first=False, tau=0.0)
        if found is None:
            return state
        least = found.value - found.gap - found.lacking * FARKAS * (1 + float(np.abs(x).sum()))
        if least > self.tol * state.residual0:
            reason = f"infeasible: every x violates a constraint by {least:.3g} or more; relax some"
            return replace(state, reason=reason)
        if found.gap <= self.tol * state.residual0 and t <= 10 * self.tol * state.residual0:
            reason = "no interior: the constraints leave no room; widen pairs of them that are meant as equalities"
            return replace(state, reason=reason)
        return state

    def _init_linear(self, problem: LinearProgram, ctx: Runtime, w: Vector) -> BarrierState:
        form = LinearForm.of(problem, ctx, violation=False)
        parts = form.objective.run("violation", "barrier.violation", {"w": ctx.put(w)}, double=True)
        worst = max(float(part) for (part,) in parts)
        t = worst + max(1.0, worst)
        if worst >= 0:
            form = LinearForm.of(problem, ctx, violation=True)
        x, violation = (np.append(w, -t), t) if worst >= 0 else (w, 0.0)
        form.objective.passes += 1
        state = self._state(form, x, first=worst >= 0)
        return replace(state, w=w, value=float(problem.c @ w), residual0=violation)

    def _init_lasso(self, problem: Problem, ctx: Runtime, w: Vector) -> BarrierState:
        form = _lasso(problem, ctx)
        turned = form.objective.problem.data
        beta = w[: turned.n_rows]
        product = form.combine(beta) if np.any(beta) else np.zeros(turned.n_features)
        b = float(form.s @ (form.y - product)) / form.s.sum() if form.intercept else 0.0
        theta = form.s * (form.y - product - b)
        inputs = {"w": ctx.put(np.zeros_like(theta)), "p": ctx.put(theta)}
        looks = form.objective.run("look", "barrier.look", inputs, double=True)
        form.objective.passes += 3  # two of them to transpose the data
        widest = max(float(look[1]) for (look,) in looks)  # |X'theta| over its bound
        theta *= INSIDE / max(widest, INSIDE)
        found = form.gap(theta, beta, product)
        state = self._state(form, theta, first=False)
        state = replace(state, w=found.w, value=found.value, residual=found.gap)
        if state.relative <= self.tol:
            return replace(state, reason=CONVERGED)
        return replace(state, tau=form.count / (found.gap * form.s.sum()))

    def _state(self, form: Form, x: Vector, *, first: bool) -> BarrierState:
        objective = form.objective
        objective.ctx.cache["barrier-point"] = point = objective.at(x, double=True)
        n, d = objective.problem.data.n_rows, x.size
        how = self.hessian
        if how == "auto":
            how = "exact" if d <= DENSE or n <= TALL * d else "tiles"
        return BarrierState(
            iteration=0,
            w=x,
            value=np.inf,
            gradient=point.gradient,
            double=True,
            residual=np.inf,
            residual0=0.0,
            passes=objective.passes,
            x=x,
            first=first,
            proximal=np.zeros_like(x),
            anchor=x,
            chosen={"strategy": how, "constraints": form.count, "variables": d},
        )


def _form(problem: Problem | LinearProgram, ctx: Runtime, *, first: bool) -> Form:
    return LinearForm.of(problem, ctx, violation=first) if isinstance(problem, LinearProgram) else _lasso(problem, ctx)


def _lasso(problem: Problem, ctx: Runtime) -> LassoForm:
    """The dual, over columns as rows; a run makes them once."""
    name = f"transposed {problem.data.keys[0]}"
    if name not in ctx.cache:
        y, s = read_targets(Objective(problem, ctx))
        s = np.ones_like(y) if s is None else s
        if not s.min() > 0:
            raise InputError("interior-point: every row's weight must be > 0; leave out rows that do not count")
        ctx.cache[name] = (transpose_blocks(ctx, problem.data), y, s)
    turned, y, s = ctx.cache[name]
    return LassoForm.of(turned, y, s, problem, ctx)


def _resume(objective: Objective, state: BarrierState) -> Point:
    cached = objective.ctx.cache.get("barrier-point")
    if isinstance(cached, Point) and cached.w is state.x:
        return cached
    return objective.restore(state.x, 0.0, state.gradient, double=True)


def _choose_tau(form: Form, state: BarrierState, H: NDArray[np.float64]) -> BarrierState:
    """The first tau of a linear program, and its proximal term.

    At a centre tau^2 c'H^-1 c is at most the number of constraints; a tenth of that tau is easy to reach from anywhere.
    """
    diagonal = np.diag(H)
    proximal = PROXIMAL * (diagonal + diagonal.mean())
    with form.objective.ctx.linalg(len(H)):
        pull = float(form.linear @ factor(H + np.diag(proximal)).solve(form.linear))
    tau = START * float(np.sqrt(form.count / pull)) if pull > 0 else 1.0
    return replace(state, tau=tau, proximal=proximal, anchor=state.x)


def _endless(form: Form, newton: Newton, inputs: dict[str, str], top: float) -> bool:
    """Whether the step is a ray along which the objective falls and no constraint is ever met, to rounding.

    If the program had a dual solution u >= 0, c + A'u = 0, then sum u |a| / |c| would be 1 / RAY at least.
    """
    lengths = float(np.linalg.norm(form.linear)), float(np.linalg.norm(newton.p))
    fall = -float(form.linear @ newton.p) / max(lengths[0] * lengths[1], 1e-300)
    # most steps run into something at once: norms of rows are taken for those that do not
    if not (newton.decrement > 1 and top < SHALLOW and fall > FALL):
        return False
    climbs = form.objective.run("climb", "barrier.climb", {"p": inputs["p"]}, double=True)
    form.objective.passes += 1
    return max(float(climb) for (climb,) in climbs) <= RAY * fall * lengths[1]


def _search(objective: Objective, inputs: dict[str, str], growth: tuple[float, float], cap: float) -> float:
    """The best of STEPS up to `cap` for the barrier plus growth[0] t + growth[1] t^2; 0 if none is good."""
    steps = np.array(sorted({min(step, cap) for step in STEPS}, reverse=True))
    (barrier,) = total(objective.run("search", "barrier.search", inputs, double=True, steps=steps.tolist()))
    values = growth[0] * steps + growth[1] * steps**2 + barrier
    best = int(np.argmin(values))
    return float(steps[best]) if values[best] < 0 else 0.0


def _stalled(state: BarrierState) -> str:
    where = "before a feasible point was found" if state.first else f"at a gap of {state.residual:.3g}"
    return f"stopped {where}, where rounding hides all progress: raise tol, or scale the columns"


def _end(state: BarrierState, objective: Objective, row: dict[str, Any], reason: str) -> BarrierState:
    return replace(state, iteration=state.iteration + 1, passes=state.passes + objective.passes, row=row, reason=reason)
