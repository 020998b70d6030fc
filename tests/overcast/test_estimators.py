"""Estimators: the solutions of scikit-learn's, input of all kinds, and how they behave in its machinery."""

from __future__ import annotations

import lzma
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse, special

pytest.importorskip("sklearn", reason="the estimators need scikit-learn")

import sklearn.linear_model as theirs
import sklearn.svm
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_svmlight_file
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from coordinator import embedded
from overcast import estimators as ours

Array = NDArray[Any]


# -- objectives, written down once more -------------------------------------------------------------------------------


def linear(model: Any, X: Any) -> Array:
    return np.asarray(X @ np.asarray(model.coef_, float).T + np.asarray(model.intercept_, float))


def logistic_objective(model: Any, X: Any, y: Array, s: Any = 1.0, C: float = 1.0, l1_ratio: float = 0.0) -> float:
    z, w = linear(model, X), np.asarray(model.coef_, float)
    index = np.searchsorted(model.classes_, y)
    if z.shape[1] == 1:
        losses = np.logaddexp(0, np.where(index == 1, -1, 1) * z.ravel())
    else:
        losses = special.logsumexp(z, axis=1) - z[np.arange(len(y)), index]
    return float(C * np.sum(s * losses) + l1_ratio * np.abs(w).sum() + (1 - l1_ratio) / 2 * np.sum(w**2))


def squares_objective(model: Any, X: Any, y: Array, alpha: float, l1_ratio: float) -> float:
    w = np.asarray(model.coef_, float)
    penalty = alpha * l1_ratio * np.abs(w).sum() + alpha * (1 - l1_ratio) / 2 * np.sum(w**2)
    return float(np.mean((y - linear(model, X)) ** 2) / 2 + penalty)


def same(found: float, expected: float) -> None:
    """Not worse than the other by more than 1e-6 of it."""
    assert found <= expected * (1 + 1e-6)


# -- data -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cancer() -> tuple[Array, Array]:
    return load_breast_cancer(return_X_y=True)


@pytest.fixture(scope="module")
def scaled_cancer(cancer: tuple[Array, Array]) -> tuple[Array, Array]:
    return StandardScaler().fit_transform(cancer[0]), cancer[1]


@pytest.fixture(scope="module")
def diabetes() -> tuple[Array, Array]:
    return load_diabetes(return_X_y=True)


@pytest.fixture(scope="module")
def digits() -> tuple[Array, Array]:
    return load_digits(n_class=4, return_X_y=True)


@cache
def read_adult(path: Path) -> tuple[sparse.csr_matrix, Array]:
    with lzma.open(path) as file:
        X, y = load_svmlight_file(file, n_features=123)
    X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
    return X, y


@pytest.fixture
def adult(real: Callable[[str], Path]) -> tuple[sparse.csr_matrix, Array]:
    """a9a: 32,561 rows of 123 binary columns."""
    return read_adult(real("libsvm/a9a.xz"))


@pytest.fixture(scope="module")
def counts() -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(3)
    X = rng.standard_normal((400, 6))
    y = rng.poisson(np.exp(X @ rng.normal(0, 0.3, 6) + 1)).astype(float)
    return X, y, rng.uniform(0.1, 3, 400)


# -- solutions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["csr", "dense", "float32"])
def test_logistic_on_adult(adult: tuple[sparse.csr_matrix, Array], layout: str) -> None:
    X, y = adult
    rows = {"csr": X, "dense": X.toarray(), "float32": X.toarray().astype(np.float32)}[layout]
    model = ours.LogisticRegression().fit(rows, y)
    other = theirs.LogisticRegression(solver="newton-cholesky", tol=1e-8).fit(X.toarray(), y)
    same(logistic_objective(model, X, y), logistic_objective(other, X, y))
    np.testing.assert_allclose(model.coef_, other.coef_, atol=1e-4 * np.abs(other.coef_).max())
    assert model.score(rows, y) == pytest.approx(other.score(X.toarray(), y), abs=1e-4)
    assert model.result_.history[-1]["objective"] < model.result_.history[0]["objective"]


@pytest.mark.parametrize("C", [1e-2, 1.0, 100.0])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0}])
def test_logistic_on_cancer(cancer: tuple[Array, Array], C: float, class_weight: Any) -> None:
    X, y = cancer  # columns from 1e-3 to 4e3, as they are
    options = {"C": C, "class_weight": class_weight}
    model = ours.LogisticRegression(**options).fit(X, y)
    other = theirs.LogisticRegression(solver="newton-cholesky", tol=1e-10, **options).fit(X, y)
    np.testing.assert_allclose(model.coef_, other.coef_, rtol=1e-4, atol=1e-4 * np.abs(other.coef_).max())
    np.testing.assert_allclose(model.intercept_, other.intercept_, rtol=1e-4)
    np.testing.assert_array_equal(model.predict(X), other.predict(X))


def test_softmax_on_digits(digits: tuple[Array, Array]) -> None:
    X, y = digits
    model = ours.LogisticRegression().fit(X, y)
    other = theirs.LogisticRegression(solver="newton-cholesky", tol=1e-8).fit(X, y)
    same(logistic_objective(model, X, y), logistic_objective(other, X, y))
    np.testing.assert_allclose(model.coef_, other.coef_, atol=1e-4 * np.abs(other.coef_).max())
    assert model.intercept_.sum() == pytest.approx(0, abs=1e-10)
    np.testing.assert_allclose(model.predict_proba(X), other.predict_proba(X), atol=1e-5)


def test_logistic_with_l1(scaled_cancer: tuple[Array, Array]) -> None:
    X, y = scaled_cancer
    model = ours.LogisticRegression(l1_ratio=1.0, C=0.3, fit_intercept=False).fit(X, y)
    other = theirs.LogisticRegression(solver="liblinear", l1_ratio=1.0, C=0.3, fit_intercept=False, tol=1e-9)
    other.fit(X, y)
    same(logistic_objective(model, X, y, C=0.3, l1_ratio=1), logistic_objective(other, X, y, C=0.3, l1_ratio=1))
    np.testing.assert_allclose(model.coef_, other.coef_, atol=1e-4)
    assert np.array_equal(model.coef_ == 0, other.coef_ == 0)


@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
def test_softmax_with_l1_meets_its_optimality_conditions(l1_ratio: float) -> None:
    X, y = load_iris(return_X_y=True)
    model = ours.LogisticRegression(l1_ratio=l1_ratio).fit(X, y)
    residual = model.predict_proba(X) - np.eye(3)[y]
    w = model.coef_
    gradient = residual.T @ X + (1 - l1_ratio) * w
    np.testing.assert_allclose(gradient[w != 0], -l1_ratio * np.sign(w[w != 0]), atol=1e-4)
    assert np.all(np.abs(gradient[w == 0]) <= l1_ratio + 1e-4)
    np.testing.assert_allclose(residual.sum(axis=0), 0, atol=1e-4)


def test_logistic_without_a_penalty(scaled_cancer: tuple[Array, Array]) -> None:
    X, y = scaled_cancer[0][:, :3], scaled_cancer[1]
    model = ours.LogisticRegression(C=np.inf).fit(X, y)
    other = theirs.LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10).fit(X, y)
    np.testing.assert_allclose(model.coef_, other.coef_, rtol=1e-4)


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_ridge(diabetes: tuple[Array, Array], fit_intercept: bool) -> None:
    X, y = diabetes
    weight = np.random.default_rng(0).uniform(0, 2, len(y))
    model = ours.Ridge(0.3, fit_intercept=fit_intercept).fit(X, y, sample_weight=weight)
    other = theirs.Ridge(0.3, fit_intercept=fit_intercept, solver="cholesky").fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(model.coef_, other.coef_, rtol=1e-6)
    assert model.intercept_ == pytest.approx(other.intercept_)
    np.testing.assert_allclose(ours.Ridge(0.3).fit(sparse.csr_array(X), y).coef_, ours.Ridge(0.3).fit(X, y).coef_)


@pytest.mark.parametrize("l1_ratio", [0.2, 1.0])
@pytest.mark.parametrize("alpha", [0.01, 0.5])
def test_lasso_and_elastic_net(diabetes: tuple[Array, Array], alpha: float, l1_ratio: float) -> None:
    X, y = diabetes
    if l1_ratio == 1:
        model, other = ours.Lasso(alpha), theirs.Lasso(alpha, tol=1e-10, max_iter=10_000)
    else:
        model = ours.ElasticNet(alpha, l1_ratio=l1_ratio)
        other = theirs.ElasticNet(alpha, l1_ratio=l1_ratio, tol=1e-10, max_iter=10_000)
    model.fit(X, y)
    other.fit(X, y)
    same(squares_objective(model, X, y, alpha, l1_ratio), squares_objective(other, X, y, alpha, l1_ratio))
    np.testing.assert_allclose(model.coef_, other.coef_, atol=1e-4 * np.abs(other.coef_).max())
    assert np.array_equal(model.coef_ == 0, other.coef_ == 0)


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_poisson(counts: tuple[Array, Array, Array], alpha: float) -> None:
    X, y, weight = counts
    model = ours.PoissonRegressor(alpha=alpha).fit(X, y, weight)
    other = theirs.PoissonRegressor(alpha=alpha, solver="newton-cholesky", tol=1e-10).fit(X, y, weight)
    np.testing.assert_allclose(model.coef_, other.coef_, rtol=1e-4)
    np.testing.assert_allclose(model.predict(X), other.predict(X), rtol=1e-4)
    assert model.score(X, y, weight) == pytest.approx(other.score(X, y, weight))


def test_huber_agrees_at_the_scale_found_there(diabetes: tuple[Array, Array]) -> None:
    X, y = StandardScaler().fit_transform(diabetes[0]), diabetes[1] / 50
    y = np.where(np.arange(len(y)) % 20 == 0, y + 30, y)
    other = theirs.HuberRegressor(epsilon=1.35, alpha=0.1, tol=1e-9, max_iter=5000).fit(X, y)
    model = ours.HuberRegressor(delta=1.35 * other.scale_, alpha=0.1 * other.scale_).fit(X, y)
    np.testing.assert_allclose(model.coef_, other.coef_, atol=1e-3 * np.abs(other.coef_).max())
    assert model.intercept_ == pytest.approx(other.intercept_, rel=1e-3)
    assert np.array_equal(model.outliers_, other.outliers_)


@pytest.mark.parametrize("delta", [1e4, 10.0, 0.3])
def test_huber_far_from_zero(delta: float) -> None:
    """Columns and targets as they come: at zero every row is an outlier, and the Hessian is nothing but the penalty."""
    rng = np.random.default_rng(5)
    X = rng.uniform(0, 1, (500, 4)) * [1, 10, 1e3, 1e4] + [-120, 30, 0, 2e3]
    y = X @ [100.0, 50.0, 5.0, 1.0] + 1e5 + 10 * rng.standard_t(2, 500)
    model = ours.HuberRegressor(delta=delta).fit(X, y)
    r = y - model.predict(X)
    pull = np.clip(r, -delta, delta)
    assert abs(pull.mean()) <= 1e-4 * delta
    gradient = X.T @ pull - model.alpha * model.coef_
    assert np.all(np.abs(gradient) <= 1e-4 * delta * np.abs(X).sum(axis=0))


@pytest.mark.parametrize("penalty", ["l1", "l2"])
def test_svm(scaled_cancer: tuple[Array, Array], penalty: str) -> None:
    X, y = scaled_cancer
    model = ours.LinearSVC(penalty, C=0.1, fit_intercept=False).fit(X, y)
    other = sklearn.svm.LinearSVC(penalty, C=0.1, fit_intercept=False, dual=False, tol=1e-10, max_iter=100_000)
    np.testing.assert_allclose(model.coef_, other.fit(X, y).coef_, atol=1e-4)


def test_svm_of_three_classes() -> None:
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])
    X = X - X.mean(axis=0)
    model = ours.LinearSVC(class_weight="balanced", fit_intercept=False).fit(X, names[y])
    other = sklearn.svm.LinearSVC(
        class_weight="balanced", fit_intercept=False, dual=False, tol=1e-10, max_iter=100_000
    ).fit(X, names[y])
    np.testing.assert_allclose(model.coef_, other.coef_, atol=1e-4)
    assert np.array_equal(model.predict(X), other.predict(X))
    assert model.results_[2].classes_ == ("not virginica", "virginica")
    assert model.decision_function(X).shape == (150, 3)


# -- weights ----------------------------------------------------------------------------------------------------------


def every() -> list[Any]:
    return [getattr(ours, name)() for name in ours.__all__]


def targets(model: Any, X: Array) -> Array:
    z = X @ np.arange(1, X.shape[1] + 1)
    return np.digitize(z, np.quantile(z, [0.3, 0.7])) if hasattr(model, "C") else np.abs(z)


@pytest.mark.parametrize("model", every(), ids=lambda m: type(m).__name__)
def test_weights_are_repetitions(model: Any) -> None:
    rng = np.random.default_rng(1)
    X = rng.standard_normal((120, 4))
    y, times = targets(model, X), rng.integers(0, 4, 120)
    weighted = clone(model).fit(X, y, sample_weight=times)
    repeated = clone(model).fit(X.repeat(times, axis=0), y.repeat(times))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-5, atol=1e-7)
    same_for_all = clone(model).fit(X, y, sample_weight=1.0)
    np.testing.assert_allclose(same_for_all.coef_, clone(model).fit(X, y).coef_, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("model", [ours.LogisticRegression(), ours.LinearSVC()], ids=lambda m: type(m).__name__)
def test_balanced_classes_with_weights(model: Any, scaled_cancer: tuple[Array, Array]) -> None:
    X, y = scaled_cancer
    weight = np.random.default_rng(2).uniform(0.5, 2, len(y))
    balanced = clone(model).set_params(class_weight="balanced").fit(X, y, weight)
    sums = np.bincount(y, weights=weight)
    by_hand = clone(model).fit(X, y, weight * (weight.sum() / (2 * sums))[y])
    np.testing.assert_allclose(balanced.coef_, by_hand.coef_, rtol=1e-6)


# -- input ------------------------------------------------------------------------------------------------------------


def test_frames(scaled_cancer: tuple[Array, Array]) -> None:
    pandas = pytest.importorskip("pandas")
    polars = pytest.importorskip("polars")
    X, y = scaled_cancer
    names = [f"column {j}" for j in range(X.shape[1])]
    plain = ours.LogisticRegression().fit(X, y)
    for frame in (pandas.DataFrame(X, columns=names), polars.DataFrame(X, schema=names)):
        model = ours.LogisticRegression().fit(frame, y)
        np.testing.assert_allclose(model.coef_, plain.coef_, rtol=1e-6)
        assert list(model.feature_names_in_) == names
        assert np.array_equal(model.predict(frame), plain.predict(X))
    labelled = ours.LogisticRegression().fit(pandas.DataFrame(X), pandas.Series(y).map({0: "malign", 1: "benign"}))
    assert labelled.classes_.tolist() == ["benign", "malign"]
    assert labelled.result_.classes_ == ("benign", "malign")
    np.testing.assert_allclose(labelled.coef_, -plain.coef_, rtol=1e-5)


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_matrix", "coo_array", "csr_array", "long", "unsorted", "doubled"])
def test_sparse_input(kind: str) -> None:
    S = sparse.random_array((300, 20), density=0.3, rng=np.random.default_rng(0), format="csr")
    y = (S @ np.arange(20.0) > 40).astype(int)
    if kind == "long":
        rows = S.copy()
        rows.indices, rows.indptr = rows.indices.astype(np.int64), rows.indptr.astype(np.int64)
    elif kind == "unsorted":
        rows = S[:, ::-1].tocsr()[:, ::-1]
        rows.has_sorted_indices = False
    elif kind == "doubled":
        half = sparse.coo_array((np.tile(S.tocoo().data / 2, 2), np.tile(np.stack(S.tocoo().coords), 2)), S.shape)
        rows = sparse.csr_matrix(S.shape)
        order = np.argsort(half.coords[0], kind="stable")
        rows.data, rows.indices = half.data[order], half.coords[1][order].astype(np.int32)
        rows.indptr = np.searchsorted(half.coords[0][order], np.arange(301)).astype(np.int32)
    else:
        rows = getattr(sparse, kind)(S)
    before = rows.copy()
    model = ours.LogisticRegression().fit(rows, y)
    np.testing.assert_allclose(model.coef_, ours.LogisticRegression().fit(S.toarray(), y).coef_, rtol=1e-5)
    assert np.array_equal(rows.data, before.data)  # the caller's matrix is left as it was
    np.testing.assert_allclose(model.predict_proba(rows), model.predict_proba(S.toarray()))


@pytest.mark.parametrize("model", every(), ids=lambda m: type(m).__name__)
def test_float32_stays_float32(model: Any) -> None:
    X = np.random.default_rng(1).standard_normal((120, 4)).astype(np.float32)
    y = targets(model, X)
    if isinstance(model, ours.PoissonRegressor):
        y = y / 10  # a log link
    wide = clone(model).fit(X.astype(np.float64), y)
    model = clone(model).fit(X, y)
    assert model.coef_.dtype == np.float32
    np.testing.assert_allclose(model.coef_, wide.coef_, rtol=1e-4, atol=1e-5 * np.abs(wide.coef_).max())
    score = model.decision_function if hasattr(model, "decision_function") else model.predict
    assert score(X).dtype == (np.float32 if hasattr(model, "C") else score(X).dtype)


@pytest.mark.parametrize("layout", ["dense", "csr"])
def test_rows_are_not_copied(layout: str) -> None:
    rng = np.random.default_rng(0)
    if layout == "dense":
        X: Any = rng.standard_normal((40_000, 250), dtype=np.float32)
        size = X.nbytes
    else:
        X = sparse.random_array((60_000, 2000), density=0.02, rng=rng, format="csr", dtype=np.float32)
        X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
        size = X.data.nbytes + X.indices.nbytes
    y = rng.integers(0, 2, X.shape[0])
    model = ours.LogisticRegression(C=1e-3, tol=1e-3, solver="lbfgs")
    model.fit(X[:1000], y[:1000])  # what is imported on first use
    tracemalloc.start()
    try:
        model.fit(X, y)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.7 * size


def test_probabilities(digits: tuple[Array, Array], scaled_cancer: tuple[Array, Array]) -> None:
    for X, y in (digits, scaled_cancer):
        model = ours.LogisticRegression().fit(X, y)
        p = model.predict_proba(X)
        np.testing.assert_allclose(p.sum(axis=1), 1)
        np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), p)
        far = model.predict_log_proba(1e4 * X)
        assert not np.isnan(far).any()
        assert np.isfinite(far.max(axis=1)).all()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (ours.LogisticRegression(C=0), "C == 0"),
        (ours.LogisticRegression(l1_ratio=2), "l1_ratio == 2"),
        (ours.LogisticRegression(l1_ratio=0.5, solver="newton"), "newton"),
        (ours.LogisticRegression(solver="newtn"), "did you mean 'newton'"),
        (ours.LogisticRegression(tol=0), "tol == 0"),
        (ours.LogisticRegression(max_iter=0), "max_iter == 0"),
        (ours.LogisticRegression(n_jobs=0), "n_jobs == 0"),
        (ours.LogisticRegression(class_weight="balance"), "class_weight"),
        (ours.LinearSVC("l3"), "penalty must be"),
        (ours.Ridge(-1), "alpha == -1"),
        (ours.HuberRegressor(delta=0), "delta == 0"),
    ],
    ids=str,
)
def test_bad_parameters(model: Any, words: str) -> None:
    X, y = np.eye(4), np.array([0, 1, 0, 1])
    with pytest.raises(ValueError, match=words):
        model.fit(X, y)


def test_bad_input() -> None:
    X, y = np.eye(4), np.array([0, 1, 0, 1])
    with pytest.raises(ValueError, match="one class"):
        ours.LogisticRegression().fit(X, np.ones(4))
    with pytest.raises(ValueError, match="Unknown label type"):
        ours.LogisticRegression().fit(X, y + 0.5)
    with pytest.raises(ValueError, match=r"weights must be >= 0"):
        ours.Ridge().fit(X, y, sample_weight=[1, 1, 1, -1])
    with pytest.raises(ValueError, match="zero for every row"):
        ours.Ridge().fit(X, y, sample_weight=np.zeros(4))
    with pytest.raises(ValueError, match=r"sample_weight has shape \(3,\)"):
        ours.Ridge().fit(X, y, sample_weight=np.ones(3))
    with pytest.raises(ValueError, match="counts must be >= 0"):
        ours.PoissonRegressor().fit(X, -y)
    with pytest.raises(ValueError, match="5 features"):
        ours.Ridge().fit(X, y).predict(np.ones((2, 5)))


# -- behaviour --------------------------------------------------------------------------------------------------------


def test_not_converging_is_a_warning(cancer: tuple[Array, Array]) -> None:
    with pytest.warns(ConvergenceWarning, match=r"raise max_iter.*gradient norm .* tol=1e-08"):
        model = ours.LogisticRegression(max_iter=2).fit(*cancer)
    assert model.n_iter_.tolist() == [2]
    assert not model.result_.converged


@pytest.mark.parametrize(
    "model", [m for m in every() if "warm_start" in m.get_params()], ids=lambda m: type(m).__name__
)
def test_warm_start(model: Any) -> None:
    X = np.random.default_rng(1).standard_normal((200, 4))
    y = targets(model, X)
    model = clone(model).set_params(warm_start=True, tol=1e-6).fit(X, y)
    first, coef = model.result_, model.coef_.copy()
    model.fit(X, y)
    assert model.result_.history[0]["objective"] == pytest.approx(first.objective)
    assert model.result_.n_iter_ <= min(first.n_iter_, 1)
    np.testing.assert_allclose(model.coef_, coef, rtol=1e-4, atol=1e-4)
    model.fit(X[:, :3], y)  # another width: from the start
    assert model.coef_.shape[-1] == 3


@pytest.mark.parametrize("model", every(), ids=lambda m: type(m).__name__)
def test_threads_and_copies_change_nothing(model: Any) -> None:
    X = np.random.default_rng(1).standard_normal((30_000, 30))  # several blocks
    y = targets(model, X / 10)
    model = clone(model).set_params(n_jobs=1, tol=1e-6).fit(X, y)
    other = clone(model).set_params(n_jobs=2).fit(X, y)
    assert np.array_equal(model.coef_, other.coef_)
    assert np.array_equal(model.intercept_, other.intercept_)
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict(X[:100]), model.predict(X[:100]))
    assert again.result_.history == model.result_.history


def test_random_state_names_the_sketches() -> None:
    rng = np.random.default_rng(4)
    X = rng.standard_normal((20_000, 60))
    y = (X @ rng.standard_normal(60) + rng.standard_normal(20_000) > 0).astype(int)
    spec = {"loss": "logistic", "l2": 1e-4}
    options: dict[str, Any] = {"classes": (0.0, 1.0)}
    fixed = [
        embedded.solve(X, y.astype(float), spec, settings={"seed": seed, "strategy": "averaged"}, **options).coef_
        for seed in (0, 0, 1)
    ]
    assert np.array_equal(fixed[0], fixed[1])
    assert not np.array_equal(fixed[0], fixed[2])
    np.testing.assert_allclose(fixed[0], fixed[2], atol=1e-4)
    for state in (0, np.random.RandomState(3)):
        model = ours.LogisticRegression(random_state=state).fit(X, y)
        np.testing.assert_allclose(model.coef_, ours.LogisticRegression().fit(X, y).coef_, atol=1e-6)


def test_search_in_a_pipeline(cancer: tuple[Array, Array]) -> None:
    pipeline = make_pipeline(StandardScaler(), ours.LogisticRegression())
    search = GridSearchCV(pipeline, {"logisticregression__C": [1e-3, 1.0, 1e3]}, cv=3).fit(*cancer)
    assert search.best_params_ == {"logisticregression__C": 1.0}
    assert search.best_score_ > 0.97


@pytest.mark.parametrize("solver", ["newton", "lbfgs", "giant", "nesterov"])
def test_solvers_by_name(scaled_cancer: tuple[Array, Array], solver: str) -> None:
    X, y = scaled_cancer
    model = ours.LogisticRegression(solver=solver, tol=1e-6, max_iter=5000).fit(X, y)
    np.testing.assert_allclose(model.coef_, ours.LogisticRegression().fit(X, y).coef_, atol=1e-3)
    assert model.result_.solver == solver


def test_concurrent_fits_leave_the_process_as_it_was(scaled_cancer: tuple[Array, Array]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from threadpoolctl import threadpool_info

    def blas() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    X, y = scaled_cancer
    before = blas()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: ours.LogisticRegression().fit(X, y).coef_, range(12)))
    assert blas() == before
    assert all(np.array_equal(coef, found[0]) for coef in found)


# -- the embedded solve -----------------------------------------------------------------------------------------------


def test_rates_are_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("coordinator.profile.measure", lambda: embedded.NOMINAL)
    embedded.machine_profile.cache_clear()
    try:
        assert embedded.machine_profile() == embedded.NOMINAL
        assert (tmp_path / "overcast" / "profile.json").exists()
        monkeypatch.setattr("coordinator.profile.default_workers", lambda: embedded.NOMINAL.workers)
        monkeypatch.setattr("coordinator.profile.measure", lambda: pytest.fail("measured again"))
        embedded.machine_profile.cache_clear()
        assert embedded.machine_profile() == embedded.NOMINAL
        nowhere = tmp_path / "file"
        nowhere.write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(nowhere))
        monkeypatch.setattr(embedded, "measure", lambda: embedded.NOMINAL)
        embedded.machine_profile.cache_clear()
        assert embedded.machine_profile() == embedded.NOMINAL
    finally:
        embedded.machine_profile.cache_clear()


def test_without_scikit_learn_the_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['sklearn'] = None\nimport overcast.estimators"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "pip install 'overcast[sklearn]'" in run.stderr
