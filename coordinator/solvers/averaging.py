"""Newton's method with averaged local estimates of the inverse Hessian; three ways to average.

An iteration is two rounds: the exact gradient g, which the line search of the iteration before has left, and estimates
of H^-1 g by any number of tasks, each from rows that it draws for itself. A task uploads O(p) numbers, and a step waits
for no straggler: `spare` estimates may be missing.

Two deviations, common to all. Columns that a draw misses take their curvature from the Hessian's diagonal, which costs
a pass where there are such columns (guard=false: none). And the direction is that of L-BFGS with the average as its
initial inverse Hessian: the two-loop recursion turns g before the round and the answer after it, so this costs nothing,
and it makes up for directions in which all estimates err alike (memory=0: none).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from coordinator.errors import InputError
from coordinator.problem import Problem
from coordinator.runtime import Runtime
from coordinator.solvers import base
from coordinator.solvers.estimates import COLLAPSED, Draw, default_rows, draw_estimates
from coordinator.solvers.exact import MEMORY
from coordinator.solvers.lbfgs import safe_diagonal
from coordinator.solvers.linesearch import line_search
from coordinator.solvers.memory import Memory, two_loop
from coordinator.solvers.objective import Objective, Point, Vector
from sketches import ROW_LAWS, mean_step

NEAR: Final = 1e-2  # relative residual from which curvature pairs are kept: farther out they belong to another region
GATE: Final = (0.5, 2.0)  # steps outside, relative to the one asked for, clear them for the same reason


@dataclass(frozen=True)
class AveragedState(base.State):
    """With curvature pairs; `guard`, the diagonal (p,) of the losses' Hessian, to be kept while `missed` is 0 columns;
    and for solvers that choose what they chose, why, and their warnings.
    """

    memory: Memory = field(default_factory=Memory)
    guard: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    missed: int = 1
    chosen: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Averaged:
    """An averaged H^-1 v: `value` (p,), the step it asks for, figures for the history, and columns that were missed."""

    value: Vector
    step: float
    row: dict[str, Any]
    missed: int = 0


class Limits(Protocol):
    """What a step needs to know of a solver's settings."""

    @property
    def tol(self) -> float: ...
    @property
    def max_iter(self) -> int: ...
    @property
    def memory(self) -> int: ...


def begin(
    problem: Problem, ctx: Runtime, w0: Vector | None, tol: float, chosen: dict[str, Any] | None = None
) -> AveragedState:
    """The first state."""
    _, common = base.begin(Objective(problem, ctx), w0, tol)
    return AveragedState(**common, memory=Memory(), chosen=chosen or {})


def averaged_step(
    limits: Limits, objective: Objective, state: AveragedState, point: Point, apply: Callable[[Vector], Averaged]
) -> AveragedState | None:
    """One step with `apply`, an average of inverse Hessians at `point`, in L-BFGS; None when no step decreases f."""
    double = base.wants_double(objective, state)
    memory, missed = state.memory, 0
    end: Point | None
    while True:
        kept: list[Averaged] = []

        def h0(q: Vector, kept: list[Averaged] = kept) -> Vector:
            kept.append(apply(q))
            return kept[0].value

        p = -two_loop(point.gradient, memory.S, memory.Y, h0)
        [averaged] = kept
        missed = max(missed, averaged.missed)
        first = 1.0 if len(memory) else averaged.step
        end, step = None, 0.0
        if float(p @ point.gradient) < 0:
            end, step = line_search(objective, point, p, double, first)
        if end is None and len(memory):
            memory = Memory()
            continue
        break
    if end is None:  # too few rows of an estimate bend, as those of a Huber loss may
        diagonal = safe_diagonal(objective.diagonal(point) + objective.ridge)
        end, step = line_search(objective, point, -point.gradient / diagonal, double)
        first, memory = 0.0, Memory()
    if end is None:
        return None
    if limits.memory and state.relative < NEAR and GATE[0] * first <= step <= GATE[1] * first:
        memory = memory.push(end.w - point.w, end.gradient - point.gradient, limits.memory)
    else:
        memory = Memory()
    row = {"step": step, "passes": objective.passes, **averaged.row} | ({"missed": missed} if missed else {})
    return base.advance(objective, state, end, limits.tol, limits.max_iter, row, memory=memory, missed=missed)


def guarded(objective: Objective, state: AveragedState, point: Point) -> AveragedState:
    """With the diagonal of the losses' Hessian renewed, if the last draws had use for it."""
    return replace(state, guard=objective.diagonal(point)) if state.missed else state


def fits(name: str, problem: Problem) -> None:
    """InputError when tasks cannot hold a matrix of all parameters, or the problem is not smooth."""
    base.smooth_only(name, problem)
    p = problem.n_parameters
    if 8.0 * p**2 > MEMORY:
        raise InputError(f"{name} would need a {p} x {p} matrix in every task: use oversketched-newton or lbfgs")


def check_counts(name: str, problem: Problem, estimates: int, spare: int, rows: int, memory: int) -> None:
    """InputError for numbers out of range."""
    fits(name, problem)
    if estimates < 1 or not 0 <= spare < estimates:
        raise InputError(f"{name}: estimates must be >= 1 and spare from 0 to below it, not {estimates} and {spare}")
    if rows < 0 or memory < 0:
        raise InputError(f"{name}: rows and memory must be >= 0, not {rows} and {memory}")
    if rows > problem.data.n_rows:
        raise InputError(f"{name}: rows={rows} is more than the {problem.data.n_rows} rows there are")


@dataclass(frozen=True)
class Averaging:
    """Settings and steps of methods that differ in what they average: `inverse`."""

    name: ClassVar[str]
    summary: ClassVar[str]
    state: ClassVar[type[AveragedState]] = AveragedState

    tol: float = base.setting(1e-6, "stop when the gradient's norm is tol times that at zero")
    max_iter: int = base.setting(200, "most steps")
    memory: int = base.setting(10, "curvature pairs of L-BFGS around the average; 0: as published")
    guard: bool = base.setting(True, "take the curvature of columns an estimate misses from the Hessian's diagonal")

    def init(self, problem: Problem, ctx: Runtime, w0: Vector | None = None) -> AveragedState:
        return begin(problem, ctx, w0, self.tol)

    def step(self, problem: Problem, state: AveragedState, ctx: Runtime) -> AveragedState:
        objective = Objective(problem, ctx)
        point = base.resume(objective, state)
        if self.guard:
            state = guarded(objective, state, point)
        after = averaged_step(self, objective, state, point, lambda v: self.inverse(objective, point, state, v))
        return base.stalled(objective, state) if after is None else after

    def inverse(self, objective: Objective, point: Point, state: AveragedState, v: Vector) -> Averaged:
        """The averaged H^-1 v at `point`."""
        raise NotImplementedError

    def solution(self, state: AveragedState) -> Vector:
        return state.w


@dataclass(frozen=True)
class Sampled(Averaging):
    """Settings and averages of the three methods whose tasks draw rows."""

    correct: ClassVar[str]

    seed: int = base.setting(0, "names the random streams of the draws")
    estimates: int = base.setting(16, "tasks that estimate the inverse Hessian in each step")
    spare: int = base.setting(0, "estimates that a step may go without when they are late or lost")
    rows: int = base.setting(0, "rows that an estimate draws; 0: 10 a parameter, at most half of all")
    draw: str = base.setting("fixed", "law of the rows drawn", ROW_LAWS)

    def check(self, problem: Problem) -> None:
        check_counts(self.name, problem, self.estimates, self.spare, self.rows, self.memory)

    def inverse(self, objective: Objective, point: Point, state: AveragedState, v: Vector) -> Averaged:
        """The averaged H^-1 v at `point`."""
        draw = Draw(self.draw, default_rows(objective.problem, self.rows), self.correct)
        found = draw_estimates(
            objective,
            point,
            v[:, None],
            draw,
            range(self.estimates),
            path=[state.iteration],
            seed=self.seed,
            spare=self.spare,
            guard=state.guard if self.guard else None,
        )
        average = found.average(found.solutions[:, :, 0], determinants=self.correct == "determinant")
        nu = float(np.mean(found.nus))
        row: dict[str, Any] = {"estimates": len(found.nus), "ess": average.ess, "debias": nu}
        if average.ess < max(COLLAPSED * len(found.nus), 1.5) and len(found.nus) > 1:
            remedy = "draw more rows, a fixed number of them, or average by scaling"
            row["warning"] = f"effective sample size {average.ess:.1f} of {len(found.nus)}: {remedy}"
        step = mean_step(nu, len(found.nus)) if self.correct == "scale" else 1.0
        return Averaged(average.value, step, row, int(found.missed.max()))


@dataclass(frozen=True)
class DeterminantalAveraging(Sampled):
    """Directions weighed by the determinants of their Hessians.

    Derezinski and Mahoney, "Distributed estimation of the inverse Hessian by determinantal averaging" (arXiv
    1905.11546). Unlike a plain mean, the average tends to Newton's direction as estimates are added, like 1 / sqrt(q).
    Deviation: rows are drawn in a fixed number, with the correction of `sketches.correction`, where the paper draws
    each with probability k / n (draw=bernoulli): the number of rows, which is then random, makes determinants differ so
    much that from about 100 parameters on a single estimate has all the weight. Softmax by Fisher sampling.
    """

    name: ClassVar[str] = "determinantal-averaging"
    summary: ClassVar[str] = "local Newton directions weighed by determinants: no bias that averaging leaves"
    correct: ClassVar[str] = "determinant"


@dataclass(frozen=True)
class UniformAveraging(Sampled):
    """The plain mean of directions from rows drawn by chance, as published before determinantal averaging.

    Its error has a floor that no number of estimates lowers: E[H^^-1] is not H^-1. Kept to compare with.
    """

    name: ClassVar[str] = "uniform-averaging"
    summary: ClassVar[str] = "plain mean of local Newton directions: for comparison, its bias stays"
    correct: ClassVar[str] = "none"


@dataclass(frozen=True)
class SurrogateAveraging(Sampled):
    """The mean of directions that are each debiased by scaled regularization.

    Derezinski, Bartan, Pilanci and Mahoney, "Debiasing distributed second order optimization with surrogate sketching
    and scaled regularization" (arXiv 2007.01327). Deviations: the data term is inflated, for any diagonal R, and the
    effective dimension is found from each sketch itself (`sketches.debias`); the sketch is a sample of rows, or with
    draw=sjlt a sketch of all of them, which rows of high leverage do not upset and which reads all data.
    """

    name: ClassVar[str] = "surrogate-averaging"
    summary: ClassVar[str] = (
        "mean of debiased local Newton directions; sketches that rows of high leverage do not upset"
    )
    correct: ClassVar[str] = "scale"

    draw: str = base.setting("fixed", "law of the rows drawn; sjlt: sketches of all rows", (*ROW_LAWS, "sjlt"))
