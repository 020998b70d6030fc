"""Solves of arrays in memory: the same bits as a job, whatever the workers, nothing stored and nothing copied."""

import numpy as np
import pytest
from scipy import sparse

from coordinator import embedded
from coordinator.embedded import NOMINAL, machine_profile, solve
from coordinator.errors import InputError
from coordinator.profile import KEY
from coordinator.solvers import SOLVERS

PROBLEM = {"loss": "logistic", "l2": 1e-3}
CLASSES = (0.0, 1.0)


def test_solution_and_figures(two_classes):
    X, y = two_classes
    found = solve(X, y, PROBLEM, classes=CLASSES, settings={"tol": 1e-10})
    assert found.converged
    assert found.job == ""
    z = X @ found.coef_ + found.intercept_
    p = 1 / (1 + np.exp(-z))
    gradient = X.T @ (p - y) / len(y) + 1e-3 * found.coef_
    first = np.append(X.T @ (0.5 - y), np.sum(0.5 - y)) / len(y)
    assert np.linalg.norm(np.append(gradient, np.mean(p - y))) <= 2e-10 * np.linalg.norm(first)
    assert [row["iteration"] for row in found.history] == list(range(found.n_iter_ + 1))
    assert found.history[-1]["relative"] == found.relative <= 1e-10
    assert found.seconds["total"] >= found.history[-1]["seconds"]


@pytest.mark.parametrize("name", [name for name in SOLVERS if name not in {"sgd", "interior-point"}])
def test_same_bits_for_any_number_of_workers(name, two_classes):
    X, y = two_classes
    X, y = np.tile(X, (60, 1)), np.tile(y, 60)  # several blocks
    results = [
        solve(X, y, PROBLEM, classes=CLASSES, solver=name, settings={"tol": 1e-4, "max_iter": 5}, workers=n)
        for n in (1, 2, 3)
    ]
    assert len({found.coef_.tobytes() for found in results}) == 1


def test_sparse_dense_and_weights_agree(two_classes):
    X, y = two_classes
    X = np.where(np.abs(X) > 0.5, X, 0.0)
    settings = {"tol": 1e-11}
    dense = solve(X, y, PROBLEM, classes=CLASSES, settings=settings)
    csr = sparse.csr_matrix(X)
    csr.indices, csr.indptr = csr.indices.astype(np.int32), csr.indptr.astype(np.int32)
    thin = solve(csr, y, PROBLEM, classes=CLASSES, settings=settings)
    np.testing.assert_allclose(thin.coef_, dense.coef_, rtol=1e-7)
    weight = np.ones(len(y))
    weight[:100] = 3.0
    weighted = solve(X, y, PROBLEM, classes=CLASSES, weight=weight, settings=settings)
    repeated = solve(
        np.vstack([X, X[:100], X[:100]]), np.concatenate([y, y[:100], y[:100]]), PROBLEM, classes=CLASSES,
        settings=settings,
    )  # fmt: skip
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-7)


def test_starts_where_it_is_told(two_classes):
    X, y = two_classes
    first = solve(X, y, PROBLEM, classes=CLASSES)
    w = np.append(first.coef_, first.intercept_)
    again = solve(X, y, PROBLEM, classes=CLASSES, start=w)
    assert again.n_iter_ <= 1
    assert again.relative <= 1e-6
    with pytest.raises(InputError, match="the starting point has 3 parameters, the problem 7"):
        solve(X, y, PROBLEM, classes=CLASSES, start=np.zeros(3))


def test_rows_are_views(two_classes):
    X, y = two_classes
    X, y = X.copy(), y.copy()
    before = X.tobytes(), y.tobytes()
    solve(X, y, PROBLEM, classes=CLASSES)
    assert (X.tobytes(), y.tobytes()) == before
    assert X.flags.writeable


def test_small_problems_are_planned_on_nominal_rates(two_classes, monkeypatch):
    X, y = two_classes
    monkeypatch.setattr(embedded, "machine_profile", lambda: pytest.fail("measured"))
    found = solve(X, y, PROBLEM, classes=CLASSES)
    monkeypatch.setattr(embedded, "SMALL", X.nbytes)
    asked = []
    monkeypatch.setattr(embedded, "machine_profile", lambda: asked.append(1) or NOMINAL)
    assert solve(X, y, PROBLEM, classes=CLASSES).coef_.tobytes() == found.coef_.tobytes()
    assert asked == [1]


def test_the_machine_is_measured_once_and_kept_for_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    count = []
    monkeypatch.setattr("coordinator.profile.measure", lambda: count.append(1) or NOMINAL)
    machine_profile.cache_clear()
    try:
        assert machine_profile() == machine_profile() == NOMINAL
        assert (tmp_path / "overcast" / KEY).exists()
        machine_profile.cache_clear()
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
        monkeypatch.setattr(embedded, "measure", lambda: count.append(2) or NOMINAL)
        assert machine_profile() == NOMINAL, "a home that cannot be written to is no obstacle"
        assert count == [1, 2]
    finally:
        machine_profile.cache_clear()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"solver": "lbgfs"}, "did you mean 'lbfgs'"),
        ({"settings": {"tl": 1}}, "'tl'"),
        ({"workers": 0}, "workers must be >= 1"),
        ({"problem": {"loss": "logistic", "l2": -1}}, "l2 must be a number >= 0"),
        ({"problem": {"loss": "softmx"}}, "did you mean 'softmax'"),
        ({"classes": None}, "logistic"),
    ],
)
def test_refusals(two_classes, change, says):
    X, y = two_classes
    fields = {"problem": PROBLEM, "classes": CLASSES} | change
    problem = fields.pop("problem")
    with pytest.raises(InputError, match=says):
        solve(X, y, problem, **fields)
