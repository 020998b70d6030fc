"""Predictions for the rows of a file, in their order, and how good they are where the file holds the targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from coordinator.data.blocks import Block, RowBlocks
from coordinator.data.files import check_file, format_of
from coordinator.data.importing import ImportOptions, import_data
from coordinator.errors import InputError
from coordinator.results import Result
from coordinator.storage import MemoryStorage
from overcast.store import Origin

_READING: Final = ("label", "labelled", "weight", "one_hot", "header", "n_features", "index_base", "format")
_LIBSVM_ONLY: Final = ("n_features", "index_base")
_TABLES_ONLY: Final = ("weight", "one_hot", "header", "label")


@dataclass(frozen=True)
class Predictions:
    """What a result says of rows.

    Attributes
    ----------
    values : labels or numbers, (n,).
    scores : probabilities (n, K) where the loss gives them, else None.
    target : what the file says, (n,), or None when it holds no targets.
    """

    values: NDArray[Any]
    scores: NDArray[np.float64] | None
    target: NDArray[Any] | None


def predict_file(result: Result, path: Path, origin: Origin | None, given: Mapping[str, Any]) -> Predictions:
    """Read a file as the training data were read (`origin`, changed by what is `given`) and predict its rows.

    Columns with names are matched by name, and a category that training did not see counts for nothing. The target
    and the weights may be missing.

    Raises InputError when the file's columns are not those of the model.
    """
    check_file(path)
    options = _options(result, path, origin, given)
    storage = MemoryStorage()
    first: InputError | None = None
    for labelled, weight in _attempts(options):
        try:
            trial = replace(options, labelled=labelled, weight=weight, label=options.label if labelled else None)
            data = import_data(storage, path, replace(trial, name=f"rows-{int(labelled)}-{int(weight is None)}")).data
            adapted = _adapt(result, data, categorical=bool(options.one_hot), path=path)
        except InputError as error:
            first = first or error
            continue
        return _predict(adapted, storage, data, labelled=labelled)
    assert first is not None
    raise first


def _attempts(options: ImportOptions) -> Iterator[tuple[bool, Any]]:
    labels = (True, False) if options.labelled else (False,)
    weights = (options.weight, None) if options.weight is not None else (None,)
    for weight in weights:
        for labelled in labels:
            yield labelled, weight


def _options(result: Result, path: Path, origin: Origin | None, given: Mapping[str, Any]) -> ImportOptions:
    before = {key: value for key, value in (origin.options if origin else {}).items() if key in _READING}
    try:
        kind = given.get("format") or format_of(path)
    except InputError:
        kind = before.get("format")
        if kind is None:
            raise
    options = before | {"format": kind} | dict(given)
    label = options.get("label")
    if "label" not in given and isinstance(label, str) and label.endswith(".npy"):
        options["label"] = None  # the targets of the training rows
    for name in _TABLES_ONLY if kind == "libsvm" else _LIBSVM_ONLY:
        if name not in given:
            options.pop(name, None)
    if kind == "libsvm":
        options["n_features"] = int(result.coef_.shape[-1])
    if isinstance(options.get("one_hot"), list):
        options["one_hot"] = tuple(options["one_hot"])
    return ImportOptions(name="rows", seed=None, **options)


def _adapt(result: Result, data: RowBlocks, *, categorical: bool, path: Path) -> Result:
    """The result with its coefficients in the order of the file's columns."""
    known, found = result.features, data.features
    d = result.coef_.shape[-1]
    if known is None or found is None:
        if data.n_features != d:
            raise InputError(f"{path}: {data.n_features} columns, but the model was fitted on {d}")
        return result
    if found == known:
        return result

    def optional(name: str) -> bool:
        return categorical and "=" in name

    place = {name: i for i, name in enumerate(known)}
    strange = [name for name in found if name not in place and not optional(name)]
    missing = [name for name in place if name not in set(found) and not optional(name)]
    if strange or missing:
        what = f"column {strange[0]!r} is not one of the model's" if strange else f"column {missing[0]!r} is missing"
        raise InputError(f"{path}: {what}; the model was fitted on {d}: {', '.join(known[:6])}, ...")
    coef = np.zeros((*result.coef_.shape[:-1], len(found)))
    for j, name in enumerate(found):
        if name in place:
            coef[..., j] = result.coef_[..., place[name]]
    return replace(result, coef_=coef, features=found)


def _predict(result: Result, storage: MemoryStorage, data: RowBlocks, *, labelled: bool) -> Predictions:
    scored = result.loss in {"logistic", "softmax"}
    values, scores, targets = [], [], []
    for key in data.keys:
        block = Block.from_arrays(storage.get_arrays(key), data.n_features, key)
        values.append(result.predict(block.X))
        if scored:
            scores.append(result.predict_proba(block.X))
        if labelled:
            y: NDArray[Any] = block.y
            if data.classes and isinstance(data.classes[0], str):
                y = np.asarray(data.classes)[y.astype(int)]
            targets.append(y)
    return Predictions(
        np.concatenate(values),
        np.concatenate(scores) if scored else None,
        np.concatenate(targets) if labelled else None,
    )


def quality(result: Result, found: Predictions) -> dict[str, float]:
    """Accuracy (and AUC, log-loss), or root mean squared error and R2; {} without targets."""
    y = found.target
    if y is None:
        return {}
    if result.classes_ is None:
        if y.dtype.kind != "f":
            return {}
        error = np.mean((found.values - y) ** 2)
        spread = np.mean((y - y.mean()) ** 2)
        return {"rmse": float(np.sqrt(error)), "r2": float(1 - error / spread) if spread > 0 else float("nan")}
    classes = np.asarray(result.classes_)
    if (classes.dtype.kind == "f") != (y.dtype.kind == "f"):
        return {}
    out = {"accuracy": float(np.mean(found.values == y))}
    counts = [np.mean(y == c) for c in classes]
    out["base_rate"] = float(max(counts))
    if found.scores is not None and len(classes) == 2:
        positive = y == classes[1]
        if positive.any() and not positive.all():
            out["auc"] = auc(found.scores[:, 1], positive)
    return out


def auc(score: NDArray[Any], positive: NDArray[np.bool_]) -> float:
    """The chance that a positive row scores above a negative one, ties counting half (by ranks)."""
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    rank = (last - (counts - 1) / 2)[inverse]
    n = int(positive.sum())
    m = positive.size - n
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * m))
