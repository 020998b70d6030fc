"""What a job found: coefficients, how it went, and predictions from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special

from coordinator.data.blocks import load_scale
from coordinator.errors import ConflictError, DamagedError, InputError, JobError, KeyMissingError
from coordinator.kernels import split
from coordinator.linear_program import KIND, LinearProgram
from coordinator.problem import Problem
from coordinator.storage import Storage, json_object

if TYPE_CHECKING:
    from coordinator.solvers.base import State

Array = NDArray[Any]


@dataclass(frozen=True)
class Result:
    """A solution.

    Attributes
    ----------
    loss : its name; "linear-program" for one, whose solution x is coef_.
    coef_ : (d,), or (K, d) for multi-class losses, for columns as they were before any scaling on import.
    intercept_ : number, or (K,); 0 without an intercept.
    classes_ : labels in the order of K, the second being positive for binary losses; None for numeric targets.
    n_iter_, converged, reason : iterations; whether the tolerance was reached; the end in words.
    objective, residual, relative : at the solution; `relative` is the residual over the first one. For solver
        interior-point, `residual` is the duality gap (inf where none is known), `relative` is it over 1 + |objective|.
    history : one row of figures an iteration.
    chosen : what a solver that chooses has chosen, on what figures, and the sketches it used.
    seconds : time by kind of phase, coordinator's linear algebra, and "total" (of all runs, if resumed).
    passes : times the data were read.
    cost : dollars by kind of phase, of runs in the cloud.
    """

    job: str
    solver: str
    loss: str
    coef_: Array
    intercept_: Array | float
    classes_: tuple[Any, ...] | None
    n_iter_: int
    converged: bool
    reason: str
    objective: float
    residual: float
    relative: float
    passes: float
    seconds: Mapping[str, float]
    chosen: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()
    features: tuple[str, ...] | None = None
    cost: Mapping[str, float] = field(default_factory=dict)

    def decision_function(self, X: Array | sparse.csr_matrix) -> Array:
        """Z = X coef + intercept: (n,), or (n, K)."""
        if X.ndim != 2 or X.shape[1] != self.coef_.shape[-1]:
            raise InputError(f"X has shape {X.shape}, the model was fitted on {self.coef_.shape[-1]} columns")
        return np.asarray(X @ self.coef_.T + self.intercept_)

    def predict(self, X: Array | sparse.csr_matrix) -> Array:
        """Labels for losses with classes, means for Poisson, else z; (n,). InputError for a linear program."""
        if self.loss == KIND:
            raise InputError("a linear program predicts nothing: its solution x is coef_ (`overcast result --save`)")
        z = self.decision_function(X)
        if self.classes_ is None:
            return np.exp(z) if self.loss == "poisson" else z
        index = z.argmax(axis=1) if z.ndim == 2 else (z > 0).astype(int)
        return np.asarray(self.classes_)[index]

    def predict_proba(self, X: Array | sparse.csr_matrix) -> Array:
        """Class probabilities (n, K), K = 2 for logistic; InputError for losses that have none."""
        if self.loss not in {"logistic", "softmax"}:
            raise InputError(f"loss {self.loss!r} gives no probabilities: fit with logistic or softmax")
        z = self.decision_function(X)
        if z.ndim == 2:
            return special.softmax(z, axis=1)
        p = special.expit(z)
        return np.stack([1 - p, p], axis=1)


def make_result(
    job: str,
    solver: str,
    problem: Problem | LinearProgram,
    storage: Storage,
    state: State,
    w: NDArray[np.float64],
    *,
    stopped: str = "",
    **figures: Any,
) -> Result:
    """The result at the flat parameter `w` of a state, with column scaling undone; `stopped`: why it is not the last.

    `figures` are the other fields: seconds, history and cost.
    """
    intercept = isinstance(problem, Problem) and problem.intercept
    coefficients, bias = split(w, problem.data.n_features + int(intercept), intercept)
    scale = load_scale(storage, problem.data)
    if scale is not None:
        coefficients = coefficients / (scale if coefficients.ndim == 1 else scale[:, None])
    return Result(
        job=job,
        solver=solver,
        loss=KIND if isinstance(problem, LinearProgram) else problem.loss.name,
        coef_=np.ascontiguousarray(coefficients.T),
        intercept_=np.array(bias) if coefficients.ndim == 2 and intercept else float(np.max(bias)),
        classes_=_classes(problem),
        features=problem.data.features,
        n_iter_=state.iteration,
        converged=state.reason == "converged",
        reason=f"{stopped}; this is the best iterate so far" if stopped else str(state.reason),
        objective=state.value,
        residual=state.residual,
        relative=state.relative,
        passes=state.passes,
        chosen=getattr(state, "chosen", {}),
        **figures,
    )


def _classes(problem: Problem | LinearProgram) -> tuple[Any, ...] | None:
    fitted = isinstance(problem, Problem) and problem.loss.target in {"binary", "multiclass"}
    return problem.data.classes if fitted else None


def save_result(storage: Storage, result: Result) -> None:
    """Store it under the job, once; a second run that ends the same way adds what the first one had not got to."""
    plain = {k: v for k, v in vars(result).items() if k not in {"coef_", "intercept_"}}
    arrays = {"coef": result.coef_, "intercept": np.asarray(result.intercept_, dtype=np.float64)}
    with suppress(ConflictError):
        storage.put_arrays(f"jobs/{result.job}/result", arrays)
    with suppress(ConflictError):
        storage.put(f"jobs/{result.job}/result.json", json.dumps(plain).encode())


def load_result(storage: Storage, job: str) -> Result:
    """The result of a job; JobError when it has none yet."""
    try:
        plain = json_object(storage.get(f"jobs/{job}/result.json"), f"jobs/{job}/result.json")
        arrays = storage.get_arrays(f"jobs/{job}/result")
    except KeyMissingError:
        if storage.exists(f"jobs/{job}/items/index.json"):
            raise JobError(f"job {job!r} maps a function: outputs() of its handle has the results") from None
        raise JobError(f"job {job!r} has no result yet") from None
    try:
        plain |= {k: tuple(plain[k]) for k in ("classes_", "features", "history") if plain[k] is not None}
        bias = arrays["intercept"]
        return Result(coef_=np.array(arrays["coef"]), intercept_=np.array(bias) if bias.ndim else float(bias), **plain)
    except (KeyError, TypeError):
        raise DamagedError(f"jobs/{job}/result.json") from None
