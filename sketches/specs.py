"""Sketches by name: specs travel as JSON, matrices never do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from sketches.operators import SJLT, CountSketch, Gaussian, LessUniform, RowSampling, SketchDistribution
from sketches.oversketch import OverSketch

__all__ = ["SKETCHES", "sketch_from_spec", "to_spec"]

SKETCHES: dict[str, type[Any]] = {
    "countsketch": CountSketch,
    "sjlt": SJLT,
    "gaussian": Gaussian,
    "less_uniform": LessUniform,
    "row_sampling": RowSampling,
    "oversketch": OverSketch,
}


def sketch_from_spec(spec: Mapping[str, Any]) -> SketchDistribution:
    """Build the sketch that ``spec`` describes, for instance ``{"kind": "sjlt", "size": 100, "hashes": 4}``.

    Raises
    ------
    ValueError
        If the kind is unknown, a field is unknown or missing, or a value is refused by the sketch.
    """
    kind = spec.get("kind")
    if not isinstance(kind, str) or kind not in SKETCHES:
        raise ValueError(f"unknown sketch kind {kind!r}; known kinds: {', '.join(SKETCHES)}")
    cls = SKETCHES[kind]
    values = {name: value for name, value in spec.items() if name != "kind"}
    known = [field.name for field in fields(cls)]
    unknown = [name for name in values if name not in known]
    if unknown:
        raise ValueError(f"sketch {kind!r} has no field {unknown[0]!r}; its fields: {', '.join(known)}")
    missing = [field.name for field in fields(cls) if field.default is MISSING and field.name not in values]
    if missing:
        raise ValueError(f"sketch {kind!r} needs the field {missing[0]!r}")
    sketch: SketchDistribution = cls(**values)
    return sketch


def to_spec(sketch: SketchDistribution) -> dict[str, Any]:
    """Return the JSON-ready spec of ``sketch``, the inverse of `sketch_from_spec`.

    Raises
    ------
    ValueError
        If the sketch's class is not in `SKETCHES`.
    """
    kind = next((name for name, cls in SKETCHES.items() if cls is type(sketch)), None)
    if kind is None:
        raise ValueError(f"{type(sketch).__name__} is not a registered sketch; known kinds: {', '.join(SKETCHES)}")
    return {"kind": kind} | {field.name: int(getattr(sketch, field.name)) for field in fields(SKETCHES[kind])}
