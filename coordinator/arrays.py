"""Named arrays as bytes: the safetensors layout, read without copying and without trusting the writer.

A file is `u64 little-endian header length | JSON header | array bytes`. The header maps each name to
dtype, shape and byte range, with an optional `__metadata__` string map. Nothing in it can run code, every range
is checked before use, and our writer pads the header so that each array starts on a 64-byte boundary: a
memory-mapped file gives aligned arrays with no copy. Any safetensors library reads these files.

Deviation: unsigned 64-bit integers and booleans are refused on writing, because nothing here needs them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from coordinator.errors import InputError, StorageError

ALIGN: Final = 64
MAX_HEADER: Final = 16 << 20
MAX_DIMENSIONS: Final = 8
MAX_LENGTH: Final = 1 << 48
_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
}
_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}

NamedArrays = Mapping[str, NDArray[Any]]


def _pad(size: int) -> int:
    return -size % ALIGN


def header(arrays: NamedArrays, metadata: Mapping[str, str] | None = None) -> bytes:
    """The length prefix and padded JSON header for `arrays`, whose bytes follow in order, each padded to 64."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, array in arrays.items():
        dtype = array.dtype.newbyteorder("<")
        if dtype not in _NAMES:
            raise InputError(f"array {name!r} has dtype {array.dtype}, which is not stored: use float32/64 or int32/64")
        entries[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
        if array.nbytes % ALIGN:  # the layout has no holes: a named filler keeps the next array aligned
            pad = _pad(array.nbytes)
            entries[f"__pad_{name}"] = {"dtype": "U8", "shape": [pad], "data_offsets": [offset, offset + pad]}
            offset += pad
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * _pad(8 + len(text))
    return len(text).to_bytes(8, "little") + text


def write(file: BinaryIO, arrays: NamedArrays, metadata: Mapping[str, str] | None = None) -> None:
    """Write `arrays` to an open binary file."""
    file.write(header(arrays, metadata))
    for array in arrays.values():
        # a view of the bytes, so that a block is not copied to be written
        plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        file.write(plain.reshape(-1).view(np.uint8).data)
        file.write(b"\0" * _pad(plain.nbytes))


def encode(arrays: NamedArrays, metadata: Mapping[str, str] | None = None) -> bytes:
    """`arrays` as bytes."""
    parts = [header(arrays, metadata)]
    for array in arrays.values():
        data = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
        parts += [data, b"\0" * _pad(len(data))]
    return b"".join(parts)


def decode(buffer: bytes | memoryview, where: str = "array data") -> dict[str, NDArray[Any]]:
    """Arrays as read-only views into `buffer`; padding entries and metadata are left out.

    Raises StorageError, naming `where`, for anything that is not a well-formed file.
    """
    view = memoryview(buffer).cast("B")
    entries, start = _entries(view, where)
    arrays = {}
    for name, entry in entries.items():
        if name == "__metadata__" or name.startswith("__pad_"):
            continue
        arrays[name] = _view(view, start, name, entry, where)
    return arrays


def metadata(buffer: bytes | memoryview, where: str = "array data") -> dict[str, str]:
    """The `__metadata__` string map of an encoded file (empty where there is none)."""
    entries, _ = _entries(memoryview(buffer).cast("B"), where)
    found = entries.get("__metadata__", {})
    if not isinstance(found, dict):
        raise StorageError(f"{where}: its metadata is not a map")
    return {str(key): str(value) for key, value in found.items()}


def load(path: Path) -> dict[str, NDArray[Any]]:
    """Memory-map a file: arrays are read-only views whose pages are read when touched."""
    if path.stat().st_size < 8:
        raise StorageError(f"{path}: too short to hold arrays")
    return decode(memoryview(np.memmap(path, dtype=np.uint8, mode="r").data), str(path))


def _entries(view: memoryview, where: str) -> tuple[dict[str, Any], int]:
    size = int.from_bytes(view[:8], "little")
    if len(view) < 8 or size > min(MAX_HEADER, len(view) - 8):
        raise StorageError(f"{where}: no array header found; the file is cut short or of another format")
    try:
        entries = json.loads(bytes(view[8 : 8 + size]))
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{where}: the array header is not JSON ({error})") from None
    if not isinstance(entries, dict):
        raise StorageError(f"{where}: the array header is not a map")
    return entries, 8 + size


def _view(view: memoryview, start: int, name: str, entry: Any, where: str) -> NDArray[Any]:
    try:
        dtype, shape, (low, high) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise StorageError(f"{where}: array {name!r} has a malformed header entry") from None
    if not all(type(n) is int for n in (*shape, low, high)) or len(shape) > MAX_DIMENSIONS:
        raise StorageError(f"{where}: array {name!r} has a malformed header entry")
    if any(n < 0 for n in shape) or not 0 <= low <= high <= len(view) - start:
        raise StorageError(f"{where}: array {name!r} lies outside the file; it is cut short or damaged")
    # a dimension of 0 hides how large the others are
    if math.prod(shape) * dtype.itemsize != high - low or max(shape, default=0) > MAX_LENGTH:
        raise StorageError(f"{where}: array {name!r} has {high - low} bytes, not what its shape {shape} needs")
    array = np.frombuffer(view[start + low : start + high], dtype=dtype).reshape(shape)
    array.flags.writeable = False
    return array
