"""OverSketched Newton: second-order steps from exact gradients and a sketched Hessian.

Gupta, Kadhe, Courtade, Mahoney and Ramchandran, "OverSketched Newton: fast convex optimization for serverless systems"
(arXiv 1903.08857). The paper takes p = -H^^-1 g from one fresh sketch an iteration: the strategy "sketch". The default
weighs it, by a cost model, against uses of the same sketches that need fewer passes or less time:

* "metric": one sketch as the metric of L-BFGS (spec C11), renewed when that is predicted to pay. Every pass is a
  gradient, so nothing is spent on inner iterations; where the sketch shows that columns scaled by its diagonal are
  well conditioned, the diagonal takes its place, which is plain L-BFGS;
* "averaged": a fresh sketch an iteration, debiased (2007.01327) and averaged (2204.09266), in the same metric (C10);
* "pcg": the preconditioner of conjugate gradients on the exact Hessian (C9, F), certified Newton steps;
* "exact": the exact Hessian.

What was chosen, and on which figures, is in the state's `chosen`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil, log
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.sparse.linalg import ArpackError, eigsh

from coordinator.errors import InputError
from coordinator.problem import Problem
from coordinator.profile import Profile
from coordinator.runtime import Runtime
from coordinator.solvers import costs
from coordinator.solvers.base import State, advance, begin, resume, setting, wants_double
from coordinator.solvers.linesearch import line_search
from coordinator.solvers.memory import Memory
from coordinator.solvers.metric import Dense, Diagonal, Metric, conjugate_gradients
from coordinator.solvers.objective import Objective, Point, Vector
from sketches import HessianAverage, debias, stream

STRATEGIES: Final = ("auto", "metric", "averaged", "pcg", "exact", "sketch")
LAWS: Final = ("sjlt", "countsketch", "gaussian", "less_uniform", "row_sampling")
MEMORY: Final = 10
GATE_STEP: Final = (0.65, 1.5)  # steps outside, or more drift, clear the L-BFGS memory (spec C11)
GATE_DRIFT: Final = 0.3
SETTLE: Final = 4  # iterations in a metric before its rate says whether to renew it
MAX_CG: Final = 500


@dataclass(frozen=True)
class NewtonState(State):
    """State of OverSketched Newton.

    Attributes
    ----------
    memory : curvature pairs.
    average : the averaged sketch.
    base_w, base_double, base_iteration : where the metric was built, from which it can be built again.
    diagonal : the metric when it is diagonal, else empty.
    rates : log-reduction of the residual in each iteration (CG: each pass) since then.
    fresh : the rate that a new metric is expected to give.
    chosen : the plan, and what became of it.
    """

    memory: Memory = field(default_factory=lambda: Memory.empty(0))
    average: HessianAverage | None = None
    base_w: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    base_double: bool = False
    base_iteration: int = -1
    diagonal: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    rates: list[float] = field(default_factory=list)
    fresh: float = 0.0
    chosen: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OverSketchedNewton:
    """See the module. Memory: the rows are read block by block; a model of the Hessian takes 8 q^2 bytes."""

    name: ClassVar[str] = "oversketched-newton"
    summary: ClassVar[str] = "sketched Newton; chooses exact, averaged, preconditioned or L-BFGS steps by a cost model"
    state: ClassVar[type[NewtonState]] = NewtonState

    tol: float = setting(1e-6, "stop when the gradient norm is below tol times the one at zero parameters")
    max_iter: int = setting(1000, "most iterations")
    seed: int = setting(0, "names the random streams of the sketches")
    strategy: str = setting("auto", "how the sketches are used; auto: least predicted seconds", STRATEGIES)
    sketch: str = setting(
        "sjlt", "law of the sketch", ("sjlt", "countsketch", "gaussian", "less_uniform", "row_sampling")
    )
    sketch_rows: int = setting(0, "rows of the sketch; 0: chosen by the cost model")
    hashes: int = setting(0, "non-zeros a column of an SJLT; 0: 2, or more where the rows prove to be coherent")
    copies: int = setting(1, "copies of each gradient task, of which the first counts (replication)")
    debias: bool = setting(True, "remove the inversion bias of a sketched Hessian")

    def check(self, problem: Problem) -> None:
        """InputError for settings that contradict the problem."""
        if self.sketch_rows < 0 or self.hashes < 0 or self.copies < 1:
            raise InputError(f"{self.name}: sketch_rows and hashes must be >= 0, copies >= 1")
        what = costs.Costs(problem, _NO_PROFILE).what
        if self.strategy in {"exact", "sketch", "averaged"} and what != "full":
            raise InputError(
                f"{self.name}: strategy {self.strategy!r} forms a matrix of all {problem.n_parameters} parameters; "
                "use strategy 'pcg' or 'auto'"
            )

    def init(self, problem: Problem, ctx: Runtime, w0: Vector | None = None) -> NewtonState:
        objective = self._objective(problem, ctx)
        _, common = begin(objective, w0)
        profile: Profile = ctx.cache["profile"]
        plan = costs.make_plan(problem, profile, self.tol, self.strategy, self.sketch_rows or None, self.hashes)
        chosen = {"strategy": plan.strategy, "plan": plan.spec(), "sketches": []}
        return NewtonState(**common, memory=Memory.empty(problem.n_parameters), chosen=chosen)

    def solution(self, state: NewtonState) -> Vector:
        return state.w

    def step(self, problem: Problem, state: NewtonState, ctx: Runtime) -> NewtonState:
        objective = self._objective(problem, ctx)
        point = resume(objective, state)
        if state.relative <= self.tol:
            return replace(state, reason="converged")
        move = _Move(self, objective, state, point)
        return {
            "metric": move.metric,
            "averaged": move.averaged,
            "pcg": move.pcg,
            "exact": move.exact,
            "sketch": move.sketched,
        }[state.chosen["plan"]["strategy"]]()

    def _objective(self, problem: Problem, ctx: Runtime) -> Objective:
        return Objective(problem, ctx, copies=self.copies)


@dataclass
class _Move:
    """One step of one strategy."""

    solver: OverSketchedNewton
    objective: Objective
    state: NewtonState
    point: Point
    row: dict[str, Any] = field(default_factory=dict)

    def metric(self) -> NewtonState:
        """L-BFGS in the metric of a sketch (or of its diagonal), renewed when that is predicted to be faster."""
        base = self._base()
        metric = self._metric(base)
        p = base.memory.direction(self.point.gradient, metric.solve)
        end, step = line_search(self.objective, self.point, p, self._double())
        if end is None and len(base.memory):
            base = replace(base, memory=Memory.empty(p.size))
            end, step = line_search(self.objective, self.point, -metric.solve(self.point.gradient), self._double())
        if end is None:
            return self._fallback()
        memory = base.memory.push(end.w - self.point.w, end.gradient - self.point.gradient, MEMORY)
        rate = log(max(float(np.linalg.norm(self.point.gradient)), 1e-300))
        rate -= log(max(float(np.linalg.norm(end.gradient)), 1e-300))
        self.state = replace(base, memory=memory, rates=[*base.rates, rate])
        return self._end(end, step, strategy="lbfgs" if base.diagonal.size else "metric")

    def exact(self) -> NewtonState:
        with_data = self.objective.gram(self.point)
        with self.objective.ctx.linalg():
            p = -Dense.of(with_data, self.objective.ridge).solve(self.point.gradient)
        return self._newton_step(p, strategy="exact")

    def sketched(self) -> NewtonState:
        """The paper's step; debiased, with the step length nu that goes with a single sketch (spec C1)."""
        (G,), m = self._sketch(self.point, self.state.iteration)
        with self.objective.ctx.linalg():
            nu = debias(G, self.objective.ridge, m).nu if self.solver.debias else 1.0
            p = -Dense.of([G / nu], self.objective.ridge).solve(self.point.gradient)
        self.row["sketch_rows"] = m
        return self._newton_step(p, first=nu, strategy="sketch")

    def averaged(self) -> NewtonState:
        """Averaged, debiased sketches as the metric of gated L-BFGS."""
        state, ridge = self.state, self.objective.ridge
        (G,), m = self._sketch(self.point, state.iteration)
        with self.objective.ctx.linalg():
            average = HessianAverage.start(G, ridge, m) if state.average is None else state.average.update(G, ridge, m)
            metric = Dense.of([average.gram / average.nu], ridge)
        memory = state.memory if average.drift <= GATE_DRIFT else Memory.empty(state.w.size)
        p = memory.direction(self.point.gradient, metric.solve)
        self.row |= {"sketch_rows": m, "worth": average.neff, "drift": average.drift}
        end, step = line_search(self.objective, self.point, p, self._double())
        if end is None and len(memory):
            memory = Memory.empty(state.w.size)
            p = -metric.solve(self.point.gradient)
            end, step = line_search(self.objective, self.point, p, self._double())
        if end is None:
            return self._fallback()
        if GATE_STEP[0] <= step <= GATE_STEP[1]:
            memory = memory.push(end.w - self.point.w, end.gradient - self.point.gradient, MEMORY)
        else:
            memory = Memory.empty(state.w.size)
        return self._end(end, step, strategy="averaged", memory=memory, average=average)

    def pcg(self) -> NewtonState:
        """Exact Newton steps by conjugate gradients; the preconditioner is kept while that is predicted faster."""
        base = self._base()
        metric = self._metric(base)
        relative, tol, plan = self.state.relative, self.solver.tol, self.state.chosen["plan"]
        eta = max(min(0.1, relative**0.5), min(0.3 * tol / relative, 0.5))
        expected = max(base.fresh, 0.1)
        limit = MAX_CG
        if plan["what"] != "diagonal":
            limit = min(limit, ceil(1.5 * log(1 / eta) / expected + self._build() / self._figure("read")) + 3)
        solved = conjugate_gradients(self.objective, self.point, metric, eta, limit)
        p = solved.direction if solved.iterations else -metric.solve(self.point.gradient)
        self.row["cg"] = solved.iterations
        self.state = replace(base, rates=[*base.rates, *[solved.rate] * solved.iterations])
        return self._newton_step(p, strategy="pcg")

    # -- parts ------------------------------------------------------------------------------------------------------

    def _base(self) -> NewtonState:
        """The state, with the metric's place moved here if a new metric is predicted to save time."""
        state = self.state
        rates = state.rates
        plan = state.chosen["plan"]
        if state.base_iteration >= 0:
            if len(rates) < SETTLE or (plan["what"] == "diagonal" and plan["strategy"] == "metric"):
                return state  # a diagonal says too little for curvature pairs to be given up for a new one
            left = max(log(state.relative / self.solver.tol), 0.0)
            recent = max(sum(rates[-3:]) / 3, 1e-3)
            # what the last metric gave once settled; the first was built far from the solution and says nothing
            seen = sum(rates[1:SETTLE]) / (SETTLE - 1) if len(state.chosen["sketches"]) > 1 else state.fresh
            read = self._figure("read")
            if self._build() + left / max(min(seen, state.fresh), 1e-3) * read >= left / recent * read:
                return state
        r = costs.ratio(plan["columns"], plan["rows"] or self.objective.problem.data.n_rows)
        return replace(
            state,
            base_w=state.w,
            base_double=state.double,
            base_iteration=state.iteration,
            diagonal=np.zeros(0),
            memory=Memory.empty(state.w.size),
            rates=[],
            fresh=min(log(1 / r**0.5), costs.BEST_RATE),
        )

    def _metric(self, base: NewtonState) -> Metric:
        """The metric of `base`, built again after a resume from what it was built from: the same bits."""
        cache = self.objective.ctx.cache
        if cache.get("metric-of") == base.base_iteration:
            return cache["metric"]
        new = base.base_iteration == self.state.iteration
        metric: Metric
        if base.diagonal.size:
            metric = Diagonal(base.diagonal)
        else:
            at = self.point if new else self.objective.restore(base.base_w, 0.0, base.base_w, base.base_double)
            metric = self._build_metric(base, at)
        if new:
            self.row["built"] = 1
        cache["metric"], cache["metric-of"] = metric, base.base_iteration
        return metric

    def _build_metric(self, base: NewtonState, at: Point) -> Metric:
        plan, ridge = base.chosen["plan"], self.objective.ridge
        if plan["what"] == "diagonal":
            return Diagonal.of(self.objective.diagonal(at), ridge)
        if plan["rows"]:
            matrices, m = self._sketch(at, base.base_iteration)
            self.row["sketch_rows"] = m
        else:
            matrices, m = self.objective.gram(at, plan["what"]), self.objective.problem.data.n_rows
        with self.objective.ctx.linalg():
            if plan["strategy"] == "metric" and len(matrices) == 1:
                scaled = Diagonal.of(np.diag(matrices[0]).copy(), ridge)
                if diagonal_suffices(matrices[0], ridge, scaled.values, costs.ratio(len(ridge), m)):
                    return scaled
            return Dense.of(matrices, ridge)

    def _sketch(self, at: Point, iteration: int) -> tuple[list[NDArray[np.float64]], int]:
        plan = self.state.chosen["plan"]
        laws = costs.laws(self.objective.problem, self.solver.sketch, plan["rows"], plan["hashes"])
        matrices = self.objective.sketch(at, laws, self.solver.seed, [iteration], plan["what"])
        return matrices, costs.law_rows(laws)

    def _figure(self, name: str) -> float:
        return float(self.state.chosen["plan"]["figures"][name])

    def _build(self) -> float:
        plan = self.state.chosen["plan"]
        if plan["what"] == "diagonal":
            return self._figure("read")
        return self._figure("sketch" if plan["rows"] else "gram") + self._figure("factor")

    def _double(self) -> bool:
        return wants_double(self.objective, self.state)

    def _newton_step(self, p: Vector, first: float = 1.0, strategy: str = "", **extra: Any) -> NewtonState:
        end, step = line_search(self.objective, self.point, p, self._double(), first)
        if end is None:
            return self._fallback()
        return self._end(end, step, strategy=strategy, **extra)

    def _fallback(self) -> NewtonState:
        """The direction failed: scaled steepest descent; if that fails too, rounding has been reached."""
        objective, point = self.objective, self.point
        narrow = objective.problem.data.dtype == "float32"
        if narrow and not point.double:
            point = objective.at(point.w, double=True)
        d = Diagonal.of(objective.diagonal(point), objective.ridge)
        end, step = line_search(objective, point, -d.solve(point.gradient), narrow)
        if end is None:
            reason = "no step decreases the objective: the limit of rounding; a larger tol or l2, or float64 rows, help"
            return replace(self.state, reason=reason, passes=self.state.passes + objective.passes)
        self.state = replace(self.state, memory=Memory.empty(point.w.size), base_iteration=-1, rates=[])
        return self._end(end, step, strategy="steepest")

    def _end(self, end: Point, step: float, strategy: str, **extra: Any) -> NewtonState:
        row = {"step": step, "strategy": strategy, **self.row}
        chosen = self.state.chosen | {"strategy": strategy}
        if "sketch_rows" in self.row:
            plan = chosen["plan"]
            sketch = {"iteration": self.state.iteration, "law": self.solver.sketch, "rows": self.row["sketch_rows"]}
            if self.solver.sketch == "sjlt":
                sketch["hashes"] = plan["hashes"]
            chosen["sketches"] = [*chosen["sketches"], sketch]
        cache = self.objective.ctx.cache
        if isinstance(cache.get("metric"), Diagonal) and self.state.base_iteration >= 0:
            extra.setdefault("diagonal", cache["metric"].values)
        solver = self.solver
        return advance(self.objective, self.state, end, solver.tol, solver.max_iter, row, chosen=chosen, **extra)


def diagonal_suffices(G: NDArray[np.float64], ridge: Vector, diagonal: Vector, r: float) -> bool:
    """Whether L-BFGS in the metric of the diagonal should converge as fast as in that of the sketch `G`.

    A sketch of ratio r spreads the eigenvalues of what it stands for by kappa_s = ((1 + sqrt r) / (1 - sqrt r))^2
    (spec A5). What the scaled sketch's condition number exceeds that by is the Hessian's own, with rate
    ln((sqrt k + 1) / (sqrt k - 1)) against ln(1 / sqrt r).
    """
    root = np.sqrt(diagonal)
    A = G / np.outer(root, root)
    A.flat[:: len(A) + 1] += ridge / diagonal
    if len(A) <= 200:
        ends = linalg.eigvalsh(A)
    else:
        try:
            start = stream(0, len(A)).standard_normal(len(A))
            ends = eigsh(A, k=2, which="BE", v0=start, tol=1e-1, maxiter=4, return_eigenvectors=False)
        except ArpackError:
            return False  # ends too far apart to be found quickly
    low, high = float(np.min(ends)), float(np.max(ends))
    if low <= 0:
        return False
    spread = ((1 + r**0.5) / (1 - r**0.5)) ** 2
    own = max(high / low / spread, 1.01) ** 0.5
    return log((own + 1) / (own - 1)) >= log(1 / r**0.5)


_NO_PROFILE: Final = Profile(1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)  # the form of a model needs no rates
