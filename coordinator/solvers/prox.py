"""Proximal Newton for l1 and elastic net, and its subproblem, a quadratic with weighted l1, solved to rounding.

    min_u  g'u + u'Hu / 2 + sum_j lasso_j |w_j + u_j|

Coordinate descent finds the support, Newton on the support finishes it, and all other coordinates cost one vectorised
test of their optimality conditions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from coordinator.errors import InputError
from coordinator.problem import Problem
from coordinator.runtime import Runtime
from coordinator.solvers import base
from coordinator.solvers.linesearch import line_search
from coordinator.solvers.metric import rounding
from coordinator.solvers.objective import Matrix, Objective, Point, Vector
from sketches import factor

FLOOR: Final = 1e-12  # added to a matrix of unit diagonal, to be factored
SWEEPS: Final = 5  # of coordinate descent between two Newton steps on the support
ROUNDS: Final = 200
ROUNDING: Final = 1e-14  # relative change of the objective that is none
FEWEST: Final = 100  # features of a working set, at least
ENTRANTS: Final = 10  # that may enter one, at least
EARLY: Final = 0.1
INNER: Final = 0.1  # tolerance of a subproblem relative to the residual (spec D5), or less: see `_inner`
TRIALS: Final = 8  # of damping in one step
FULL: Final = 3000  # multi-class: with more coordinates than this the Hessian is taken class by class


def violation(r: Vector, v: Vector, lasso: Vector) -> Vector:
    """The least subgradient of each coordinate at v, given the gradient r of the smooth part: 0 at an optimum."""
    at_zero = np.sign(r) * np.maximum(np.abs(r) - lasso, 0.0)
    return np.where((v != 0) | (lasso == 0), r + lasso * np.sign(v), at_zero)


def prox_direction(H: Matrix, g: Vector, w: Vector, lasso: Vector, tol: float = 0.0) -> Vector:
    """The minimiser u of the subproblem.

    Coordinate descent over an active set (Friedman, Hastie and Tibshirani 2010), and a feature-sign step on its support
    (Lee, Battle, Raina and Ng, "Efficient sparse coding algorithms", NIPS 2006): solve for the signs at hand, and go
    there or to the best point on the way at which signs change. Every step decreases the objective.

    Parameters
    ----------
    H : (p, p) symmetric positive semidefinite; a sketch or an average of sketches will do.
    g, w : (p,) gradient of the smooth part and parameters.
    lasso : (p,) >= 0; 0 for what is not penalised.
    tol : norm of the least subgradient at which to stop; rounding error in any case.

    Returns
    -------
    (p,) u; w + u is exactly zero off the support.
    """
    diagonal = np.diag(H).copy()
    diagonal = np.where(diagonal > 0, diagonal, max(float(diagonal.max(initial=0.0)), 1e-300)) * (1 + FLOOR)
    v = w.astype(np.float64, copy=True)
    r = np.array(g, dtype=np.float64)  # g + H (v - w)
    limit = max(tol, 1e-14 * float(np.linalg.norm(np.abs(g) + lasso)))
    active = (v != 0) | (lasso == 0)
    least, rough = np.inf, True
    for _ in range(ROUNDS):
        wrong = violation(r, v, lasso)
        norm = float(np.linalg.norm(wrong))
        fresh = np.flatnonzero(~active & (wrong != 0))
        if norm <= limit or not (fresh.size or rough or norm <= 0.5 * least):
            break  # done, or rounding decides
        least = min(least, norm)
        # of the coordinates that want to leave zero, those that want it most: at most as many as there are already
        room = max(20, int(active.sum()))
        active[fresh[np.argsort(-np.abs(wrong[fresh]), kind="stable")[:room]]] = True
        A = np.flatnonzero(active)
        # a set that will grow is solved roughly, the last one to the end
        rough = bool(fresh.size)
        enough = max(limit, EARLY * norm) if rough else limit
        changed = _solve_active(H[np.ix_(A, A)], r[A], v[A], lasso[A], diagonal[A], enough)
        delta = changed - v[A]
        if not (np.any(delta) or rough):
            break
        v[A] = changed
        moved = np.flatnonzero(v != w)  # also those that have come to zero and left the set
        r = g + H[:, moved] @ (v[moved] - w[moved])
        active = (v != 0) | (lasso == 0)
    out: Vector = v - w
    return out


def _solve_active(H: Matrix, r: Vector, v: Vector, lasso: Vector, diagonal: Vector, limit: float) -> Vector:
    """Minimise over all coordinates of H from v, where the smooth gradient is r."""
    start, g = v.copy(), r.copy()
    v, r = v.copy(), r.copy()
    first = value = float(lasso @ np.abs(v))
    idle = 0
    for _ in range(ROUNDS):
        _sweeps(H, r, v, lasso, diagonal)
        done = float(np.linalg.norm(violation(r, v, lasso))) <= 0.1 * limit or not _sign_step(H, r, v, lasso)
        if done or float(np.linalg.norm(violation(r, v, lasso))) <= limit:
            break
        before, value = value, 0.5 * float((g + r) @ (v - start)) + float(lasso @ np.abs(v))
        idle = idle + 1 if before - value <= ROUNDING * (abs(first) + abs(first - value)) else 0
        if idle == 2:
            break  # a singular H: what is left is the rounding error of r along its null space
    return v


def _sweeps(H: Matrix, r: Vector, v: Vector, lasso: Vector, diagonal: Vector) -> None:
    """Coordinate descent, in place; coordinates that are zero and stay zero are skipped by a vectorised test."""
    for _ in range(SWEEPS):
        todo = np.flatnonzero((v != 0) | (np.abs(r) > lasso))
        largest = 0.0
        for j in todo:
            h = diagonal[j]
            z = v[j] - r[j] / h
            t = lasso[j] / h
            new = z - t if z > t else z + t if z < -t else 0.0
            delta = new - v[j]
            if delta != 0.0:
                v[j] = new
                r += delta * H[j]
                largest = max(largest, abs(delta) * h / (abs(r[j]) + lasso[j] + 1e-300))
        if largest < 1e-3:
            break


def _sign_step(H: Matrix, r: Vector, v: Vector, lasso: Vector) -> bool:
    """Newton on the support, in place; False when it does not decrease the objective."""
    S = np.flatnonzero((v != 0) | (lasso == 0))
    if not S.size:
        return False
    sign = np.sign(v[S])
    K = H[np.ix_(S, S)]
    scale = 1 / np.sqrt(np.maximum(np.diag(K), 1e-300))
    scaled = K * scale[:, None] * scale[None, :]
    scaled[np.diag_indices_from(scaled)] += FLOOR
    slope = r[S] + lasso[S] * sign
    d = -scale * factor(scaled).solve(scale * slope)
    if not np.all(np.isfinite(d)):
        return False
    Kd = K @ d
    bend = float(d @ Kd)
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = -v[S] / d
    inside = np.flatnonzero((crossings > 0) & (crossings < 1) & (lasso[S] > 0))
    steps = np.append(crossings[inside], 1.0)
    # the change of the objective at every sign change on the way, and at its end
    smooth = steps * float(r[S] @ d) + 0.5 * steps**2 * bend
    penalty = np.array([lasso[S] @ (np.abs(v[S] + t * d) - np.abs(v[S])) for t in steps])
    change = smooth + penalty
    best = int(np.argmin(change))
    if not change[best] < 0 and not (best == len(inside) and change[best] <= 1e-14 * abs(float(slope @ d))):
        return False
    v[S] += steps[best] * d
    if best < len(inside):
        v[S[inside[best]]] = 0.0
    r += H[:, S] @ (steps[best] * d)
    return True


@dataclass(frozen=True)
class ProximalState(base.State):
    """With the damping of the next Hessian, in units of its diagonal."""

    damping: float = 0.0


@dataclass(frozen=True)
class ProximalNewton:
    """w <- w + a u, with u the minimiser of the quadratic model plus l1, and a line search on the objective.

    Lee, Sun and Saunders, "Proximal Newton-type methods for minimizing composite functions" (SIAM J. Optimization 24,
    2014); spec D5. The Hessian is exact. With more features than `columns` it is taken in a working set only: the
    features in use and those that violate their optimality conditions most, in all at least 100 and twice as many as
    are in use, up to `columns`, or half as many again as are in use where that is more (after Massias, Gramfort and
    Salmon, "Celer", ICML 2018, who grow theirs by a dual bound). So d >> n asks for a small matrix. Multi-class models
    of more than 3000 coordinates take the Hessian class by class. Where the model reaches too far (a step below
    1/10, or none), its diagonal is raised (Levenberg and Marquardt).

    With the squared loss it stops at a duality gap of tol times the objective (spec D4), else at the norm of the least
    subgradient.
    """

    name: ClassVar[str] = "proximal-newton"
    summary: ClassVar[str] = "exact proximal Newton for l1 and elastic net, also when d >> n"
    state: ClassVar[type[ProximalState]] = ProximalState

    tol: float = base.setting(1e-6, "stop when the least subgradient is tol times that at zero, or the gap tol times f")
    max_iter: int = base.setting(200, "most steps")
    columns: int = base.setting(1000, "with more features than this, the Hessian is taken in a working set of them")

    def check(self, problem: Problem) -> None:
        if self.columns < 1:
            raise InputError(f"proximal-newton: columns must be >= 1, not {self.columns}")
        if not problem.penalty.l1 and problem.data.n_features > self.columns:
            raise InputError("proximal-newton needs l1 for so many features: use oversketched-newton or lbfgs")

    def init(self, problem: Problem, ctx: Runtime, w0: Vector | None = None) -> ProximalState:
        _, common = base.begin(Objective(problem, ctx), w0, self.tol)
        return ProximalState(**common)

    def step(self, problem: Problem, state: ProximalState, ctx: Runtime) -> ProximalState:
        objective = Objective(problem, ctx)
        point = base.resume(objective, state)
        features = self._features(problem, objective, point)
        rows = np.append(features, problem.data.n_features) if problem.intercept else features
        what = "full" if problem.n_outputs == 1 or problem.n_outputs * rows.size <= FULL else "class"
        if len(features) == problem.data.n_features:
            grams = objective.gram(point, what)
        else:
            grams = objective.gram_columns(point, features, what)
        double, tol = base.wants_double(objective, state), self._inner(problem, state)
        end, step, damping = None, 0.0, state.damping
        for _ in range(TRIALS):
            u = self._direction(objective, point, rows, grams, damping, tol)
            end, step = line_search(objective, point, u, double)
            if end is not None:
                break
            damping = max(100 * damping, 1e-4)
        if end is None:
            return base.stalled(objective, state)
        gap = duality_gap(objective, end)
        row = {
            "step": step,
            "passes": objective.passes,
            "support": int(np.count_nonzero(end.w[objective.lasso > 0])),
            "columns": len(features),
            **({"damping": damping} if damping else {}),
            **({} if gap is None else {"gap": gap}),
        }
        if step < 0.1:
            damping = max(10 * damping, 1e-4)
        elif step >= 0.5:
            damping = 0.1 * damping if damping > 1e-6 else 0.0
        new = base.advance(objective, state, end, self.tol, self.max_iter, row, damping=damping)
        return replace(new, reason="converged") if gap is not None and gap <= self.tol * abs(end.value) else new

    def _inner(self, problem: Problem, state: ProximalState) -> float:
        """Tolerance of the subproblem: tight where it is the problem itself, else enough for fast convergence."""
        exact = 0.01 * self.tol * state.residual0
        if problem.loss.name == "squared":
            return exact
        return max(exact, INNER * min(1.0, 10 * state.relative) * state.residual)

    def _features(self, problem: Problem, objective: Objective, point: Point) -> NDArray[np.int64]:
        """The working set: all features, or those in use and the worst violators, in increasing order."""
        d, K = problem.data.n_features, problem.n_outputs
        if d <= self.columns:
            return np.arange(d)
        wrong = np.abs(violation(point.gradient, point.w, objective.lasso)).reshape(-1, K)[:d].max(axis=1)
        used = (point.w.reshape(-1, K)[:d] != 0).any(axis=1)
        n_used = int(used.sum())
        # more than are in use in any case, or no other could ever enter
        size = min(max(FEWEST, 2 * n_used), max(self.columns, n_used + n_used // 2 + ENTRANTS))
        order = np.lexsort((-wrong, ~used))
        chosen = order[:size]
        return np.sort(chosen[used[chosen] | (wrong[chosen] > 0)])

    def _direction(
        self,
        objective: Objective,
        point: Point,
        rows: NDArray[np.int64],
        grams: list[Matrix],
        damping: float,
        tol: float,
    ) -> Vector:
        K = objective.problem.n_outputs
        u = np.zeros(objective.problem.n_parameters)
        with objective.ctx.linalg():
            for k, G in enumerate(grams):
                at = rows * K + k if len(grams) > 1 else (rows[:, None] * K + np.arange(K)).ravel()
                H = G.copy()
                extra = 1 + rounding(objective.problem.data.dtype, len(H)) + damping
                H[np.diag_indices_from(H)] = np.diag(G) * extra + objective.ridge[at]
                share = tol / np.sqrt(len(grams))
                u[at] = prox_direction(H, point.gradient[at], point.w[at], objective.lasso[at], share)
        return u

    def solution(self, state: ProximalState) -> Vector:
        return state.w


def duality_gap(objective: Objective, point: Point) -> float | None:
    """Upper bound of f(w) - min f for the squared loss with l1 (spec D4); None where there is none.

    With R the residuals and l2's sqrt(l2) w stacked, f = |R|^2 / 2 + l1 |w|_1, and R scaled into the feasible set is a
    dual point; all it takes is known from the gradient. An intercept's gradient must be zero for that; what is left of
    it is added.
    """
    if objective.problem.loss.name != "squared" or not objective.problem.penalty.l1:
        return None
    g, w, free = point.gradient, point.w, objective.lasso == 0
    smooth = point.value - float(objective.lasso @ np.abs(w))
    largest = float(np.abs(g[~free]).max(initial=0.0))
    scale = min(1.0, objective.problem.penalty.l1 / largest) if largest > 0 else 1.0
    dual = scale * (2 * smooth - float(g @ w)) - scale**2 * smooth
    return float(point.value - dual + np.abs(g[free]) @ np.abs(w[free]))
