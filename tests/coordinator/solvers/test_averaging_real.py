"""Averaging solvers and averaged standard errors on real data, with a tenth of the workers dead."""

import lzma
from dataclasses import replace

import numpy as np
import pytest

from coordinator.data.blocks import memory_blocks
from coordinator.problem import problem_from_spec
from coordinator.solvers import make_solver
from coordinator.storage import MemoryStorage
from overcast import Client
from overcast.flights import flights

SOLVERS = {
    "determinantal-averaging": "estimates",
    "surrogate-averaging": "estimates",
    "uniform-averaging": "estimates",
    "averaged-newton": "estimates",
    "giant": "groups",
    "local-newton": "groups",
    "dingo": "groups",
}


SETS = ("a9a", "flights")


@pytest.fixture
def rows(source, request):
    if source == "a9a":
        return request.getfixturevalue("adult")
    X, y, _ = flights()
    return X, y.astype(float)


def blocks_of(X, y, rows_per_block):
    """Shuffled, as imports are."""
    order = np.random.default_rng(0).permutation(len(y))
    X = X.tocsr()[order]
    X.sort_indices()
    X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
    storage = MemoryStorage()
    classes = tuple(np.unique(y).tolist())
    data = memory_blocks(storage, "real", X, y[order], None, classes, rows_per_block)
    return storage, replace(data, shuffle_seed=0)


@pytest.mark.e2e
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("source", SETS)
def test_every_solver_gets_there_with_a_tenth_of_the_workers_dead(Bench, rows, source, name):
    """To 1e-8. Two of 20 estimates never come; of the tasks of sums, a tenth die once."""
    X, y = rows
    storage, data = blocks_of(X, y, rows_per_block=len(y) // 20 + 1)
    problem = problem_from_spec({"loss": "logistic", "l2": 1 / len(y)}, data)
    solver = make_solver(name, {"tol": 1e-8, SOLVERS[name]: 20, "spare": 2})
    solver.check(problem)
    dead = {kind: {3: 9, 11: 9} for kind in ("estimates", "local-newton")}
    sums = ("gradient", "gradients", "line-search", "hessian-product", "hessian-diagonal", "hessian")
    dead |= {kind: {3: 1, 11: 1} for kind in sums}
    with Bench(storage, problem, 2, faults=dead) as bench:
        state = solver.init(problem, bench.ctx)
        while state.reason is None:
            bench.ctx.prefix = f"{state.iteration + 1:06d}"
            state = solver.step(problem, state, bench.ctx)
            assert state.row.get("groups", state.row.get("estimates", 18)) == 18
    assert state.reason == "converged"
    assert state.relative <= 1e-8


def errors(client, loss, l2=0.0):
    """Exact and estimated standard errors."""
    job = client.submit("set", loss=loss, l2=l2, solver="newton", tol=1e-10, wait=True)
    return job.uncertainty(), job.uncertainty(method="estimate", accuracy=0.015)


@pytest.mark.e2e
@pytest.mark.parametrize("source", SETS)
def test_estimated_standard_errors_are_within_two_per_cent(rows, source):
    X, y = rows
    client = Client()
    client.import_data(X, "set", target=y)
    exact, found = errors(client, "logistic", l2=1 / len(y))
    assert found.estimates > 0
    assert found.coef.size == X.shape[1] + 1
    assert np.abs(found.se / exact.se - 1).max() < 0.02


@pytest.mark.e2e
def test_estimated_standard_errors_of_abalone(real):
    with lzma.open(real("libsvm_regression/abalone.csv.xz"), "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    client = Client()
    client.import_data(table[:, 1:], "set", target=table[:, 0])
    exact, found = errors(client, "squared")
    assert np.abs(found.se / exact.se - 1).max() < 0.02
