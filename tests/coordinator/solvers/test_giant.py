import numpy as np
import pytest

from coordinator.errors import InputError
from coordinator.solvers.giant import Giant
from coordinator.solvers.objective import Objective


def direction(bench, problem, **settings):
    """The averaged -H^-1 g at the bench's point, and the figures of it."""
    solver = Giant(guard=False, **settings)
    objective = Objective(problem, bench.ctx)
    found = solver.inverse(objective, bench.point, solver.init(problem, bench.ctx), bench.point.gradient)
    return -found.value, found.row


@pytest.mark.parametrize("groups", [3, 20])
@pytest.mark.parametrize("loss", ["logistic", "poisson", "softmax"])
def test_each_group_solves_with_its_weighted_hessian(Toy, Bench, loss, groups):
    """Of the rows weighted by second derivatives at w, per unit of weight of the group (spec A6).

    Of 8 blocks of 30 rows, 3 groups take every third one; of 20 groups, those 3 or 2 in a block take every so many-th.
    """
    toy = Toy(loss, n=240, d=4, rows_per_block=30, class_weight=True, l2=0.1)
    with Bench(toy.storage, toy.problem) as bench:
        found, row = direction(bench, toy.problem, groups=groups, debias=False)
        w, g = bench.w, bench.point.gradient
    assert row["groups"] == groups
    block, place = np.arange(240) // 30, np.arange(240) % 30
    group = block % 3 if groups == 3 else block + 8 * (place % np.array([3, 3, 3, 3, 2, 2, 2, 2])[block])
    directions = []
    for k in range(groups):
        mine = group == k
        part = toy.oracle.__class__(loss, toy.X, toy.oracle.y, toy.oracle.s * mine, l2=0.1)
        H = part.hessian(w)
        if loss == "softmax":  # knows nothing of the classes' common shift of the intercept: see `invertible`
            H += np.diag(np.diag(H)) / mine.sum()
        directions.append(-np.linalg.solve(H, g))
    np.testing.assert_allclose(found, np.mean(directions, axis=0), rtol=1e-6, atol=1e-8)


def test_debiasing_makes_the_mean_direction_better(Toy, Bench):
    toy = Toy(n=3000, d=20, rows_per_block=60, l2=0.01)
    errors = []
    with Bench(toy.storage, toy.problem) as bench:
        exact = -np.linalg.solve(toy.oracle.hessian(bench.w), bench.point.gradient)
        for unbias in (True, False):
            found, row = direction(bench, toy.problem, groups=50, debias=unbias)
            errors.append(np.linalg.norm(found - exact) / np.linalg.norm(exact))
            assert (row["debias"] < 1) == unbias
    assert errors[0] < 0.5 * errors[1]


def test_spare_groups_may_be_lost(Toy, Bench):
    toy = Toy(n=240, d=4, rows_per_block=30)
    with Bench(toy.storage, toy.problem) as bench:
        bench.executor.faults = {"local-newton": {1: 9}}
        _, row = direction(bench, toy.problem, groups=4, spare=1)
        assert row["groups"] == 3
        [used] = bench.ctx.arrivals.values()
        assert used == [0, 2, 3]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"groups": 91}, "groups=91 is more than the 90 rows of the data"),
        ({"groups": 2, "spare": 2}, "spare must be less than the 2 groups, not 2"),
        ({"groups": -1}, "groups and spare must be >= 0"),
    ],
)
def test_settings_that_are_refused(Toy, settings, words):
    with pytest.raises(InputError, match=words):
        Giant(**settings).check(Toy().problem)
