import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from coordinator.data.blocks import memory_blocks
from coordinator.errors import InputError, UnknownNameError
from coordinator.losses import loss_from_spec, public_losses
from coordinator.problem import Penalty, Problem, problem_from_spec
from coordinator.solvers.barriers import BoxBarrier, LogBarrier
from coordinator.storage import MemoryStorage
from coordinator.tasks import total


def make(layout="dense", dtype=np.float64, barrier=None, intercept=False, n=60, d=5):
    """A barrier over 6 blocks whose inside holds the points that the tests use; A as float64, and b."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((n, d)).astype(dtype)
    A[3] = 0
    X = A
    if layout == "csr":
        A[rng.random((n, d)) < 0.5] = 0
        X = sparse.csr_matrix(A)
        X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
    b = 9 + rng.random(n)
    storage = MemoryStorage()
    data = memory_blocks(storage, "toy", X, b, rows_per_block=11)
    return storage, Problem(data, barrier or LogBarrier(), Penalty(), intercept=intercept), A.astype(np.float64), b


def slacks(A, b, problem, x):
    z = A @ x[: A.shape[1]] + (x[-1] if problem.intercept else 0)
    if isinstance(problem.loss, BoxBarrier):
        return np.concatenate([problem.loss.bound - z, problem.loss.bound + z])
    return b - z


@given(
    z=st.floats(-0.9, 0.9),
    y=st.floats(1.0, 3.0),
    barrier=st.sampled_from([LogBarrier(), BoxBarrier(1.0), BoxBarrier(2.5)]),
)
def test_derivatives_agree_with_differences(z, y, barrier):
    z, y, h = np.array([z]), np.array([y]), 1e-6
    slope = (barrier.value(z + h, y) - barrier.value(z - h, y)) / (2 * h)
    bend = (barrier.gradient(z + h, y) - barrier.gradient(z - h, y)) / (2 * h)
    assert np.allclose(barrier.gradient(z, y), slope, rtol=1e-5, atol=1e-7)
    assert np.allclose(barrier.hessian(z, y), bend, rtol=1e-5)


def test_outside_is_infinite():
    z, y = np.array([0.5, 1.0, 2.0, -3.0]), np.ones(4)
    assert np.allclose(LogBarrier().value(z, y), [-np.log(0.5), np.inf, np.inf, -np.log(4)])
    assert LogBarrier().gradient(z, y)[1] == np.inf
    assert np.array_equal(np.isinf(BoxBarrier(1.0).value(z, y)), [False, True, True, True])
    assert BoxBarrier(2.0).value(np.zeros(1), np.zeros(1)) == pytest.approx(-2 * np.log(2))


def test_barriers_are_no_losses_for_problems():
    _, problem, *_ = make()
    assert loss_from_spec(BoxBarrier(0.5).spec()) == BoxBarrier(0.5)
    assert not {"log-barrier", "box-barrier"} & set(public_losses())
    with pytest.raises(UnknownNameError, match="unknown loss 'log-barrier'"):
        problem_from_spec({"loss": "log-barrier"}, problem.data)
    with pytest.raises(InputError, match="bound must be > 0"):
        BoxBarrier(0.0)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("barrier", [LogBarrier(), BoxBarrier(8.0)])
@pytest.mark.parametrize("layout", ["dense", "csr"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_kernels_agree_with_plain_sums(Bench, layout, barrier, dtype, intercept):
    storage, problem, A, b = make(layout, dtype, barrier, intercept)
    rng = np.random.default_rng(1)
    w, p = 0.3 * rng.standard_normal((2, problem.n_parameters))
    before, after = slacks(A, b, problem, w), slacks(A, b, problem, w + p)
    assert before.min() > 0
    rates = (before - after) / before
    with Bench(storage, problem, 2) as bench:
        run = bench.objective.run
        inputs = {"w": bench.ctx.put(w), "p": bench.ctx.put(p)}
        looks = np.array([look for (look,) in run("look", "barrier.look", inputs, double=True)])
        assert looks[:, 0].max() == pytest.approx(rates.max())
        assert looks[:, 1].max() == pytest.approx(np.abs(rates).max())
        assert looks[:, 2].sum() == pytest.approx(rates @ rates)
        parts = run("violation", "barrier.violation", {"w": inputs["w"]}, double=True)
        assert max(float(part) for (part,) in parts) == pytest.approx(-before.min())
        steps = [0.5, 1.0, 0.999 / rates.max(), 1.001 / rates.max(), 50.0]
        (growth,) = total(run("search", "barrier.search", inputs, double=True, steps=steps))
        for step, found in zip(steps, growth, strict=True):
            end = slacks(A, b, problem, w + step * p)
            assert found == (pytest.approx(np.log(before / end).sum(), rel=1e-6) if end.min() > 0 else np.inf)
        assert np.array_equal(np.isinf(growth), [False, False, False, True, True])
        value = float(total(run("gradient", "glm.evaluate", {"w": inputs["w"]}, double=True))[0])
        assert value == pytest.approx(-np.log(before).sum())


@pytest.mark.parametrize("layout", ["dense", "csr"])
@pytest.mark.parametrize("barrier", [LogBarrier(), BoxBarrier(8.0)])
def test_multipliers_and_their_screening(Bench, layout, barrier):
    storage, problem, A, b = make(layout, barrier=barrier)
    rng = np.random.default_rng(2)
    w, p = 0.3 * rng.standard_normal((2, 5))
    s = rng.random(5) + 0.5
    before, after = slacks(A, b, problem, w), slacks(A, b, problem, w + p)
    each = (1 + (before - after) / before) / before
    net = each if barrier.name == "log-barrier" else each[:60] - each[60:]
    with Bench(storage, problem) as bench:
        inputs = {"w": bench.ctx.put(w), "p": bench.ctx.put(p), "s": bench.ctx.put(s)}

        def multipliers(radius):
            parts = bench.objective.run("m", "barrier.multipliers", inputs, double=True, radius=radius)
            return np.concatenate([part for (part,) in parts])

        assert np.allclose(multipliers(None), net, rtol=1e-12)
        least = after.reshape(-1, 60).min(axis=0)
        out = least > 3.0 * np.sqrt(A**2 @ s)
        assert 0 < out.sum() < 60
        assert np.allclose(multipliers(3.0), np.where(out, 0, net), rtol=1e-12)


@pytest.mark.parametrize("layout", ["dense", "csr"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_climb_and_combine(Bench, layout, dtype):
    storage, problem, A, _ = make(layout, dtype)
    rng = np.random.default_rng(3)
    p, v = rng.standard_normal(5), rng.standard_normal(60)
    with Bench(storage, problem) as bench:
        climbs = bench.objective.run("climb", "barrier.climb", {"p": bench.ctx.put(p)}, double=True)
        norms = np.linalg.norm(A, axis=1)
        assert norms[3] == 0
        some = norms > 0
        assert max(float(part) for (part,) in climbs) == pytest.approx(np.max((A @ p)[some] / norms[some]))
        keys = [(key,) for key in problem.data.keys]
        params = [{"offset": 11 * i} for i in range(6)]
        parts = bench.objective.phase("c", "barrier.combine", keys, {"v": bench.ctx.put(v)}, double=True, params=params)
        assert np.allclose(total(parts)[0], A.T @ v, rtol=1e-12)
