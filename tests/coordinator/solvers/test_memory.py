import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.solvers.memory import Memory, two_loop


def pairs(k, p, seed):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((p, p))
    B = A @ A.T + 0.1 * np.eye(p)
    S = rng.standard_normal((k, p))
    return S, S @ B, rng


@given(st.integers(0, 8), st.integers(1, 12), st.integers(0, 2**32))
def test_two_loop_is_the_dense_bfgs_update(k, p, seed):
    S, Y, rng = pairs(k, p, seed)
    d, g = rng.uniform(0.1, 10, p), rng.standard_normal(p)
    H = np.diag(d)
    for s, y in zip(S, Y, strict=True):
        rho = 1 / (s @ y)
        V = np.eye(p) - rho * np.outer(y, s)
        H = V.T @ H @ V + rho * np.outer(s, s)
    found = two_loop(g, S, Y, lambda q: d * q)
    scale = np.abs(H).max() * np.linalg.norm(g)
    np.testing.assert_allclose(found, H @ g, atol=1e-9 * scale)
    if k:
        np.testing.assert_allclose(two_loop(Y[-1], S, Y, lambda q: d * q), S[-1], atol=1e-8 * np.abs(H).max() * 100)


def test_the_newest_pairs_are_kept():
    S, Y, _ = pairs(5, 4, 0)
    memory = Memory()
    for s, y in zip(S, Y, strict=True):
        memory = memory.push(s, y, 3)
    assert len(memory) == 3
    assert np.array_equal(np.array(memory.S), S[2:])
    assert np.array_equal(np.array(memory.Y), Y[2:])
    g = np.ones(4)
    np.testing.assert_array_equal(memory.direction(g, lambda q: q), -two_loop(g, S[2:], Y[2:], lambda q: q))


@pytest.mark.parametrize("y", [[-1.0, 0.0], [0.0, 1.0], [1e-15, 1.0], [np.nan, 1.0]])
def test_pairs_without_curvature_are_skipped(y):
    memory = Memory()
    assert memory.push(np.array([1.0, 0.0]), np.array(y), 3) is memory
