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

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Final

from coordinator.errors import InputError
from coordinator.problem import Problem
from coordinator.profile import Profile
from coordinator.runtime import Runtime
from coordinator.solvers import costs
from coordinator.solvers.base import begin, resume, setting
from coordinator.solvers.coded import coded_point, encode
from coordinator.solvers.memory import Memory
from coordinator.solvers.moves import Move, NewtonState
from coordinator.solvers.objective import Objective, Vector
from coordinator.solvers.prox import ProximalNewton

STRATEGIES: Final = ("auto", "metric", "averaged", "pcg", "exact", "sketch")
LAYOUTS: Final = ("rows", "tiles")
LAWS: Final = ("sjlt", "countsketch", "gaussian", "less_uniform", "row_sampling")


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
    sketch: str = setting("sjlt", "law of the sketch", LAWS)
    sketch_rows: int = setting(0, "rows of the sketch; 0: chosen by the cost model")
    hashes: int = setting(0, "non-zeros a column of an SJLT; 0: 2, doubled where rows prove to be coherent")
    layout: str = setting("rows", "rows: each row block is sketched where it lies; tiles: as in the paper", LAYOUTS)
    blocks: int = setting(10, "layout tiles: sketches N that are enough, at least 4")
    extra: int = setting(0, "layout tiles: spare sketches e, launched to be dropped if they are late")
    gradient: str = setting("plain", "how gradients are protected from stragglers", ("plain", "replicated", "coded"))
    copies: int = setting(2, "gradient replicated: copies of each task, of which the first to end counts")
    convexity: str = setting("auto", "weak: pseudo-inverse and gradient-norm search", ("auto", "strong", "weak"))
    debias: bool = setting(True, "remove the inversion bias of a sketched Hessian")

    def check(self, problem: Problem) -> None:
        """InputError for settings that contradict the problem."""
        if self.sketch_rows < 0 or self.hashes < 0 or self.copies < 1 or self.extra < 0 or self.blocks < 4:
            raise InputError(f"{self.name}: sketch_rows, hashes, extra >= 0, copies >= 1 and blocks >= 4 are needed")
        if self.gradient == "coded" and problem.data.layout == "csr":
            raise InputError(f"{self.name}: parities of sparse rows would be dense; use gradient 'replicated'")
        full = costs.Costs(problem, _NO_PROFILE).what == "full"
        reasons = {
            f"strategy {self.strategy!r}": self.strategy in {"exact", "sketch", "averaged"},
            "convexity 'weak'": self.convexity == "weak",
            "layout 'tiles'": self.layout == "tiles",
        }
        for what, needed in reasons.items():
            if needed and not full:
                raise InputError(
                    f"{self.name}: {what} forms a matrix of all {problem.n_parameters} parameters; use the default"
                )
        if problem.penalty.l1 and self.strategy in {"metric", "pcg"}:
            raise InputError(f"{self.name}: with l1 the strategy is exact, averaged or sketch, not {self.strategy!r}")

    def init(self, problem: Problem, ctx: Runtime, w0: Vector | None = None) -> NewtonState:
        objective = self._objective(problem, ctx)
        _, common = begin(objective, w0, self.tol)
        profile: Profile = ctx.cache["profile"]
        strategy = self.strategy
        dense = bool(problem.penalty.l1) or self._weak(problem)
        plan = costs.make_plan(problem, profile, self.tol, strategy, self.sketch_rows, self.hashes, dense)
        chosen = {"strategy": plan.strategy, "plan": plan.spec(), "sketches": []}
        return NewtonState(**common, memory=Memory(), chosen=chosen)

    def solution(self, state: NewtonState) -> Vector:
        return state.w

    def step(self, problem: Problem, state: NewtonState, ctx: Runtime) -> NewtonState:
        objective = self._objective(problem, ctx)
        point = resume(objective, state)
        move = Move(self, objective, state, point)
        strategy = state.chosen["plan"]["strategy"]
        if self._weak(problem):
            return move.weak()
        if problem.penalty.l1:
            if strategy in {"averaged", "sketch"}:
                return move.proximal()
            chosen = state.chosen | {"strategy": "proximal"}
            after = ProximalNewton(self.tol, self.max_iter).step(problem, replace(state, chosen=chosen), ctx)
            assert isinstance(after, NewtonState)  # steps replace fields of the state they are given
            return after
        steps = {
            "metric": move.metric,
            "averaged": move.averaged,
            "pcg": move.pcg,
            "exact": move.exact,
            "sketch": move.sketched,
        }
        return steps[strategy]()

    def _weak(self, problem: Problem) -> bool:
        if self.convexity != "auto":
            return self.convexity == "weak"
        # softmax cannot tell the classes' common shift without a penalty
        singular = problem.loss.multi and not problem.penalty.l2 and not problem.penalty.l1
        return singular and costs.Costs(problem, _NO_PROFILE).what == "full"

    def _objective(self, problem: Problem, ctx: Runtime) -> Objective:
        objective = Objective(problem, ctx, copies=self.copies if self.gradient == "replicated" else 1)
        if self.gradient == "coded":
            if "coded" not in ctx.cache:
                ctx.cache["coded"] = encode(objective)
            objective.evaluator = partial(coded_point, objective, ctx.cache["coded"])
        return objective


_NO_PROFILE: Final = Profile(1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)  # the form of a model needs no rates
