"""OverSketched Newton: second-order steps from exact gradients and a sketched Hessian.

Gupta, Kadhe, Courtade, Mahoney and Ramchandran, "OverSketched Newton: fast convex optimization for serverless systems"
(arXiv 1903.08857). The paper takes p = -H^^-1 g from one fresh sketch an iteration. Here that is the strategy "sketch";
the default weighs it, by a cost model, against uses of the same sketches that need fewer passes or less time:

* "averaged": debiased (2007.01327) and averaged over iterations (2204.09266), as the metric of L-BFGS (spec C10, C11);
* "pcg": the preconditioner of conjugate gradients on the exact Hessian (spec C9, F), kept while it pays;
* "exact": the exact Hessian, where forming it costs least;
* "lbfgs": on trial first, for a fraction of the predicted time, and kept while its observed rate predicts less.

What was chosen, and on which figures, is in the state's `chosen`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil, log
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from coordinator.errors import InputError
from coordinator.problem import Problem
from coordinator.profile import Profile
from coordinator.runtime import Runtime
from coordinator.solvers import costs
from coordinator.solvers.base import State, advance, begin, resume, setting, wants_double
from coordinator.solvers.linesearch import line_search
from coordinator.solvers.memory import Memory
from coordinator.solvers.metric import Dense, Diagonal, Metric, Solved, conjugate_gradients
from coordinator.solvers.objective import Objective, Point, Vector
from sketches import HessianAverage, debias

STRATEGIES: Final = ("auto", "exact", "sketch", "averaged", "pcg", "lbfgs")
LAWS: Final = ("sjlt", "countsketch", "gaussian", "less_uniform", "row_sampling")
MEMORY: Final = 10
TRIAL_SHARE: Final = 0.2  # of the predicted time, for finding out whether L-BFGS is all that is needed
TRIAL_LEAST: Final = 5
GATE_STEP: Final = (0.65, 1.5)  # steps outside, or more drift, clear the L-BFGS memory (spec C11)
GATE_DRIFT: Final = 0.3
MAX_CG: Final = 250


@dataclass(frozen=True)
class NewtonState(State):
    """State of OverSketched Newton.

    Attributes
    ----------
    trial : L-BFGS is on trial.
    memory : curvature pairs.
    scale : diagonal that L-BFGS starts from (empty: none).
    average : the averaged sketch.
    base_w, base_double, base_iteration, base_rows : where the preconditioner was built, from which it can be again.
    fresh_rate, rate : log-reduction an iteration of CG when the preconditioner was fresh, and lately.
    chosen : the plan, and what became of it.
    """

    memory: Memory = field(default_factory=lambda: Memory.empty(0))
    trial: bool = False
    scale: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    average: HessianAverage | None = None
    base_w: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    base_double: bool = False
    base_iteration: int = -1
    fresh_rate: float = 0.0
    rate: float = 0.0
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
        trial = self.strategy in {"auto", "lbfgs"}
        chosen = {"strategy": "lbfgs" if trial else plan.strategy, "plan": plan.spec(), "sketches": []}
        return NewtonState(**common, memory=Memory.empty(problem.n_parameters), trial=trial, chosen=chosen)

    def solution(self, state: NewtonState) -> Vector:
        return state.w

    def step(self, problem: Problem, state: NewtonState, ctx: Runtime) -> NewtonState:
        objective = self._objective(problem, ctx)
        point = resume(objective, state)
        if state.relative <= self.tol:
            return replace(state, reason="converged")
        if state.trial and self._leave_trial(state):
            strategy = state.chosen["plan"]["strategy"]
            state = replace(state, trial=False, chosen=state.chosen | {"strategy": strategy})
        strategy = "lbfgs" if state.trial else str(state.chosen["plan"]["strategy"])
        move = _Move(self, objective, state, point)
        return {
            "lbfgs": move.lbfgs,
            "pcg": move.pcg,
            "exact": move.exact,
            "sketch": move.sketched,
            "averaged": move.averaged,
        }[strategy]()

    def _objective(self, problem: Problem, ctx: Runtime) -> Objective:
        return Objective(problem, ctx, copies=self.copies)

    def _leave_trial(self, state: NewtonState) -> bool:
        """Whether the plan's strategy is predicted to finish sooner than L-BFGS at the rate it has shown."""
        if self.strategy == "lbfgs":
            return False
        plan = state.chosen["plan"]
        seconds = plan["predicted"][plan["strategy"]]
        read = plan["figures"]["read"]
        allowed = TRIAL_SHARE * seconds / read
        if allowed < TRIAL_LEAST:
            return True
        if state.iteration < max(TRIAL_LEAST, min(allowed, 12)):
            return False
        shown = state.chosen.get("trial", [])
        # the last half of what was seen: early steps say little of the rate
        recent = shown[len(shown) // 2 :]
        rate = log(max(recent[0], 1e-300) / max(recent[-1], 1e-300)) / max(len(recent) - 1, 1)
        if rate <= 0:
            return True
        left = log(state.relative / self.tol)
        return left / rate * 1.1 * read > seconds * left / log(1 / self.tol) + plan["figures"]["factor"]


@dataclass
class _Move:
    """One step of one strategy."""

    solver: OverSketchedNewton
    objective: Objective
    state: NewtonState
    point: Point
    row: dict[str, Any] = field(default_factory=dict)

    def lbfgs(self) -> NewtonState:
        """Two-loop recursion on the diagonal of the Hessian at the start of the trial."""
        state, objective = self.state, self.objective
        scale = state.scale
        if not scale.size:
            scale = Diagonal.of(objective.diagonal(self.point), objective.ridge).values
        memory = state.memory
        gamma = 1.0
        if len(memory):
            s, y = memory.S[-1], memory.Y[-1]
            gamma = float(s @ y) / float(y @ (y / scale))
        p = memory.direction(self.point.gradient, lambda v: gamma * v / scale)
        end, step = line_search(objective, self.point, p, self._double())
        if end is None:
            return self._fallback(scale)
        memory = memory.push(end.w - self.point.w, end.gradient - self.point.gradient, MEMORY)
        shown = [*state.chosen.get("trial", []), float(np.linalg.norm(end.gradient)) / state.residual0]
        chosen = state.chosen | {"trial": shown[-40:]}
        return self._end(end, step, strategy="lbfgs", memory=memory, scale=scale, chosen=chosen)

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
            return self._fallback(None)
        if GATE_STEP[0] <= step <= GATE_STEP[1]:
            memory = memory.push(end.w - self.point.w, end.gradient - self.point.gradient, MEMORY)
        else:
            memory = Memory.empty(state.w.size)
        return self._end(end, step, strategy="averaged", memory=memory, average=average)

    def pcg(self) -> NewtonState:
        """Exact Newton steps by conjugate gradients; the preconditioner is kept while that is predicted faster."""
        state = self.state
        eta = max(min(0.1, state.relative**0.5), min(0.3 * self.solver.tol / state.relative, 0.5))
        built = self._stale()
        if built:
            state = replace(state, base_w=state.w, base_double=state.double, base_iteration=state.iteration, rate=0.0)
            self.objective.ctx.cache.pop("metric", None)
        metric = self._metric(state)
        expected = state.fresh_rate or state.rate or 0.5
        read, build = self._figure("read"), self._build()
        limit = min(MAX_CG, ceil(1.5 * log(1 / eta) / expected + build / read) + 3)
        if self.state.chosen["plan"]["what"] == "diagonal":
            limit = MAX_CG
        solved = conjugate_gradients(self.objective, self.point, metric, eta, limit)
        if not solved.iterations:
            solved = Solved(-metric.solve(self.point.gradient), 0, 1.0)
        self.row |= {"cg": solved.iterations, "built": int(built)}
        rate = solved.rate if solved.iterations else state.rate
        fresh = rate if built else state.fresh_rate
        base: dict[str, Any] = {
            "base_w": state.base_w,
            "base_double": state.base_double,
            "base_iteration": state.base_iteration,
            "fresh_rate": fresh,
            "rate": rate,
        }
        if built and "sketch" in self.row:
            base["chosen"] = self.state.chosen | {"sketches": [*self.state.chosen["sketches"], self.row.pop("sketch")]}
        return self._newton_step(solved.direction, strategy="pcg", **base)

    # -- parts ------------------------------------------------------------------------------------------------------

    def _stale(self) -> bool:
        """Whether to build a new preconditioner."""
        state = self.state
        if state.base_iteration < 0:
            return True
        if state.chosen["plan"]["what"] == "diagonal":
            return True
        if state.base_iteration == state.iteration:
            return False
        left = max(log(state.relative / self.solver.tol), 0.0)
        read = self._figure("read")
        keep = left / max(state.rate, 1e-3) * read
        renew = self._build() + left / max(state.fresh_rate, 1e-3) * read
        return renew < keep

    def _metric(self, state: NewtonState) -> Metric:
        """The preconditioner of the state, built again after a resume from what it was built from: the same bits."""
        cache = self.objective.ctx.cache
        if "metric" in cache and cache.get("metric-of") == state.base_iteration:
            return cache["metric"]
        plan = state.chosen["plan"]
        same = state.base_iteration == self.state.iteration
        at = self.point if same else self.objective.restore(state.base_w, 0.0, state.base_w, state.base_double)
        metric: Metric
        if plan["what"] == "diagonal":
            metric = Diagonal.of(self.objective.diagonal(at), self.objective.ridge)
        else:
            if plan["rows"]:
                matrices, m = self._sketch(at, state.base_iteration)
                self.row["sketch"] = {"iteration": state.base_iteration, "rows": m, "law": self._law()}
                self.row["sketch_rows"] = m
            else:
                matrices = self.objective.gram(at, plan["what"])
            with self.objective.ctx.linalg():
                metric = Dense.of(matrices, self.objective.ridge)
        cache["metric"], cache["metric-of"] = metric, state.base_iteration
        return metric

    def _sketch(self, at: Point, iteration: int) -> tuple[list[NDArray[np.float64]], int]:
        plan = self.state.chosen["plan"]
        laws = costs.laws(self.objective.problem, self.solver.sketch, plan["rows"], plan["hashes"])
        matrices = self.objective.sketch(at, laws, self.solver.seed, [iteration], plan["what"])
        return matrices, costs.law_rows(laws)

    def _law(self) -> str:
        plan = self.state.chosen["plan"]
        return f"sjlt, {plan['hashes']} hashes" if self.solver.sketch == "sjlt" else self.solver.sketch

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
            return self._fallback(None)
        return self._end(end, step, strategy=strategy, **extra)

    def _fallback(self, scale: Vector | None) -> NewtonState:
        """The direction failed: scaled steepest descent; if that fails too, rounding has been reached."""
        objective, point = self.objective, self.point
        d = scale if scale is not None else Diagonal.of(objective.diagonal(point), objective.ridge).values
        double = self._double() or objective.problem.data.dtype == "float32"
        if double and not point.double and objective.problem.data.dtype == "float32":
            point = objective.at(point.w, double=True)
        end, step = line_search(objective, point, -point.gradient / d, double)
        if end is None:
            reason = "no step decreases the objective: the limit of rounding; a larger tol or l2, or float64 rows, help"
            return replace(self.state, reason=reason, passes=self.state.passes + objective.passes)
        memory = Memory.empty(self.state.w.size)
        self.point = point
        return self._end(end, step, strategy="steepest", memory=memory, base_iteration=-1)

    def _end(self, end: Point, step: float, strategy: str, **extra: Any) -> NewtonState:
        row = {"step": step, "strategy": strategy, **self.row}
        row.pop("sketch", None)
        solver = self.solver
        return advance(self.objective, self.state, end, solver.tol, solver.max_iter, row, **extra)


_NO_PROFILE: Final = Profile(1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)  # the form of a model needs no rates
