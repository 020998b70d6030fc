"""Solvers that average local estimates, with workers that die."""

import numpy as np
import pytest
from scipy import sparse

import coordinator.kernels  # noqa: F401  registers kernels
from coordinator import embedded
from coordinator.data.blocks import memory_blocks
from coordinator.errors import InputError
from coordinator.problem import problem_from_spec
from coordinator.solvers import make_solver
from coordinator.solvers.estimates import (
    Draw,
    add_common,
    cover,
    draw_estimates,
    inverse_diagonal,
    invertible,
    log_determinant,
    read_blocks,
)
from coordinator.storage import MemoryStorage

SAMPLED = ("determinantal-averaging", "surrogate-averaging", "uniform-averaging")
LOSSES = ("logistic", "squared", "squared-hinge", "poisson", "huber", "softmax")


def rows(loss, n=3000, d=6, seed=0):
    """X, y and classes that loss likes."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * np.geomspace(0.3, 2.0, d)
    z = X @ rng.standard_normal(d) * 0.4
    if loss == "softmax":
        return X, (np.digitize(z + rng.standard_normal(n), [-0.7, 0.7])).astype(float), (0.0, 1.0, 2.0)
    if loss == "poisson":
        return X, rng.poisson(np.exp(np.clip(z, -3, 2))).astype(float), None
    if loss in {"logistic", "squared-hinge"}:
        return X, np.where(z + rng.logistic(size=n) > 0, 1.0, -1.0), (-1.0, 1.0)
    return X, z + rng.standard_t(3, size=n), None


def pose(loss, n=3000, d=6, l2=1e-3, layout="dense", weight=False, per_block=500, intercept=True):
    X, y, classes = rows(loss, n, d)
    if layout == "csr":
        X = sparse.csr_matrix(np.where(np.random.default_rng(1).random(X.shape) < 0.5, X, 0))
        X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
    storage = MemoryStorage()
    s = np.random.default_rng(2).random(n) + 0.5 if weight else None
    data = memory_blocks(storage, "toy", X, y, s, classes, rows_per_block=per_block)
    return storage, problem_from_spec({"loss": loss, "l2": l2, "intercept": intercept}, data)


def run(bench, problem, solver):
    """To the end, on the runtime of a bench."""
    solver.check(problem)
    bench.ctx.prefix = "000000"
    state = solver.init(problem, bench.ctx)
    while state.reason is None:
        bench.ctx.prefix = f"{state.iteration + 1:06d}"
        state = solver.step(problem, state, bench.ctx)
    return state


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", SAMPLED)
def test_reaches_the_solution_of_exact_newton(name, loss):
    X, y, classes = rows(loss)
    spec = {"loss": loss, "l2": 1e-3}
    exact = embedded.solve(X, y, spec, classes=classes, solver="newton", settings={"tol": 1e-10})
    found = embedded.solve(X, y, spec, classes=classes, solver=name, settings={"tol": 1e-8})
    assert found.converged, found.reason
    assert np.abs(found.coef_ - exact.coef_).max() < 1e-6 * np.abs(exact.coef_).max()
    assert all(1 <= row["ess"] <= row["estimates"] + 1e-9 for row in found.history[1:])


@pytest.mark.parametrize("draw", ["fixed", "poisson", "bernoulli", "sjlt"])
@pytest.mark.parametrize("layout", ["dense", "csr"])
def test_every_law_of_rows(Bench, layout, draw):
    storage, problem = pose("logistic", layout=layout, weight=True)
    solver = make_solver("surrogate-averaging", {"tol": 1e-8, "draw": draw})
    with Bench(storage, problem) as bench:
        state = run(bench, problem, solver)
    assert state.reason == "converged"


@pytest.mark.parametrize("name", SAMPLED)
def test_a_step_goes_without_lost_estimates(Bench, name):
    """A tenth of the estimates never answer, and a tenth of all other tasks die once: the same solution."""
    storage, problem = pose("logistic")
    whole = make_solver(name, {"tol": 1e-8, "estimates": 20})
    short = make_solver(name, {"tol": 1e-8, "estimates": 20, "spare": 2})
    once = {kind: {3: 1} for kind in ("gradient", "line-search", "hessian-diagonal")}
    with Bench(storage, problem, 2) as bench:
        expected = run(bench, problem, whole)
    with Bench(storage, problem, 2, faults=once | {"estimates": {4: 9, 13: 9}}) as bench:
        found = run(bench, problem, short)
        assert all(len(used) == 18 for used in bench.ctx.arrivals.values())
    assert found.reason == expected.reason == "converged"
    assert found.row["estimates"] == 18
    assert np.allclose(found.w, expected.w, rtol=0, atol=1e-7)


def test_bits_do_not_depend_on_the_number_of_workers(Bench):
    storage, problem = pose("softmax", n=900)
    solver = make_solver("determinantal-averaging", {"tol": 1e-6, "seed": 3})
    found = []
    for workers in (1, 3):
        with Bench(storage, problem, workers) as bench:
            found.append(run(bench, problem, solver).w)
    assert np.array_equal(found[0], found[1])


def estimates_of(Bench, loss, draw, count, determinants=True, l2=1e-2, **sizes):
    """The averaged diagonal of the inverse and the exact one."""
    storage, problem = pose(loss, l2=l2, **sizes)
    with Bench(storage, problem) as bench:
        V, common = np.eye(problem.n_parameters)[:, :2], 1.0 if loss == "softmax" else 0.0
        found = draw_estimates(
            bench.objective, bench.point, V, draw, range(count), path=[7], diagonal=True, common=common
        )
        [H] = bench.objective.gram(bench.point)
        H[np.diag_indices_from(H)] += bench.objective.ridge
        # what a softmax without penalty on the intercepts does not see
        add_common(H, bench.objective.ridge, problem.task_params(), common, problem.data.n_features)
    inverse = np.linalg.inv(H)
    average = found.average(found.diagonals, determinants=determinants)
    solved = found.average(found.solutions, determinants=determinants)
    return average, np.diag(inverse), solved.value, inverse[:, :2], found


@pytest.mark.parametrize("loss", ["logistic", "softmax"])
@pytest.mark.parametrize(("law", "correct"), [("fixed", "determinant"), ("fixed", "scale"), ("sjlt", "scale")])
def test_averages_tend_to_the_inverse(Bench, loss, law, correct):
    draw = Draw(law, 120 if loss == "logistic" else 250, correct)
    found, expected, columns, inverse, _ = estimates_of(
        Bench, loss, draw, 300, determinants=correct == "determinant", n=1500, d=4, weight=True
    )
    noise = 5 * (found.error / expected).max()
    # scaling is right for sketches and only nearly so for rows, of which a softmax's rare classes are few
    assert np.abs(found.value / expected - 1).max() < max(noise, 0.12 if (law, correct) == ("fixed", "scale") else 0)
    assert noise < 0.2
    assert np.linalg.norm(columns - inverse) < 0.06 * np.linalg.norm(inverse)


def test_poisson_rows_are_exact_for_determinants(Bench):
    found, expected, *_ = estimates_of(Bench, "squared", Draw("poisson", 60, "determinant"), 800, n=600, d=3)
    assert np.abs(found.value / expected - 1).max() < 4 * (found.error / expected).max() < 0.12


def test_uniform_averages_keep_their_bias(Bench):
    found, expected, *_ = estimates_of(
        Bench, "squared", Draw("fixed", 30, "none"), 300, determinants=False, n=600, d=4, l2=0.0
    )
    assert np.mean(found.value / expected) == pytest.approx(30 / (30 - 5 - 1), rel=0.05)


def test_log_determinants_are_of_the_whole_estimate(Bench):
    """One estimate that draws everything by sketching with many rows: its log det is that of H."""
    storage, problem = pose("logistic", l2=1e-2)
    with Bench(storage, problem) as bench:
        V = bench.point.gradient[:, None]
        found = draw_estimates(bench.objective, bench.point, V, Draw("bernoulli", 3000, "none"), [0], path=[1])
        [H] = bench.objective.gram(bench.point)
        H[np.diag_indices_from(H)] += bench.objective.ridge
    assert found.logdets[0] == pytest.approx(np.linalg.slogdet(H)[1], abs=1e-8)
    assert np.allclose(found.solutions[0, :, 0], np.linalg.solve(H, V[:, 0]), rtol=1e-8)


def test_columns_that_a_draw_misses(Bench):
    """A column with 3 ones in 3000 rows: without the guard every step is cut short by it."""
    X, y, classes = rows("logistic")
    X[:, 0] = 0.0
    X[:3, 0] = 1.0
    y[:3] = 1.0
    spec = {"loss": "logistic", "l2": 1 / 3000}
    taken = {}
    for guard in (True, False):
        settings = {"tol": 1e-8, "guard": guard, "memory": 0}
        found = embedded.solve(X, y, spec, classes=classes, solver="surrogate-averaging", settings=settings)
        taken[guard] = found.n_iter_
    assert taken[True] < 0.7 * taken[False]
    G = np.diag([1.0, 0.1, 0.4])
    assert cover(G, np.array([1.5, 0.3, 0.5])) == 1
    assert np.array_equal(np.diag(G), [1.0, 0.3, 0.4])


def test_says_when_the_effective_sample_collapses():
    X, y, classes = rows("logistic", n=4000, d=60)
    settings = {"tol": 1e-6, "draw": "bernoulli", "rows": 200, "estimates": 40}
    spec = {"loss": "logistic", "l2": 1e-4}
    found = embedded.solve(X, y, spec, classes=classes, solver="determinantal-averaging", settings=settings)
    warned = [row["warning"] for row in found.history if "warning" in row]
    assert warned
    assert "effective sample size" in warned[0]
    assert "of 40" in warned[0]


def test_large_data_are_read_in_part(monkeypatch):
    _, problem = pose("logistic")
    assert read_blocks(problem, 0, [1]) == problem.data.keys
    monkeypatch.setattr("coordinator.solvers.estimates.READ", problem.data.nbytes // 2)
    drawn = {read_blocks(problem, 0, [1, t]) for t in range(20)}
    assert len(drawn) > 5
    assert all(len(keys) == 3 for keys in drawn)


def test_sketches_of_some_blocks_are_debiased_for_the_others(Bench, monkeypatch):
    """Of 3000 rows 500 are read: their own inverse is off by d (1 / 500 - 1 / 3000), 4 %, on average."""
    storage, problem = pose("squared", d=24, l2=0.0)
    monkeypatch.setattr("coordinator.solvers.estimates.READ", problem.data.nbytes // 6 + 1)
    with Bench(storage, problem) as bench:
        V = np.zeros((25, 0))
        draw = Draw("sjlt", 400, "scale")
        found = draw_estimates(bench.objective, bench.point, V, draw, range(60), path=[1], diagonal=True)
        [H] = bench.objective.gram(bench.point)
    assert np.mean(found.diagonals / np.diag(np.linalg.inv(H))) == pytest.approx(1.0, abs=0.015)


def test_factors_are_exact_where_they_can_be():
    rng = np.random.default_rng(3)
    A = rng.standard_normal((50, 5)) * [1e-4, 1, 1e5, 1, 1e-2]
    H = A.T @ A
    found = invertible(H.copy(), "float64", 50)
    scale = np.sqrt(np.diag(H))
    inverse = np.linalg.inv(H / np.outer(scale, scale)) / np.outer(scale, scale)
    assert np.allclose(inverse_diagonal(found), np.diag(inverse), rtol=1e-9)
    assert np.allclose(found.solve(np.eye(5)), inverse, rtol=1e-8, atol=1e-12 * np.abs(inverse).max())
    assert log_determinant(found) == pytest.approx(np.linalg.slogdet(H)[1], abs=1e-9)


def test_a_singular_estimate_gets_a_floor():
    H = np.ones((3, 3)) + np.diag([0, 0, 1.0])
    found = invertible(H, "float64", 50)
    assert np.abs(found.solve(np.array([1.0, 0.0, 0.0]))).max() < 60
    indefinite = np.array([[1.0, 2.0, 0], [2.0, 1.0, 0], [0, 0, 1.0]])
    broken = invertible(indefinite, "float64", 1000)
    assert broken.factor.inverse is not None
    assert np.allclose(inverse_diagonal(broken), np.diag(broken.solve(np.eye(3))))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("determinantal-averaging", {"estimates": 0}, "estimates must be >= 1"),
        ("surrogate-averaging", {"estimates": 4, "spare": 4}, "spare from 0 to below"),
        ("uniform-averaging", {"rows": 5000}, "more than the 3000 rows"),
        ("uniform-averaging", {"memory": -1}, "memory must be >= 0"),
        ("determinantal-averaging", {"draw": "sjlt"}, "draw must be one of"),
    ],
)
def test_refuses_settings_out_of_range(name, settings, message):
    _, problem = pose("logistic")
    with pytest.raises(InputError, match=message):
        make_solver(name, settings).check(problem)


def test_refuses_what_it_cannot_hold():
    storage = MemoryStorage()
    X = sparse.csr_matrix(
        (np.ones(2), np.array([0, 1], dtype=np.int32), np.array([0, 1, 2], dtype=np.int32)), (2, 40000)
    )
    data = memory_blocks(storage, "wide", X, np.array([-1.0, 1.0]), None, (-1.0, 1.0))
    problem = problem_from_spec({"loss": "logistic"}, data)
    with pytest.raises(InputError, match="matrix in every task"):
        make_solver("surrogate-averaging", {}).check(problem)
