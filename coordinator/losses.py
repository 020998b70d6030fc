"""Losses: derivatives in the prediction z = Xw, row by row, so that every model is a few small functions.

A user's loss is one small class: subclass `Loss`, write `value`, `gradient` and `hessian`, call `register_loss`.

    @dataclass(frozen=True)
    class LogCosh(Loss):
        name: ClassVar[str] = "log-cosh"
        def value(self, z, y): return np.logaddexp(z - y, y - z) - np.log(2)
        def gradient(self, z, y): return np.tanh(z - y)
        def hessian(self, z, y): return 1 - np.tanh(z - y) ** 2

    register_loss(LogCosh)
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from coordinator.errors import InputError, UnknownNameError

Array = NDArray[Any]
Classes = tuple[float, ...] | tuple[str, ...] | None


@dataclass(frozen=True)
class Loss:
    """A loss in the prediction; instances are plain data and travel as JSON.

    Shapes: scalar losses take z (n,) and y (n,). Losses with `multi` true take z (n, K) and y (n,) class positions.
    All of value, gradient and hessian are per row and unweighted.
    """

    name: ClassVar[str]
    target: ClassVar[Literal["real", "count", "binary", "multiclass"]] = "real"
    multi: ClassVar[bool] = False
    curvature: ClassVar[float | None] = None  # upper bound of the second derivative, None if unbounded
    self_check: ClassVar[bool] = True
    public: ClassVar[bool] = True  # False: a term of some solver's, which no problem may name

    def value(self, z: Array, y: Array) -> Array:
        """Loss of each row, (n,)."""
        raise NotImplementedError

    def gradient(self, z: Array, y: Array) -> Array:
        """Derivative in z, of the shape of z."""
        raise NotImplementedError

    def hessian(self, z: Array, y: Array) -> Array:
        """Second derivative in z, (n,); for `multi` losses whatever `product` and `blocks` understand."""
        raise NotImplementedError

    def both(self, z: Array, y: Array) -> tuple[Array, Array]:
        """Value and gradient together; override where they share work."""
        return self.value(z, y), self.gradient(z, y)

    def product(self, hessian: Array, u: Array) -> Array:
        """The rows' Hessians times u (of the shape of z)."""
        return hessian * u if u.ndim == 1 else hessian[:, None] * u

    def encode(self, y: Array, classes: Classes) -> Array:
        """Stored targets as what `value` expects, float64 or class positions."""
        if self.target in {"binary", "multiclass"}:
            if classes is None:
                raise InputError(f"loss {self.name!r} needs classes, but the target has more than 1000 distinct values")
            index = _positions(y, classes)
            return 2.0 * index - 1.0 if self.target == "binary" else index
        return y

    def check_target(self, classes: Classes, *, where: str = "the target") -> None:
        """InputError when targets with these classes cannot be fitted."""
        if self.target in {"real", "count"} and classes and isinstance(classes[0], str):
            raise InputError(
                f"{where} holds text classes, but loss {self.name!r} needs numbers: use logistic or softmax"
            )
        if self.target == "count" and classes and float(classes[0]) < 0:
            raise InputError(f"{where} must be >= 0 for loss {self.name!r}; it holds {classes[0]}")
        if self.target in {"binary", "multiclass"}:
            if classes is None:
                raise InputError(f"{where} has more than 1000 distinct values: loss {self.name!r} needs classes")
            if len(classes) < 2:
                raise InputError(f"{where} has one class only ({classes[0]}): nothing to separate; give rows of both")
            if self.target == "binary" and len(classes) != 2:
                raise InputError(f"{where} has {len(classes)} classes, loss {self.name!r} takes two: use softmax")

    def outputs(self, classes: Classes) -> int:
        """Columns of z."""
        return len(classes or ()) if self.multi else 1

    def spec(self) -> dict[str, Any]:
        """Name and options as JSON; `loss_from_spec` reads them back."""
        return {"name": self.name, **asdict(self)}


def _positions(y: Array, classes: tuple[Any, ...]) -> NDArray[np.intp]:
    if isinstance(classes[0], str):  # text labels are stored as positions
        return y.astype(np.intp)
    return np.searchsorted(np.asarray(classes, dtype=float), y)


@dataclass(frozen=True)
class Logistic(Loss):
    """log(1 + exp(-y z)), y = +-1 (the larger class is +1)."""

    name: ClassVar[str] = "logistic"
    target: ClassVar[Literal["binary"]] = "binary"
    curvature: ClassVar[float | None] = 0.25

    def value(self, z: Array, y: Array) -> Array:
        return -special.log_expit(y * z)

    def gradient(self, z: Array, y: Array) -> Array:
        s = -y
        return s * special.expit(s * z)

    def hessian(self, z: Array, y: Array) -> Array:  # noqa: ARG002  the same for both classes
        return special.expit(z) * special.expit(-z)


@dataclass(frozen=True)
class Squared(Loss):
    """(z - y)^2 / 2."""

    name: ClassVar[str] = "squared"
    curvature: ClassVar[float | None] = 1.0

    def value(self, z: Array, y: Array) -> Array:
        return 0.5 * (z - y) ** 2

    def gradient(self, z: Array, y: Array) -> Array:
        return z - y

    def hessian(self, z: Array, y: Array) -> Array:  # noqa: ARG002  constant
        return np.ones_like(z)


@dataclass(frozen=True)
class SquaredHinge(Loss):
    """max(0, 1 - y z)^2 / 2, y = +-1: the smooth SVM (spec A4.6). Its Hessian is the generalized one."""

    name: ClassVar[str] = "squared-hinge"
    target: ClassVar[Literal["binary"]] = "binary"
    curvature: ClassVar[float | None] = 1.0

    def value(self, z: Array, y: Array) -> Array:
        return 0.5 * np.maximum(0, 1 - y * z) ** 2

    def gradient(self, z: Array, y: Array) -> Array:
        return -y * np.maximum(0, 1 - y * z)

    def hessian(self, z: Array, y: Array) -> Array:
        return (y * z < 1).astype(z.dtype)


@dataclass(frozen=True)
class Poisson(Loss):
    """exp(z) - y z: half the Poisson deviance up to a constant; counts y >= 0."""

    name: ClassVar[str] = "poisson"
    target: ClassVar[Literal["count"]] = "count"

    def value(self, z: Array, y: Array) -> Array:
        return np.exp(z) - y * z

    def gradient(self, z: Array, y: Array) -> Array:
        return np.exp(z) - y

    def hessian(self, z: Array, y: Array) -> Array:  # noqa: ARG002  canonical link
        return np.exp(z)


@dataclass(frozen=True)
class Huber(Loss):
    """r^2/2 for |r| <= delta, else delta (|r| - delta/2), r = z - y; delta in units of y."""

    name: ClassVar[str] = "huber"
    curvature: ClassVar[float | None] = 1.0
    delta: float = 1.35

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise InputError(f"huber: delta must be > 0, not {self.delta}")

    def value(self, z: Array, y: Array) -> Array:
        a = np.abs(z - y)
        return np.where(a <= self.delta, 0.5 * a * a, self.delta * (a - 0.5 * self.delta))

    def gradient(self, z: Array, y: Array) -> Array:
        return np.clip(z - y, -self.delta, self.delta)

    def hessian(self, z: Array, y: Array) -> Array:
        return (np.abs(z - y) <= self.delta).astype(z.dtype)


@dataclass(frozen=True)
class Softmax(Loss):
    """log sum_c exp(z_c) - z_y, classes by position.

    `hessian` holds the probabilities P (n, K); a row's Hessian is diag(p) - pp' (spec A4.2).
    """

    name: ClassVar[str] = "softmax"
    target: ClassVar[Literal["multiclass"]] = "multiclass"
    multi: ClassVar[bool] = True
    curvature: ClassVar[float | None] = 0.5

    def value(self, z: Array, y: Array) -> Array:
        top = z.max(axis=1)
        return np.log(np.exp(z - top[:, None]).sum(axis=1)) + top - z[np.arange(y.size), y]

    def gradient(self, z: Array, y: Array) -> Array:
        p = self.hessian(z, y)
        p[np.arange(y.size), y] -= 1
        return p

    def hessian(self, z: Array, y: Array) -> Array:  # noqa: ARG002  the same for all classes
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return p

    def both(self, z: Array, y: Array) -> tuple[Array, Array]:
        rows = np.arange(y.size)
        top = z.max(axis=1, keepdims=True)
        p = np.exp(z - top)
        total = p.sum(axis=1, keepdims=True)
        value = np.log(total[:, 0]) + top[:, 0] - z[rows, y]
        p /= total
        p[rows, y] -= 1
        return value, p

    def product(self, hessian: Array, u: Array) -> Array:
        pu = hessian * u
        return pu - hessian * pu.sum(axis=1, keepdims=True)


LOSSES: dict[str, type[Loss]] = {}


def register_loss(loss: type[Loss]) -> type[Loss]:
    """Make `loss` known by its name; InputError if its derivatives disagree or the name is taken by another class."""
    known = LOSSES.get(loss.name)
    if known is not None and (known.__module__, known.__qualname__) != (loss.__module__, loss.__qualname__):
        raise InputError(f"a loss named {loss.name!r} exists already: give yours another name")
    if loss.self_check and not loss.multi:
        _check_derivatives(loss())
    LOSSES[loss.name] = loss
    return loss


def _check_derivatives(loss: Loss) -> None:
    """Central differences at a few points: a wrong sign in a user's loss is found here and not by a solver."""
    y = np.array([1.0, -1.0, 1.0, -1.0]) if loss.target != "count" else np.array([0.0, 1.0, 2.0, 5.0])
    z = np.array([0.31, -0.47, 0.83, 0.11])
    h = 1e-5
    slope = (loss.value(z + h, y) - loss.value(z - h, y)) / (2 * h)
    bend = (loss.gradient(z + h, y) - loss.gradient(z - h, y)) / (2 * h)
    for what, found, expected in (("gradient", loss.gradient(z, y), slope), ("hessian", loss.hessian(z, y), bend)):
        if np.shape(found) != z.shape or not np.allclose(found, expected, rtol=1e-4, atol=1e-6):
            raise InputError(
                f"loss {loss.name!r}: its {what} disagrees with finite differences at z={z.tolist()}, y={y.tolist()}"
            )


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that a float can hold; truth values are none."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max  # NumPy's isfinite takes no integers of over 64 bits


def public_losses() -> list[str]:
    """Names of the losses that a problem may have."""
    return [name for name, kind in LOSSES.items() if kind.public]


def loss_from_spec(spec: str | dict[str, Any] | Loss) -> Loss:
    """A loss from its name or from {"name": ..., options}; InputError for unknown names and options."""
    if isinstance(spec, Loss):
        return spec
    options = {} if isinstance(spec, str) else dict(spec)
    name = spec if isinstance(spec, str) else options.pop("name", None)
    if name not in LOSSES:
        raise UnknownNameError("loss", name, public_losses())
    kind = LOSSES[name]
    for key, value in options.items():
        known = [f.name for f in fields(kind)]
        if key not in known:
            raise UnknownNameError(f"option of loss {name!r}", key, known or ["(it has none)"])
        if not is_number(value):
            raise InputError(f"option {key!r} of loss {name!r} must be a finite number, not {value!r}")
    return kind(**options)


for _loss in (Logistic, Squared, SquaredHinge, Poisson, Huber, Softmax):
    register_loss(_loss)
