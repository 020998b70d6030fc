import numpy as np
import pytest

from coordinator.solvers.linesearch import ARMIJO, CURVATURE, line_search, predicted, slope_at
from coordinator.solvers.objective import Objective


@pytest.fixture
def logistic(Toy, Bench):
    toy = Toy(n=200, d=4, l2=0.05)
    with Bench(toy.storage, toy.problem) as bench:
        yield toy.oracle, Objective(toy.problem, bench.ctx)


def newton(oracle, w):
    return -np.linalg.solve(oracle.hessian(w), oracle.gradient(w))


def test_a_newton_step_is_taken_whole_in_one_pass(logistic):
    oracle, objective = logistic
    start = objective.at(oracle.minimum() + 0.1)
    objective.passes = 0
    end, step = line_search(objective, start, newton(oracle, start.w), double=False)
    assert (step, objective.passes) == (1.0, 1)
    assert end.value < start.value


@pytest.mark.parametrize("stretch", [1e-3, 0.02, 0.3, 3.0, 30.0, 1e3, 1e4])
@pytest.mark.parametrize("seed", range(3))
def test_any_length_of_a_descent_direction_will_do(logistic, stretch, seed):
    oracle, objective = logistic
    start = objective.at(oracle.minimum() + np.random.default_rng(seed).standard_normal(5))
    p = stretch * newton(oracle, start.w)
    objective.passes = 0
    end, step = line_search(objective, start, p, double=False)
    slope = oracle.gradient(start.w) @ p
    assert objective.passes <= 2
    np.testing.assert_allclose(end.w, start.w + step * p)
    assert end.value == pytest.approx(oracle.value(end.w), rel=1e-12)
    assert end.value <= start.value + ARMIJO * step * slope
    assert oracle.gradient(end.w) @ p >= CURVATURE * slope  # not much too short either


@pytest.mark.parametrize("first", [0.5, 2.0])
def test_the_first_step_tried(logistic, first):
    oracle, objective = logistic
    start = objective.at(oracle.minimum() + 0.1)
    p = newton(oracle, start.w) / first
    end, step = line_search(objective, start, p, double=False, first=first)
    assert step == first
    np.testing.assert_allclose(end.w, start.w + first * p)


def test_no_step_along_an_ascent_direction(logistic):
    oracle, objective = logistic
    start = objective.at(oracle.minimum() + 0.5)
    assert line_search(objective, start, -newton(oracle, start.w), double=False) == (None, 0.0)


def test_near_the_minimum_slopes_decide(logistic):
    """The decrease is below the rounding error of values; Newton's step still makes the gradient smaller."""
    oracle, objective = logistic
    w = oracle.minimum()
    w = w + newton(oracle, w)
    start = objective.at(w + 1e-9)
    end, step = line_search(objective, start, newton(oracle, start.w), double=False)
    assert step == 1.0
    assert np.linalg.norm(end.gradient) < 1e-3 * np.linalg.norm(start.gradient)


def test_an_overflow_is_stepped_back_from(Toy, Bench):
    toy = Toy("poisson", l2=0.0)
    with Bench(toy.storage, toy.problem) as bench:
        start = bench.objective.at(np.zeros(8))
        p = -1e4 * start.gradient
        end, step = line_search(bench.objective, start, p, double=False)
        assert 0 < step < 1e-2
        assert end.value < start.value


def test_slopes_with_l1(Toy, Bench):
    toy = Toy(l1=0.3)
    with Bench(toy.storage, toy.problem) as bench:
        objective = bench.objective
        start = objective.at(np.array([1.0, -1, 0, 0, 2, 0, 0.5, 0.3]))
        p = np.array([-1.0, 1, 1, -1, -2, 0, 1, 1])
        h = 1e-7
        one_sided = (toy.oracle.value(start.w + h * p) - start.value) / h
        kinks = 0.3 * 2  # of the two coordinates that are zero and move
        smooth = toy.oracle.gradient(start.w) @ p
        through = smooth + toy.oracle.lasso @ (np.sign(start.w) * p)
        assert one_sided == pytest.approx(through + kinks, abs=1e-5)
        assert slope_at(objective, smooth, start.w, p) == pytest.approx(
            np.sign(through) * max(abs(through) - kinks, 0), abs=1e-12
        )
        assert predicted(objective, start, p) == pytest.approx(
            smooth + toy.oracle.lasso @ (np.abs(start.w + p) - np.abs(start.w))
        )
