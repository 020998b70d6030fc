"""Estimators for scikit-learn: the solvers of this package behind `fit` and `predict`, on data in memory.

    from overcast.estimators import LogisticRegression
    model = LogisticRegression(C=1.0).fit(X, y)
    model.result_.history          # what every iteration did

They need scikit-learn: `pip install overcast[sklearn]`. Penalties mean what they mean in the estimator of the same name
there. What differs is said in each class; in common, intercepts are never penalised, `tol` is the norm of the gradient
relative to that at zero coefficients, `solver` names a solver of this package (None: chosen), all cores are used
unless `n_jobs` says otherwise, and results do not depend on `n_jobs` nor, with `random_state=None`, on chance.
"""

from __future__ import annotations

try:
    import sklearn  # noqa: F401
except ModuleNotFoundError as error:
    from coordinator.errors import InputError

    raise InputError("the estimators need scikit-learn: pip install 'overcast[sklearn]'") from error

from overcast.estimators.classifiers import LinearSVC, LogisticRegression
from overcast.estimators.regressors import ElasticNet, HuberRegressor, Lasso, PoissonRegressor, Ridge

__all__ = [
    "ElasticNet",
    "HuberRegressor",
    "Lasso",
    "LinearSVC",
    "LogisticRegression",
    "PoissonRegressor",
    "Ridge",
]
