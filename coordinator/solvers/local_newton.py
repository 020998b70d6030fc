"""LocalNewton: several Newton steps on each worker's own rows between two rounds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Final

import numpy as np

from coordinator.kernels import Problem as Params
from coordinator.kernels.products import evaluate
from coordinator.problem import Problem
from coordinator.runtime import Runtime
from coordinator.solvers import base
from coordinator.solvers.averaging import AveragedState, fits
from coordinator.solvers.estimates import invertible
from coordinator.solvers.giant import Giant
from coordinator.solvers.linesearch import ARMIJO, line_search
from coordinator.solvers.objective import Objective, Vector
from coordinator.solvers.shares import Part, check_shares, local_hessian, n_shares, on_shares
from coordinator.tasks import Arrays, Work, kernel

PROGRESS: Final = 0.5  # of the residual a step must take off for as many local steps to go on
BACK: Final = tuple(2.0**-j for j in range(16))  # local steps tried in turn


@dataclass(frozen=True)
class LocalState(AveragedState):
    """With the number of local steps of the next round; 0: GIANT's steps from now on."""

    local: int = 0


@dataclass(frozen=True)
class LocalNewton:
    """Models that workers have moved by local Newton steps, averaged; GIANT's steps for the end.

    Gupta, Ghosh, Derezinski, Khanna, Ramchandran and Mahoney, "LocalNewton: reducing communication bottleneck for
    distributed learning" (arXiv 2105.07320). A round is one phase without a gradient; the mean of the models is biased
    towards that of the shares' own solutions, so local steps are halved whenever a round takes off less than half of
    the gradient's norm, and end as GIANT's, which has no such floor (the paper's adaptive scheme). Addition: the
    average is the end of a line search on the whole objective, so that it never rises.
    """

    name: ClassVar[str] = "local-newton"
    summary: ClassVar[str] = (
        "several Newton steps on each group of rows between rounds: fewest rounds to a rough answer"
    )
    state: ClassVar[type[LocalState]] = LocalState

    tol: float = base.setting(1e-6, "stop when the gradient's norm is tol times that at zero")
    max_iter: int = base.setting(200, "most steps")
    local_steps: int = base.setting(3, "local Newton steps in the first rounds")
    groups: int = base.setting(0, "groups of rows; 0: as many as leave 20 rows a parameter in each, at most 32")
    spare: int = base.setting(0, "groups that a step may leave out when they are late")

    def check(self, problem: Problem) -> None:
        fits(self.name, problem)
        check_shares(self.name, problem, self.groups, self.spare)
        base.at_least(self.name, 1, local_steps=self.local_steps)

    def init(self, problem: Problem, ctx: Runtime, w0: Vector | None = None) -> LocalState:
        _, common = base.begin(Objective(problem, ctx), w0, self.tol)
        return LocalState(**common, local=self.local_steps)

    def step(self, problem: Problem, state: LocalState, ctx: Runtime) -> LocalState:
        if not state.local:
            return self._giant(problem, state, ctx)
        objective = Objective(problem, ctx)
        point = base.resume(objective, state)
        inputs = {"w": point.key, "ridge": ctx.put(objective.ridge)}
        count = n_shares(problem, self.groups)
        moved = on_shares(
            objective, "local-newton", "local-newton.run", count, self.spare, inputs, point.double, steps=state.local
        )
        p = np.mean([move for (move,) in moved], axis=0)
        end, step = None, 0.0
        if float(p @ point.gradient) < 0:
            end, step = line_search(objective, point, p, base.wants_double(objective, state))
        if end is None:
            after = self._giant(problem, state, ctx)
            return replace(after, local=state.local // 2, passes=after.passes + objective.passes)
        row = {"step": step, "passes": objective.passes, "groups": len(moved), "local_steps": state.local}
        after = base.advance(objective, state, end, self.tol, self.max_iter, row)
        return after if after.residual <= PROGRESS * state.residual else replace(after, local=state.local // 2)

    def _giant(self, problem: Problem, state: LocalState, ctx: Runtime) -> LocalState:
        giant = Giant(tol=self.tol, max_iter=self.max_iter, groups=self.groups, spare=self.spare)
        after = giant.step(problem, state, ctx)
        assert isinstance(after, LocalState)  # steps replace fields of the state they are given
        return after

    def solution(self, state: LocalState) -> Vector:
        return state.w


@kernel("local-newton.run")
def run(work: Work, *, problem: Params, part: int, parts: int, steps: int) -> Arrays:
    """How far (p K,) `steps` Newton steps with backtracking move input `w` on the share's own objective."""
    share = Part.of(work, part, parts)
    ridge, start = work.input("ridge"), work.input("w")
    dtype = next(block for _, block in work.blocks()).X.dtype.name
    w = np.array(start)
    here = share.at(w)
    for _ in range(steps):
        H, weight, n_rows = local_hessian(here, problem)
        H.flat[:: len(H) + 1] += ridge
        loss, gradient = evaluate(here, problem=problem)
        value = float(loss) / weight + 0.5 * float(w @ (ridge * w))
        g = gradient / weight + ridge * w
        p = -invertible(H, dtype, n_rows).solve(g)
        for a in BACK:
            there = here.at(w + a * p)
            ahead = float(evaluate(there, problem=problem)[0]) / weight
            ahead += 0.5 * float((w + a * p) @ (ridge * (w + a * p)))
            if ahead <= value + ARMIJO * a * float(g @ p):
                w, here = w + a * p, there
                break
        else:
            break  # at the share's own solution, to rounding
    return (w - start,)
