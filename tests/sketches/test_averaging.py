import numpy as np
import pytest

import sketches.averaging
from sketches import SJLT, Gaussian, HessianAverage, debias, factor, stream

N, D = 1500, 60


def problem(seed=0, decay=2.0):
    """Return rows A with a known spectrum (singular values k^-decay/2) in a random basis, incoherent."""
    U = np.linalg.qr(stream(seed, 0).standard_normal((N, D)))[0]
    V = np.linalg.qr(stream(seed, 1).standard_normal((D, D)))[0]
    return U * np.arange(1, D + 1) ** (-decay / 2) @ V.T


def gram_of(A, sketch, *name):
    SA = sketch.apply(A, stream(*name))
    return SA.T @ SA


def effective_dimension(A, ridge):
    G = A.T @ A
    return float(np.trace(G @ np.linalg.pinv(G + np.diag(np.broadcast_to(ridge, len(G))))))


def newton_error(H, model):
    """Return the norm of I - H^1/2 model^-1 H^1/2."""
    return float(np.linalg.norm(factor(model).whiten(H) - np.eye(len(H)), 2))


@pytest.mark.parametrize("m", [120, 240, 600])
@pytest.mark.parametrize("sketch", [Gaussian, lambda m: SJLT(m, 4)], ids=["gaussian", "sjlt"])
def test_debias_recovers_the_effective_dimension(m, sketch):
    """Mean of 8 sketches of m >= 2 d rows, within 5 %; one ridge for all, then unequal ones."""
    A = problem()
    for ridge in (1e-3, np.geomspace(1e-4, 1e-2, D)):
        found = [debias(gram_of(A, sketch(m), 1, t), ridge, m).effective_dimension for t in range(8)]
        assert np.mean(found) == pytest.approx(effective_dimension(A, ridge), rel=0.05)


def test_debias_with_unpenalised_coordinates():
    """An unpenalised coordinate counts one; the Schur complement agrees with a vanishing ridge there."""
    A, m = problem(), 240
    ridge = np.full(D, 1e-3)
    ridge[[0, 7]] = 0.0
    gram = gram_of(A, SJLT(m, 4), 2)
    tiny = np.where(ridge > 0, ridge, 1e-13)
    assert debias(gram, ridge, m).nu == pytest.approx(debias(gram, tiny, m).nu, rel=1e-6)
    found = [debias(gram_of(A, SJLT(m, 4), 2, t), ridge, m).effective_dimension for t in range(8)]
    assert np.mean(found) == pytest.approx(effective_dimension(A, ridge), rel=0.05)


def test_nu_is_a_fixed_point():
    gram, ridge, m = gram_of(problem(), Gaussian(150), 3), np.geomspace(1e-4, 1e-2, D), 150
    law = debias(gram, ridge, m)
    trace = np.trace(gram @ np.linalg.inv(gram + law.nu * np.diag(ridge)))
    assert law.nu == pytest.approx(1 - trace / m, abs=1e-10)
    assert law.effective_dimension == pytest.approx(trace, rel=1e-9)


def test_debias_without_a_ridge():
    gram = gram_of(problem(), Gaussian(240), 4)
    assert debias(gram, 0.0, 240).nu == 1 - D / 240
    assert debias(gram, np.zeros(D), 240).effective_dimension == pytest.approx(D)
    assert debias(gram, 0.0, D).nu == 0.05


def test_debiasing_removes_the_bias_of_the_inverse():
    """The mean of 200 inverses: off by 1 / nu = 1.4 without debiasing, by the noise of the mean with it."""
    A, m, ridge = problem(decay=1.0), 150, 3e-2
    H = A.T @ A + ridge * np.eye(D)
    plain, debiased = np.zeros((2, D, D))
    for t in range(200):
        gram = gram_of(A, Gaussian(m), 5, t)
        plain += np.linalg.inv(gram + ridge * np.eye(D)) / 200
        debiased += np.linalg.inv(gram / debias(gram, ridge, m).nu + ridge * np.eye(D)) / 200
    assert np.trace(debiased @ H) / D == pytest.approx(1.0, abs=0.02)
    assert np.trace(plain @ H) / D > 1.1


def averages(A_of, steps, m=180, ridge=1e-3):
    """Return the averages over a sequence of problems, one sketch each."""
    average = HessianAverage.start(gram_of(A_of(0), SJLT(m, 4), 6, 0), ridge, m)
    path = [average]
    for t in range(1, steps):
        average = average.update(gram_of(A_of(t), SJLT(m, 4), 6, t), ridge, m)
        path.append(average)
    return path


@pytest.mark.parametrize("dense_up_to", [200, 10], ids=["dense", "lanczos"])
def test_averaging_a_fixed_hessian(monkeypatch, dense_up_to):
    """No drift, neff counts the sketches, and the error falls like 1 / sqrt(t)."""
    monkeypatch.setattr(sketches.averaging, "_DENSE", dense_up_to)
    A = problem()
    H = A.T @ A + 1e-3 * np.eye(D)
    path = averages(lambda t: A, 20)
    errors = [newton_error(H, average.hessian(1e-3)) for average in path]
    assert max(average.drift for average in path) < 0.05
    assert path[-1].neff == pytest.approx(20, rel=0.05)
    assert errors[-1] < 1.5 * errors[0] / np.sqrt(20)
    assert errors[19] < errors[9] < errors[4] < errors[0]
    assert path[-1].effective_dimension == pytest.approx(effective_dimension(A, 1e-3), rel=0.03)


def test_a_fixed_hessian_gives_the_plain_mean():
    A, m = problem(), 180
    grams = [gram_of(A, SJLT(m, 4), 6, t) for t in range(20)]
    assert np.allclose(averages(lambda t: A, 20)[-1].gram, np.mean(grams, axis=0), rtol=0, atol=1e-2)


@pytest.mark.parametrize("factor_of_weights", [30.0, 1 / 30.0])
@pytest.mark.parametrize("dense_up_to", [200, 10], ids=["dense", "lanczos"])
def test_a_jump_is_forgotten(monkeypatch, factor_of_weights, dense_up_to):
    """When all weights jump, up or down, the next sketch replaces the average, and averaging starts anew.

    The old average keeps a weight of v / (v + delta^2), under .01 here: of a Hessian 30 times as large that is up to
    20 % of the new one.
    """
    monkeypatch.setattr(sketches.averaging, "_DENSE", dense_up_to)
    A = problem()
    after = A * np.sqrt(factor_of_weights)
    path = averages(lambda t: A if t < 8 else after, 14)
    assert path[7].neff > 7
    assert path[8].drift > 2
    assert path[8].neff < 1.1
    H = after.T @ after + 1e-3 * np.eye(D)
    restarted = HessianAverage.start(gram_of(after, SJLT(180, 4), 6, 8), 1e-3, 180)
    alone = newton_error(H, restarted.hessian(1e-3))
    assert newton_error(H, path[8].hessian(1e-3)) == pytest.approx(alone, rel=0.2)
    assert newton_error(H, path[13].hessian(1e-3)) < 0.7 * alone
    assert path[13].neff > 5


def test_a_few_heavy_rows_that_move_are_noticed():
    """A drift in one direction alone, which the mean relative change of the weights would miss."""
    A = problem()
    spike = np.zeros((1, D))
    spike[0, 3] = 3.0
    path = averages(lambda t: A if t < 8 else np.vstack([A, spike]), 9)
    assert path[8].neff < 1.1


def test_sketches_of_another_size():
    """An average of 8 sketches of m rows is worth 4 of 2 m rows."""
    A = problem()
    average = averages(lambda t: A, 8)[-1].update(gram_of(A, SJLT(360, 4), 7), 1e-3, 360)
    assert average.m == 360
    assert average.neff == pytest.approx(5, rel=0.05)


def test_update_is_deterministic_and_leaves_the_old_average_alone(monkeypatch):
    monkeypatch.setattr(sketches.averaging, "_DENSE", 10)
    A = problem()
    old = averages(lambda t: A, 3)[-1]
    before, gram = old.gram.copy(), gram_of(A, SJLT(180, 4), 8)
    first, second = old.update(gram, 1e-3, 180), old.update(gram, 1e-3, 180)
    assert np.array_equal(old.gram, before)
    assert np.array_equal(first.gram, second.gram)
    assert (first.neff, first.drift, first.nu) == (second.neff, second.drift, second.nu)


def test_hessian_is_the_inflated_data_term_plus_the_ridge():
    average = averages(lambda t: problem(), 1)[0]
    ridge = np.arange(D, dtype=float)
    assert np.allclose(average.hessian(ridge), average.gram / average.nu + np.diag(ridge), rtol=0, atol=1e-14)


GRAM = np.eye(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: debias(np.ones((2, 3)), 1.0, 5), "gram must be square"),
        (lambda: debias(GRAM, np.ones(2), 5), "ridge must be a number or have shape"),
        (lambda: debias(GRAM, -1.0, 5), "ridge must be finite and >= 0"),
        (lambda: debias(GRAM, np.nan, 5), "ridge must be finite and >= 0"),
        (lambda: debias(GRAM, 1.0, 0), "m, the rows of the sketch"),
        (lambda: debias(GRAM * np.inf, 1.0, 5), "not finite"),
        (lambda: HessianAverage.start(GRAM, 1.0, 9).update(np.eye(2), 1.0, 9), "the average is"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=message):
        call()
