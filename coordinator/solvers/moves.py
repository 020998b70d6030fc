"""The steps of OverSketched Newton, one method a strategy; see `coordinator.solvers.newton`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil, log
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.sparse.linalg import ArpackError, eigsh

from coordinator.solvers import costs
from coordinator.solvers.base import advance, wants_double
from coordinator.solvers.linesearch import line_search
from coordinator.solvers.memory import Memory
from coordinator.solvers.metric import Dense, Diagonal, Head, Metric, conjugate_gradients
from coordinator.solvers.objective import Objective, Point, Vector
from coordinator.solvers.prox import ProximalState, prox_direction
from coordinator.solvers.tiles import tiled_sketch
from coordinator.solvers.weak import null_free, weak_search
from sketches import HessianAverage, debias, stream

MEMORY: Final = 10
GATE_STEP: Final = (0.65, 1.5)  # steps outside, or more drift, clear the L-BFGS memory (spec C11)
GATE_DRIFT: Final = 0.3
SETTLE: Final = 4  # iterations in a metric before its rate says whether to renew it
MAX_CG: Final = 500
POOR: Final = 0.6  # of the rate expected of a metric: below it, the next has more hashes
MOST_HASHES: Final = 8
PROX_INNER: Final = 0.1  # accuracy of the proximal subproblem, relative to the residual (spec D5)


@dataclass(frozen=True)
class NewtonState(ProximalState):
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

    memory: Memory = field(default_factory=Memory)
    average: HessianAverage | None = None
    base_w: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    base_double: bool = False
    base_iteration: int = -1
    diagonal: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    rates: list[float] = field(default_factory=list)
    fresh: float = 0.0
    chosen: dict[str, Any] = field(default_factory=dict)


class Settings(Protocol):
    """What the steps need to know of the solver's settings."""

    @property
    def tol(self) -> float: ...
    @property
    def max_iter(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def sketch(self) -> str: ...
    @property
    def layout(self) -> str: ...
    @property
    def blocks(self) -> int: ...
    @property
    def extra(self) -> int: ...
    @property
    def debias(self) -> bool: ...


@dataclass
class Move:
    """One step of one strategy."""

    solver: Settings
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
            base = replace(base, memory=Memory())
            end, step = line_search(self.objective, self.point, -metric.solve(self.point.gradient), self._double())
        if end is None:
            return self._fallback()
        memory = base.memory.push(end.w - self.point.w, end.gradient - self.point.gradient, MEMORY)
        rate = log(max(float(np.linalg.norm(self.point.gradient)), 1e-300))
        rate -= log(max(float(np.linalg.norm(end.gradient)), 1e-300))
        self.state = replace(base, memory=memory, rates=[*base.rates, rate])
        return self._end(end, step, strategy="lbfgs" if isinstance(metric, Diagonal) else "metric")

    def exact(self) -> NewtonState:
        """Newton's step."""
        H = self._hessian()
        with self.objective.ctx.linalg():
            p = -self._dense([H]).solve(self.point.gradient)
        return self._newton_step(p, strategy="exact")

    def sketched(self) -> NewtonState:
        """The paper's step; debiased, with the step length nu that goes with a single sketch (spec C1)."""
        (G,), m = self._sketch(self.point, self.state.iteration)
        with self.objective.ctx.linalg():
            nu = debias(G, self.objective.ridge, m).nu if self.solver.debias else 1.0
            p = -self._dense([G / nu]).solve(self.point.gradient)
        self.row["sketch_rows"] = m
        return self._newton_step(p, first=nu, strategy="sketch")

    def averaged(self) -> NewtonState:
        """Averaged, debiased sketches as the metric of gated L-BFGS."""
        state = self.state
        average = self._average()
        with self.objective.ctx.linalg():
            metric = self._dense([average.gram / average.nu])
        memory = state.memory if average.drift <= GATE_DRIFT else Memory()
        p = memory.direction(self.point.gradient, metric.solve)
        end, step = line_search(self.objective, self.point, p, self._double())
        if end is None and len(memory):
            memory = Memory()
            p = -metric.solve(self.point.gradient)
            end, step = line_search(self.objective, self.point, p, self._double())
        if end is None:
            return self._fallback()
        if GATE_STEP[0] <= step <= GATE_STEP[1]:
            memory = memory.push(end.w - self.point.w, end.gradient - self.point.gradient, MEMORY)
        else:
            memory = Memory()
        return self._end(end, step, strategy="averaged", memory=memory, average=average)

    def weak(self) -> NewtonState:
        """The pseudo-inverse of the exact or sketched Hessian, and a search on the gradient norm."""
        H = self._hessian()
        H.flat[:: len(H) + 1] += self.objective.ridge
        with self.objective.ctx.linalg():
            narrow = self.objective.problem.data.dtype == "float32"
            p, inside = null_free(H, self.point.gradient, narrow)
        end, step = weak_search(self.objective, self.point, p, inside, self._double())
        if end is None:
            return self._fallback()
        return self._end(end, step, strategy="weak")

    def proximal(self) -> NewtonState:
        """Proximal Newton: the quadratic model with l1, minimised here (spec D5); sketches are averaged."""
        state, objective = self.state, self.objective
        plan = state.chosen["plan"]
        extra: dict[str, Any] = {}
        if plan["strategy"] == "averaged":
            extra["average"] = average = self._average()
            H = average.gram / average.nu
        else:
            H = self._hessian()
        H.flat[:: len(H) + 1] += objective.ridge
        with objective.ctx.linalg():
            p = prox_direction(H, self.point.gradient, state.w, objective.lasso, PROX_INNER * state.residual)
        return self._newton_step(p, strategy="proximal", **extra)

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
        if plan["rows"] and rates and max(rates) < POOR * state.fresh:
            # coherent rows: more hashes spread those of high leverage (spec D2)
            plan = plan | {"hashes": min(2 * plan["hashes"], MOST_HASHES)}
            state = replace(state, chosen=state.chosen | {"plan": plan})
        r = costs.ratio(plan["columns"], plan["rows"] or self.objective.problem.data.n_rows)
        return replace(
            state,
            base_w=state.w,
            base_double=state.double,
            base_iteration=state.iteration,
            diagonal=np.zeros(0),
            memory=Memory(),
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
        else:  # the sketch was counted when it was new, and decisions stand on that count
            self.row.pop("sketch_rows", None)
        cache["metric"], cache["metric-of"] = metric, base.base_iteration
        return metric

    def _build_metric(self, base: NewtonState, at: Point) -> Metric:
        plan, ridge = base.chosen["plan"], self.objective.ridge
        if plan["what"] == "diagonal":
            return Head.of(self.objective, at, plan["columns"], plan["every"])
        if plan["rows"]:
            matrices, m = self._sketch(at, base.base_iteration, base)
            self.row["sketch_rows"] = m
        else:
            matrices, m = self.objective.gram(at, plan["what"]), self.objective.problem.data.n_rows
        with self.objective.ctx.linalg():
            if plan["strategy"] == "metric" and len(matrices) == 1:
                scaled = Diagonal.of(np.diag(matrices[0]).copy(), ridge)
                if diagonal_suffices(matrices[0], ridge, scaled.values, costs.ratio(len(ridge), m)):
                    return scaled
            return self._dense(matrices)

    def _dense(self, matrices: Sequence[NDArray[np.float64]]) -> Dense:
        """Data terms with the penalty, factored."""
        return Dense.of(matrices, self.objective.ridge, self.objective.problem.data.dtype)

    def _average(self) -> HessianAverage:
        """The running average with a fresh sketch in it."""
        (G,), m = self._sketch(self.point, self.state.iteration)
        old, ridge = self.state.average, self.objective.ridge
        with self.objective.ctx.linalg():
            average = HessianAverage.start(G, ridge, m) if old is None else old.update(G, ridge, m)
        self.row |= {"sketch_rows": m, "worth": average.neff, "drift": average.drift}
        return average

    def _hessian(self) -> NDArray[np.float64]:
        """The Hessian's data term as the plan wants it: exact, or a fresh sketch, debiased."""
        if not self.state.chosen["plan"]["rows"]:
            (H,) = self.objective.gram(self.point)
            return H
        (G,), m = self._sketch(self.point, self.state.iteration)
        self.row["sketch_rows"] = m
        with self.objective.ctx.linalg():
            return G / debias(G, self.objective.ridge, m).nu if self.solver.debias else G

    def _sketch(
        self, at: Point, iteration: int, base: NewtonState | None = None
    ) -> tuple[list[NDArray[np.float64]], int]:
        plan, solver = (base or self.state).chosen["plan"], self.solver
        if solver.layout == "tiles":
            block, n, path = ceil(plan["rows"] / solver.blocks), solver.blocks, [iteration]
            kept = tiled_sketch(self.objective, at, block=block, n=n, extra=solver.extra, seed=solver.seed, path=path)
            return kept, block * n
        laws = costs.laws(self.objective.problem, self.solver.sketch, plan["rows"], plan["hashes"])
        matrices = self.objective.sketch(at, laws, self.solver.seed, [iteration], plan["what"])
        return matrices, costs.law_rows(laws)

    def _figure(self, name: str) -> float:
        return float(self.state.chosen["plan"]["figures"][name])

    def _build(self) -> float:
        plan = self.state.chosen["plan"]
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
        self.state = replace(self.state, memory=Memory(), base_iteration=-1, rates=[])
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
