"""Where solves begin: a start that is the end, warm starts, and what cannot be started."""

import numpy as np
import pytest

from coordinator import embedded
from coordinator.errors import InputError
from coordinator.solvers import SOLVERS

SMOOTH = [name for name in SOLVERS if name in {"oversketched-newton", "newton", "giant", "lbfgs", "nesterov", "sgd"}]


@pytest.mark.parametrize("solver", ["proximal-newton", "gradient-descent", *SMOOTH])
def test_zero_is_the_solution(solver):
    X = np.random.default_rng(0).standard_normal((50, 3))
    found = embedded.solve(X, np.zeros(50), {"loss": "squared"}, solver=solver)
    assert (found.converged, found.n_iter_, found.reason) == (True, 0, "converged")
    assert not found.coef_.any()


@pytest.mark.parametrize("solver", ["proximal-newton", *SMOOTH])
def test_a_start_at_the_solution(Toy, solver):
    toy = Toy(l2=0.1)
    spec = toy.spec
    first = embedded.solve(toy.X, toy.y, spec, weight=toy.weight, classes=toy.classes, settings={"tol": 1e-9})
    w = np.append(first.coef_, first.intercept_)
    again = embedded.solve(toy.X, toy.y, spec, weight=toy.weight, classes=toy.classes, solver=solver, start=w)
    assert (again.converged, again.n_iter_) == (True, 0)
    assert np.array_equal(np.append(again.coef_, again.intercept_), w)
    assert again.relative <= 1e-8  # relative to zero parameters


@pytest.mark.parametrize("solver", ["oversketched-newton", "newton", "lbfgs", "nesterov"])
def test_a_start_elsewhere_leads_to_the_same(Toy, solver):
    toy = Toy("softmax", l2=0.1)
    given = {"weight": toy.weight, "classes": toy.classes, "solver": solver, "settings": {"tol": 1e-9}}
    cold = embedded.solve(toy.X, toy.y, toy.spec, **given)
    warm = embedded.solve(toy.X, toy.y, toy.spec, **given, start=3 * toy.w)
    assert cold.converged
    assert warm.converged
    assert warm.objective == pytest.approx(cold.objective, rel=1e-12)
    np.testing.assert_allclose(warm.coef_, cold.coef_, atol=1e-6)


def test_a_start_of_another_size_is_refused(Toy):
    toy = Toy()
    with pytest.raises(InputError, match="the starting point has 3 parameters, the problem 8"):
        embedded.solve(toy.X, toy.y, toy.spec, classes=toy.classes, start=np.zeros(3))


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "interior-point"])
def test_rows_that_weigh_nothing_are_refused(Toy, solver):
    toy = Toy(l2=0.1)
    with pytest.raises(InputError, match="all rows of data 'memory' weigh 0: nothing to fit"):
        embedded.solve(toy.X, toy.y, toy.spec, weight=np.zeros(90), classes=toy.classes, solver=solver)
