"""Classifiers: LogisticRegression and LinearSVC."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any, Self

import numpy as np
from scipy import special
from sklearn.base import ClassifierMixin
from sklearn.utils import check_scalar
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets

from overcast.estimators.base import Array, LinearEstimator, total_weight, with_labels


class _Classifier(ClassifierMixin, LinearEstimator):  # type: ignore[misc]
    """Labels to positions and back; one class less than columns of z where there are two."""

    C: float
    class_weight: Any
    classes_: Array

    def _check_classes(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Array, Array | None]:
        """Rows, positions in `classes_` (n,) and the product of sample and class weights, or None."""
        X, y, weight = self._check_rows(X, y, sample_weight)
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} needs rows of at least 2 classes, but there is one class: {self.classes_[0]!r}"
            )
        index = np.searchsorted(self.classes_, y)
        if self.class_weight is not None:
            options = {} if weight is None or self.class_weight != "balanced" else {"sample_weight": weight}
            by_class = compute_class_weight(self.class_weight, classes=self.classes_, y=y, **options)[index]
            weight = by_class if weight is None else weight * by_class
        return X, index, weight

    def decision_function(self, X: Any) -> Array:
        """Signed distances: (n,) for two classes, of which the second is positive, else (n, K)."""
        z = self._linear_predictor(X)
        return z.ravel() if z.shape[1] == 1 else z

    def predict(self, X: Any) -> Array:
        """Labels (n,)."""
        z = self.decision_function(X)
        index = (z > 0).astype(np.intp) if z.ndim == 1 else z.argmax(axis=1)
        return self.classes_[index]


class LogisticRegression(_Classifier):
    """Logistic regression, for more than two classes with a softmax.

    C sum_i s_i loss(y_i, x_i w + b) + l1_ratio |w|_1 + (1 - l1_ratio) |w|^2 / 2.

    Parameters
    ----------
    C : inverse of the penalty, > 0; infinity is no penalty.
    l1_ratio : share of L1 in the penalty, from 0 (L2 only) to 1. There is no `penalty`: it follows from this and C.
    fit_intercept : whether there are intercepts b; they are not penalised.
    class_weight : {label: weight}, "balanced", or None.
    tol : stop when the gradient's norm is `tol` times that at zero coefficients.
    max_iter : most iterations.
    warm_start : start at the last solution.
    solver : name of a solver (one that takes L1, unless l1_ratio is 0), or None.
    random_state : seed of sketches; None is a fixed seed.
    n_jobs : threads; None is all cores.

    Attributes
    ----------
    classes_ : labels in order.
    coef_ : (1, d) for two classes, else (K, d), in the dtype of X.
    intercept_ : (1,) or (K,); those of a softmax are centred.
    n_iter_ : (1,).
    n_features_in_, feature_names_in_ : as in scikit-learn.
    result_ : `coordinator.results.Result` with the history of the solve.
    """

    def __init__(
        self,
        *,
        C: float = 1.0,
        l1_ratio: float = 0.0,
        fit_intercept: bool = True,
        class_weight: Mapping[Any, float] | str | None = None,
        tol: float = 1e-8,
        max_iter: int = 1000,
        warm_start: bool = False,
        solver: str | None = None,
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.C = C
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.solver = solver
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to rows `X` (n, d), dense or sparse, and labels `y` (n,), weighted by `sample_weight` (n,).

        float32 and float64 rows in C order, and CSR matrices, are used where they are.
        """
        C = float(check_scalar(self.C, "C", Real, min_val=0, include_boundaries="neither"))
        ratio = float(check_scalar(self.l1_ratio, "l1_ratio", Real, min_val=0, max_val=1))
        X, index, weight = self._check_classes(X, y, sample_weight)
        K = len(self.classes_)
        scale = 1 / (C * total_weight(X, weight))
        problem = {"loss": "logistic" if K == 2 else "softmax", "l1": ratio * scale, "l2": (1 - ratio) * scale}
        start = self._warm((1 if K == 2 else K, X.shape[1]))
        result = self._solve(X, index, problem, weight, classes=positions(K), start=start)
        coefficients, bias = result.coef_, np.atleast_1d(np.asarray(result.intercept_, dtype=np.float64))
        if K > 2:
            # a number added to all classes changes nothing; without a penalty that holds for every column
            bias = bias - bias.mean() if self.fit_intercept else np.zeros(K)
            coefficients = coefficients if scale > 0 else coefficients - coefficients.mean(axis=0)
        self.coef_ = np.atleast_2d(coefficients).astype(X.dtype, copy=False)
        self.intercept_ = bias.astype(X.dtype, copy=False)
        self.n_iter_ = np.array([result.n_iter_], dtype=np.int32)
        self.result_ = with_labels(result, self.classes_)
        return self

    def predict_proba(self, X: Any) -> Array:
        """Class probabilities (n, K)."""
        z = self.decision_function(X)
        if z.ndim == 2:
            return special.softmax(z, axis=1)
        p = special.expit(z)
        return np.stack([1 - p, p], axis=1)

    def predict_log_proba(self, X: Any) -> Array:
        """Logarithms of the class probabilities (n, K), exact where these are next to 0."""
        z = self.decision_function(X)
        if z.ndim == 2:
            return special.log_softmax(z, axis=1)
        return np.stack([special.log_expit(-z), special.log_expit(z)], axis=1)


class LinearSVC(_Classifier):
    """Linear support vector machine with the squared hinge, one against the rest for more than two classes.

    |w|^2 / 2 + C sum_i s_i max(0, 1 - y_i (x_i w + b))^2, or |w|_1 in place of the first term.

    The intercept b is not penalised. liblinear, on which scikit-learn's estimator of this name stands, penalises it, so
    that the two agree without an intercept, and otherwise as `intercept_scaling` grows there.

    Parameters
    ----------
    penalty : "l2" or "l1".
    C : inverse of the penalty, > 0.
    fit_intercept : whether there are intercepts b.
    class_weight : {label: weight}, "balanced", or None.
    tol : stop when the gradient's norm is `tol` times that at zero coefficients.
    max_iter : most iterations for each class.
    solver : name of a solver (one that takes L1 where that is the penalty), or None.
    random_state : seed of sketches; None is a fixed seed.
    n_jobs : threads; None is all cores.

    Attributes
    ----------
    classes_ : labels in order.
    coef_ : (1, d) for two classes, else (K, d), in the dtype of X.
    intercept_ : (1,) or (K,).
    n_iter_ : most iterations over the classes.
    n_features_in_, feature_names_in_ : as in scikit-learn.
    results_ : one `coordinator.results.Result` for each row of `coef_`, with its history; `result_` is the first.
    """

    def __init__(
        self,
        penalty: str = "l2",
        *,
        C: float = 1.0,
        fit_intercept: bool = True,
        class_weight: Mapping[Any, float] | str | None = None,
        tol: float = 1e-8,
        max_iter: int = 1000,
        solver: str | None = None,
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.penalty = penalty
        self.C = C
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.solver = solver
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to rows `X` (n, d), dense or sparse, and labels `y` (n,), weighted by `sample_weight` (n,).

        float32 and float64 rows in C order, and CSR matrices, are used where they are.
        """
        if self.penalty not in {"l1", "l2"}:
            raise ValueError(f"penalty must be 'l1' or 'l2', not {self.penalty!r}")
        C = float(check_scalar(self.C, "C", Real, min_val=0, include_boundaries="neither"))
        X, index, weight = self._check_classes(X, y, sample_weight)
        problem = {"loss": "squared-hinge", self.penalty: 1 / (2 * C * total_weight(X, weight))}
        positive = range(1, 2) if len(self.classes_) == 2 else range(len(self.classes_))
        results = []
        for k in positive:
            found = self._solve(X, index == k, problem, weight, classes=positions(2))
            labels = self.classes_ if len(positive) == 1 else np.array([f"not {self.classes_[k]}", self.classes_[k]])
            results.append(with_labels(found, labels))
        self.coef_ = np.stack([r.coef_ for r in results]).astype(X.dtype, copy=False)
        self.intercept_ = np.array([r.intercept_ for r in results], dtype=X.dtype)
        self.n_iter_ = max(r.n_iter_ for r in results)
        self.results_ = tuple(results)
        self.result_ = results[0]
        return self


def positions(K: int) -> tuple[float, ...]:
    """The classes as the solvers see them."""
    return tuple(float(k) for k in range(K))
