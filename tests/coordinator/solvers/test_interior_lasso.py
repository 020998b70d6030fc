"""The lasso by its dual, against scikit-learn and proximal Newton."""

import numpy as np
import pytest
from scipy import sparse
from scipy.io import loadmat
from sklearn.linear_model import Lasso

from coordinator import embedded
from coordinator.errors import InputError


def toy(n=30, d=80, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) + 0.5
    return X, X[:, :5] @ np.array([3.0, -2, 1, 1, -1]) + 0.1 * rng.standard_normal(n) + 4


def solve(X, y, l1, *, intercept=True, weight=None, workers=1, start=None, solver="interior-point", **options):
    problem = {"loss": "squared", "l1": l1, "intercept": intercept}
    return embedded.solve(X, y, problem, weight=weight, workers=workers, start=start, solver=solver, settings=options)


def objective(X, y, l1, coef, intercept, weight=None):
    s = np.ones(len(y)) if weight is None else weight
    return 0.5 * float(s @ (y - X @ coef - intercept) ** 2) / s.sum() + l1 * float(np.abs(coef).sum())


def largest(X, y, intercept, weight=None):
    """The l1 from which all coefficients are zero."""
    s = np.ones(len(y)) if weight is None else weight
    r = y - (s @ y / s.sum() if intercept else 0.0)
    return float(np.abs(X.T @ (s * r)).max() / s.sum())


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(("name", "shape"), [("leukemia", (72, 7070)), ("colon", (62, 2000))])
def test_gene_expression(real, name, shape, intercept):
    found = loadmat(real(f"wide/{name}.mat"))
    X, y = np.ascontiguousarray(found["X"], dtype=float), found["Y"].ravel().astype(float)
    assert X.shape == shape
    for part in (0.5, 0.1):
        l1 = part * largest(X, y, intercept)
        best = Lasso(alpha=l1, fit_intercept=intercept, tol=1e-12, max_iter=100_000).fit(X, y)
        least = objective(X, y, l1, best.coef_, best.intercept_)
        ours = solve(X, y, l1, intercept=intercept)
        assert ours.converged
        assert objective(X, y, l1, ours.coef_, ours.intercept_) == pytest.approx(least, rel=1e-8)
        assert ours.objective == pytest.approx(least, rel=1e-8)
        assert set(np.flatnonzero(best.coef_)) <= set(np.flatnonzero(ours.coef_))
        assert np.count_nonzero(ours.coef_) <= np.count_nonzero(best.coef_) + 3


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("layout", ["dense", "csr"])
def test_agrees_with_scikit_learn(layout, weighted, intercept):
    X, y = toy()
    weight = np.random.default_rng(1).random(30) + 0.2 if weighted else None
    rows = X
    if layout == "csr":
        X[np.abs(X) < 0.7] = 0
        rows = sparse.csr_matrix(X)
        rows.indices, rows.indptr = rows.indices.astype(np.int32), rows.indptr.astype(np.int32)
    l1 = 0.1 * largest(X, y, intercept, weight)
    best = Lasso(alpha=l1, fit_intercept=intercept, tol=1e-14, max_iter=100_000).fit(X, y, sample_weight=weight)
    ours = solve(rows, y, l1, intercept=intercept, weight=weight, tol=1e-10)
    assert ours.converged
    assert objective(X, y, l1, ours.coef_, ours.intercept_, weight) == pytest.approx(ours.objective, rel=1e-12)
    assert ours.objective == pytest.approx(objective(X, y, l1, best.coef_, best.intercept_, weight), rel=1e-9)
    assert np.allclose(ours.coef_, best.coef_, atol=1e-4)
    assert ours.intercept_ == pytest.approx(best.intercept_, abs=1e-4)


@pytest.mark.parametrize("intercept", [True, False])
def test_gaps_are_true_bounds(intercept):
    X, y = toy()
    l1 = 0.05 * largest(X, y, intercept)
    best = solve(X, y, l1, intercept=intercept, solver="proximal-newton", tol=1e-12).objective
    for hessian in ("exact", "sketch"):
        history = solve(X, y, l1, intercept=intercept, hessian=hessian).history
        assert len({row["residual"] for row in history}) > 10
        for row in history:
            assert -1e-12 <= row["objective"] - best <= row["residual"] * (1 + 1e-9) + 1e-12


def test_screening_is_safe():
    """A crude gap zeroes fewer coefficients than a fine one, and never one of the solution's."""
    X, y = toy(d=300)
    l1 = 0.2 * largest(X, y, True)
    support = set(np.flatnonzero(solve(X, y, l1, solver="proximal-newton", tol=1e-12).coef_))
    sizes = []
    for tol in (0.3, 1e-2, 1e-4, 1e-6, 1e-10):
        kept = set(np.flatnonzero(solve(X, y, l1, tol=tol).coef_))
        assert support <= kept
        sizes.append(len(kept))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 100
    assert sizes[-1] == len(support)


def test_every_hessian_leads_to_the_same_solution():
    X, y = toy()
    exact, *others = (solve(X, y, 0.05, hessian=how, tol=1e-10) for how in ("exact", "sketch", "tiles"))
    for other in others:
        assert other.converged
        assert np.allclose(other.coef_, exact.coef_, atol=1e-5)
        assert other.passes > exact.passes
    # float32 columns: the exact Hessian is in float32 as well, and a preconditioner only
    single = solve(X.astype(np.float32), y, 0.05, tol=1e-10)
    assert single.converged
    assert single.history[-1]["cg"] > 0


def test_does_not_depend_on_workers():
    X, y = toy()
    one, two = (solve(X, y, 0.05, workers=k) for k in (1, 2))
    assert np.array_equal(one.coef_, two.coef_)
    assert [r["residual"] for r in one.history] == [r["residual"] for r in two.history]


def test_a_start_near_the_solution_saves_iterations():
    X, y = toy()
    cold = solve(X, y, 0.05)
    w = np.append(cold.coef_, cold.intercept_)
    again = solve(X, y, 0.05, start=w, tol=0.1)
    assert again.converged
    assert again.n_iter_ < solve(X, y, 0.05, tol=0.1).n_iter_
    assert solve(X, y, 0.05, start=w).objective == pytest.approx(cold.objective, rel=1e-7)


def test_zero_solutions():
    X, y = toy()
    for l1, target in ((1.01 * largest(X, y, True), y), (0.1, np.full(30, 7.0))):
        none = solve(X, target, l1)
        assert none.converged
        assert not np.any(none.coef_)
        assert none.intercept_ == pytest.approx(target.mean(), rel=1e-6)
    assert solve(X, np.full(30, 7.0), 0.1).n_iter_ == 0


def test_rows_that_weigh_nothing_are_refused():
    X, y = toy()
    with pytest.raises(InputError, match="every row's weight must be > 0"):
        solve(X, y, 0.1, weight=np.append(np.ones(29), 0.0))
