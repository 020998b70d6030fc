import numpy as np
import pytest

from sketches import factor, stream


def spd(d, seed=0):
    A = stream(seed).standard_normal((2 * d, d))
    return A.T @ A


def test_solves_vectors_and_matrices():
    H, B = spd(20), stream(1).standard_normal((20, 3))
    F = factor(H)
    assert F.jitter == 0.0
    assert np.allclose(H @ F.solve(B), B, rtol=0, atol=1e-11)
    assert np.allclose(H @ F.solve(B[:, 0]), B[:, 0], rtol=0, atol=1e-11)
    assert F.logdet == pytest.approx(np.linalg.slogdet(H)[1], rel=1e-12)


def test_works_in_float64_and_leaves_its_argument_alone():
    H = spd(5).astype(np.float32)
    before = H.copy()
    assert factor(H).solve(np.ones(5, dtype=np.float32)).dtype == np.float64
    assert np.array_equal(H, before)


def test_a_singular_matrix_gets_the_least_jitter_that_does():
    A = stream(2).standard_normal((10, 30))
    H = A.T @ A
    F = factor(H)
    assert 0.0 < F.jitter <= 1e-10 * np.mean(np.diag(H))
    b = H @ np.ones(30)
    assert np.allclose(H @ F.solve(b), b, rtol=0, atol=1e-6 * np.abs(b).max())


def test_an_indefinite_matrix_is_clipped():
    Q = np.linalg.qr(stream(3).standard_normal((6, 6)))[0]
    values = np.array([5.0, 4.0, 3.0, 2.0, 1.0, -3.0])
    F = factor(Q * values @ Q.T)
    clipped = Q * np.maximum(values, F.jitter) @ Q.T
    assert F.jitter == pytest.approx(1e-4 * 2.0)
    assert np.allclose(F.solve(clipped), np.eye(6), rtol=0, atol=1e-9)
    assert np.allclose(F.root @ F.root.T, clipped, rtol=0, atol=1e-12)
    assert F.logdet == pytest.approx(np.linalg.slogdet(clipped)[1], rel=1e-10)


@pytest.mark.parametrize("H", [np.zeros((3, 3)), -np.eye(3), np.array([[0.0, 1.0], [1.0, 0.0]])], ids=str)
def test_the_result_is_always_positive_definite(H):
    b = np.ones(len(H))
    assert b @ factor(H).solve(b) > 0.0


@pytest.mark.parametrize("H", [spd(8), np.diag([3.0, 2.0, 1.0, -1.0])], ids=["cholesky", "clipped"])
def test_whitening_gives_the_eigenvalues_of_the_pencil(H):
    F, A = factor(H), spd(len(H), seed=4)
    white = F.whiten(A)
    expected = np.sort(np.linalg.eigvals(np.linalg.solve(F.root @ F.root.T, A)).real)
    assert np.array_equal(white, white.T)
    assert np.allclose(np.linalg.eigvalsh(white), expected, rtol=1e-8)


@pytest.mark.parametrize("H", [np.ones(3), np.ones((2, 3)), np.zeros((0, 0)), np.full((2, 2), np.nan)])
def test_bad_matrices_are_refused(H):
    with pytest.raises(ValueError, match="the matrix to factor"):
        factor(H)
