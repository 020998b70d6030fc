"""Problems at the edge: flat, singular, separable, of one row or one column."""

import numpy as np
import pytest
from scipy import optimize

from coordinator import embedded
from coordinator.solvers import SOLVERS

SECOND = ("oversketched-newton", "newton", "giant", "lbfgs", "proximal-newton")
CONVERGING = (*SECOND, "nesterov")
BINARY = (-1.0, 1.0)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 5))
    y = np.sign(X @ [1.0, -2, 0.5, 0, 1] + 0.1)
    return X, y, np.where(rng.random(200) < 0.1, -y, y)


@pytest.mark.parametrize("solver", SECOND)
@pytest.mark.parametrize("seed", range(3))
def test_huber_where_all_rows_are_outliers_at_first(solver, seed):
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((200, 5)), 100 * rng.standard_cauchy(200)
    found = embedded.solve(X, y, {"loss": "huber"}, solver=solver, settings={"tol": 1e-8})
    assert found.converged

    def value_and_gradient(w):
        r = X @ w[:5] + w[5] - y
        losses = np.where(np.abs(r) <= 1.35, r**2 / 2, 1.35 * (np.abs(r) - 0.675))
        pull = np.clip(r, -1.35, 1.35) / 200
        return losses.mean(), np.append(X.T @ pull, pull.sum())

    other = optimize.minimize(value_and_gradient, np.zeros(6), jac=True, method="L-BFGS-B", options={"ftol": 1e-15})
    assert found.objective <= other.fun * (1 + 1e-9)
    assert value_and_gradient(np.append(found.coef_, found.intercept_))[0] == pytest.approx(found.objective, rel=1e-12)


# -- singular Hessians ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("solver", CONVERGING)
@pytest.mark.parametrize("loss", ["logistic", "softmax", "squared", "poisson", "huber", "squared-hinge"])
def test_rank_deficient_designs_without_a_penalty(Toy, loss, solver, dtype):
    """Doubled, constant and zero columns change neither the minimum nor the predictions."""
    plain = Toy(loss, weight=True, l2=0.0, n=300, d=3, dtype=dtype)
    X = np.column_stack([plain.X, plain.X, np.ones(300), np.zeros(300), 7 * np.ones(300)]).astype(dtype)
    given = {"weight": plain.weight, "classes": plain.classes}
    expected = embedded.solve(plain.X, plain.y, plain.spec, **given, solver="newton", settings={"tol": 1e-9})
    found = embedded.solve(X, plain.y, plain.spec, **given, solver=solver, settings={"tol": 1e-6})
    assert expected.converged
    assert found.converged
    assert np.all(np.isfinite(found.coef_))
    assert found.objective == pytest.approx(expected.objective, rel=1e-8)
    z, other = found.decision_function(X), expected.decision_function(plain.X)
    # what the minimum leaves open has not run away
    assert np.abs(found.coef_).max() <= 10 * np.abs(expected.coef_).max()
    if loss == "softmax":
        # classes have a shift in common
        z, other = (u - u.mean(axis=1, keepdims=True) for u in (z, other))
    np.testing.assert_allclose(z, other, atol=3e-4 * np.abs(other).max())


@pytest.mark.parametrize("convexity", ["auto", "strong", "weak"])
@pytest.mark.parametrize("strategy", ["auto", "exact", "sketch"])
def test_softmax_without_a_penalty(Toy, strategy, convexity):
    toy = Toy("softmax", l2=0.0, n=400, d=4, class_weight=True)
    settings = {"strategy": strategy, "convexity": convexity, "tol": 1e-8}
    if strategy == "sketch":
        settings["sketch_rows"] = 150
    found = embedded.solve(toy.X, toy.y, toy.spec, weight=toy.weight, classes=toy.classes, settings=settings)
    assert found.converged
    w = np.vstack([found.coef_.T, found.intercept_]).ravel()
    assert toy.oracle.value(w) == pytest.approx(found.objective, rel=1e-12)
    # gradients are orthogonal to the common shift of the classes, and the pseudo-inverse stays so
    if convexity != "strong":
        np.testing.assert_allclose(found.coef_.sum(axis=0), 0, atol=1e-9)
        assert {row["strategy"] for row in found.history[1:]} <= {"weak", "steepest"}
    newton = embedded.solve(
        toy.X, toy.y, toy.spec, weight=toy.weight, classes=toy.classes, solver="newton", settings={"tol": 1e-8}
    )
    assert found.objective == pytest.approx(newton.objective, rel=1e-11)


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "interior-point"])
@pytest.mark.parametrize("loss", ["logistic", "squared-hinge", "softmax"])
def test_separable_data_without_a_penalty(rows, loss, solver):
    """There is no minimum (but for the hinge): a solve ends, with a reason, small losses and finite parameters."""
    X, y, _ = rows
    found = embedded.solve(X, y, {"loss": loss}, classes=BINARY, solver=solver, settings={"max_iter": 30})
    assert found.reason == "converged" or found.reason.startswith(
        ("stopped after 30 iterations", "the line search failed", "no step decreases the objective")
    )
    assert np.all(np.isfinite(found.coef_))
    assert found.objective < found.history[0]["objective"] / 2
    assert np.mean(found.predict(X) == y) > 0.95


# -- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "d", "solver"),
    [  # GIANT needs rows
        (n, d, solver)
        for n, d in [(200, 1), (10, 40), (2, 3), (1, 1)]
        for solver in CONVERGING
        if solver != "giant" or n >= d
    ],
)
@pytest.mark.parametrize("loss", ["logistic", "squared"])
def test_few_rows_and_few_columns(Oracle, loss, n, d, solver):
    rng = np.random.default_rng(4)
    X = rng.standard_normal((n, d))
    y = np.where(np.arange(n) % 2, -1.0, 1.0) if loss == "logistic" else rng.standard_normal(n)
    if loss == "logistic" and n == 1:
        y = np.ones(1)
    found = embedded.solve(X, y, {"loss": loss, "l2": 0.1}, classes=BINARY, solver=solver, settings={"tol": 1e-8})
    if loss == "logistic" and n == 1:  # the intercept runs away
        assert found.reason
        return
    assert found.converged
    gradient = Oracle(loss, X, y, l2=0.1).gradient(np.append(found.coef_, found.intercept_))
    assert np.linalg.norm(gradient) <= 2e-8 * np.linalg.norm(Oracle(loss, X, y).gradient(np.zeros(d + 1)))


@pytest.mark.parametrize("solver", ["oversketched-newton", "newton", "giant"])
def test_columns_of_any_scale(rows, solver):
    X, _, y = rows
    scale = np.array([1e-6, 1, 1e6, 1e3, 1e-3])
    settings = {"tol": 1e-9}
    plain = embedded.solve(X, y, {"loss": "logistic"}, classes=BINARY, settings=settings)
    found = embedded.solve(X * scale, y, {"loss": "logistic"}, classes=BINARY, solver=solver, settings=settings)
    np.testing.assert_allclose(found.coef_ * scale, plain.coef_, rtol=1e-4)


def test_no_features_that_matter(rows):
    _, _, y = rows
    for solver in CONVERGING:
        found = embedded.solve(np.zeros((200, 3)), y, {"loss": "logistic"}, classes=BINARY, solver=solver)
        share = np.mean(y > 0)
        assert found.intercept_ == pytest.approx(np.log(share / (1 - share)), rel=1e-4)
        assert not found.coef_.any()
