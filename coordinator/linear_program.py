"""Linear programs: min c'x subject to Ax <= b, over the same row blocks as fitted models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from coordinator.data.blocks import RowBlocks
from coordinator.errors import InputError, UnknownNameError

Vector = NDArray[np.float64]
KIND: Final = "linear-program"
_FIELDS: Final = ("kind", "c")


@dataclass(frozen=True, eq=False)
class LinearProgram:
    """min c'x subject to Ax <= b: the rows of the data are those of A, their targets b. x is free.

    Bounds on x are rows like others: x_j >= 0 is the row -e_j with target 0. An equality is no pair of rows, because
    an interior-point method needs room between them; substitute a variable, or leave a little room.

    Attributes
    ----------
    c : (n_features,), for the columns as stored.
    """

    data: RowBlocks
    c: Vector

    @property
    def n_outputs(self) -> int:
        """Columns of Ax."""
        return 1

    @property
    def n_parameters(self) -> int:
        return self.data.n_features

    def spec(self, scale: Vector | None = None) -> dict[str, Any]:
        """The program without its data, as JSON; `program_from_spec` with the same column scale reads it back."""
        return {"kind": KIND, "c": (self.c if scale is None else self.c * scale).tolist()}


def program_from_spec(spec: Mapping[str, Any], data: RowBlocks, scale: Vector | None = None) -> LinearProgram:
    """Check `spec`, {"kind": "linear-program", "c": [...]}, against `data`.

    Parameters
    ----------
    scale : factors by which the import divided columns (`load_scale`); the spec's c is for the columns as they came.

    Raises InputError naming the field.
    """
    for key in spec:
        if key not in _FIELDS:
            raise UnknownNameError("linear program field", key, _FIELDS)
    c = cost_vector(spec.get("c"))
    if c.size != data.n_features:
        raise InputError(
            f"the cost c has {c.size} entries, data {data.name!r} {data.n_features} columns: give one each"
        )
    if data.weighted:
        raise InputError(f"data {data.name!r} has row weights, and constraints have none: import it without")
    if data.classes and isinstance(data.classes[0], str):
        raise InputError(f"the target of data {data.name!r} is text; a linear program needs the bounds b of Ax <= b")
    return LinearProgram(data, c if scale is None else c / scale)


def cost_vector(c: Any) -> Vector:
    """The cost as float64 (d,); InputError unless it is a vector of finite numbers."""
    try:
        out = np.zeros(()) if np.iscomplexobj(c) else np.array(c, dtype=np.float64)
    except (TypeError, ValueError):
        out = np.zeros(())
    if out.ndim != 1 or not out.size or not np.all(np.isfinite(out)):
        raise InputError("a linear program needs its cost c: a vector of finite numbers, one for each column")
    return out
