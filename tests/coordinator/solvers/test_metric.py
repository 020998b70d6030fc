import numpy as np
import pytest

from coordinator.solvers import costs
from coordinator.solvers.metric import Dense, Diagonal, Head, Scaled, conjugate_gradients, rounding
from coordinator.solvers.moves import diagonal_suffices
from coordinator.solvers.objective import Objective
from coordinator.solvers.weak import null_free, weak_search
from sketches import HessianAverage


def spd(p, seed=0, scale=1.0):
    A = np.random.default_rng(seed).standard_normal((2 * p, p)) * scale
    return A.T @ A / p


def test_dense_is_the_inverse():
    H, ridge = spd(6), np.array([0.1] * 5 + [0.0])
    v = np.arange(6.0)
    expected = np.linalg.solve(H + np.diag(ridge), v)
    np.testing.assert_allclose(Dense.of([H.copy()], ridge).solve(v), expected, rtol=1e-9)


def test_one_matrix_for_each_class():
    blocks = [spd(3, seed) for seed in range(4)]
    whole = np.zeros((12, 12))
    for k, G in enumerate(blocks):
        whole[k::4, k::4] = G
    ridge, v = np.repeat([0.1, 0.1, 0.0], 4), np.random.default_rng(1).standard_normal(12)
    expected = np.linalg.solve(whole + np.diag(ridge), v)
    np.testing.assert_allclose(Dense.of([G.copy() for G in blocks], ridge).solve(v), expected, rtol=1e-9)


def test_columns_of_any_scale_lose_no_digits():
    scale = 10.0 ** np.arange(-6.0, 7, 2)
    H, v = spd(7), np.random.default_rng(2).standard_normal(7)
    found = Scaled.of(H * np.outer(scale, scale), 1e-12).solve(v * scale) * scale
    np.testing.assert_allclose(found, np.linalg.solve(H, v), rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_floor_keeps_a_singular_matrix_from_blowing_rounding_up(dtype):
    rng = np.random.default_rng(0)
    A = rng.standard_normal((400, 5)).astype(dtype)
    A = np.hstack([A, A])
    H = (A.T @ A).astype(np.float64) / 400
    g = np.asarray(A.T @ rng.standard_normal(400).astype(dtype), dtype=np.float64)
    p = Scaled.of(H.copy(), rounding(dtype, 10)).solve(g)
    expected = np.linalg.pinv(H, rcond=1e-4) @ g
    assert np.linalg.norm(p - expected) < 0.2 * np.linalg.norm(expected)


def test_a_diagonal_with_empty_columns():
    metric = Diagonal.of(np.array([4.0, 0.0, 2.0]), np.zeros(3))
    assert metric.solve(np.ones(3)).tolist() == [0.25, 0.5, 0.5]
    assert Diagonal.of(np.zeros(2), np.zeros(2)).solve(np.ones(2)).tolist() == [1, 1]


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("layout", ["dense", "csr"])
@pytest.mark.parametrize("loss", ["logistic", "softmax"])
@pytest.mark.parametrize("every", [1, 3])
def test_the_head_is_exact_in_the_heaviest_columns(Toy, Bench, loss, layout, intercept, every):
    toy = Toy(loss, layout, intercept=intercept)
    d, K = toy.X.shape[1], toy.problem.n_outputs
    with Bench(toy.storage, toy.problem) as bench:
        objective = Objective(toy.problem, bench.ctx)
        metric = Head.of(objective, objective.at(toy.w), 3, every)
    diagonal = np.diag(toy.oracle.hessian(toy.w)).reshape(-1, K)
    weights = np.diag(toy.oracle.data_hessian(toy.w)).reshape(-1, K)[:d].sum(axis=1)
    rows = np.append(np.sort(np.argsort(-weights)[:3]), np.arange(d, d + intercept))
    assert metric.rows.tolist() == rows.tolist()
    # each third row of the blocks of 33, counted thrice
    kept = np.concatenate([np.arange(start, min(start + 33, 90), every) for start in range(0, 90, 33)])
    _, _, bend = toy.oracle.rows(toy.oracle.margins(toy.w))
    A, s = toy.oracle.A[kept], every * toy.weight[kept] / toy.weight.sum()
    v = np.random.default_rng(3).standard_normal(diagonal.shape)
    expected = v / diagonal
    for k in range(K):
        G = (A * (s * bend[kept, k, k])[:, None]).T @ A + np.diag(toy.oracle.ridge.reshape(-1, K)[:, k])
        expected[rows, k] = np.linalg.solve(G[np.ix_(rows, rows)], v[rows, k])
    np.testing.assert_allclose(metric.solve(v.ravel()), expected.ravel(), rtol=1e-7)


@pytest.mark.parametrize("strategy", ["metric", "pcg"])
def test_wide_rows_converge_in_few_passes(solve, monkeypatch, strategy):
    """Groups of dummies, one set in each row, of which one group refines another: as flights and tail numbers do."""
    rng = np.random.default_rng(0)
    n, d = 4000, 600
    fine = (600 * rng.random(n) ** 3).astype(int)
    X = np.zeros((n, d + 24))
    X[np.arange(n), fine], X[np.arange(n), d + fine % 12], X[np.arange(n), d + 12 + rng.integers(12, size=n)] = 1, 1, 1
    y = (X @ rng.standard_normal(d + 24) + rng.standard_normal(n) > 0).astype(float)
    monkeypatch.setattr(costs, "DENSE_LIMIT", 300)
    passes = {}
    for head in (100, 1):
        monkeypatch.setattr(costs, "HEAD", head)
        spec = {"loss": "logistic", "l2": 1e-5}
        found = solve(X, y, spec, classes=(0.0, 1.0), strategy=strategy, tol=1e-8)
        assert found.converged
        passes[head] = found.state.passes
    assert passes[100] < 0.6 * passes[1]


@pytest.mark.parametrize("loss", ["logistic", "softmax"])
@pytest.mark.parametrize("kind", ["dense", "diagonal", "exact"])
def test_conjugate_gradients_solve_the_newton_system(Toy, Bench, loss, kind):
    toy = Toy(loss, n=300, d=8)
    H = toy.oracle.hessian(toy.w)
    metric = {
        "exact": lambda: Dense.of([H.copy()], np.zeros(len(H))),
        "dense": lambda: Dense.of([toy.oracle.data_hessian(1.5 * toy.w)], toy.oracle.ridge),
        "diagonal": lambda: Diagonal.of(np.diag(H).copy(), np.zeros(len(H))),
    }[kind]()
    with Bench(toy.storage, toy.problem) as bench:
        objective = Objective(toy.problem, bench.ctx)
        at = objective.at(toy.w)
        solved = conjugate_gradients(objective, at, metric, 1e-10, 200)
        # softmax's intercepts have a shift in common, of which H knows nothing
        np.testing.assert_allclose(H @ solved.direction, -at.gradient, rtol=1e-7, atol=1e-9)
        assert objective.passes == 1 + solved.iterations
        assert solved.reduction <= 1e-10
        assert solved.rate > 0
        if kind == "exact":
            assert solved.iterations <= 2
        # a rough solve is what it says, and a limit is kept
        rough = conjugate_gradients(objective, at, metric, 0.1, 200)
        assert np.linalg.norm(H @ rough.direction + at.gradient) <= 0.1 * np.linalg.norm(at.gradient)
        assert conjugate_gradients(objective, at, metric, 0.0, 3 if kind != "exact" else 1).iterations <= 3


def test_conjugate_gradients_without_curvature(Toy, Bench):
    toy = Toy("squared-hinge", l2=0.0, intercept=False)
    with Bench(toy.storage, toy.problem) as bench:
        at = bench.objective.at(toy.w)
        flat = Objective(toy.problem, bench.ctx)
        flat.product = lambda at, v: np.zeros_like(v)
        solved = conjugate_gradients(flat, at, Diagonal(np.ones(7)), 1e-3, 50)
    assert (solved.iterations, solved.reduction) == (0, 1.0)
    assert not solved.direction.any()


# -- weakly convex steps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("narrow", [True, False])
def test_the_pseudo_inverse(narrow):
    rng = np.random.default_rng(0)
    A = rng.standard_normal((6, 9))
    H, g = A.T @ A, rng.standard_normal(9)
    p, inside = null_free(H, g, narrow)
    np.testing.assert_allclose(p, -np.linalg.pinv(H, rcond=1e-6, hermitian=True) @ g, rtol=1e-6, atol=1e-9)
    U = np.linalg.svd(A, full_matrices=False)[2]
    assert inside == pytest.approx(np.sum((U @ g) ** 2))
    assert p @ H @ g == pytest.approx(-inside)


@pytest.mark.parametrize("stretch", [1.0, 3.0, 50.0])
def test_the_search_decreases_the_gradient(Toy, Bench, stretch):
    toy = Toy("softmax", l2=0.0)
    with Bench(toy.storage, toy.problem) as bench:
        objective = Objective(toy.problem, bench.ctx)
        start = objective.at(toy.w)
        p, inside = null_free(toy.oracle.hessian(toy.w), start.gradient, narrow=False)
        p *= stretch
        objective.passes = 0
        end, step = weak_search(objective, start, p, inside, double=False)
        assert objective.passes == (1 if stretch == 1 else 3)
        np.testing.assert_allclose(end.w, toy.w + step * p)
        assert end.gradient @ end.gradient <= start.gradient @ start.gradient - 2e-4 * step * inside
        assert weak_search(objective, start, -p, inside, double=False) == (None, 0.0)


# -- averaged sketches ------------------------------------------------------------------------------------------------


def test_averaging_sketches_of_a_hessian_that_rests(Toy, Bench):
    toy = Toy(n=600, d=5, rows_per_block=200)
    exact, ridge = toy.oracle.hessian(toy.w), toy.oracle.ridge
    errors, average = [], None
    with Bench(toy.storage, toy.problem) as bench:
        at = bench.objective.at(toy.w)
        laws = costs.laws(toy.problem, "sjlt", 60, 2)
        for t in range(30):
            [G] = bench.objective.sketch(at, laws, 0, [t])
            m = costs.law_rows(laws)
            average = HessianAverage.start(G, ridge, m) if average is None else average.update(G, ridge, m)
            errors.append(np.linalg.norm(average.gram + np.diag(ridge) - exact) / np.linalg.norm(exact))
    assert average.neff > 15
    assert errors[-1] < 0.5 * np.mean(errors[:3])


# -- when the diagonal is enough --------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [50, 300])  # all eigenvalues, and Lanczos
def test_the_diagonal_suffices_where_columns_are_unrelated(p):
    rng = np.random.default_rng(0)
    sketched = rng.standard_normal((10 * p, p)) / np.sqrt(10 * p)  # of rows with Hessian I
    scale = 10.0 ** rng.uniform(-3, 3, p)
    for mixed, expected in ((np.eye(p), True), (np.triu(np.ones((p, p))), False)):
        A = sketched @ mixed * scale
        G = A.T @ A
        assert diagonal_suffices(G, np.zeros(p), np.diag(G).copy(), 0.1) == expected
