"""What the estimators share: checking input without copying it, solving, and linear predictions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from numbers import Integral, Real
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted, validate_data

from coordinator.embedded import solve
from coordinator.errors import InputError
from coordinator.executors.local import default_workers
from coordinator.kernels import join
from coordinator.results import Result
from coordinator.solvers import SOLVERS

Array = NDArray[Any]
FLOATS: Final = (np.float64, np.float32)


class LinearEstimator(BaseEstimator):  # type: ignore[misc]
    """Base of all: `_check_rows`, `_solve` and `_linear_predictor`."""

    # set by the constructors of all estimators
    fit_intercept: bool
    tol: float
    max_iter: int
    solver: str | None
    random_state: Any
    n_jobs: int | None
    # set by fit
    coef_: Array
    intercept_: Any
    result_: Result

    def _check_rows(self, X: Any, y: Any, sample_weight: Any, **options: Any) -> tuple[Any, Array, Array | None]:
        """X as rows for the solvers (the caller's own memory where it can be), y, and weights or None."""
        check_scalar(self.tol, "tol", Real, min_val=0, max_val=1, include_boundaries="neither")
        check_scalar(self.max_iter, "max_iter", Integral, min_val=1)
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=FLOATS, order="C", **options)
        weight = None if sample_weight is None else check_weight(sample_weight, X.shape[0])
        return canonical(X) if sparse.issparse(X) else X, y, weight

    def _solve(
        self,
        X: Any,
        y: Array,
        problem: Mapping[str, Any],
        weight: Array | None,
        *,
        classes: tuple[Any, ...] | None = None,
        start: Array | None = None,
    ) -> Result:
        """The solution; ConvergenceWarning when it is not one to `tol`, ValueError for what cannot be solved."""
        result = self._run(X, y, problem, weight, self.tol, classes, start)
        if not result.converged:
            warnings.warn(
                f"{type(self).__name__} did not converge: {result.reason} (gradient norm {result.relative:.1e} of that "
                f"at zero, tol={self.tol:g})",
                ConvergenceWarning,
                stacklevel=3,
            )
        return result

    def _run(
        self,
        X: Any,
        y: Array,
        problem: Mapping[str, Any],
        weight: Array | None,
        tol: float,
        classes: tuple[Any, ...] | None = None,
        start: Array | None = None,
    ) -> Result:
        """Where the solver ends, wherever that is."""
        try:
            return solve(
                X,
                np.ascontiguousarray(y, dtype=np.float64),
                {**problem, "intercept": bool(self.fit_intercept)},
                weight=weight,
                classes=classes,
                solver=self._solver_name(problem),
                settings=self._settings(problem) | {"tol": float(tol)},
                workers=n_threads(self.n_jobs),
                start=start,
            )
        except InputError as error:
            raise ValueError(str(error)) from error

    def _solver_name(self, problem: Mapping[str, Any]) -> str:
        if self.solver is not None:
            return self.solver
        return "proximal-newton" if problem.get("l1") else "oversketched-newton"

    def _settings(self, problem: Mapping[str, Any]) -> dict[str, Any]:
        settings: dict[str, Any] = {"max_iter": int(self.max_iter)}
        kind = SOLVERS.get(self._solver_name(problem))
        if self.random_state is not None and kind is not None and any(f.name == "seed" for f in fields(kind)):
            settings["seed"] = seed_of(self.random_state)
        return settings

    def _warm(self, shape: tuple[int, ...]) -> Array | None:
        """The last solution as a starting point, if warm starts are wanted and it fits."""
        if not getattr(self, "warm_start", False) or not hasattr(self, "coef_") or self.coef_.shape != shape:
            return None
        coefficients = np.asarray(self.coef_, dtype=np.float64)
        bias = np.asarray(self.intercept_, dtype=np.float64)
        if coefficients.ndim == 2 and len(coefficients) == 1:
            coefficients, bias = coefficients[0], bias[0]
        return join(coefficients.T, bias if self.fit_intercept else None)

    def _linear_predictor(self, X: Any) -> Array:
        """X coef + intercept."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=FLOATS, reset=False)
        return np.asarray(X @ self.coef_.T + self.intercept_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def check_weight(sample_weight: Any, n: int) -> Array:
    """(n,) float64 weights >= 0, not all zero, from a number or a sequence; ValueError for anything else."""
    if isinstance(sample_weight, Real):
        weight = np.full(n, float(sample_weight))
    else:
        weight = check_array(sample_weight, ensure_2d=False, dtype=np.float64, order="C", input_name="sample_weight")
    if weight.shape != (n,):
        raise ValueError(f"sample_weight has shape {weight.shape}, expected ({n},)")
    if weight.min() < 0:
        raise ValueError("Negative values in data passed to `sample_weight`: weights must be >= 0")
    if not weight.sum() > 0:
        raise ValueError("sample_weight is zero for every row")
    return weight


def total_weight(X: Any, weight: Array | None) -> float:
    """Sum of the weights, by which penalties of whole data sets are divided."""
    return float(X.shape[0]) if weight is None else float(weight.sum())


def canonical(X: Any) -> Any:
    """CSR with sorted int32 indices and no duplicates; copied only where it is not."""
    if not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    if X.indices.dtype != np.int32:
        if X.shape[1] > np.iinfo(np.int32).max:
            raise ValueError(f"sparse X has {X.shape[1]} columns: more than 32-bit indices can name")
        # the row pointer may stay 64-bit: blocks have their own
        X = X.copy() if X.data.size == 0 else X.__class__((X.data, X.indices, X.indptr), shape=X.shape, copy=False)
        X.indices = X.indices.astype(np.int32)
    return X


def n_threads(n_jobs: int | None) -> int | None:
    """Threads: None for all cores; negative counts from the number of cores, as in joblib."""
    if n_jobs is None:
        return None
    check_scalar(n_jobs, "n_jobs", Integral)
    if n_jobs == 0:
        raise ValueError("n_jobs == 0 has no meaning: give a number of threads, or None for all cores")
    return int(n_jobs) if n_jobs > 0 else max(1, default_workers() + 1 + int(n_jobs))


def seed_of(random_state: Any) -> int:
    """A seed for the names of random streams."""
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def with_labels(result: Result, classes: Array) -> Result:
    """The result with the user's labels in place of their positions."""
    return replace(result, classes_=tuple(classes.tolist()))
