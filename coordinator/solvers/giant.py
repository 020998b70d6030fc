"""GIANT: averaged local Newton directions, two passes an iteration and O(p) numbers from every task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coordinator.kernels import Problem as Params
from coordinator.problem import Problem
from coordinator.solvers import base
from coordinator.solvers.averaging import Averaged, AveragedState, Averaging, fits
from coordinator.solvers.estimates import cover, invertible
from coordinator.solvers.objective import Objective, Point, Vector
from coordinator.solvers.shares import Part, check_shares, local_hessian, n_shares, on_shares
from coordinator.tasks import Arrays, Work, kernel
from sketches import debias


@dataclass(frozen=True)
class Giant(Averaging):
    """p = -mean over groups of (H_k + R)^-1 g, with the exact gradient g and the Hessian H_k of a group of rows.

    Wang, Roosta-Khorasani, Xu and Mahoney, "GIANT: globally improved approximate Newton method for distributed
    optimization" (arXiv 1709.03528). H_k is of the rows weighted by the second derivatives at w, and a line search
    takes the step (a script that was published with another paper takes X'X for it, and unit steps: its steps are then
    at least four times too short for the logistic loss). Three additions: each local solve is debiased with its own
    effective dimension, which removes an error that averaging cannot (arXiv 2007.01327; spec C1, C3); since groups are
    exchangeable, `spare` of them may be missing, and a step waits for no straggler; and those of
    `coordinator.solvers.averaging`.

    Rows must be in random order, with many more of them in a group than columns. Rows of high leverage make it slow:
    every group but one has not seen them.
    """

    name: ClassVar[str] = "giant"
    summary: ClassVar[str] = "averaged local Newton directions; groups of rows that are late may be left out"

    groups: int = base.setting(0, "groups of rows; 0: as many as leave 20 rows a parameter in each, at most 32")
    spare: int = base.setting(0, "groups that a step may leave out when they are late")
    debias: bool = base.setting(True, "correct each local solve for the rows it has not seen")

    def check(self, problem: Problem) -> None:
        fits(self.name, problem)
        check_shares(self.name, problem, self.groups, self.spare)
        base.at_least(self.name, 0, memory=self.memory)

    def inverse(self, objective: Objective, point: Point, state: AveragedState, v: Vector) -> Averaged:
        ctx = objective.ctx
        inputs = {"w": point.key, "v": ctx.put(v), "ridge": ctx.put(objective.ridge)}
        if self.guard:
            inputs["guard"] = ctx.put(state.guard)
        count = n_shares(objective.problem, self.groups)
        found = on_shares(
            objective, "local-newton", "giant.solve", count, self.spare, inputs, point.double, unbias=self.debias
        )
        row = {"groups": len(found), "debias": float(np.mean([nu for _, nu, _ in found]))}
        return Averaged(np.mean([p for p, _, _ in found], axis=0), 1.0, row, max(int(m) for _, _, m in found))


@kernel("giant.solve")
def solve(work: Work, *, problem: Params, part: int, parts: int, unbias: bool) -> Arrays:
    """(H_k + R)^-1 v (p K,) of the task's share for input `v`, its debiasing factor () and columns missed ().

    Input `ridge` is the diagonal of R, `guard` that of the whole data's Hessian (`estimates.cover`), if given.
    """
    share = Part.of(work, part, parts)
    H, _, n_rows = local_hessian(share, problem)
    missed = cover(H, work.input("guard")) if "guard" in work.task.inputs else 0
    nu = debias(H, work.input("ridge"), n_rows).nu if unbias else 1.0
    H /= nu
    H.flat[:: len(H) + 1] += work.input("ridge")
    dtype = next(block for _, block in work.blocks()).X.dtype.name
    return invertible(H, dtype, n_rows).solve(work.input("v")), np.array(nu), np.array(missed)
