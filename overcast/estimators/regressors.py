"""Regressors: Ridge, Lasso, ElasticNet, PoissonRegressor, HuberRegressor."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any, Final, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import d2_tweedie_score
from sklearn.utils import check_scalar

from coordinator.kernels import join
from coordinator.results import Result
from overcast.estimators.base import Array, LinearEstimator, total_weight

START_TOL: Final = 1e-4
SHRINK: Final = 4.0


class _Regressor(RegressorMixin, LinearEstimator):  # type: ignore[misc]
    """Fits one vector of coefficients; subclasses say to which problem."""

    alpha: float

    def _problem(self, total: float) -> Mapping[str, Any]:
        """Loss and penalties per unit of weight, for rows of this `total` weight."""
        raise NotImplementedError

    def _check_target(self, y: Array) -> None:
        """ValueError for targets that the loss does not take."""

    def _start(
        self,
        X: Any,  # noqa: ARG002
        y: Array,  # noqa: ARG002
        problem: Mapping[str, Any],  # noqa: ARG002
        weight: Array | None,  # noqa: ARG002
    ) -> tuple[Array | None, int]:
        """Where to start without a warm start (None is at zero), and the iterations that it took to get there."""
        return None, 0

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to rows `X` (n, d), dense or sparse, and targets `y` (n,), weighted by `sample_weight` (n,).

        float32 and float64 rows in C order, and CSR matrices, are used where they are.
        """
        X, y, weight = self._check_rows(X, y, sample_weight, y_numeric=True)
        self._check_target(y)
        problem = self._problem(total_weight(X, weight))
        start, before = self._warm((X.shape[1],)), 0
        if start is None:
            start, before = self._start(X, y, problem, weight)
        result = self._solve(X, y, problem, weight, start=start)
        self.coef_ = result.coef_.astype(X.dtype, copy=False)
        self.intercept_ = float(result.intercept_)
        self.n_iter_ = before + result.n_iter_
        self.result_ = result
        return self

    def predict(self, X: Any) -> Array:
        """Predicted targets (n,)."""
        return self._linear_predictor(X)


class Ridge(_Regressor):
    """Least squares with an L2 penalty: sum_i s_i (y_i - x_i w - b)^2 + alpha |w|^2.

    Parameters
    ----------
    alpha : weight of the penalty, >= 0.
    fit_intercept : whether there is an intercept b.
    tol : stop when the gradient's norm is `tol` times that at zero coefficients.
    max_iter : most iterations.
    solver : name of a solver, or None.
    random_state : seed of sketches; None is a fixed seed.
    n_jobs : threads; None is all cores.

    Attributes
    ----------
    coef_ : (d,) in the dtype of X.
    intercept_ : number.
    n_iter_, n_features_in_, feature_names_in_ : as in scikit-learn.
    result_ : `coordinator.results.Result` with the history of the solve.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        fit_intercept: bool = True,
        tol: float = 1e-8,
        max_iter: int = 1000,
        solver: str | None = None,
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.solver = solver
        self.random_state = random_state
        self.n_jobs = n_jobs

    def _problem(self, total: float) -> Mapping[str, Any]:
        alpha = check_scalar(self.alpha, "alpha", Real, min_val=0)
        return {"loss": "squared", "l2": float(alpha) / total}


class ElasticNet(_Regressor):
    """Least squares with L1 and L2 penalties.

    sum_i s_i (y_i - x_i w - b)^2 / (2 sum_i s_i) + alpha l1_ratio |w|_1 + alpha (1 - l1_ratio) |w|^2 / 2.

    Parameters
    ----------
    alpha : weight of the penalties, >= 0.
    l1_ratio : share of L1, from 0 to 1.
    fit_intercept : whether there is an intercept b.
    tol : stop when the norm of the least subgradient is `tol` times that at zero coefficients.
    max_iter : most iterations.
    warm_start : start at the last solution.
    solver : name of a solver that takes L1 (unless l1_ratio is 0), or None.
    random_state : seed of sketches; None is a fixed seed.
    n_jobs : threads; None is all cores.

    Attributes
    ----------
    coef_ : (d,) in the dtype of X.
    intercept_ : number.
    n_iter_, n_features_in_, feature_names_in_ : as in scikit-learn.
    result_ : `coordinator.results.Result` with the history of the solve.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        l1_ratio: float = 0.5,
        fit_intercept: bool = True,
        tol: float = 1e-8,
        max_iter: int = 1000,
        warm_start: bool = False,
        solver: str | None = None,
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.solver = solver
        self.random_state = random_state
        self.n_jobs = n_jobs

    def _problem(self, total: float) -> Mapping[str, Any]:  # noqa: ARG002  penalties are per unit of weight already
        alpha = float(check_scalar(self.alpha, "alpha", Real, min_val=0))
        ratio = float(check_scalar(self.l1_ratio, "l1_ratio", Real, min_val=0, max_val=1))
        return {"loss": "squared", "l1": alpha * ratio, "l2": alpha * (1 - ratio)}


class Lasso(ElasticNet):
    """Least squares with an L1 penalty: sum_i s_i (y_i - x_i w - b)^2 / (2 sum_i s_i) + alpha |w|_1.

    Parameters and attributes are those of ElasticNet, without `l1_ratio`.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        fit_intercept: bool = True,
        tol: float = 1e-8,
        max_iter: int = 1000,
        warm_start: bool = False,
        solver: str | None = None,
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.solver = solver
        self.random_state = random_state
        self.n_jobs = n_jobs

    def _problem(self, total: float) -> Mapping[str, Any]:  # noqa: ARG002  penalties are per unit of weight already
        return {"loss": "squared", "l1": float(check_scalar(self.alpha, "alpha", Real, min_val=0))}


class PoissonRegressor(_Regressor):
    """Counts with a log link: sum_i s_i deviance(y_i, exp(x_i w + b)) / (2 sum_i s_i) + alpha |w|^2 / 2.

    Parameters
    ----------
    alpha : weight of the penalty, >= 0.
    fit_intercept : whether there is an intercept b.
    tol : stop when the gradient's norm is `tol` times that at zero coefficients.
    max_iter : most iterations.
    warm_start : start at the last solution.
    solver : name of a solver, or None.
    random_state : seed of sketches; None is a fixed seed.
    n_jobs : threads; None is all cores.

    Attributes
    ----------
    coef_ : (d,) in the dtype of X.
    intercept_ : number.
    n_iter_, n_features_in_, feature_names_in_ : as in scikit-learn.
    result_ : `coordinator.results.Result` with the history of the solve.
    """

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        fit_intercept: bool = True,
        tol: float = 1e-8,
        max_iter: int = 1000,
        warm_start: bool = False,
        solver: str | None = None,
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.solver = solver
        self.random_state = random_state
        self.n_jobs = n_jobs

    def _problem(self, total: float) -> Mapping[str, Any]:  # noqa: ARG002  the penalty is per unit of weight already
        alpha = check_scalar(self.alpha, "alpha", Real, min_val=0)
        return {"loss": "poisson", "l2": float(alpha)}

    def _check_target(self, y: Array) -> None:
        if np.min(y) < 0:
            raise ValueError("Some value(s) of y are out of the valid range of the loss: counts must be >= 0")

    def predict(self, X: Any) -> Array:
        """Predicted means (n,)."""
        return np.exp(self._linear_predictor(X))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """D^2, the share of the deviance that is explained."""
        return float(d2_tweedie_score(y, self.predict(X), sample_weight=sample_weight, power=1))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = True
        return tags


class HuberRegressor(_Regressor):
    """Least squares that turns linear beyond `delta`, so that outliers do not count in full.

    sum_i s_i h(y_i - x_i w - b) + alpha |w|^2 with h(r) = r^2 up to |r| = delta and 2 delta |r| - delta^2 beyond. The
    solve starts at least squares and lowers delta to its value in steps.

    scikit-learn's estimator of this name finds the scale of the residuals as well, and its `epsilon` is in units of it;
    here `delta` is in units of y, and nothing but the coefficients is estimated. The two agree where delta is epsilon
    times the scale found there and alpha is what it is there times that scale.

    Parameters
    ----------
    delta : residual, in units of y, from which the loss is linear; > 0.
    alpha : weight of the penalty, >= 0.
    fit_intercept : whether there is an intercept b.
    tol : stop when the gradient's norm is `tol` times that at zero coefficients.
    max_iter : most iterations.
    warm_start : start at the last solution.
    solver : name of a solver, or None.
    random_state : seed of sketches; None is a fixed seed.
    n_jobs : threads; None is all cores.

    Attributes
    ----------
    coef_ : (d,) in the dtype of X.
    intercept_ : number.
    outliers_ : (n,) bool, rows of the linear part.
    n_iter_, n_features_in_, feature_names_in_ : as in scikit-learn.
    result_ : `coordinator.results.Result` with the history of the solve.
    """

    def __init__(
        self,
        *,
        delta: float = 1.35,
        alpha: float = 1e-4,
        fit_intercept: bool = True,
        tol: float = 1e-8,
        max_iter: int = 1000,
        warm_start: bool = False,
        solver: str | None = None,
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.delta = delta
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.solver = solver
        self.random_state = random_state
        self.n_jobs = n_jobs

    def _problem(self, total: float) -> Mapping[str, Any]:
        delta = check_scalar(self.delta, "delta", Real, min_val=0, include_boundaries="neither")
        alpha = check_scalar(self.alpha, "alpha", Real, min_val=0)
        return {"loss": {"name": "huber", "delta": float(delta)}, "l2": float(alpha) / total}

    def _start(self, X: Any, y: Array, problem: Mapping[str, Any], weight: Array | None) -> tuple[Array | None, int]:
        """The solution for a larger delta, which is that for squares at first.

        At zero, and wherever residuals are large against delta, most rows lie in the linear part: the loss has no
        curvature there for a second-order step to use.
        """
        found = self._run(X, y, {**problem, "loss": "squared"}, weight, START_TOL)
        iterations = found.n_iter_
        squares = (y - found.decision_function(X)) ** 2
        delta = float(np.sqrt(np.average(squares, weights=weight)))
        while delta > SHRINK * self.delta:
            delta /= SHRINK
            loss = {"name": "huber", "delta": delta}
            found = self._run(X, y, {**problem, "loss": loss}, weight, START_TOL, start=self._flat(found))
            iterations += found.n_iter_
        return self._flat(found), iterations

    def _flat(self, result: Result) -> Array:
        return join(result.coef_, result.intercept_ if self.fit_intercept else None)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit, as the base does, and mark the outliers."""
        super().fit(X, y, sample_weight)
        self.outliers_ = np.abs(np.asarray(y, dtype=np.float64).ravel() - self.predict(X)) > self.delta
        return self
