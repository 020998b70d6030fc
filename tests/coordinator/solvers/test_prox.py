import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.solvers.objective import Objective
from coordinator.solvers.prox import duality_gap, prox_direction, violation


def problem(p, seed, rank=None):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((rank or 2 * p, p)) * rng.uniform(0.1, 3, p)
    w = np.where(rng.random(p) < 0.5, 0, rng.standard_normal(p))
    lasso = np.full(p, 0.5)
    lasso[-1] = 0
    return A.T @ A / len(A), 2 * rng.standard_normal(p), w, lasso


def model(H, g, w, lasso, u):
    return g @ u + u @ H @ u / 2 + lasso @ np.abs(w + u)


def descent(H, g, w, lasso, sweeps=20_000):
    """Plain cyclic coordinate descent, to the end."""
    v, r = w.copy(), g.copy()
    for _ in range(sweeps):
        before = v.copy()
        for j in range(len(v)):
            z = v[j] - r[j] / H[j, j]
            new = np.sign(z) * max(abs(z) - lasso[j] / H[j, j], 0)
            r += H[j] * (new - v[j])
            v[j] = new
        if np.abs(v - before).max() < 1e-13:
            break
    return v - w


@given(st.integers(1, 8), st.integers(0, 2**32))
def test_the_subproblem_against_coordinate_descent(p, seed):
    H, g, w, lasso = problem(p, seed)
    H += 1e-3 * np.eye(p)
    u, other = prox_direction(H, g, w, lasso), descent(H, g, w, lasso)
    assert model(H, g, w, lasso, u) <= model(H, g, w, lasso, other) + 1e-10
    np.testing.assert_allclose(u, other, atol=1e-6)
    np.testing.assert_allclose(violation(g + H @ u, w + u, lasso), 0, atol=1e-8)


@pytest.mark.parametrize("seed", range(20))
def test_all_sign_patterns(seed):
    """Brute force: the best of the minima of all 3^p patterns of signs that have those signs."""
    p = 4
    H, g, w, lasso = problem(p, seed)
    best = np.inf
    for code in range(3**p):
        signs = np.array([code // 3**j % 3 - 1 for j in range(p)])
        S = np.flatnonzero((signs != 0) | (lasso == 0))
        v = np.zeros(p)
        if S.size:
            v[S] = np.linalg.solve(H[np.ix_(S, S)], (H @ w - g - lasso * signs)[S])
        if np.all((np.sign(v) == signs) | (lasso == 0)):
            best = min(best, model(H, g, w, lasso, v - w))
    assert model(H, g, w, lasso, prox_direction(H, g, w, lasso)) == pytest.approx(best, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_a_singular_model(seed):
    """Rank 5 of 30: bounded below by l1; any minimiser will do."""
    H, g, w, lasso = problem(30, seed, rank=5)
    lasso[-1] = 0.5
    g = H @ g  # in the range, so that there is a minimum
    u, other = prox_direction(H, g, w, lasso), descent(H + 1e-12 * np.eye(30), g, w, lasso)
    assert model(H, g, w, lasso, u) <= model(H, g, w, lasso, other) + 1e-7
    assert np.linalg.norm(violation(g + H @ u, w + u, lasso)) < 1e-6


def test_a_large_penalty_gives_exact_zeros():
    H, g, w, lasso = problem(12, 3)
    lasso = np.where(lasso > 0, 1e3, 0)
    u = prox_direction(H, g, w, lasso)
    assert np.array_equal((w + u)[:-1], np.zeros(11))
    assert (g + H @ u)[-1] == pytest.approx(0, abs=1e-10)


def test_without_a_penalty_it_is_newton():
    H, g, w, _ = problem(9, 4)
    np.testing.assert_allclose(prox_direction(H, g, w, np.zeros(9)), -np.linalg.solve(H, g), rtol=1e-7)


@pytest.mark.parametrize("l2", [0.0, 0.2])
@pytest.mark.parametrize("intercept", [True, False])
def test_the_duality_gap_bounds_the_error(Toy, Bench, solve, intercept, l2):
    toy = Toy("squared", l1=0.1, l2=l2, intercept=intercept)
    found = solve(toy.X, toy.y, toy.spec, "proximal-newton", weight=toy.weight, tol=1e-12)
    assert found.converged
    rng = np.random.default_rng(0)
    with Bench(toy.storage, toy.problem) as bench:
        objective = Objective(toy.problem, bench.ctx)
        for size in (0.0, 1e-6, 1e-3, 0.1):
            w = found.w + size * rng.standard_normal(found.w.size) * (found.w != 0)
            if intercept:  # the gap is that of the best intercept
                residual = toy.oracle.y - toy.oracle.A[:, :-1] @ w[:-1]
                w[-1] = toy.oracle.s @ residual / toy.oracle.s.sum()
            gap = duality_gap(objective, objective.at(w))
            error = toy.oracle.value(w) - found.objective
            assert gap >= error - 1e-12
            assert gap <= 10 * size + 1e-9
