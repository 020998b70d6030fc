"""What every solver is: a frozen configuration with `init` and `step` over a state of plain data.

A step makes one iterate; the state is the checkpoint. A solver knows its problem and a `Runtime`, not where tasks run.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from coordinator.errors import InputError
from coordinator.losses import is_number
from coordinator.problem import Problem
from coordinator.runtime import Runtime
from coordinator.solvers.objective import Objective, Point, Vector

S = TypeVar("S", bound="State")
DOUBLE_BELOW = 1e-5  # relative residual from which float32 rows are multiplied in float64 (spec D6)


@dataclass(frozen=True)
class State:
    """An iterate and how it came about.

    Attributes
    ----------
    w, value, gradient : parameters, objective with penalties, gradient of the smooth part.
    double : whether they were computed in float64 products.
    residual : norm of the gradient (with l1: of w - prox(w - gradient)).
    residual0 : the first one; convergence is residual <= tol x residual0.
    passes : times the data have been read.
    reason : None while running, else why it ended: "converged" or a remedy-bearing sentence.
    row : figures of this iteration for the history: numbers and short words.
    """

    iteration: int
    w: NDArray[np.float64]
    value: float
    gradient: NDArray[np.float64]
    double: bool
    residual: float
    residual0: float
    passes: float = 0.0
    reason: str | None = None
    row: dict[str, Any] = field(default_factory=dict)

    @property
    def relative(self) -> float:
        """Residual relative to the first."""
        return self.residual / self.residual0 if self.residual0 > 0 else 0.0

    def figures(self, seconds: float) -> dict[str, Any]:
        """The history's row of this iterate, `seconds` after the job began."""
        return {
            "iteration": self.iteration,
            "objective": self.value,
            "residual": self.residual,
            "relative": self.relative,
            "passes": self.passes,
            "seconds": seconds,
            **self.row,
        }


class Solver(Protocol):
    """A frozen dataclass of settings. `state` is the class of its states, for reading checkpoints.

    A problem is a `coordinator.problem.Problem`, or what `coordinator.solvers.check_problem` lets through.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    state: ClassVar[type[Any]]
    max_iter: int

    def check(self, problem: Any) -> None:
        """InputError when this solver cannot take this problem."""

    def init(self, problem: Any, ctx: Runtime, w0: Vector | None = None) -> Any:
        """The first state, at `w0` (default 0)."""

    def step(self, problem: Any, state: Any, ctx: Runtime) -> Any:
        """The next state; `reason` set when it is the last."""

    def solution(self, state: Any) -> Vector:
        """The flat parameter vector that the job returns."""
        ...


def residual_of(objective: Objective, w: Vector, gradient: Vector) -> float:
    """Norm of the gradient; with l1, of the proximal residual w - prox(w - g) in units of the gradient."""
    if not objective.problem.penalty.l1:
        return float(np.linalg.norm(gradient))
    # the least subgradient: it is what the proximal step removes to first order, and needs no step size
    lasso = objective.lasso
    at_zero = np.sign(gradient) * np.maximum(np.abs(gradient) - lasso, 0.0)
    return float(np.linalg.norm(np.where(w != 0, gradient + lasso * np.sign(w), at_zero)))


def begin(objective: Objective, w0: Vector | None, tol: float) -> tuple[Point, dict[str, Any]]:
    """Evaluate the start; fields that every first state shares. A start that meets `tol` is the end."""
    w = np.zeros(objective.problem.n_parameters) if w0 is None else np.array(w0, dtype=np.float64)
    if w.shape != (objective.problem.n_parameters,):
        raise InputError(f"the starting point has {w.size} parameters, the problem {objective.problem.n_parameters}")
    point = objective.at(w)
    residual = residual_of(objective, w, point.gradient)
    residual0 = residual
    if w0 is not None and np.any(w):
        # tolerances are relative to zero parameters, wherever the start is
        zero = objective.at(np.zeros_like(w))
        residual0 = residual_of(objective, zero.w, zero.gradient)
    common = {
        "iteration": 0,
        "w": w,
        "value": point.value,
        "gradient": point.gradient,
        "double": point.double,
        "residual": residual,
        "residual0": residual0,
        "passes": objective.passes,
        "reason": "converged" if residual <= tol * residual0 else None,
    }
    return point, common


def resume(objective: Objective, state: State) -> Point:
    """The point of a state, with nothing computed anew."""
    cached = objective.ctx.cache.get("point")
    if isinstance(cached, Point) and cached.w is state.w:
        return cached
    return objective.restore(state.w, state.value, state.gradient, state.double)


def advance(
    objective: Objective, state: S, point: Point, tol: float, max_iter: int, row: dict[str, Any], **extra: Any
) -> S:
    """The next state at `point`, with convergence and the iteration limit settled."""
    residual = residual_of(objective, point.w, point.gradient)
    objective.ctx.cache["point"] = point
    objective.ctx.release()
    iteration = state.iteration + 1
    reason = None
    if not np.isfinite(point.value):
        reason = "the objective is not finite: scale the columns, or add l2"
    elif residual <= tol * state.residual0:
        reason = "converged"
    elif iteration >= max_iter:
        reason = f"stopped after {max_iter} iterations: raise max_iter, or scale the columns"
    return replace(
        state,
        iteration=iteration,
        w=point.w,
        value=point.value,
        gradient=point.gradient,
        double=point.double,
        residual=residual,
        passes=state.passes + objective.passes,
        reason=reason,
        row=row,
        **extra,
    )


def stalled(objective: Objective, state: S) -> S:
    """The last state of a run in which no step decreases the objective any more."""
    coarse = objective.problem.data.dtype == "float32"
    remedy = "import the data as float64" if coarse else "scale the columns, or add l2"
    reason = (
        f"the line search failed at relative residual {state.relative:.1e}: "
        f"rounding may decide there; raise tol, or {remedy}"
    )
    return replace(state, passes=state.passes + objective.passes, reason=reason)


def smooth_only(name: str, problem: Problem) -> None:
    """InputError when the problem has an l1 penalty."""
    if problem.penalty.l1:
        raise InputError(f"{name} takes no l1 penalty: use proximal-newton or nesterov, or set l1 to 0")


def at_least(name: str, least: int, **settings: int) -> None:
    """InputError for a setting below `least`."""
    for key, value in settings.items():
        if value < least:
            raise InputError(f"{name}: {key} must be >= {least}, not {value}")


def wants_double(objective: Objective, state: State) -> bool:
    """Whether the next evaluation should multiply float32 rows in float64."""
    return objective.problem.data.dtype == "float32" and (state.double or state.relative < DOUBLE_BELOW)


def parameters(solver: type[Any]) -> list[dict[str, Any]]:
    """A solver's settings for listings: name, type, default and help."""
    return [
        {
            "name": f.name,
            "type": str(f.type).removesuffix(" | None"),
            "default": f.default,
            "help": f.metadata.get("help", ""),
            **({"choices": list(f.metadata["choices"])} if "choices" in f.metadata else {}),
        }
        for f in fields(solver)
    ]


def setting(default: Any, text: str, choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field with help text."""
    metadata: dict[str, Any] = {"help": text}
    if choices:
        metadata["choices"] = choices
    return field(default=default, metadata=metadata)


def check_settings(solver: Any) -> None:
    """InputError for values of another type, choices that are none and common numbers out of range."""
    for f in fields(solver):
        value = getattr(solver, f.name)
        kinds = [kind.strip() for kind in str(f.type).split("|")]
        if not any(_fits(value, kind) for kind in kinds):
            wanted = " or ".join(_SAID.get(kind, kind) for kind in kinds)
            raise InputError(f"{solver.name}: {f.name} must be {wanted}, not {value!r}")
        choices = f.metadata.get("choices")
        if choices and value not in choices:
            raise InputError(f"{solver.name}: {f.name} must be one of {', '.join(choices)}, not {value!r}")
        if f.name == "tol" and not (isinstance(value, int | float) and 0 < value < 1):
            raise InputError(f"{solver.name}: tol must lie between 0 and 1, not {value!r}")
        if f.name == "max_iter" and not (isinstance(value, int) and value >= 1):
            raise InputError(f"{solver.name}: max_iter must be a whole number >= 1, not {value!r}")
        if f.name == "seed" and not (isinstance(value, int) and 0 <= value < 1 << 128):
            raise InputError(f"{solver.name}: seed must be a whole number >= 0, not {value!r}, and below 2^128")


_SAID = {"int": "a whole number", "float": "a finite number", "bool": "true or false", "str": "a word", "None": "none"}


def _fits(value: Any, kind: str) -> bool:
    """Whether a setting's value is of the annotated kind; kinds that are not plain are left to the solver."""
    if kind == "None":
        return value is None
    if kind in {"int", "float"}:
        return is_number(value) and (kind == "float" or isinstance(value, int))
    return isinstance(value, {"bool": bool, "str": str}[kind]) if kind in {"bool", "str"} else True
