"""The identity of determinantal averaging by enumeration, and what is computed from it."""

from itertools import combinations, product
from math import comb, exp, factorial, log

import numpy as np
import pytest

from sketches import (
    ROW_LAWS,
    combine,
    correction,
    debias,
    draw_rows,
    effective_sample_size,
    estimates_needed,
    log_weights,
    mean_step,
    scaling,
    stream,
)

N, D, K = 6, 3, 4
RIDGE = np.array([0.3, 0.0, 0.7])


def rows(n=N, d=D, seed=0):
    return stream(seed, 9).standard_normal((n, d))


def bernoulli(n, k):
    for copies in product((0, 1), repeat=n):
        yield (k / n) ** sum(copies) * (1 - k / n) ** (n - sum(copies)), copies


def poisson(n, k, most=17):
    rate = k / n
    law = [exp(-rate) * rate**c / factorial(c) for c in range(most)]
    for copies in product(range(most), repeat=n):
        yield float(np.prod([law[c] for c in copies])), copies


def fixed(n, k):
    for drawn in product(range(n), repeat=k):
        yield n**-k, np.bincount(drawn, minlength=n)


def without_replacement(n, k):
    for drawn in combinations(range(n), k):
        yield 1 / comb(n, k), np.bincount(drawn, minlength=n)


def ratio(law, Z, k, ridge, nu=1.0):
    """E[det H^ H^^-1] / E[det H^] with H^ = (1/nu) (n/k) Z'diag(copies)Z + R, by adjugates where H^ is singular."""
    n, d = Z.shape
    top, bottom = np.zeros((d, d)), 0.0
    for p, copies in law:
        H = (n / (k * nu)) * Z.T @ (np.asarray(copies)[:, None] * Z) + np.diag(ridge)
        top += p * adjugate(H)
        bottom += p * np.linalg.det(H)
    return top / bottom


def adjugate(H):
    d = len(H)
    out = np.empty((d, d))
    for i in range(d):
        for j in range(d):
            minor = np.delete(np.delete(H, j, axis=0), i, axis=1)
            out[i, j] = (-1) ** (i + j) * np.linalg.det(minor)
    return out


def off(found, Z, ridge):
    expected = np.linalg.inv(Z.T @ Z + np.diag(ridge))
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("ridge", [np.zeros(D), RIDGE], ids=["plain", "ridge"])
def test_the_identity_holds_for_bernoulli_rows(ridge):
    Z = rows()
    assert off(ratio(bernoulli(N, K), Z, K, ridge), Z, ridge) < 1e-12


@pytest.mark.parametrize("ridge", [np.zeros(2), RIDGE[:2]], ids=["plain", "ridge"])
def test_the_identity_holds_for_poisson_rows(ridge):
    Z = rows(3, 2)
    assert off(ratio(poisson(3, 2), Z, 2, ridge), Z, ridge) < 1e-12


def test_a_fixed_number_of_rows_needs_the_exact_correction():
    Z, none = rows(5), np.zeros(D)
    nu = correction("fixed", Z.T @ Z, none, K)
    assert nu == pytest.approx((K - D + 1) / K, rel=1e-14)
    assert off(ratio(fixed(5, K), Z, K, none, nu), Z, none) < 1e-12
    plain = ratio(fixed(5, K), Z, K, none)
    assert np.allclose(plain * (K - D + 1) / K, np.linalg.inv(Z.T @ Z), rtol=1e-12, atol=0)
    assert off(plain, Z, none) > 0.9  # k / (k - d + 1) = 2


def test_rows_drawn_with_unequal_chances_keep_the_identity():
    """In a fixed number and divided by their chances: what is drawn where few rows have much leverage."""
    Z, none, chance = rows(5), np.zeros(D), np.array([0.4, 0.1, 0.2, 0.05, 0.25])
    law = ((float(np.prod(chance[list(i)])), np.bincount(i, minlength=5)) for i in product(range(5), repeat=K))
    nu = correction("fixed", Z.T @ Z, none, K)
    assert off(ratio(law, Z / np.sqrt(5 * chance)[:, None], K, none, nu), Z, none) < 1e-12


def test_laws_for_which_the_identity_fails():
    """A fixed number of rows with a ridge, and without replacement: biased; the correction takes most of it away."""
    Z, ridge, k = rows(5, 2, seed=2), RIDGE[[0, 2]], 5
    assert off(ratio(without_replacement(5, 4), Z, 4, np.zeros(2)), Z, np.zeros(2)) > 1e-3
    plain = off(ratio(fixed(5, k), Z, k, ridge), Z, ridge)
    nu = correction("fixed", Z.T @ Z, ridge, k)
    corrected = off(ratio(fixed(5, k), Z, k, ridge, nu), Z, ridge)
    assert plain > 0.2
    assert 1e-6 < corrected < 0.05 * plain


def test_the_identity_fails_for_terms_of_higher_rank():
    """Softmax's K x K blocks have rank K - 1: they must be sampled down to rank one."""
    blocks = [z[:, None] * z[None, :] + 0.5 * np.eye(D) for z in rows(4)]
    top, bottom = np.zeros((D, D)), 0.0
    for p, copies in bernoulli(4, 2):
        H = 2.0 * sum(c * B for c, B in zip(copies, blocks, strict=True)) + 0.1 * np.eye(D)
        top += p * adjugate(H)
        bottom += p * np.linalg.det(H)
    expected = np.linalg.inv(sum(blocks) + 0.1 * np.eye(D))
    assert np.abs(top / bottom - expected).max() / np.abs(expected).max() > 0.02


@pytest.mark.parametrize("law", ROW_LAWS)
def test_draws_have_their_law(law):
    """k / n copies of each row on average; the number of rows fixed, or as random as the law says."""
    n, k, runs = 40, 10, 3000
    copies = np.zeros((runs, n))
    for t in range(runs):
        index, counts = draw_rows(law, n, k, stream(1, t))
        assert np.all(np.diff(index) > 0)
        copies[t, index] = counts
    assert np.allclose(copies.mean(axis=0), k / n, atol=5 * np.sqrt(k / n / runs))
    sizes = copies.sum(axis=1)
    variance = {"fixed": 0.0, "poisson": k, "bernoulli": k * (1 - k / n)}[law]
    assert sizes.var() == pytest.approx(variance, rel=0.15)
    assert (copies.max() == 1) == (law == "bernoulli")


def test_a_random_number_of_rows_costs_the_effective_sample():
    """Var log det = -2 ln(1 - d/k) for a fixed number of rows; about d^2/k more for a random one (spec B)."""
    n, d, k = 4000, 60, 600
    Z = rows(n, d)
    found = {}
    for law in ROW_LAWS:
        logs = []
        for t in range(120):
            index, counts = draw_rows(law, n, k, stream(2, t))
            G = (Z[index] * counts[:, None]).T @ Z[index] * (n / k)
            logs.append(np.linalg.slogdet(G)[1])
        found[law] = (float(np.var(logs)), effective_sample_size(log_weights(np.array(logs))))
    assert found["fixed"][0] == pytest.approx(-2 * log(1 - d / k), rel=0.4)
    assert found["fixed"][1] > 0.7 * 120
    for law in ("poisson", "bernoulli"):
        assert found[law][0] > 0.5 * d**2 / k
        assert found[law][1] < 0.2 * 120


def test_weights_are_stable():
    logs = np.array([-2e4, -2e4 + log(3.0)])
    assert np.allclose(log_weights(logs), [0.25, 0.75], rtol=1e-12)
    assert np.array_equal(log_weights(logs + 3e4), log_weights(logs))
    assert log_weights(np.array([0.0, -1e6]))[1] == 0.0
    assert effective_sample_size(np.full(8, 1 / 8)) == pytest.approx(8)
    assert effective_sample_size(np.array([1.0, 0.0])) == 1.0


def test_combine_is_the_weighted_mean_with_its_error():
    values = stream(3).standard_normal((400, 2)) * [1.0, 3.0] + [5.0, -2.0]
    alike = combine(values)
    assert np.allclose(alike.value, values.mean(axis=0))
    assert np.allclose(alike.error, values.std(axis=0, ddof=1) / 20)
    assert alike.ess == pytest.approx(400)
    weighed = combine(values, np.log(np.arange(1, 401.0)))
    assert np.allclose(weighed.value, np.average(values, axis=0, weights=np.arange(1, 401)))
    assert weighed.ess == pytest.approx(300, rel=0.01)
    assert np.all(weighed.error > alike.error)
    one = combine(values[:1])
    assert np.all(np.isinf(one.error))


def test_the_number_needed_brings_the_error_down():
    values = stream(4).standard_normal((4000, 3)) * 0.2 + 1.0
    pilot = combine(values[:100])
    needed = estimates_needed(pilot, 0.005)
    assert needed == pytest.approx((0.2 / 0.005) ** 2, rel=0.35)
    assert combine(values[:needed]).error.max() == pytest.approx(0.005, rel=0.25)
    assert estimates_needed(pilot, 0.005, scale=np.full(3, 2.0)) == pytest.approx(needed / 4, rel=0.1)


def test_the_corrected_law_is_right_at_a_size_that_cannot_be_enumerated():
    """d = 8, k = 40 with a ridge: determinantal averages of 4000 draws within noise of the inverse; uniform is not."""
    n, d, k = 500, 8, 40
    Z = rows(n, d) / np.sqrt(n)
    ridge = np.geomspace(1e-2, 1.0, d)
    H = Z.T @ Z + np.diag(ridge)
    inverses, plain, logs = [], [], []
    for t in range(4000):
        index, counts = draw_rows("fixed", n, k, stream(5, t))
        G = (Z[index] * counts[:, None]).T @ Z[index] * (n / k)
        if t == 0:
            nu = correction("fixed", Z.T @ Z, ridge, k)
            assert nu == pytest.approx(debias(Z.T @ Z, ridge, k).nu + 1 / k)
        corrected = G / nu + np.diag(ridge)
        inverses.append(np.diag(np.linalg.inv(corrected)))
        plain.append(np.diag(np.linalg.inv(G + np.diag(ridge))))
        logs.append(np.linalg.slogdet(corrected)[1])
    expected = np.diag(np.linalg.inv(H))
    found = combine(np.array(inverses), np.array(logs))
    assert np.abs(found.value / expected - 1).max() < 0.01
    assert np.abs(np.mean(plain, axis=0) / expected - 1).max() > 0.03


def test_scaling_is_exact_for_gaussian_sketches_without_a_ridge():
    d, m = 4, 16
    inverses = []
    for t in range(6000):
        A = stream(7, t).standard_normal((m, d))
        inverses.append(np.linalg.inv(A.T @ A / m / scaling(A.T @ A / m, 0.0, m)))
    assert np.allclose(np.mean(inverses, axis=0), np.eye(d), atol=0.03)
    assert scaling(np.eye(d), 0.0, m) == pytest.approx((m - d - 1) / m)
    assert scaling(np.eye(d), 0.0, d) == 0.05


def test_the_step_of_a_mean():
    assert mean_step(0.8, 1) == pytest.approx(0.8)
    assert mean_step(0.8, 1e9) == pytest.approx(1.0)
    assert mean_step(1.0, 4) == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw_rows("fixed", 5, 0, stream(0)), "cannot draw 0 of 5"),
        (lambda: draw_rows("bernoulli", 5, 6, stream(0)), "cannot draw 6 of 5"),
        (lambda: draw_rows("jackknife", 5, 2, stream(0)), "unknown law 'jackknife'"),
        (lambda: log_weights(np.array([])), "log-determinants"),
        (lambda: log_weights(np.array([0.0, np.nan])), "log-determinants"),
        (lambda: estimates_needed(combine(np.ones((1, 2))), 0.1), "pilot of 2"),
        (lambda: estimates_needed(combine(np.ones((3, 2))), 0.0), "accuracy must be > 0"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_error_falls_like_one_over_the_root_of_the_number():
    """The paper's figure: log-log slope -1/2 for determinants from q = 10 to 1000, where the plain mean has a floor.

    Scaled regularization is at least as good from q = 10 on, to the noise of 12 runs.
    """
    n, d, k, runs = 2000, 6, 60, 12
    Z = rows(n, d) * np.geomspace(1, 0.2, d)
    g = Z.T @ (Z @ np.ones(d) + rows(n, 1, seed=8)[:, 0]) / n
    newton = np.linalg.solve(Z.T @ Z / n, g)
    counts = np.array([10, 32, 100, 316, 1000])
    errors = {name: np.zeros((runs, counts.size)) for name in ("determinant", "uniform", "scale")}
    for r in range(runs):
        copies = np.zeros((1000, n))
        for t in range(1000):
            index, c = draw_rows("fixed", n, k, stream(6, r, t))
            copies[t, index] = c
        G = np.einsum("tn,ni,nj->tij", copies, Z, Z, optimize=True) / k
        plain = np.linalg.solve(G, np.broadcast_to(g[:, None], (1000, d, 1)))[:, :, 0]
        logs = np.linalg.slogdet(G)[1]
        corrected, scaled = plain * correction("fixed", G[0], 0.0, k), plain * scaling(G[0], 0.0, k)
        for i, q in enumerate(counts):
            found = {
                "determinant": combine(corrected[:q], logs[:q]),
                "uniform": combine(plain[:q]),
                "scale": combine(scaled[:q]),
            }
            for name, average in found.items():
                errors[name][r, i] = np.linalg.norm(average.value - newton) / np.linalg.norm(newton)
    mean = {name: e.mean(axis=0) for name, e in errors.items()}
    slope = {name: np.polyfit(np.log(counts), np.log(e), 1)[0] for name, e in mean.items()}
    assert slope["determinant"] == pytest.approx(-0.5, abs=0.1)
    assert mean["uniform"][-1] > 0.8 * mean["uniform"][2] > 0.08  # the floor: (d + 1) / (k - d - 1) = 0.13
    assert mean["determinant"][-1] < 0.3 * mean["uniform"][-1]
    assert np.all(mean["scale"] < 1.3 * mean["determinant"])
