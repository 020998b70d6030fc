"""Storage: named objects, written once; state moves by compare-and-swap.

Keys are `/`-separated names of letters, digits and `._-=`. `put` creates and never replaces, so that running a task
twice is safe; `swap` replaces a small state object only when its version is the one the writer read. Arrays come back
as read-only views: memory-mapped from files, shared from memory.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from coordinator import arrays as codec
from coordinator.arrays import NamedArrays
from coordinator.errors import ConflictError, DamagedError, InputError, KeyMissingError, StorageError
from coordinator.processes import born

T = TypeVar("T")
_KEY: Final = re.compile(r"[A-Za-z0-9_=][A-Za-z0-9._=-]*(/[A-Za-z0-9_=][A-Za-z0-9._=-]*)*")
_TEMPORARY: Final = ".tmp"


class Storage(Protocol):
    """Objects by key. All methods may be called from several threads and processes at once.

    Raises KeyMissingError for a key that is not there and ConflictError for a lost race.
    """

    def get(self, key: str) -> bytes: ...
    def put(self, key: str, data: bytes) -> None:
        """Create; ConflictError if the key exists."""

    def swap(self, key: str, data: bytes, version: str | None) -> str:
        """Replace the object if its version is `version` (None: it must not exist); the new version."""
        ...

    def read(self, key: str) -> tuple[bytes, str]:
        """Bytes and version, for `swap`."""
        ...

    def exists(self, key: str) -> bool: ...
    def folders(self, prefix: str) -> list[str]:
        """Names of the folders directly under the folder `prefix`, sorted."""
        ...

    def list(self, prefix: str) -> list[str]:
        """Keys under the folder `prefix`, sorted."""
        ...

    def delete(self, prefix: str) -> int:
        """Remove the key, or every key under the folder, `prefix`; how many went."""
        ...

    def get_arrays(self, key: str) -> NamedArrays: ...
    def put_arrays(self, key: str, arrays: NamedArrays) -> None: ...


def check_key(key: str) -> str:
    """`key` itself; InputError when it is not a valid key."""
    if not _KEY.fullmatch(key) or len(key) > 900:
        raise InputError(f"bad storage key {key!r}: use letters, digits, '.', '_', '=', '-' and '/'")
    return key


def version_of(data: bytes) -> str:
    """A version is a hash of the content."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def json_object(data: bytes, key: str) -> dict[str, Any]:
    """The JSON object that `data` of `key` is; DamagedError for anything else."""
    with suppress(ValueError):
        found = json.loads(data)
        if isinstance(found, dict):
            return found
    raise DamagedError(key)


def json_made(kind: type[T], found: Mapping[str, Any], key: str) -> T:
    """A dataclass of the fields in `found`, which is the JSON object of `key`; DamagedError where they are others."""
    try:
        return kind(**found)
    except TypeError:
        raise DamagedError(key) from None


class MemoryStorage:
    """Objects in this process. Arrays are kept as they are (not copied) and handed out read-only."""

    def __init__(self) -> None:
        self._data: dict[str, bytes] = {}
        self._arrays: dict[str, dict[str, NDArray[Any]]] = {}
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes:
        return self.read(key)[0]

    def read(self, key: str) -> tuple[bytes, str]:
        with self._lock:
            if key not in self._data:
                raise KeyMissingError(f"no object {key!r} in memory")
            data = self._data[key]
        return data, version_of(data)

    def put(self, key: str, data: bytes) -> None:
        check_key(key)
        with self._lock:
            if key in self._data or key in self._arrays:
                raise ConflictError(f"object {key!r} exists already")
            self._data[key] = bytes(data)

    def swap(self, key: str, data: bytes, version: str | None) -> str:
        check_key(key)
        with self._lock:
            found = self._data.get(key)
            if (None if found is None else version_of(found)) != version:
                raise ConflictError(f"object {key!r} was changed by another writer")
            self._data[key] = bytes(data)
        return version_of(data)

    def exists(self, key: str) -> bool:
        return key in self._data or key in self._arrays

    def folders(self, prefix: str) -> list[str]:
        start = len(prefix.rstrip("/")) + 1
        return sorted({key[start:].split("/")[0] for key in self.list(prefix) if "/" in key[start:]})

    def list(self, prefix: str) -> list[str]:
        with self._lock:
            folder = prefix.rstrip("/") + "/" if prefix else ""
            return sorted(k for k in [*self._data, *self._arrays] if k.startswith(folder))

    def delete(self, prefix: str) -> int:
        with self._lock:
            folder = prefix.rstrip("/") + "/"
            keys = [k for k in [*self._data, *self._arrays] if k == prefix or k.startswith(folder)]
            for key in keys:
                self._data.pop(key, None)
                self._arrays.pop(key, None)
        return len(keys)

    def get_arrays(self, key: str) -> NamedArrays:
        found = self._arrays.get(key)
        return found if found is not None else codec.decode(self.get(key), key)

    def put_arrays(self, key: str, arrays: NamedArrays) -> None:
        check_key(key)
        views = {}
        for name, array in arrays.items():
            views[name] = np.asarray(array).view()
            views[name].flags.writeable = False
        with self._lock:
            if key in self._data or key in self._arrays:
                raise ConflictError(f"object {key!r} exists already")
            self._arrays[key] = views


class FileStorage:
    """Objects as files under `root`, durable against a killed process.

    A put writes a temporary file beside the target and links it into place, which fails if the target exists: readers
    see all or nothing. Temporary files bear their writer's process id, so those of dead writers are swept on opening.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).expanduser().resolve()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot use {self.root} as a store: {error.strerror}") from None
        self.sweep()

    def path(self, key: str) -> Path:
        """The file that holds `key`."""
        return self.root / check_key(key)

    def get(self, key: str) -> bytes:
        return self.read(key)[0]

    def read(self, key: str) -> tuple[bytes, str]:
        try:
            data = self.path(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise KeyMissingError(f"no object {key!r} in {self.root}") from None
        return data, version_of(data)

    def put(self, key: str, data: bytes) -> None:
        with self._temporary(key) as temporary:
            temporary.write_bytes(data)
            self._link(temporary, key)

    def swap(self, key: str, data: bytes, version: str | None) -> str:
        with self._lock():
            try:
                found: str | None = self.read(key)[1]
            except KeyMissingError:
                found = None
            if found != version:
                raise ConflictError(f"object {key!r} was changed by another writer")
            with self._temporary(key) as temporary:
                temporary.write_bytes(data)
                temporary.replace(self.path(key))
        return version_of(data)

    def exists(self, key: str) -> bool:
        return self.path(key).is_file()

    def folders(self, prefix: str) -> list[str]:
        base = self.path(prefix.rstrip("/"))
        if not base.is_dir():
            return []
        return sorted(path.name for path in base.iterdir() if path.is_dir() and any(path.iterdir()))

    def list(self, prefix: str) -> list[str]:
        base = self.path(prefix.rstrip("/")) if prefix.strip("/") else self.root
        return sorted(
            path.relative_to(self.root).as_posix()
            for path in base.rglob("*")
            if path.is_file() and not path.name.startswith(".")
        )

    def delete(self, prefix: str) -> int:
        base = self.path(prefix.rstrip("/"))
        if base.is_file():
            base.unlink()
            return 1
        count = len(self.list(prefix))
        shutil.rmtree(base, ignore_errors=True)
        return count

    def get_arrays(self, key: str) -> NamedArrays:
        try:
            return codec.load(self.path(key))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise KeyMissingError(f"no object {key!r} in {self.root}") from None

    def put_arrays(self, key: str, arrays: NamedArrays) -> None:
        with self._temporary(key) as temporary:
            with temporary.open("wb") as file:
                codec.write(file, arrays)
            self._link(temporary, key)

    def _link(self, temporary: Path, key: str) -> None:
        try:
            os.link(temporary, self.path(key))
        except FileExistsError:
            raise ConflictError(f"object {key!r} exists already in {self.root}") from None

    @contextmanager
    def _temporary(self, key: str) -> Iterator[Path]:
        target = self.path(key)
        name = f"{_TEMPORARY}-{os.getpid()}-{threading.get_ident()}-{target.name}"
        temporary = target.with_name(name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
        except OSError as error:
            raise StorageError(f"cannot write {target}: {error.strerror}") from None
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.root / ".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def sweep(self, prefix: str = "") -> None:
        """Remove temporary files under the folder `prefix` whose writers have ended."""
        base = self.path(prefix) if prefix else self.root
        for path in base.rglob(f"{_TEMPORARY}-*-*"):
            pid = path.name.split("-")[1]
            if pid.isdigit() and path.is_file() and born(int(pid)) is None:
                path.unlink(missing_ok=True)
