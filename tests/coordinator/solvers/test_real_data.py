"""Solutions on real data against scikit-learn's and SciPy's, to 1e-6 relative in the objective."""

import lzma
from functools import cache

import numpy as np
import pytest
from scipy import io, special

pytest.importorskip("sklearn", reason="scikit-learn is what the solutions are compared with")

from sklearn import linear_model, svm
from sklearn.datasets import load_svmlight_file
from sklearn.preprocessing import StandardScaler, normalize

pytestmark = pytest.mark.e2e  # minutes in all, of which half are the other libraries'

OSN = "oversketched-newton"
BINARY = (-1.0, 1.0)
SMOOTH = [
    (OSN, {}),
    (OSN, {"strategy": "metric", "sketch_rows": 1000}),
    (OSN, {"strategy": "averaged", "sketch_rows": 1000}),
    (OSN, {"strategy": "pcg", "sketch_rows": 1000}),
    (OSN, {"strategy": "exact"}),
    (OSN, {"strategy": "sketch", "sketch_rows": 1500, "tol": 1e-5}),
    (OSN, {"strategy": "sketch", "sketch_rows": 1500, "tol": 1e-5, "layout": "tiles", "extra": 2}),
    (OSN, {"strategy": "sketch", "sketch_rows": 1500, "tol": 1e-5, "sketch": "gaussian"}),
    (OSN, {"gradient": "replicated"}),
    ("newton", {}),
    ("giant", {}),
    ("lbfgs", {}),
    ("proximal-newton", {}),
    ("nesterov", {}),
]


def name(case):
    return "-".join([case[0], *(f"{v}" for v in case[1].values())])


def plain(X):
    X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
    return X


@cache
def read_table(path, target):
    with lzma.open(path, "rt") as file:
        rows = np.loadtxt(file, delimiter=",")
    return np.ascontiguousarray(np.delete(rows, target, axis=1)), rows[:, target].copy()


@pytest.fixture
def abalone(real):
    """4,177 x 8, as they come."""
    return read_table(real("libsvm_regression/abalone.csv.xz"), 0)


@pytest.fixture
def housing(real):
    """20,640 x 8, of scales from 1 to 1e4; the target in units of 100,000 dollars."""
    X, y = read_table(real("regression/cal_housing.data.xz"), -1)
    order = np.random.default_rng(0).permutation(len(y))  # they come by place
    return X[order], y[order] / 1e5


MINIMA = {}


def compare(found, key, value, fit, within=1e-6):
    """`value(w)` is the objective in plain NumPy, `fit()` the parameters that the other library finds."""
    if key not in MINIMA:
        MINIMA[key] = value(fit())
    assert found.converged, found.state.reason
    assert found.objective == pytest.approx(value(found.w), rel=1e-8)
    assert found.objective == pytest.approx(MINIMA[key], rel=within)


# -- a9a --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SMOOTH, ids=name)
def test_logistic_on_adult(solve, adult, case):
    X, y = adult
    solver, settings = case
    l2 = 1e-2 if solver == "nesterov" else 1e-4

    def value(w):
        return np.mean(np.logaddexp(0, -y * (X @ w[:-1] + w[-1]))) + l2 / 2 * w[:-1] @ w[:-1]

    def fit():
        model = linear_model.LogisticRegression(C=1 / (len(y) * l2), solver="newton-cholesky", tol=1e-9)
        model.fit(X.toarray(), y)
        return np.append(model.coef_, model.intercept_)

    found = solve(X, y, {"loss": "logistic", "l2": l2}, solver, classes=BINARY, rows_per_block=3000, **settings)
    compare(found, f"a9a logistic {l2}", value, fit)


@pytest.mark.parametrize("case", [(OSN, {}), ("newton", {}), ("giant", {}), ("lbfgs", {})], ids=name)
@pytest.mark.parametrize("rows", ["csr", "dense", "float32"])
def test_squared_hinge_on_adult(solve, adult, case, rows):
    X, y = adult
    solver, settings = case
    l2 = 1e-3

    def value(w):
        return np.mean(np.maximum(0, 1 - y * (X @ w)) ** 2) / 2 + l2 / 2 * w @ w

    def fit():
        model = svm.LinearSVC(C=1 / (2 * len(y) * l2), fit_intercept=False, dual=False, tol=1e-10, max_iter=10_000)
        # the objective of liblinear is ours times 2 n C
        return model.fit(X, y).coef_.ravel()

    given = {"csr": X, "dense": X.toarray(), "float32": X.toarray().astype(np.float32)}[rows]
    spec = {"loss": "squared-hinge", "l2": l2, "intercept": False}
    found = solve(given, y, spec, solver, classes=BINARY, rows_per_block=6000, **settings)
    compare(found, "a9a hinge", value, fit)


@pytest.mark.parametrize(
    "case",
    [
        (OSN, {}),
        (OSN, {"strategy": "averaged", "sketch_rows": 1500}),
        ("proximal-newton", {}),
        ("proximal-newton", {"columns": 40}),
        ("nesterov", {}),
    ],
    ids=name,
)
def test_sparse_logistic_on_adult(solve, adult, case):
    X, y = adult
    solver, settings = case
    l1 = 1e-3

    def value(w):
        return np.mean(np.logaddexp(0, -y * (X @ w))) + l1 * np.abs(w).sum()

    def fit():
        C = 1 / (len(y) * l1)
        model = linear_model.LogisticRegression(solver="liblinear", l1_ratio=1.0, C=C, fit_intercept=False, tol=1e-9)
        model.max_iter = 10_000
        return model.fit(X, y).coef_.ravel()

    spec = {"loss": "logistic", "l1": l1, "intercept": False}
    found = solve(X, y, spec, solver, classes=BINARY, rows_per_block=3000, **settings)
    compare(found, "a9a l1", value, fit)


# -- abalone ----------------------------------------------------------------------------------------------------------

FEW_COLUMNS = [
    (OSN, {}),
    (OSN, {"strategy": "sketch", "sketch_rows": 300}),
    (OSN, {"gradient": "coded"}),
    ("newton", {}),
    ("giant", {}),
    ("lbfgs", {}),
    ("proximal-newton", {}),
]


@pytest.mark.parametrize("case", FEW_COLUMNS, ids=name)
@pytest.mark.parametrize("loss", ["squared", "poisson", "huber"])
def test_abalone(solve, Oracle, abalone, case, loss):
    X, y = abalone
    solver, settings = case
    l2 = 1e-3
    oracle = Oracle(loss, X, y, l2=l2)

    def fit():
        if loss == "huber":
            return oracle.minimum(np.append(np.zeros(8), np.median(y)))
        if loss == "squared":
            model = linear_model.Ridge(len(y) * l2)
        else:
            model = linear_model.PoissonRegressor(alpha=l2, solver="newton-cholesky", tol=1e-12)
        model.fit(X, y)
        return np.append(model.coef_, model.intercept_)

    found = solve(X, y, {"loss": loss, "l2": l2}, solver, rows_per_block=500, **settings)
    compare(found, f"abalone {loss}", oracle.value, fit)


# -- California housing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaled", [True, False], ids=["scaled", "raw"])
@pytest.mark.parametrize("case", FEW_COLUMNS, ids=name)
def test_housing(solve, Oracle, housing, case, scaled):
    X, y = housing
    solver, settings = case
    if scaled:
        X = StandardScaler().fit_transform(X)
    oracle = Oracle("squared", X, y, l2=1e-3)

    def fit():
        model = linear_model.Ridge(len(y) * 1e-3).fit(X, y)
        return np.append(model.coef_, model.intercept_)

    # the gradient is that of columns of up to 1e4: of the intercept's nothing is seen before the last digits
    settings = {"tol": 1e-6 if scaled else 1e-10} | settings
    found = solve(X, y, {"loss": "squared", "l2": 1e-3}, solver, rows_per_block=3000, **settings)
    compare(found, f"housing {scaled}", oracle.value, fit)


@pytest.mark.parametrize(
    ("case", "scaled"),
    [
        ((OSN, {}), True),
        ((OSN, {}), False),
        ((OSN, {"strategy": "averaged", "sketch_rows": 500}), True),
        (("proximal-newton", {}), True),
        (("proximal-newton", {}), False),
        (("nesterov", {}), True),
    ],
    ids=str,
)
def test_elastic_net_on_housing(solve, Oracle, housing, case, scaled):
    X, y = housing
    solver, settings = case
    if scaled:
        X = StandardScaler().fit_transform(X)
    alpha, share = 0.05, 0.8
    oracle = Oracle("squared", X, y, l1=alpha * share, l2=alpha * (1 - share))

    def fit():
        model = linear_model.ElasticNet(alpha=alpha, l1_ratio=share, tol=1e-10, max_iter=100_000).fit(X, y)
        return np.append(model.coef_, model.intercept_)

    spec = {"loss": "squared", "l1": alpha * share, "l2": alpha * (1 - share)}
    found = solve(X, y, spec, solver, rows_per_block=3000, **settings)
    compare(found, f"housing net {scaled}", oracle.value, fit)


# -- leukemia: d >> n -------------------------------------------------------------------------------------------------


@cache
def read_leukemia(path):
    found = io.loadmat(path)
    return np.ascontiguousarray(found["X"], dtype=np.float64), found["Y"].ravel().astype(np.float64)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
def test_lasso_on_leukemia(solve, Oracle, real, share):
    """72 x 7,070; `share` of the penalty that makes all coefficients zero."""
    X, y = read_leukemia(real("wide/leukemia.mat"))
    X = StandardScaler().fit_transform(X)
    alpha = share * np.abs(X.T @ (y - y.mean())).max() / len(y)
    oracle = Oracle("squared", X, y, l1=alpha)

    def fit():
        model = linear_model.Lasso(alpha, tol=1e-8, max_iter=100_000).fit(X, y)
        return np.append(model.coef_, model.intercept_)

    found = solve(X, y, {"loss": "squared", "l1": alpha}, "proximal-newton", rows_per_block=20)
    compare(found, f"leukemia {share}", oracle.value, fit)
    row = found.history[-1]
    assert 0 <= row["gap"] <= 1e-6 * found.objective
    assert row["support"] <= 72
    assert found.objective - MINIMA[f"leukemia {share}"] <= row["gap"]


# -- news20: 20 classes, 62,061 columns -------------------------------------------------------------------------------


@cache
def read_news(path):
    X, y = load_svmlight_file(str(path))
    return plain(X), y


def softmax_value(X, index, K, l2):
    def value(w):
        Z = X @ w.reshape(-1, K)
        return np.mean(special.logsumexp(Z, axis=1) - Z[np.arange(len(index)), index]) + l2 / 2 * w @ w

    return value


@pytest.mark.parametrize(
    "case", [(OSN, {}), (OSN, {"strategy": "pcg"}), ("newton", {}), ("lbfgs", {}), ("giant", {})], ids=name
)
def test_softmax_on_a_part_of_news(solve, real, case):
    """4 classes and the 50 most common columns, counts as they come."""
    X, y = read_news(real("libsvm/news20.bz2"))
    rows = np.flatnonzero(y <= 4)
    X = plain(X[rows][:, np.sort(np.argsort(-np.bincount(X.indices))[:50])].tocsr())
    index, l2 = y[rows].astype(int) - 1, 1e-2

    def fit():
        model = linear_model.LogisticRegression(
            C=1 / (len(rows) * l2), solver="newton-cholesky", tol=1e-9, fit_intercept=False
        )
        return model.fit(X.toarray(), index).coef_.T.ravel()

    solver, settings = case
    spec = {"loss": "softmax", "l2": l2, "intercept": False}
    found = solve(X, y[rows], spec, solver, classes=(1.0, 2.0, 3.0, 4.0), rows_per_block=400, **settings)
    compare(found, "news part", softmax_value(X, index, 4, l2), fit)


@pytest.mark.parametrize(("solver", "l2"), [(OSN, 1e-3), ("lbfgs", 1e-3)])
def test_softmax_on_news(solve, real, solver, l2):
    """15,935 x 62,061, rows of unit length: 1.24 million parameters. With l2, |g|^2 / (2 l2) bounds the error."""
    X, y = read_news(real("libsvm/news20.bz2"))
    X = plain(normalize(X))
    classes, index = np.unique(y, return_inverse=True)
    K = len(classes)

    def fit():
        model = linear_model.LogisticRegression(C=1 / (len(y) * l2), tol=1e-6, max_iter=1000, fit_intercept=False)
        return model.fit(X, index).coef_.T.ravel()

    spec = {"loss": "softmax", "l2": l2, "intercept": False}
    found = solve(X, y, spec, solver, classes=tuple(classes.tolist()), tol=1e-4)
    compare(found, f"news {l2}", softmax_value(X, index, K, l2), fit)
    Z = X @ found.w.reshape(-1, K)
    gradient = (X.T @ (special.softmax(Z, axis=1) - np.eye(K)[index])).ravel() / len(y) + l2 * found.w
    assert gradient @ gradient / (2 * l2) <= 1e-5 * found.objective
    assert np.mean(Z.argmax(axis=1) == index) > 0.7
