"""Losses: derivatives against finite differences, extremes, targets, and a user's own loss solved end to end."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import optimize, special

from coordinator import embedded
from coordinator.errors import InputError, UnknownNameError
from coordinator.losses import (
    LOSSES,
    Huber,
    Logistic,
    Loss,
    Poisson,
    Softmax,
    Squared,
    SquaredHinge,
    loss_from_spec,
    register_loss,
)

SCALAR = [Logistic(), Squared(), SquaredHinge(), Poisson(), Huber(), Huber(delta=0.3)]
MODERATE = st.floats(-25, 25)


def targets(loss):
    return {"binary": st.sampled_from([-1.0, 1.0]), "count": st.integers(0, 40).map(float)}.get(loss.target, MODERATE)


def kinks(loss, z, y):
    """Distance of z from where the second derivative jumps."""
    if isinstance(loss, SquaredHinge):
        return abs(1 - y * z)
    return abs(abs(z - y) - loss.delta) if isinstance(loss, Huber) else np.inf


def slope(f, x, h=1e-3):
    """Five-point central difference: error h^4 f''''' / 30, and rounding eps |f| / h."""
    return (8 * (f(x + h) - f(x - h)) - (f(x + 2 * h) - f(x - 2 * h))) / (12 * h)


@pytest.mark.parametrize("loss", SCALAR, ids=str)
@given(data=st.data())
def test_derivatives_of_scalar_losses(loss, data):
    z, y = data.draw(MODERATE), data.draw(targets(loss))
    assume(kinks(loss, z, y) > 3e-3)
    Z, Y = np.array([z, z]), np.array([y, y])
    value, gradient, hessian = loss.value(Z, Y), loss.gradient(Z, Y), loss.hessian(Z, Y)
    assert value.shape == gradient.shape == hessian.shape == (2,)
    scale = 1 + abs(value[0]) + abs(gradient[0])
    assert slope(lambda x: loss.value(x, Y), Z) == pytest.approx(gradient, rel=1e-9, abs=1e-11 * scale)
    assert slope(lambda x: loss.gradient(x, Y), Z) == pytest.approx(hessian, rel=1e-9, abs=1e-11 * scale)
    assert np.all(hessian >= 0)
    if loss.curvature is not None:
        assert hessian[0] <= loss.curvature * (1 + 1e-15)
    for together, apart in zip(loss.both(Z, Y), (value, gradient), strict=True):
        np.testing.assert_allclose(together, apart, rtol=1e-14, atol=0)


@given(st.lists(MODERATE, min_size=2, max_size=6), st.integers(0, 5), st.integers(0, 2**32))
def test_derivatives_of_softmax(z, label, seed):
    loss, K = Softmax(), len(z)
    Z, y = np.tile(z, (3, 1)), np.full(3, label % K)
    u = np.random.default_rng(seed).standard_normal(K)
    (value, gradient), P = loss.both(Z, y), loss.hessian(Z, y)
    np.testing.assert_allclose(value, special.logsumexp(Z, axis=1) - Z[:, label % K], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(loss.value(Z, y), value, rtol=1e-14)
    np.testing.assert_allclose(loss.gradient(Z, y), gradient, rtol=1e-14, atol=1e-300)
    np.testing.assert_allclose(P, special.softmax(Z, axis=1), rtol=1e-14, atol=1e-300)
    along = slope(lambda t: loss.value(Z + t * u, y), 0.0)
    np.testing.assert_allclose(along, gradient @ u, rtol=1e-8, atol=1e-9)
    bend = slope(lambda t: loss.gradient(Z + t * u, y), 0.0)
    np.testing.assert_allclose(bend, loss.product(P, np.tile(u, (3, 1))), rtol=1e-8, atol=1e-9)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8))
def test_softmax_rows_are_probabilities(z):
    loss, Z = Softmax(), np.array([z])
    for label in range(len(z)):
        (value, gradient), P = loss.both(Z, np.array([label])), loss.hessian(Z, np.array([label]))
        assert P.sum() == pytest.approx(1, abs=1e-14)
        assert gradient.sum() == pytest.approx(0, abs=1e-14)
        assert np.all(P >= 0)
        assert value[0] >= -1e-12
        assert np.isfinite(value[0])
        # the common shift of the classes is seen by nothing
        np.testing.assert_allclose(loss.product(P, np.ones_like(Z)), 0, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", [loss for loss in SCALAR if loss.name != "poisson"], ids=str)
def test_extremes_without_a_warning(loss, dtype):
    z = np.array([-1e3, -50, -1, 0, 1, 50, 1e3], dtype=dtype)
    for y in (-1.0, 1.0):
        with np.errstate(all="raise", under="ignore"):
            found = loss.both(z, np.full(z.size, y))
            apart = loss.value(z, y), loss.gradient(z, y)
            assert np.all(np.isfinite(loss.hessian(z, y)))
        for a, b in zip(found, apart, strict=True):
            assert np.all(np.isfinite(a))
            np.testing.assert_allclose(a, b, rtol=1e-6 if dtype == np.float32 else 1e-14, atol=0)


def test_logistic_is_exact_in_its_tails():
    z = np.array([-1e3, -50.0, 50.0, 1e3])
    with np.errstate(under="ignore"):
        (value, gradient), hessian = Logistic().both(z, np.ones(4)), Logistic().hessian(z, np.ones(4))
    np.testing.assert_allclose(value, [1e3, 50, np.exp(-50), 0], rtol=1e-14)
    np.testing.assert_allclose(gradient, [-1, -1, -np.exp(-50), 0], rtol=1e-14)
    np.testing.assert_allclose(hessian, [0, np.exp(-50), np.exp(-50), 0], rtol=1e-14)


def test_poisson_overflows_to_infinity_and_not_to_nan():
    z = np.array([-1e3, -50.0, 50.0, 1e3])
    with np.errstate(over="ignore"):
        (value, gradient), hessian = Poisson().both(z, np.full(4, 3.0)), Poisson().hessian(z, np.full(4, 3.0))
    np.testing.assert_allclose(value, [3e3, 150 + np.exp(-50), np.exp(50) - 150, np.inf], rtol=1e-14)
    np.testing.assert_allclose(gradient, [-3, -3, np.exp(50) - 3, np.inf], rtol=1e-14)
    np.testing.assert_allclose(hessian, [0, np.exp(-50), np.exp(50), np.inf], rtol=1e-14)


def test_softmax_at_extremes():
    Z = np.array([[1e3, -1e3, 0], [50, -50, 0], [-1e3, -1e3, -1e3]])
    with np.errstate(all="raise", under="ignore"):
        (value, gradient), P = Softmax().both(Z, np.array([1, 0, 2])), Softmax().hessian(Z, Z[:, 0])
    np.testing.assert_allclose(value, [2e3, np.exp(-50), np.log(3)], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(P[0], [1, 0, 0])
    np.testing.assert_allclose(gradient[2], [1 / 3, 1 / 3, -2 / 3])


# -- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "classes", "words"),
    [
        (Squared(), ("a", "b"), "holds text classes, but loss 'squared' needs numbers: use logistic or softmax"),
        (Poisson(), ("a", "b"), "holds text classes, but loss 'poisson' needs numbers: use logistic or softmax"),
        (Poisson(), (-1.0, 2.0), "must be >= 0 for loss 'poisson'; it holds -1.0"),
        (Logistic(), None, "more than 1000 distinct values: loss 'logistic' needs classes"),
        (Logistic(), (3.0,), "has one class only (3.0): nothing to separate; give rows of both"),
        (SquaredHinge(), (0.0, 1.0, 2.0), "has 3 classes, loss 'squared-hinge' takes two: use softmax"),
    ],
)
def test_targets_that_do_not_fit(loss, classes, words):
    with pytest.raises(InputError) as caught:
        loss.check_target(classes, where="y")
    assert str(caught.value).startswith("y ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "classes"),
    [
        (Squared(), None),
        (Squared(), (1.0, 2.0)),
        (Huber(), None),
        (Poisson(), None),
        (Poisson(), (0.0, 3.0)),
        (Logistic(), ("no", "yes")),
        (Logistic(), (0.0, 1.0)),
        (Softmax(), (1.0, 2.0)),
        (Softmax(), ("a", "b", "c")),
    ],
)
def test_targets_that_fit(loss, classes):
    loss.check_target(classes)
    assert loss.outputs(classes) == (len(classes) if loss.multi else 1)


def test_encoding():
    y = np.array([7.0, 3.0, 7.0])
    assert Logistic().encode(y, (3.0, 7.0)).tolist() == [1, -1, 1]
    assert Softmax().encode(y, (3.0, 5.0, 7.0)).tolist() == [2, 0, 2]
    assert Softmax().encode(np.array([1.0, 0.0]), ("a", "b")).tolist() == [1, 0]  # text is stored by position
    assert Logistic().encode(np.array([1.0, 0.0]), ("a", "b")).tolist() == [1, -1]
    assert Squared().encode(y, None) is y
    with pytest.raises(InputError, match="1000 distinct"):
        Softmax().encode(y, None)


# -- the registry -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [*SCALAR, Softmax()], ids=str)
def test_a_spec_reads_back(loss):
    assert loss_from_spec(loss.spec()) == loss
    assert loss_from_spec(loss) is loss
    assert type(loss_from_spec(loss.name)) is type(loss)


@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        ("logistics", UnknownNameError, "unknown loss 'logistics': did you mean 'logistic'"),
        ({"delta": 1}, UnknownNameError, "unknown loss None"),
        ({"name": "huber", "detla": 1}, UnknownNameError, "unknown option of loss 'huber' 'detla': did you mean"),
        ({"name": "squared", "delta": 1}, UnknownNameError, "it has none"),
        (
            {"name": "huber", "delta": "1"},
            InputError,
            "'delta' of loss 'huber' must be a finite number, not '1'",
        ),
        ({"name": "huber", "delta": -1}, InputError, "delta must be > 0, not -1"),
        ({"name": "huber", "delta": float("nan")}, InputError, "must be a finite number, not nan"),
        ({"name": "huber", "delta": True}, InputError, "must be a finite number, not True"),
        ({"name": "huber", "delta": float("inf")}, InputError, "must be a finite number, not inf"),
    ],
)
def test_specs_that_are_refused(spec, kind, words):
    with pytest.raises(kind) as caught:
        loss_from_spec(spec)
    assert words in str(caught.value)


@dataclass(frozen=True)
class LogCosh(Loss):
    name: ClassVar[str] = "test-log-cosh"
    width: float = 1.0

    def value(self, z, y):
        r = np.abs(z - y) / self.width
        return self.width * (r + np.log1p(np.exp(-2 * r)) - np.log(2))

    def gradient(self, z, y):
        return np.tanh((z - y) / self.width)

    def hessian(self, z, y):
        return (1 - np.tanh((z - y) / self.width) ** 2) / self.width


@pytest.fixture
def log_cosh():
    yield register_loss(LogCosh)
    del LOSSES[LogCosh.name]


@pytest.mark.parametrize("solver", ["oversketched-newton", "newton", "lbfgs"])
def test_own_loss_end_to_end(log_cosh, solver):
    rng = np.random.default_rng(2)
    X = rng.standard_normal((300, 4)) * [1, 10, 0.1, 1]
    y = X @ [1.0, -0.2, 5.0, 0.0] + 2 + 0.3 * rng.standard_t(2, 300)
    problem = {"loss": {"name": "test-log-cosh", "width": 0.5}, "l2": 1e-3}
    found = embedded.solve(X, y, problem, solver=solver, settings={"tol": 1e-9})
    assert found.converged

    def objective(w):
        r = (X @ w[:4] + w[4] - y) / 0.5
        return 0.5 * np.mean(np.logaddexp(r, -r) - np.log(2)) + 5e-4 * w[:4] @ w[:4]

    other = optimize.minimize(objective, np.zeros(5), method="BFGS", options={"gtol": 1e-8})
    w = np.append(found.coef_, found.intercept_)
    assert objective(w) == pytest.approx(found.objective, rel=1e-12)
    assert found.objective <= other.fun * (1 + 1e-9)
    np.testing.assert_allclose(w, other.x, rtol=1e-3, atol=1e-4)


def test_registering_again_and_another_of_the_same_name(log_cosh):
    assert register_loss(LogCosh) is LogCosh

    @dataclass(frozen=True)
    class Other(Loss):
        name: ClassVar[str] = "test-log-cosh"

    with pytest.raises(InputError, match="a loss named 'test-log-cosh' exists already: give yours another name"):
        register_loss(Other)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [("gradient", "its gradient disagrees"), ("hessian", "its hessian disagrees"), ("shape", "its gradient disagrees")],
)
def test_wrong_derivatives_are_found(wrong, what):
    @dataclass(frozen=True)
    class Wrong(Loss):
        name: ClassVar[str] = "test-wrong"

        def value(self, z, y):
            return 0.5 * (z - y) ** 2

        def gradient(self, z, y):
            return {"gradient": y - z, "shape": np.float64(0)}.get(wrong, z - y)

        def hessian(self, z, y):
            return np.full_like(z, 2.0 if wrong == "hessian" else 1.0)

    with pytest.raises(InputError, match=f"loss 'test-wrong': {what} with finite differences"):
        register_loss(Wrong)
    assert "test-wrong" not in LOSSES
