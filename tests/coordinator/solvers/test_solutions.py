"""Every solver, strategy, layout, sketch law and gradient protection finds the minimum: data that come with packages.

The minimum is SciPy's, of the objective in plain NumPy (`Oracle`), or scikit-learn's; see `test_real_data` for more.
"""

from functools import cache

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the data come with scikit-learn")

from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.linear_model import ElasticNet, LogisticRegression, PoissonRegressor, Ridge
from sklearn.preprocessing import StandardScaler

TIGHT = {"tol": 1e-7}
OSN = "oversketched-newton"

# 31 columns and 569 rows, or 260 and 720
SKETCHED = {"strategy": "sketch", "sketch_rows": 320}
EVERY = [
    (OSN, {}),
    (OSN, {"strategy": "metric"}),
    (OSN, {"strategy": "metric", "sketch_rows": 200}),
    (OSN, {"strategy": "averaged", "sketch_rows": 320}),
    (OSN, {"strategy": "averaged", "sketch_rows": 320, "debias": False}),
    (OSN, {"strategy": "pcg"}),
    (OSN, {"strategy": "pcg", "sketch_rows": 200}),
    (OSN, {"strategy": "exact"}),
    (OSN, SKETCHED),
    (OSN, SKETCHED | {"debias": False}),
    (OSN, SKETCHED | {"hashes": 4}),
    *[(OSN, SKETCHED | {"sketch": law}) for law in ("countsketch", "gaussian", "less_uniform", "row_sampling")],
    *[
        (OSN, {"strategy": strategy, "sketch_rows": 320, "layout": "tiles", "blocks": 4, "extra": 2})
        for strategy in ("sketch", "averaged", "metric", "pcg")
    ],
    (OSN, {"gradient": "replicated", "copies": 3}),
    (OSN, {"gradient": "coded"}),
    (OSN, {"gradient": "coded", "strategy": "sketch", "sketch_rows": 320}),
    (OSN, {"convexity": "weak"}),
    (OSN, {"convexity": "weak", "strategy": "sketch", "sketch_rows": 320}),
    ("newton", {}),
    ("giant", {}),
    ("giant", {"groups": 3, "spare": 1}),
    ("giant", {"debias": False}),
    ("lbfgs", {}),
    ("lbfgs", {"memory": 3, "initial": "identity"}),
    ("proximal-newton", {}),
    ("nesterov", {}),
    ("nesterov", {"metric": "none"}),
]


def name(case):
    return "-".join([case[0], *(f"{v}" for v in case[1].values())])


every = pytest.mark.parametrize("case", EVERY, ids=name)


@cache
def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(X), 2.0 * y - 1


@cache
def digits():
    X, y = load_digits(n_class=4, return_X_y=True)
    return np.ascontiguousarray(X / 16), y.astype(float)


@cache
def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return StandardScaler().fit_transform(X), y


MINIMA = {}


def least(oracle, key):
    """The least value of an oracle, found once."""
    if key not in MINIMA:
        MINIMA[key] = oracle.value(oracle.minimum())
    return MINIMA[key]


def check(found, oracle, key, within=1e-6):
    minimum = least(oracle, key)
    assert found.converged, found.state.reason
    assert found.objective == pytest.approx(oracle.value(found.w), rel=1e-12)
    assert found.objective == pytest.approx(minimum, rel=within)
    assert found.objective >= minimum - 1e-9 * abs(minimum)


@every
def test_logistic(solve, Oracle, case):
    X, y = cancer()
    solver, settings = case
    found = solve(X, y, {"loss": "logistic", "l2": 1e-2}, solver, classes=(-1.0, 1.0), rows_per_block=75, **settings)
    check(found, Oracle("logistic", X, y, l2=1e-2), "logistic")


@every
def test_softmax(solve, Oracle, case):
    solver, settings = case
    X, y = digits()
    spec = {"loss": "softmax", "l2": 1e-2}
    if settings.get("sketch_rows"):
        settings = settings | {"sketch_rows": 1000}
    if settings.get("strategy") == "sketch":
        settings = settings | {"tol": 1e-5}  # a linear rate: enough for 1e-6 in the objective
    found = solve(X, y, spec, solver, classes=(0.0, 1.0, 2.0, 3.0), rows_per_block=100, **settings)
    check(found, Oracle("softmax", X, y.astype(int), l2=1e-2), "softmax")


@pytest.mark.parametrize("loss", ["squared", "huber", "poisson", "squared-hinge"])
@pytest.mark.parametrize(
    "case", [case for case in EVERY if not {"layout", "debias", "initial", "metric"} & case[1].keys()], ids=name
)
def test_other_losses(solve, Oracle, case, loss):
    solver, settings = case
    X, y = cancer() if loss == "squared-hinge" else diabetes()
    y = y / 30 if loss in {"huber", "poisson"} else y
    if settings.get("strategy") == "sketch":
        settings = settings | {"tol": 1e-5}
    spec = {"loss": loss, "l2": 1e-2}
    classes = (-1.0, 1.0) if loss == "squared-hinge" else None
    found = solve(X, y, spec, solver, classes=classes, rows_per_block=70, **settings)
    check(found, Oracle(loss, X, y, l2=1e-2), loss)


@pytest.mark.parametrize("loss", ["logistic", "softmax", "squared", "poisson", "huber", "squared-hinge"])
def test_gradient_descent(solve, Oracle, loss):
    X, y = cancer()
    y = {"softmax": (y > 0).astype(float), "poisson": 1 + y}.get(loss, y)
    classes = {"logistic": (-1.0, 1.0), "squared-hinge": (-1.0, 1.0), "softmax": (0.0, 1.0)}.get(loss)
    found = solve(X, y, {"loss": loss, "l2": 0.3}, "gradient-descent", classes=classes, rows_per_block=150)
    oracle = Oracle(loss, X, y.astype(int) if loss == "softmax" else y, l2=0.3)
    check(found, oracle, f"descent {loss}")


def test_sgd_comes_close(solve, Oracle):
    """Three digits are what it is for."""
    X, y = cancer()
    oracle = Oracle("logistic", X, y, l2=0.1)
    spec = {"loss": "logistic", "l2": 0.1}
    found = solve(X, y, spec, "sgd", classes=(-1.0, 1.0), rows_per_block=150, tol=5e-3, batch=8)
    assert found.converged
    assert found.objective == pytest.approx(oracle.value(oracle.minimum()), rel=2e-3)
    assert found.objective == pytest.approx(oracle.value(found.w), rel=1e-12)


@pytest.mark.parametrize("solver", [OSN, "newton", "giant", "lbfgs", "proximal-newton", "nesterov"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_and_precision(solve, Oracle, solver, dtype):
    X, y = cancer()
    X = X.astype(dtype)
    s = np.random.default_rng(0).uniform(0.2, 3, len(y))
    spec = {"loss": "logistic", "l2": 1e-3, "class_weight": {-1: 2.0, 1: 0.5}}
    found = solve(X, y, spec, solver, classes=(-1.0, 1.0), weight=s, rows_per_block=75, tol=1e-8)
    oracle = Oracle("logistic", X, y, s * np.where(y > 0, 0.5, 2), l2=1e-3)
    check(found, oracle, f"weighted {dtype.__name__}", 1e-9)


# -- with l1 ----------------------------------------------------------------------------------------------------------

SPARSE = [
    (OSN, {}),
    (OSN, {"strategy": "averaged", "sketch_rows": 320}),
    (OSN, {"strategy": "sketch", "sketch_rows": 400}),
    (OSN, {"strategy": "exact"}),
    ("proximal-newton", {}),
    ("proximal-newton", {"columns": 5}),
    ("nesterov", {"max_iter": 20000}),
]


@pytest.mark.parametrize("case", [*SPARSE, ("gradient-descent", {"max_iter": 20000})], ids=name)
def test_elastic_net(solve, Oracle, case):
    X, y = diabetes()
    solver, settings = case
    other = ElasticNet(alpha=2.0, l1_ratio=0.7, tol=1e-12, max_iter=100_000).fit(X, y)
    oracle = Oracle("squared", X, y, l1=1.4, l2=0.6)
    minimum = oracle.value(np.append(other.coef_, other.intercept_))
    found = solve(X, y, {"loss": "squared", "l1": 1.4, "l2": 0.6}, solver, rows_per_block=70, **TIGHT | settings)
    assert found.converged
    assert found.objective == pytest.approx(oracle.value(found.w), rel=1e-12)
    assert found.objective == pytest.approx(minimum, rel=1e-6)
    np.testing.assert_allclose(found.w[:-1], other.coef_, atol=1e-3 * np.abs(other.coef_).max())


@pytest.mark.parametrize("case", SPARSE, ids=name)
def test_sparse_logistic(solve, Oracle, case):
    X, y = cancer()
    solver, settings = case
    C = 1 / (0.02 * len(y))
    other = LogisticRegression(solver="liblinear", l1_ratio=1.0, C=C, fit_intercept=False, tol=1e-10, max_iter=10_000)
    oracle = Oracle("logistic", X, y, l1=0.02, intercept=False)
    minimum = oracle.value(other.fit(X, y).coef_.ravel())
    spec = {"loss": "logistic", "l1": 0.02, "intercept": False}
    found = solve(X, y, spec, solver, classes=(-1.0, 1.0), rows_per_block=75, **settings)
    assert found.converged
    assert found.objective == pytest.approx(oracle.value(found.w), rel=1e-12)
    assert found.objective == pytest.approx(minimum, rel=1e-6)
    assert np.array_equal(found.w != 0, other.coef_.ravel() != 0)


# -- SciPy's minima are scikit-learn's --------------------------------------------------------------------------------


def test_the_oracle_agrees_with_scikit_learn(Oracle):
    X, y = cancer()
    n = len(y)
    model = LogisticRegression(C=1 / (n * 1e-2), solver="newton-cholesky", tol=1e-12).fit(X, y)
    oracle = Oracle("logistic", X, y, l2=1e-2)
    assert oracle.value(np.append(model.coef_, model.intercept_)) == pytest.approx(least(oracle, "logistic"), rel=1e-10)
    X, y = digits()
    model = LogisticRegression(C=1 / (len(y) * 1e-2), solver="newton-cholesky", tol=1e-10).fit(X, y)
    oracle = Oracle("softmax", X, y.astype(int), l2=1e-2)
    w = np.vstack([model.coef_.T, model.intercept_]).ravel()
    assert oracle.value(w) == pytest.approx(least(oracle, "softmax"), rel=1e-10)
    X, y = diabetes()
    model = Ridge(len(y) * 1e-2).fit(X, y)
    oracle = Oracle("squared", X, y, l2=1e-2)
    assert oracle.value(np.append(model.coef_, model.intercept_)) == pytest.approx(least(oracle, "squared"), rel=1e-10)
    model = PoissonRegressor(alpha=1e-2, solver="newton-cholesky", tol=1e-12).fit(X, y / 30)
    oracle = Oracle("poisson", X, y / 30, l2=1e-2)
    assert oracle.value(np.append(model.coef_, model.intercept_)) == pytest.approx(least(oracle, "poisson"), rel=1e-10)
