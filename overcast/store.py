"""Where things are kept: which store is meant, which job is meant, and how a data set came into it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from scipy import sparse

from coordinator.data.blocks import RowBlocks, list_data, manifest_key, open_data
from coordinator.data.frames import is_frame
from coordinator.data.importing import ImportOptions, ImportReport, Progress, import_data
from coordinator.errors import ConflictError, InputError, JobMissingError, KeyMissingError, UnknownNameError
from coordinator.jobs import JobStore
from coordinator.listing import list_jobs
from coordinator.profile import Profile, measure, stored_profile
from coordinator.storage import FileStorage, MemoryStorage, Storage

DEFAULT: Final = "overcast-store"
_SUFFIX: Final = re.compile(r"\.(gz|bz2|xz|libsvm|svm|svmlight|csv|tsv|tab|npy|npz|parquet|pq)$", re.IGNORECASE)
_measured: dict[str, Profile] = {}


class _Holder(Protocol):
    @property
    def storage(self) -> Storage: ...


class DataSets:
    """Data sets in the `storage` of a client."""

    def import_data(
        self: _Holder,
        source: Any,
        name: str | None = None,
        *,
        target: Any = None,
        row_weight: Any = None,
        progress: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> ImportReport:
        """Store a data set.

        Parameters
        ----------
        source : path, or list of paths of one format; or array, SciPy sparse matrix, pandas or polars frame.
        name : what to call it; default: the file's name without suffixes.
        target, row_weight : (n,) each, for sources in memory and .npy, .npz files.
        progress : called with how far it is.
        options : fields of `coordinator.data.importing.ImportOptions`, such as label, one_hot, scale, replace.

        Raises InputError for data or options that cannot be used; nothing is stored then.
        """
        if name is None:
            if not isinstance(source, str | os.PathLike):
                raise InputError("give the data a name: import_data(source, name=...)")
            name = data_name(source)
        wanted = import_options(name, **options)
        return bring_in(self.storage, source, wanted, target=target, weight=row_weight, progress=progress)

    def data(self: _Holder) -> tuple[str, ...]:
        """Names of the data sets."""
        return tuple(list_data(self.storage))

    def delete_data(self: _Holder, name: str) -> None:
        """Remove a data set. Jobs that use it can no longer run; their results stay."""
        if not manifest_there(self.storage, name):  # one that is damaged may go
            open_data(self.storage, name)
        self.storage.delete(f"data/{name}")


@dataclass(frozen=True)
class Origin:
    """How a data set came into the store.

    Attributes
    ----------
    options : those of the import, by name; they also say how to read rows to predict.
    source : path, size and time of change of the file ("" and 0: several files, or memory).
    """

    options: Mapping[str, Any]
    source: str = ""
    size: int = 0
    changed: int = 0


def default_store() -> Path:
    """OVERCAST_STORE, or ./overcast-store."""
    return Path(os.environ.get("OVERCAST_STORE") or DEFAULT)


def open_store(store: str | os.PathLike[str] | None) -> Storage:
    """A store in the folder `store`, made if need be, or in a bucket, "s3://BUCKET"; None: in memory."""
    if store is None:
        return MemoryStorage()
    if isinstance(store, str) and store.startswith("s3://"):
        from coordinator.s3 import S3Storage

        return S3Storage(store.removeprefix("s3://").rstrip("/"))
    if Path(store).exists() and not Path(store).is_dir():
        raise InputError(f"cannot use {os.fspath(store)} as a store: it is no folder")
    return FileStorage(store)


def existing_store(store: str | os.PathLike[str] | None) -> FileStorage:
    """The store in the folder `store` (None: the default one), for looking at; InputError when there is none."""
    path = Path(store) if store is not None else default_store()
    if not path.is_dir():
        raise InputError(f"no store at {path}: import data first, or name another one with --store")
    return FileStorage(path)


def profile_of(storage: Storage) -> Profile:
    """The machine's rates, measured once for each folder, and once in this process for all stores in memory."""
    if not isinstance(storage, MemoryStorage):
        return stored_profile(storage)
    if "memory" not in _measured:
        _measured["memory"] = measure()
    return _measured["memory"]


def data_name(source: str | os.PathLike[str]) -> str:
    """What a data set from this file is called: the file's name without suffixes of format and compression."""
    name = Path(source).name
    while (shorter := _SUFFIX.sub("", name)) not in {name, ""}:
        name = shorter
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", name).lstrip(".-") or "data"


def bring_in(
    storage: Storage,
    source: Any,
    options: ImportOptions,
    *,
    target: Any = None,
    weight: Any = None,
    progress: Callable[[Progress], None] | None = None,
) -> ImportReport:
    """Import `source` and remember how."""
    report = import_data(storage, source, options, target=target, weight=weight, progress=progress)
    origin = _origin(source, options)
    key = _origin_key(options.name)
    version: str | None = None
    with suppress(KeyMissingError):
        version = storage.read(key)[1]
    with suppress(ConflictError):  # another process has just replaced the data, and says how
        storage.swap(key, json.dumps(asdict(origin)).encode(), version)
    return report


def origin_of(storage: Storage, name: str) -> Origin | None:
    """How the data set `name` came in, if that is known."""
    try:
        raw = json.loads(storage.get(_origin_key(name)))
        return Origin(**raw)
    except (KeyMissingError, ValueError, TypeError):
        return None


def find_data(
    storage: Storage,
    data: str | os.PathLike[str],
    options: Mapping[str, Any],
    progress: Callable[[Progress], None] | None = None,
) -> RowBlocks:
    """The data set that `data` names; when it is a file, the data set of its name, imported now if it is not there.

    Raises
    ------
    InputError
        For neither a data set nor a file, for options that differ from those of an earlier import, and for a file
        that has changed since, unless `options` say replace.
    """
    text = os.fspath(data)
    if isinstance(data, str) and manifest_there(storage, text):
        if options and not Path(text).is_file():
            raise InputError(f"data set {text!r} is imported already: import options go with a file")
        if not options:
            return open_data(storage, text)
    if not Path(text).exists():
        if isinstance(data, str) and not re.search(r"[/.]", text):
            return open_data(storage, text)
        raise InputError(f"no data set or file {text!r}{_have(storage)}")
    wanted = import_options(data_name(text), **options)
    if wanted.replace or not manifest_there(storage, wanted.name):
        return bring_in(storage, Path(text), wanted, progress=progress).data
    before = origin_of(storage, wanted.name)
    now = _origin(Path(text), wanted)
    if before is None or before != now:
        what = "from other bytes or with other options" if before and before.source == now.source else "from elsewhere"
        raise InputError(
            f"data set {wanted.name!r} was imported {what}: pass replace=True to import {text} in its place, or "
            "choose another name="
        )
    return open_data(storage, wanted.name)


def bring_data(
    storage: Storage, data: Any, options: Mapping[str, Any], progress: Callable[[Progress], None] | None = None
) -> str:
    """The name of a data set, imported into `storage` if need be: `data` as for `Client.submit`."""
    if isinstance(data, str | os.PathLike):
        return find_data(storage, data, options, progress).name
    if not isinstance(data, tuple) or len(data) not in {2, 3}:
        raise InputError("data must be the name of a data set, a path, or a tuple (X, y) or (X, y, weight)")
    X, y, weight = (*data, None)[:3]
    name = f"arrays-{_content(X, y, weight)}"
    if not manifest_there(storage, name):
        bring_in(storage, X, import_options(name), target=y, weight=weight)
    return name


def import_options(default_name: str, **options: Any) -> ImportOptions:
    """Import options from names and values; InputError for names that are none."""
    known = [field.name for field in fields(ImportOptions)]
    for key in options:
        if key not in known:
            raise UnknownNameError("import option", key, known)
    if isinstance(options.get("one_hot"), list):
        options["one_hot"] = tuple(options["one_hot"])
    return ImportOptions(**{"name": default_name} | options)


def manifest_there(storage: Storage, name: str) -> bool:
    """Whether there is a data set of this name."""
    try:
        return storage.exists(manifest_key(name))
    except InputError:
        return False


def find_job(store: JobStore, text: str | None, states: tuple[str, ...] = ()) -> str:
    """The id of the job that `text` means: an id or its unambiguous beginning; None: the newest (in these states).

    Raises JobMissingError when there is none, InputError when several begin like this.
    """
    if text:
        ids = store.ids()
        if text in ids:
            return text
        found = [job for job in ids if job.startswith(text)]
        if len(found) > 1:
            raise InputError(f"{len(found)} jobs begin with {text!r}: {', '.join(found[:4])}; write more of the id")
        return found[0] if found else store.spec(text).id
    for job in reversed(list_jobs(store)):
        if not states or job.status.state in states:
            return job.id
    what = f"no {' or '.join(states)} job" if states else "no job"
    raise JobMissingError(f"{what} in this store")


def _content(*parts: Any) -> str:
    """A short hash of arrays, sparse matrices and frames."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if part is None:
            arrays: list[Any] = []
        elif sparse.issparse(part):
            csr = sparse.csr_matrix(part)
            arrays = [np.array(csr.shape), csr.data, csr.indices, csr.indptr]
        elif is_frame(part):
            arrays = [np.array([str(c) for c in part.columns])] + [np.asarray(part[c]) for c in part.columns]
        else:
            arrays = [np.asarray(part)]
        digest.update(f"{len(arrays)};".encode())
        for array in arrays:
            digest.update(f"{array.shape}{array.dtype};".encode())
            if array.dtype.kind in "OT":
                digest.update("\0".join(map(str, array.ravel().tolist())).encode())
            else:
                digest.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return digest.hexdigest()


def _origin_key(name: str) -> str:
    return f"data/{name}/origin.json"


def _origin(source: Any, options: ImportOptions) -> Origin:
    plain = {key: value for key, value in asdict(options).items() if key != "replace"}
    plain["one_hot"] = list(plain["one_hot"])
    if not isinstance(source, str | os.PathLike):
        return Origin(plain)
    path = Path(source)
    try:
        stat = path.stat()
    except OSError:
        return Origin(plain)
    return Origin(plain, str(path.resolve()), stat.st_size, stat.st_mtime_ns)


def _have(storage: Storage) -> str:
    known = list_data(storage)
    return f"; there are: {', '.join(known)}" if known else "; nothing has been imported yet, see `overcast import`"
