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
