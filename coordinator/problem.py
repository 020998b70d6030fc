"""Problems: a loss over row blocks, a penalty, an intercept and weights.

f(w) = (1/sum s) sum_i s_i loss(y_i, x_i w + b) + l2/2 |w|^2 + l1 |w|_1, with s_i = sample weight x class weight. The
intercept b is never penalised. Parameters are a matrix W of shape (p, K), p = d + 1 with an intercept (its last row),
K = 1 except for multi-class losses; solvers see it flattened in C order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from coordinator.data.blocks import RowBlocks
from coordinator.errors import InputError, UnknownNameError
from coordinator.losses import Loss, is_number, loss_from_spec, public_losses

Vector = NDArray[np.float64]
_FIELDS: Final = ("loss", "l1", "l2", "intercept", "class_weight")


@dataclass(frozen=True)
class Penalty:
    """l2/2 |w|^2 + l1 |w|_1 on all but the intercept. Both >= 0, per unit of weight (see the module)."""

    l2: float = 0.0
    l1: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("l1", self.l1), ("l2", self.l2)):
            if not (is_number(value) and value >= 0):
                raise InputError(f"{name} must be a number >= 0, not {value!r}")


@dataclass(frozen=True)
class Problem:
    """What to minimise. `class_weight` maps a class to its weight; classes not named weigh 1."""

    data: RowBlocks
    loss: Loss
    penalty: Penalty = field(default_factory=Penalty)
    intercept: bool = True
    class_weight: tuple[float, ...] | None = None

    @property
    def n_outputs(self) -> int:
        return self.loss.outputs(self.data.classes)

    @property
    def n_rows_of_w(self) -> int:
        """Features, and one for the intercept."""
        return self.data.n_features + int(self.intercept)

    @property
    def n_parameters(self) -> int:
        return self.n_rows_of_w * self.n_outputs

    def ridge(self) -> Vector:
        """The diagonal of R, (n_parameters,): l2, and 0 for intercepts."""
        r = np.full((self.n_rows_of_w, self.n_outputs), float(self.penalty.l2))
        if self.intercept:
            r[-1] = 0.0
        return r.ravel()

    def lasso(self) -> Vector:
        """l1 for each parameter, 0 for intercepts."""
        r = np.full((self.n_rows_of_w, self.n_outputs), float(self.penalty.l1))
        if self.intercept:
            r[-1] = 0.0
        return r.ravel()

    def task_params(self) -> dict[str, Any]:
        """What a worker needs to know of the problem, as JSON."""
        classes = self.data.classes if self.loss.target in {"binary", "multiclass"} else None
        return {
            "loss": self.loss.spec(),
            "classes": None if classes is None else list(classes),
            "class_weight": None if self.class_weight is None else list(self.class_weight),
            "intercept": self.intercept,
        }

    def spec(self) -> dict[str, Any]:
        """The problem without its data, as JSON; `problem_from_spec` reads it back."""
        return {
            "loss": self.loss.spec(),
            "l1": self.penalty.l1,
            "l2": self.penalty.l2,
            "intercept": self.intercept,
            "class_weight": None if self.class_weight is None else list(self.class_weight),
        }


def problem_from_spec(spec: Mapping[str, Any], data: RowBlocks, counts: Mapping[str, float] | None = None) -> Problem:
    """Check `spec` against `data`.

    `spec` has "loss" (a name or {"name", options}) and may have "l1", "l2", "intercept" and "class_weight": a list in
    class order, a map {class: weight}, or "balanced", which needs `counts`, the rows of each class by str(class).

    Raises InputError naming the field.
    """
    for key in spec:
        if key not in _FIELDS:
            raise UnknownNameError("problem field", key, _FIELDS)
    if "loss" not in spec:
        raise InputError("the problem has no loss: give one, such as loss='logistic'")
    loss = loss_from_spec(spec["loss"])
    if not loss.public:
        raise UnknownNameError("loss", loss.name, public_losses())
    loss.check_target(data.classes, where=f"the target of data {data.name!r}")
    intercept = spec.get("intercept", True)
    if not isinstance(intercept, bool):
        raise InputError(f"intercept must be true or false, not {intercept!r}")
    penalty = Penalty(l2=spec.get("l2", 0.0), l1=spec.get("l1", 0.0))
    weights = _class_weights(spec.get("class_weight"), loss, data, counts)
    return Problem(data, loss, penalty, intercept, weights)


def _class_weights(
    given: Any, loss: Loss, data: RowBlocks, counts: Mapping[str, float] | None
) -> tuple[float, ...] | None:
    if given is None:
        return None
    classes = data.classes
    if loss.target not in {"binary", "multiclass"} or classes is None:
        raise InputError(f"class_weight needs classes, and loss {loss.name!r} has none: use sample weights")
    if given == "balanced":
        if counts is None:
            raise InputError("class_weight 'balanced' needs the class counts of the data")
        total = sum(counts.values())
        values = [total / (len(classes) * counts[str(c)]) for c in classes]
    elif isinstance(given, Mapping):
        names = {str(c): i for i, c in enumerate(classes)}
        values = [1.0] * len(classes)
        for key, value in given.items():
            name = str(key) if str(key) in names else str(float(key)) if _is_number(key) else str(key)
            if name not in names:
                raise UnknownNameError("class in class_weight", key, names)
            values[names[name]] = value
    elif isinstance(given, str) or not isinstance(given, Iterable):
        raise InputError(f"class_weight must be 'balanced', a list or a map of classes, not {given!r}")
    else:
        values = list(given)
        if len(values) != len(classes):
            raise InputError(f"class_weight has {len(values)} entries for {len(classes)} classes")
    if not all(_is_number(v) for v in values):
        raise InputError(f"class weights must be numbers: {values}")
    out = tuple(float(v) for v in values)
    if not all(np.isfinite(v) and v >= 0 for v in out) or sum(out) <= 0:
        raise InputError(f"class weights must be finite and >= 0, and not all zero: {list(out)}")
    return out


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
