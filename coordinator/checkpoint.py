"""Checkpoints: a solver's state, a dataclass of plain data, as named arrays and back, bit for bit."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from coordinator.arrays import NamedArrays
from coordinator.errors import StorageError

S = TypeVar("S")
_JSON = "json"


def to_arrays(state: Any) -> dict[str, NDArray[Any]]:
    """Arrays of the state's array fields, and the rest as JSON in a byte array.

    Floats survive JSON exactly; nested dataclasses and tuples of arrays are flattened under `field/`. Raises TypeError
    for what is not plain data, which is a mistake of the solver.
    """
    arrays: dict[str, NDArray[Any]] = {}
    plain = _flatten(state, "", arrays)
    arrays[_JSON] = np.frombuffer(json.dumps(plain).encode(), dtype=np.uint8)
    return arrays


def from_arrays(kind: type[S], arrays: NamedArrays, where: str = "checkpoint") -> S:
    """The state of class `kind` that `to_arrays` wrote; StorageError if it is not one."""
    try:
        plain = json.loads(arrays[_JSON].tobytes())
        return _rebuild(kind, plain, "", arrays)
    except (KeyError, ValueError, TypeError) as error:
        raise StorageError(f"{where}: not a state of {kind.__name__} ({error}); start the job anew") from None


def _flatten(state: Any, path: str, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for field in fields(state):
        value = getattr(state, field.name)
        name = path + field.name
        if isinstance(value, np.ndarray):
            arrays[name] = value
        elif isinstance(value, tuple):
            # of arrays; JSON would make a list of it
            arrays |= {f"{name}/{i}": item for i, item in enumerate(value)}
            plain[field.name] = len(value)
        elif is_dataclass(value):
            plain[field.name] = _flatten(value, name + "/", arrays)
        else:
            plain[field.name] = value
    return plain


def _rebuild(kind: type[S], plain: dict[str, Any], path: str, arrays: NamedArrays) -> S:
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        name = path + field.name
        if name in arrays:
            values[field.name] = np.array(arrays[name])
            continue
        value = plain[field.name]
        if get_origin(hints[field.name]) is tuple:
            values[field.name] = tuple(np.array(arrays[f"{name}/{i}"]) for i in range(value))
            continue
        nested = next((t for t in (hints[field.name], *get_args(hints[field.name])) if is_dataclass(t)), None)
        if nested is not None and isinstance(value, dict) and isinstance(nested, type):
            value = _rebuild(nested, value, name + "/", arrays)
        values[field.name] = value
    return kind(**values)
