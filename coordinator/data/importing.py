"""Import: rows from files or memory into shuffled, checked row blocks in a store.

    read pieces -> check -> put in random order (external sort) -> scale, arrange -> blocks -> manifest

Memory. Text is read one megabyte at a time and every format but .npz (which is inflated whole) in pieces of a few; the
sort holds 256 MB of rows and sends the rest to temporary files in the store (`coordinator.data.shuffle`, which also
says why the order is uniform, and the same for one seed whatever the piece and block sizes). On top come a few blocks
and, with `scale`, a few vectors of one number per column. So memory does not grow with the number of rows.

Speed, in MB of text a second from file to blocks, on two busy cores of a 2020s server: a9a (8 copies, 19 MB) 22,
news20 (2 copies, 18 MB) 36, CSV of 40,000 x 100 six-decimal numbers (38 MB) 49, KDD Cup 99 with three one-hot columns
(75 MB inflated) 21. At the same time `sklearn.datasets.load_svmlight_file` read the first two at 9 and 12, into memory
only, and `pandas.read_csv` the others at 176 and 106.

Safety. Blocks go under a fresh folder `data/NAME/ID/`, the manifest is put last: a data set is there whole or not at
all. On any error, and on an interrupt, blocks and temporary files are removed. `replace` swaps the manifest and only
then removes the old blocks. A killed process leaves a folder that no manifest names, which costs space only, and
temporary files, which the store sweeps when it is opened next.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from coordinator.data import libsvm
from coordinator.data.arrange import Arrangement, Tally
from coordinator.data.blocks import RowBlocks, block_count, block_hash, manifest_key
from coordinator.data.columnar import read_arrays, read_npy, read_npz
from coordinator.data.delimited import read_delimited
from coordinator.data.files import FORMATS, check_file, format_of
from coordinator.data.frames import frame_of, is_frame, parquet, read_frame
from coordinator.data.intake import Format, ImportOptions, Intake, Piece, Progress
from coordinator.data.shuffle import Rows
from coordinator.data.tables import Roles
from coordinator.errors import ConflictError, InputError, KeyMissingError, UnknownNameError
from coordinator.storage import FileStorage, Storage, check_key

__all__ = ["ImportOptions", "ImportReport", "Progress", "import_data"]

_DELIMITERS: Final = {"csv": b",", "tsv": b"\t"}


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes
    ----------
    data : the manifest.
    rows, skipped : rows stored, and rows left out because they could not be used.
    reasons : of the first few rows left out, where they are and what is wrong.
    seconds : of wall time.
    """

    data: RowBlocks
    rows: int
    skipped: int
    reasons: tuple[str, ...]
    seconds: float


def import_data(
    storage: Storage,
    source: Any,
    options: ImportOptions,
    *,
    target: Any = None,
    weight: Any = None,
    progress: Callable[[Progress], None] | None = None,
) -> ImportReport:
    """Store a data set as row blocks.

    Parameters
    ----------
    source : path, or list of paths of one format; or array (n, d), SciPy sparse matrix (n, d), pandas or polars frame.
    options : name, format, columns, order, scale and layout.
    target, weight : (n,) each, with a source in memory or .npy, .npz files (one file only).
    progress : called with how far the import is, a few times per megabyte at most.

    Raises
    ------
    InputError
        For data or options that cannot be used, naming the place (file and line, or row and column) and what to do;
        and where the name is taken and `replace` is not set. Nothing stays in the store.
    StorageError
        Where the store cannot be written. Nothing stays in the store.
    """
    started = time.perf_counter()
    _check(options)
    old = _existing(storage, options)
    intake = Intake(options, progress)
    prefix = f"data/{options.name}/{secrets.token_hex(6)}"
    paths = _paths(source)
    with _folder(storage, prefix) as folder:
        rows = Rows(options.seed, folder, run_bytes=min(options.block_bytes, 32 << 20))
        try:
            tally = Tally(intake)
            pieces = (
                _read_memory(source, intake, target, weight) if paths is None else _read(paths, intake, target, weight)
            )
            for piece in pieces:
                tally.add(piece)
                rows.add(piece)
            name = "memory" if paths is None else paths[0].name if len(paths) == 1 else f"{paths[0].name}, ..."
            _check_rows(tally, name, weighted=weight is not None or options.weight is not None)
            data = _write(storage, prefix, rows, Arrangement(tally), intake, name)
            _publish(storage, data, old)
        except BaseException:
            if not _published(storage, options.name, prefix):
                storage.delete(prefix)
            raise
        finally:
            rows.close()
    return ImportReport(data, intake.rows, intake.skipped, tuple(intake.reasons), time.perf_counter() - started)


def _check(options: ImportOptions) -> None:
    name = options.name
    if not isinstance(name, str) or "/" in name or len(name) > 200:
        raise InputError(f"bad data set name {name!r}: use up to 200 letters, digits, '.', '_', '=' and '-'")
    try:
        check_key(name)
    except InputError:
        raise InputError(f"bad data set name {name!r}: use up to 200 letters, digits, '.', '_', '=' and '-'") from None
    for what, given, known in (
        ("format", options.format, (None, *get_args(Format))),
        ("dtype", options.dtype, (None, "float32", "float64")),
        ("layout", options.layout, (None, "dense", "csr")),
        ("scale", options.scale, ("none", "std", "maxabs")),
        ("on_bad_row", options.on_bad_row, ("error", "skip")),
    ):
        if given not in known:
            raise UnknownNameError(what, given, [word for word in known if word is not None])
    if options.seed is not None and not 0 <= options.seed < 1 << 128:
        raise InputError(f"seed is a number from 0 up to 2^128, or None to keep the rows' order, not {options.seed!r}")
    if not 1 <= options.block_bytes <= 1 << 31:
        raise InputError(f"block_bytes is a number of bytes up to 2^31, not {options.block_bytes!r}")
    one_hot: Any = options.one_hot
    if isinstance(one_hot, str):
        raise InputError(f"one_hot is a tuple of columns: write ({options.one_hot!r},)")


def _existing(storage: Storage, options: ImportOptions) -> tuple[RowBlocks, str] | None:
    """The data set to replace and its manifest's version, or None; InputError where it may not be replaced."""
    try:
        text, version = storage.read(manifest_key(options.name))
    except KeyMissingError:
        return None
    if not options.replace:
        raise InputError(f"there is a data set {options.name!r} already: choose another name or pass replace=True")
    return RowBlocks.from_json(text, options.name), version


def _published(storage: Storage, name: str, prefix: str) -> bool:
    try:
        keys = json.loads(storage.get(manifest_key(name)))["keys"]
    except KeyMissingError:
        return False
    return bool(keys) and str(keys[0]).startswith(prefix)


@contextmanager
def _folder(storage: Storage, prefix: str) -> Iterator[Path]:
    """Where temporary files may go: beside the blocks when they are files."""
    if isinstance(storage, FileStorage):
        yield storage.path(prefix)
        return
    with tempfile.TemporaryDirectory(prefix="overcast-") as name:
        yield Path(name)


def _paths(source: Any) -> list[Path] | None:
    """The files that `source` names, or None when it is in memory."""
    if isinstance(source, str | os.PathLike):
        return [Path(source)]
    if isinstance(source, list | tuple) and all(isinstance(item, str | os.PathLike) for item in source):
        if not source:
            raise InputError("no files to import")
        return [Path(item) for item in source]
    return None


def _read(paths: Sequence[Path], intake: Intake, target: Any, weight: Any) -> Iterator[Piece]:
    options = intake.options
    sizes = [check_file(path) for path in paths]
    intake.total = sum(sizes)
    kinds = [options.format or format_of(path) for path in paths]
    kind = kinds[0]
    for path, other in zip(paths, kinds, strict=True):
        if other != kind:
            raise InputError(f"{path} is {other} and {paths[0]} is {kind}: import files of one format at a time")
    arrays = kind in {"npy", "npz"}
    if (target is not None or weight is not None) and (not arrays or len(paths) > 1):
        raise InputError("target= and weight= go with data in memory or one .npy or .npz file: name columns instead")
    if kind != "libsvm" and (options.n_features is not None or options.index_base != 1):
        raise InputError(f"n_features and index_base are for libsvm text, not for {kind}")
    if kind == "libsvm":
        libsvm.check_options(intake)
    if not arrays:
        intake.float_type = np.dtype(options.dtype or "float64")
    roles: Roles | None = None
    for path, size in zip(paths, sizes, strict=True):
        for item in _one(path, kind, intake, target, weight, roles):
            if isinstance(item, Roles):
                roles = item
            else:
                yield item
        intake.base += size


def _one(
    path: Path, kind: str, intake: Intake, target: Any, weight: Any, roles: Roles | None
) -> Iterator[Piece | Roles]:
    assert kind in FORMATS
    if kind == "libsvm":
        return libsvm.read_libsvm(path, intake)
    if kind in _DELIMITERS:
        return read_delimited(path, intake, _DELIMITERS[kind], roles)
    if kind == "npy":
        return read_npy(path, intake, target, weight)
    if kind == "npz":
        return read_npz(path, intake, target, weight)
    return read_frame(parquet(path), intake, roles, last_is_label=True)


def _read_memory(source: Any, intake: Intake, target: Any, weight: Any) -> Iterator[Piece]:
    if intake.options.format is not None:
        raise InputError(f"format={intake.options.format!r} is for files: leave it out for data in memory")
    if is_frame(source):
        frame = frame_of(source)
        intake.total = frame.nbytes
        found = read_frame(frame, intake, None, target, weight)
        return (item for item in found if isinstance(item, Piece))
    if not hasattr(source, "dtype") and not isinstance(source, list | tuple):
        what = f"{type(source).__module__}.{type(source).__name__}"
        raise InputError(f"cannot import a {what}: give a path, an array, a sparse matrix or a data frame")
    try:
        source = source if hasattr(source, "dtype") else np.asarray(source)
    except ValueError as error:
        raise InputError(f"the rows are no 2-D array ({str(error).splitlines()[0]})") from None
    intake.total = int(getattr(source, "nbytes", 0) or 12 * getattr(source, "nnz", 0))
    return read_arrays(source, intake, target, weight, "array")


def _check_rows(tally: Tally, name: str, *, weighted: bool) -> None:
    intake = tally.intake
    if not intake.rows:
        first = (
            f": all {intake.skipped} were skipped, the first because of {intake.reasons[0]}" if intake.skipped else ""
        )
        raise InputError(f"{name}: no rows are left to import{first}")
    if weighted and tally.weight == 0:
        raise InputError(f"{name}: all weights are zero: give at least one row a weight above 0")


def _write(
    storage: Storage, prefix: str, rows: Rows, arrangement: Arrangement, intake: Intake, source: str
) -> RowBlocks:
    options = intake.options
    n_blocks = block_count(intake.rows * arrangement.row_bytes, options.block_bytes)
    keys: list[str] = []
    counts: list[int] = []
    hashes: list[str] = []
    nnz = 0
    weighted = False
    for piece in rows.ordered(-(-intake.rows // n_blocks)):
        block = arrangement.block(piece)
        keys.append(f"{prefix}/block-{len(keys):05d}")
        counts.append(block.n_rows)
        arrays = block.arrays()
        hashes.append(block_hash(arrays))
        storage.put_arrays(keys[-1], arrays)
        nnz += block.X.size if isinstance(block.X, np.ndarray) else int(block.X.data.size)
        weighted = block.weight is not None
        if intake.report is not None:
            intake.report(Progress("write", len(keys), n_blocks, sum(counts)))
    scale_key = None
    if arrangement.scale is not None:
        scale_key = f"{prefix}/columns"
        storage.put_arrays(scale_key, {"scale": arrangement.scale})
    return RowBlocks(
        name=options.name,
        keys=tuple(keys),
        rows=tuple(counts),
        n_features=arrangement.n_features,
        nnz=nnz,
        layout=arrangement.layout,
        dtype="float32" if arrangement.dtype == np.float32 else "float64",
        hashes=tuple(hashes),
        classes=arrangement.classes if options.labelled else None,
        weighted=weighted,
        shuffle_seed=options.seed,
        scale_key=scale_key,
        features=arrangement.features,
        source=source,
    )


def _publish(storage: Storage, data: RowBlocks, old: tuple[RowBlocks, str] | None) -> None:
    try:
        storage.swap(manifest_key(data.name), data.to_json().encode(), None if old is None else old[1])
    except ConflictError:
        raise InputError(
            f"data set {data.name!r} was imported by another process meanwhile: see what it holds"
        ) from None
    if old is not None:
        folder = f"data/{data.name}/"
        for key in {*old[0].keys, old[0].scale_key}:
            if key is not None and key.startswith(folder):
                storage.delete(key)
