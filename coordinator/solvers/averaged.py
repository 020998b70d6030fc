"""Averaged Newton: picks how to average, says why, and changes its mind when the figures say so.

Ways, in the order in which they give way to the next:

* "determinantal": weights that leave no bias, for few parameters, where rows enough for them cost nothing;
* "giant": every worker's own rows, all of which are used, where they are many enough and in random order;
* "surrogate": rows drawn for each estimate from all, and the bias removed by scaling;
* "sketch": the same from sketches of all rows, which see what rows of high leverage have that draws miss;
* "exact": the Hessian itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Final

from coordinator.problem import Problem
from coordinator.runtime import Runtime
from coordinator.solvers import base
from coordinator.solvers.averaging import (
    AveragedState,
    DeterminantalAveraging,
    SurrogateAveraging,
    averaged_step,
    begin,
    check_counts,
    guarded,
)
from coordinator.solvers.exact import Newton
from coordinator.solvers.giant import Giant
from coordinator.solvers.objective import Objective, Vector

WAYS: Final = ("auto", "determinantal", "giant", "surrogate", "sketch", "exact")
ROWS: Final = 10  # rows of an estimate for each parameter
NEXT: Final = {"determinantal": "surrogate", "giant": "surrogate", "surrogate": "sketch", "sketch": "exact"}
FEW: Final = 30  # parameters up to which p^2 rows, which keep determinants alike, cost nothing
SLOW: Final = 0.5  # of the residual left by a step: slower ones are counted
PATIENCE: Final = 4  # slow steps in a row before the next way is taken


@dataclass(frozen=True)
class AveragedNewton:
    """See the module. What it chose is in the result's `chosen`: "strategy", "why", and "warnings"."""

    name: ClassVar[str] = "averaged-newton"
    summary: ClassVar[str] = "averaged local Newton steps for many workers; picks how to average, and switches"
    state: ClassVar[type[AveragedState]] = AveragedState

    tol: float = base.setting(1e-6, "stop when the gradient's norm is tol times that at zero")
    max_iter: int = base.setting(200, "most steps")
    seed: int = base.setting(0, "names the random streams of the draws")
    estimates: int = base.setting(16, "tasks that estimate the inverse Hessian in each step")
    spare: int = base.setting(0, "estimates that a step may go without when they are late or lost")
    rows: int = base.setting(0, "rows that an estimate draws; 0: 10 a parameter, or their square if they are few")
    memory: int = base.setting(10, "curvature pairs of L-BFGS around the average; 0: none")
    strategy: str = base.setting("auto", "how to begin; auto: by the shape of the problem", WAYS)

    def check(self, problem: Problem) -> None:
        check_counts(self.name, problem, self.estimates, self.spare, self.rows, self.memory)

    def init(self, problem: Problem, ctx: Runtime, w0: Vector | None = None) -> AveragedState:
        way, why = self.choose(problem)
        return begin(problem, ctx, w0, self.tol, {"strategy": way, "why": why, "warnings": [], "slow": 0})

    def choose(self, problem: Problem) -> tuple[str, str]:
        """The first way, and why."""
        if self.strategy != "auto":
            return self.strategy, "as asked"
        p, n = problem.n_parameters, problem.data.n_rows
        own = n // self.estimates
        if p <= FEW and self._squares(problem) >= p * p:
            return "determinantal", f"{p} parameters are few: {self._squares(problem)} rows keep determinants alike"
        if problem.loss.multi:
            return "surrogate", "classes are sampled with the rows, which takes less than their joint Hessian"
        if problem.data.shuffle_seed is None:
            return "surrogate", "rows are in their original order: each estimate draws from all of them"
        if own >= ROWS * p:
            return "giant", f"{own} rows for each of {self.estimates} estimates are 10 a parameter: all can be used"
        return "surrogate", f"{own} rows for each of {self.estimates} estimates are too few for {p} parameters"

    def step(self, problem: Problem, state: AveragedState, ctx: Runtime) -> AveragedState:
        way = state.chosen["strategy"]
        if way == "exact":
            after = Newton(self.tol, self.max_iter).step(problem, state, ctx)
            assert isinstance(after, AveragedState)  # steps replace fields of the state they are given
            return replace(after, row=after.row | {"strategy": way})
        objective = Objective(problem, ctx)
        point = base.resume(objective, state)
        state = guarded(objective, state, point)
        method = self._method(problem, way)
        moved = averaged_step(self, objective, state, point, lambda v: method.inverse(objective, point, state, v))
        if moved is None:
            if way not in NEXT:
                return base.stalled(objective, state)
            state = self._switched(state, "no step along its direction decreased the objective")
            after = self.step(problem, state, ctx)
            return replace(after, passes=after.passes + objective.passes)
        after = replace(moved, row=moved.row | {"strategy": way})
        if way == "determinantal" and "warning" in after.row:
            return self._switched(after, after.row["warning"])
        slow = state.chosen["slow"] + 1 if after.residual > SLOW * state.residual else 0
        after = replace(after, chosen=after.chosen | {"slow": slow})
        if slow >= PATIENCE and way in NEXT:
            return self._switched(after, f"{slow} steps in a row left more than half of the gradient")
        return after

    def _squares(self, problem: Problem) -> int:
        """Rows of an estimate where parameters are few: their square, and ten of each at least."""
        p = problem.n_parameters
        return self.rows or min(max(p * p, ROWS * p), problem.data.n_rows // 2)

    def _method(self, problem: Problem, way: str) -> DeterminantalAveraging | Giant | SurrogateAveraging:
        if way == "giant":
            return Giant(groups=self.estimates, spare=self.spare)
        seed, count, spare = self.seed, self.estimates, self.spare
        if way == "determinantal":
            return DeterminantalAveraging(seed=seed, estimates=count, spare=spare, rows=self._squares(problem))
        draw = "sjlt" if way == "sketch" else "fixed"
        return SurrogateAveraging(seed=seed, estimates=count, spare=spare, rows=self.rows, draw=draw)

    def _switched(self, state: AveragedState, why: str) -> AveragedState:
        """The state with the next way chosen, and a warning."""
        before = state.chosen["strategy"]
        chosen = state.chosen | {"strategy": NEXT[before], "why": f"after {before}: {why}", "slow": 0}
        chosen["warnings"] = [*state.chosen["warnings"], f"iteration {state.iteration}, {before}: {why}"]
        return replace(state, chosen=chosen)

    def solution(self, state: AveragedState) -> Vector:
        return state.w
