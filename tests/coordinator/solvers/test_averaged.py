"""GIANT, LocalNewton and DINGO on shares of the rows, and averaged Newton, which chooses."""

from dataclasses import replace

import numpy as np
import pytest

from coordinator.data.blocks import memory_blocks
from coordinator.errors import InputError
from coordinator.problem import problem_from_spec
from coordinator.solvers import make_solver
from coordinator.solvers.shares import Part, local_hessian, on_shares
from coordinator.storage import MemoryStorage
from coordinator.tasks import Task, Work, Worker
from overcast import Client
from overcast.summary import choice

SHARED = ("giant", "local-newton", "dingo")
ALL = (*SHARED, "averaged-newton")


def make(loss="logistic", n=3000, d=6, l2=1e-3, seed=0, shuffled=True, heavy=0):
    """A problem in 6 blocks; `heavy` columns have 4 ones each."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * np.geomspace(0.3, 2.0, d)
    for j in range(heavy):
        X[:, j] = 0
        X[rng.choice(n, 4, replace=False), j] = 1
    z = X @ rng.standard_normal(d) * 0.4
    classes = {"logistic": (-1.0, 1.0), "softmax": (0.0, 1.0, 2.0)}.get(loss)
    y = z + rng.standard_normal(n)
    if classes:
        y = np.where(z + rng.logistic(size=n) > 0, 1.0, -1.0)
    if loss == "softmax":
        y = np.digitize(z + rng.standard_normal(n), [-0.7, 0.7]).astype(float)
    storage = MemoryStorage()
    data = memory_blocks(storage, "toy", X, y, None, classes, rows_per_block=n // 6)
    data = replace(data, shuffle_seed=0) if shuffled else data
    return storage, problem_from_spec({"loss": loss, "l2": l2}, data)


def run(bench, problem, solver):
    solver.check(problem)
    state, rows = solver.init(problem, bench.ctx), []
    while state.reason is None:
        bench.ctx.prefix = f"{state.iteration + 1:06d}"
        state = solver.step(problem, state, bench.ctx)
        rows.append(state.row)
    return state, rows


def exact(Bench, storage, problem):
    with Bench(storage, problem) as bench:
        return run(bench, problem, make_solver("newton", {"tol": 1e-10}))[0].w


@pytest.mark.parametrize("loss", ["logistic", "squared", "softmax"])
@pytest.mark.parametrize("name", ALL)
def test_reaches_the_solution_of_exact_newton(Bench, name, loss):
    storage, problem = make(loss)
    with Bench(storage, problem, 2) as bench:
        state, _ = run(bench, problem, make_solver(name, {"tol": 1e-8}))
    assert state.reason == "converged"
    found, expected = (w.reshape(-1, problem.n_outputs) for w in (state.w, exact(Bench, storage, problem)))
    if loss == "softmax":  # which does not see a shift that all classes' intercepts share
        found, expected = (W - W.mean(axis=1, keepdims=True) for W in (found, expected))
    assert np.allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_goes_without_a_tenth_of_the_workers(Bench, name):
    """Two of 20 never answer; the tasks of sums, which none may miss, die once."""
    storage, problem = make()
    counts = {"estimates": 20} if name == "averaged-newton" else {"groups": 20}
    solver = make_solver(name, {"tol": 1e-8, "spare": 2} | counts)
    never = {key: {3: 9, 17: 9} for key in ("local-newton", "estimates")}
    once = {key: {1: 1} for key in ("gradient", "gradients", "line-search", "hessian-product", "hessian-diagonal")}
    with Bench(storage, problem, 2, faults=never | once) as bench:
        state, rows = run(bench, problem, solver)
    assert state.reason == "converged"
    assert all(row.get("groups", row.get("estimates")) == 18 for row in rows)
    assert np.allclose(state.w, exact(Bench, storage, problem), rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [1, 4, 6, 15])
def test_shares_are_a_partition(count):
    """Whatever their number, the shares' Hessians, by weight, add up to the whole."""
    storage, problem = make(n=600)
    w = np.random.default_rng(1).standard_normal(problem.n_parameters)
    scratch = MemoryStorage()
    scratch.put_arrays("w", {"array": w})
    worker = Worker(storage, scratch)
    params = problem.task_params() | {"double": False}
    found = []

    class Recorder:
        problem = None
        passes = 0.0

        def phase(self, name, kernel, blocks, inputs, *, double, params, code):
            found.extend(zip(blocks, params, strict=True))
            return []

    recorder = Recorder()
    recorder.problem = problem
    on_shares(recorder, "x", "x", count, 0, {}, False)
    assert len(found) == count
    total, weight = 0.0, 0.0
    for keys, own in found:
        work = Work(worker, Task("x", f"out-{len(keys)}-{own['part']}", keys, problem.data.n_features, {"w": "w"}))
        H, s, n_rows = local_hessian(Part.of(work, own["part"], own["parts"]), params)
        assert n_rows >= 600 // count // 2
        total, weight = total + s * H, weight + s
    assert weight == 600
    work = Work(worker, Task("x", "all", problem.data.keys, problem.data.n_features, {"w": "w"}))
    whole, _, _ = local_hessian(Part.of(work, 0, 1), params)
    assert np.allclose(total / weight, whole, rtol=1e-10)


def test_few_parameters_take_determinants(Bench):
    _, problem = make()
    assert make_solver("averaged-newton", {}).choose(problem)[0] == "determinantal"


@pytest.mark.parametrize(
    ("sizes", "way"),
    [
        ({"n": 9000, "d": 40}, "giant"),
        ({"n": 9000, "d": 40, "shuffled": False}, "surrogate"),
        ({"n": 3000, "d": 40}, "surrogate"),
        ({"n": 3000, "d": 12, "loss": "softmax"}, "surrogate"),
    ],
)
def test_chooses_by_the_shape_of_the_problem(Bench, sizes, way):
    storage, problem = make(**sizes)
    with Bench(storage, problem, 2) as bench:
        state, rows = run(bench, problem, make_solver("averaged-newton", {"tol": 1e-8}))
    assert rows[0]["strategy"] == way
    assert state.reason == "converged"
    assert len(state.chosen["why"]) > 20


def test_switches_when_the_effective_sample_collapses(Bench):
    """Columns with next to no ones, and so few rows that determinants differ by orders of magnitude."""
    storage, problem = make(n=3000, d=40, heavy=6, l2=1e-4)
    settings = {"tol": 1e-8, "strategy": "determinantal", "rows": 60, "estimates": 40}
    with Bench(storage, problem, 2) as bench:
        state, rows = run(bench, problem, make_solver("averaged-newton", settings))
    assert state.reason == "converged"
    assert rows[0]["strategy"] == "determinantal"
    assert rows[-1]["strategy"] != "determinantal"
    assert "effective sample size" in state.chosen["warnings"][0]
    assert state.chosen["warnings"][0].startswith("iteration 1, determinantal")


def test_gives_way_to_the_exact_hessian_where_all_samples_are_poor(Bench):
    storage, problem = make(n=2000, d=40, l2=1e-6)
    settings = {"tol": 1e-8, "strategy": "surrogate", "rows": 30, "estimates": 2, "memory": 0}
    with Bench(storage, problem, 2) as bench:
        state, rows = run(bench, problem, make_solver("averaged-newton", settings))
    assert state.reason == "converged"
    assert [row["strategy"] for row in rows if row["strategy"] == "exact"]
    assert len(state.chosen["warnings"]) == 2


def test_local_steps_end_as_giants(Bench):
    storage, problem = make()
    with Bench(storage, problem, 2) as bench:
        state, rows = run(bench, problem, make_solver("local-newton", {"tol": 1e-9, "groups": 10}))
    assert rows[0]["local_steps"] == 3
    assert "local_steps" not in rows[-1]
    assert state.reason == "converged"


def test_dingo_needs_no_penalty(Bench):
    """Softmax without a penalty is singular: pseudo-inverses, and the gradient's norm falls all the same."""
    storage, problem = make("softmax", l2=0.0)
    with Bench(storage, problem, 2) as bench:
        state, rows = run(bench, problem, make_solver("dingo", {"tol": 1e-8}))
    assert state.reason == "converged"
    assert {row["case"] for row in rows} <= {1, 2, 3}


def test_every_case_of_dingo_is_one_of_descent(Bench):
    """Local directions that climb: the second case damps them, the third turns them."""
    storage, problem = make()
    solver = make_solver("dingo", {"groups": 4})
    with Bench(storage, problem) as bench:
        g = bench.point.gradient
        hg = bench.objective.product(bench.point, g)
        guard = bench.objective.diagonal(bench.point)
        p, case, used, _ = solver._direction(bench.objective, bench.point, guard, hg)
        assert (case, used) == (1, 4)
        assert p @ hg < 0
        p, case, _, _ = solver._direction(bench.objective, bench.point, guard, -hg)
        assert case == 3
        assert float(p @ -hg) <= -0.99e-4 * float(g @ g)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("giant", {"groups": -1}, "groups and spare must be >= 0"),
        ("dingo", {"groups": 4000}, "more than the 3000 rows"),
        ("local-newton", {"groups": 4, "spare": 4}, "spare must be less than the 4 groups"),
        ("local-newton", {"local_steps": 0}, "local_steps must be >= 1"),
        ("giant", {"memory": -1}, "memory must be >= 0"),
        ("averaged-newton", {"estimates": 0}, "estimates must be >= 1"),
        ("averaged-newton", {"strategy": "best"}, "strategy must be one of"),
    ],
)
def test_refuses_settings_out_of_range(name, settings, message):
    _, problem = make()
    with pytest.raises(InputError, match=message):
        make_solver(name, settings).check(problem)


def test_says_what_it_chose_and_why():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((900, 3))
    result = Client().solve((X, np.sign(X[:, 0] + rng.logistic(size=900))), loss="logistic", solver="averaged-newton")
    assert choice(result.chosen).startswith("determinantal (4 parameters are few")
    warned = choice({"strategy": "surrogate", "why": "so", "warnings": ["iteration 3, giant: slow"]})
    assert warned == "surrogate (so); warning: iteration 3, giant: slow"
