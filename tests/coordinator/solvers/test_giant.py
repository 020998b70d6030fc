import numpy as np
import pytest

from coordinator.errors import InputError
from coordinator.solvers.giant import LOCAL_FLOOR, Giant
from coordinator.solvers.objective import Objective


@pytest.mark.parametrize("loss", ["logistic", "poisson", "softmax"])
def test_each_group_solves_with_its_weighted_hessian(Toy, Bench, loss):
    """Of the rows weighted by second derivatives at w, per unit of weight of the group; strided blocks (spec A6)."""
    toy = Toy(loss, n=240, d=4, rows_per_block=30, class_weight=True)
    solver = Giant(groups=3, debias=False)
    with Bench(toy.storage, toy.problem) as bench:
        point = bench.objective.at(toy.w)
        found, nus = solver._directions(bench.objective, point)
    assert nus == [1.0] * 3
    block = np.arange(240) // 30
    for k in range(3):
        mine = block % 3 == k
        part = toy.oracle.__class__(toy.oracle.loss, toy.X[mine], toy.oracle.y[mine], toy.oracle.s[mine], l2=0.1)
        H = part.hessian(toy.w)
        D = np.diag(np.diag(H)) * LOCAL_FLOOR / mine.sum()
        np.testing.assert_allclose(found[k], -np.linalg.solve(H + D, point.gradient), rtol=1e-8)


def test_debiasing_makes_the_mean_direction_better(Toy, Bench):
    toy = Toy(n=3000, d=20, rows_per_block=60, l2=0.01)
    exact = -np.linalg.solve(toy.oracle.hessian(toy.w), toy.oracle.gradient(toy.w))
    errors = []
    with Bench(toy.storage, toy.problem) as bench:
        point = bench.objective.at(toy.w)
        for unbias in (True, False):
            found, nus = Giant(groups=50, debias=unbias)._directions(bench.objective, point)
            errors.append(np.linalg.norm(np.mean(found, axis=0) - exact) / np.linalg.norm(exact))
            assert all(nu < 1 for nu in nus) == unbias
    assert errors[0] < 0.5 * errors[1]


def test_spare_groups_may_be_lost(Toy, Bench):
    toy = Toy(n=240, d=4, rows_per_block=30)
    with Bench(toy.storage, toy.problem) as bench:
        bench.executor.faults = {"local-newton": {1: 9}}
        found, _ = Giant(groups=4, spare=1)._directions(Objective(toy.problem, bench.ctx), bench.point)
        assert len(found) == 3
        [used] = bench.ctx.arrivals.values()
        assert used == [0, 2, 3]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"groups": 4}, "the data has 3 blocks, fewer than groups=4: import smaller blocks"),
        ({"groups": 2, "spare": 2}, "spare must be less than the 2 groups, not 2"),
        ({"groups": -1}, "groups and spare must be >= 0"),
    ],
)
def test_settings_that_are_refused(Toy, settings, words):
    with pytest.raises(InputError, match=words):
        Giant(**settings).check(Toy().problem)
