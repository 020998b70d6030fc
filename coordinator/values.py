"""Python values as bytes: plain data and arrays in the codec of `coordinator.arrays`, which runs nothing when read.

None, bool, int, float, str, bytes, lists, tuples, dicts with text keys, and NumPy arrays and scalars of numbers come
back as they were, bit for bit, but for the memory order of arrays. Anything else may travel pickled, by cloudpickle,
only where both sides say so: `loads` with `trust` runs what the writer wished to have run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from coordinator import arrays as codec
from coordinator.errors import InputError, StorageError, one_line

_PICKLED: Final = "pickled"
_NUMBERS: Final = "biufc"  # kinds of dtype
DEEPEST: Final = 100  # levels of lists and dicts


def dumps(value: Any, *, pickled: bool = False) -> bytes:
    """`value` as bytes; with `pickled`, by cloudpickle where it is no plain data. InputError where it cannot travel."""
    parts: dict[str, NDArray[Any]] = {}
    try:
        text = json.dumps(_plain(value, parts, 0), separators=(",", ":"))
        text.encode()
        return codec.encode(parts, {"json": text})
    except (InputError, ValueError) as error:
        if not pickled:
            raise InputError(str(error)) from None
    return codec.encode({"0": np.frombuffer(pickle(value), dtype=np.uint8)}, {_PICKLED: "cloudpickle"})


def loads(data: bytes | memoryview, where: str = "value", *, trust: bool = False) -> Any:
    """The value of `dumps`.

    Raises StorageError for anything else, and InputError for one that was pickled, unless `trust` says that its writer
    may run code here.
    """
    parts = codec.decode(data, where)
    said = codec.metadata(data, where)
    if _PICKLED in said:
        if not trust:
            raise InputError(f"{where} is pickled: unpickling runs what its writer wished; say that you trust it")
        return unpickle(parts["0"].tobytes() if "0" in parts else b"", where)
    try:
        return _value(json.loads(said["json"]), parts)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise StorageError(f"{where}: not a value ({type(error).__name__} {error})") from None


def is_pickled(data: bytes | memoryview, where: str = "value") -> bool:
    """Whether reading it takes trust."""
    return _PICKLED in codec.metadata(data, where)


def pickle(value: Any) -> bytes:
    """`value` by cloudpickle; InputError where it cannot be pickled, or cloudpickle is not installed."""
    try:
        import cloudpickle
    except ImportError:
        raise InputError('functions and objects travel by cloudpickle: pip install "overcast[map]"') from None
    try:
        return bytes(cloudpickle.dumps(value))
    except Exception as error:
        said = f"{type(error).__name__}: {one_line(error, 200)}"
        raise InputError(f"cannot pickle a {type(value).__name__} ({said})") from error


def unpickle(data: bytes, where: str) -> Any:
    """What `pickle` wrote, running what it says; StorageError where that fails."""
    import pickle as reader

    try:
        return reader.loads(data)  # noqa: S301  the caller has settled that the writer may run code here
    except Exception as error:
        said = f"{type(error).__name__}: {one_line(error, 200)}"
        raise StorageError(
            f"{where} cannot be unpickled here ({said}); are the packages it needs installed?"
        ) from error


def _plain(value: Any, parts: dict[str, NDArray[Any]], depth: int) -> Any:
    """JSON of `value`, its arrays going to `parts`. What JSON lacks is a dict of one tag."""
    if depth > DEEPEST:
        raise InputError(f"values may be nested {DEEPEST} deep")
    kind = type(value)
    if value is None or kind in {bool, int, float, str}:
        return value
    if kind is list:
        return [_plain(item, parts, depth + 1) for item in value]
    if kind is tuple:
        return {"tuple": [_plain(item, parts, depth + 1) for item in value]}
    if kind is dict:
        if not all(type(key) is str for key in value):
            raise InputError("keys of dicts must be text")
        return {"dict": {key: _plain(item, parts, depth + 1) for key, item in value.items()}}
    name = f"{len(parts)}"
    if kind is bytes:
        parts[name] = np.frombuffer(value, dtype=np.uint8)
        return {"bytes": name}
    if kind is np.ndarray or isinstance(value, np.generic):
        array = np.asarray(value)
        if array.dtype.kind not in _NUMBERS or array.ndim > codec.MAX_DIMENSIONS:
            raise InputError(f"arrays of dtype {array.dtype} and {array.ndim} dimensions are no plain data")
        parts[name] = np.frombuffer(array.tobytes(), dtype=np.uint8)
        return {"array" if kind is np.ndarray else "scalar": [name, array.dtype.str, list(array.shape)]}
    raise InputError(f"a {kind.__name__} is no plain data: use numbers, text, lists, dicts and arrays of numbers")


def _value(raw: Any, parts: Mapping[str, NDArray[Any]]) -> Any:
    """What `_plain` was made of."""
    if isinstance(raw, list):
        return [_value(item, parts) for item in raw]
    if not isinstance(raw, dict):
        return raw
    [(tag, content)] = raw.items()
    if tag == "tuple":
        return tuple(_value(item, parts) for item in content)
    if tag == "dict":
        return {str(key): _value(item, parts) for key, item in content.items()}
    if tag == "bytes":
        return parts[content].tobytes()
    if tag not in {"array", "scalar"}:
        raise ValueError(f"unknown tag {tag!r}")
    name, dtype, shape = content
    kind = np.dtype(dtype)
    if kind.kind not in _NUMBERS:
        raise ValueError(f"dtype {dtype} is not allowed")
    array = np.frombuffer(parts[name].tobytes(), dtype=kind).reshape(shape)
    return array.copy() if tag == "array" else array[()]
