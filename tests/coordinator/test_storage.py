"""All stores keep the same promises."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from coordinator.errors import ConflictError, InputError, KeyMissingError, StorageError
from coordinator.storage import FileStorage, MemoryStorage, check_key, version_of


@pytest.fixture(params=["files", "memory", "s3"])
def storage(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("s3")
    return FileStorage(tmp_path / "store") if request.param == "files" else MemoryStorage()


def test_put_and_get(storage):
    storage.put("a/b/c", b"one")
    assert storage.get("a/b/c") == b"one"
    assert storage.read("a/b/c")[0] == b"one"
    assert storage.exists("a/b/c")
    assert not storage.exists("a/b")
    assert not storage.exists("a/b/d")


def test_put_creates_only(storage):
    storage.put("a", b"one")
    with pytest.raises(ConflictError, match="object 'a' exists already"):
        storage.put("a", b"two")
    with pytest.raises(ConflictError):
        storage.put_arrays("a", {"x": np.zeros(1)})
    assert storage.get("a") == b"one"


def test_arrays(storage):
    arrays = {"x": np.arange(6.0).reshape(2, 3), "i": np.arange(3, dtype=np.int32)}
    storage.put_arrays("a/x", arrays)
    found = storage.get_arrays("a/x")
    assert found.keys() == arrays.keys()
    for name, array in found.items():
        assert np.array_equal(array, arrays[name])
        assert array.dtype == arrays[name].dtype
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    with pytest.raises(ConflictError):
        storage.put_arrays("a/x", arrays)
    with pytest.raises(ConflictError):
        storage.put("a/x", b"")
    assert storage.list("a") == ["a/x"]
    assert storage.exists("a/x")


def test_arrays_of_a_caller_stay_writable(storage):
    array = np.zeros(3)
    storage.put_arrays("a", {"x": array})
    array[0] = 1


def test_arrays_from_bytes(storage):
    from coordinator import arrays as codec

    storage.put("a", codec.encode({"x": np.arange(3.0)}))
    assert storage.get_arrays("a")["x"].tolist() == [0, 1, 2]
    storage.put("b", b"not arrays")
    with pytest.raises(StorageError, match="no array header"):
        storage.get_arrays("b")
    storage.put("c", b"")
    with pytest.raises(StorageError):
        storage.get_arrays("c")


@pytest.mark.parametrize("method", ["get", "read", "get_arrays"])
def test_missing_keys(storage, method):
    storage.put("a/b", b"")
    for key in ("x", "a", "a/b/c", "a/x"):
        with pytest.raises(KeyMissingError, match="no object"):
            getattr(storage, method)(key)


def test_list_and_delete(storage):
    for key in ("a/x", "a/y/z", "ab/x", "b"):
        storage.put(key, b"")
    storage.put_arrays("a/w", {"x": np.zeros(2)})
    assert storage.list("a") == storage.list("a/") == ["a/w", "a/x", "a/y/z"]
    assert storage.list("absent") == []
    assert storage.folders("a") == ["y"]
    assert storage.folders("b") == storage.folders("absent") == []
    assert storage.delete("a/x") == 1
    assert storage.delete("a/x") == 0
    assert storage.delete("a") == 2
    assert storage.list("a") == []
    assert storage.exists("ab/x")
    assert storage.delete("b") == 1
    storage.put("b", b"again")


def test_list_everything(storage):
    storage.put("a/x", b"")
    storage.put("b", b"")
    version = storage.swap("c", b"", None)
    storage.swap("c", b"1", version)
    assert storage.list("") == ["a/x", "b", "c"]


@pytest.mark.parametrize(
    "key",
    ["", "/", "/a", "a/", "a//b", "../a", "a/../b", ".a", "a/.b", "a b", "a\n", "ä", "a\\b", "a" * 901, "-a", "a\0"],
)
def test_bad_keys(storage, key):
    for write in (
        lambda: storage.put(key, b""),
        lambda: storage.swap(key, b"", None),
        lambda: storage.put_arrays(key, {}),
    ):
        with pytest.raises(InputError, match="bad storage key"):
            write()
    assert storage.list("") == []


def test_good_keys():
    for key in ("a", "A/b.c_d-e=f", "_a", "=", "0/1", "a" * 900):
        assert check_key(key) == key


def test_swap(storage):
    first = storage.swap("s", b"1", None)
    assert storage.read("s") == (b"1", first)
    with pytest.raises(ConflictError, match="changed by another writer"):
        storage.swap("s", b"2", None)
    second = storage.swap("s", b"2", first)
    with pytest.raises(ConflictError):
        storage.swap("s", b"3", first)
    assert storage.read("s") == (b"2", second)
    with pytest.raises(ConflictError):
        storage.swap("absent", b"1", second)
    assert not storage.exists("absent")


def together(n, run):
    """`run(i)` in n threads at once; what each returned or raised."""
    out = [None] * n
    barrier = threading.Barrier(n)

    def one(i):
        barrier.wait(10)
        try:
            out[i] = run(i)
        except (StorageError, InputError) as error:
            out[i] = error

    threads = [threading.Thread(target=one, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return out


@pytest.mark.parametrize("kind", ["put", "put_arrays", "swap"])
def test_one_writer_wins(storage, kind):
    def write(i):
        if kind == "put":
            storage.put("k/race", bytes([i]) * 1000)
        elif kind == "swap":
            storage.swap("k/race", bytes([i]) * 1000, None)
        else:
            storage.put_arrays("k/race", {"x": np.full(1000, i, dtype=np.int32)})

    for _ in range(5):
        results = together(8, write)
        losers = [r for r in results if r is not None]
        assert len(losers) == 7
        assert all(isinstance(r, ConflictError) for r in losers)
        winner = results.index(None)
        if kind == "put_arrays":
            assert storage.get_arrays("k/race")["x"].tolist() == [winner] * 1000
        else:
            assert storage.get("k/race") == bytes([winner]) * 1000
        storage.delete("k")


def test_swaps_lose_no_update(storage):
    storage.swap("n", b"0", None)

    def add(_):
        for _ in range(20):
            while True:
                data, version = storage.read("n")
                try:
                    storage.swap("n", str(int(data) + 1).encode(), version)
                    break
                except ConflictError:
                    continue

    assert together(4, add) == [None] * 4
    assert storage.get("n") == b"80"


def test_readers_see_all_or_nothing(storage):
    stop = threading.Event()
    torn = []

    def read():
        while not stop.is_set():
            for i in range(50):
                try:
                    data = storage.get(f"k/{i}")
                except KeyMissingError:
                    continue
                if len(data) != 100_000:
                    torn.append(len(data))

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(50):
        storage.put(f"k/{i}", bytes(100_000))
    stop.set()
    reader.join()
    assert not torn


class TestFiles:
    def test_version_is_a_hash(self, tmp_path):
        storage = FileStorage(tmp_path)
        storage.put("a", b"one")
        assert storage.read("a") == (b"one", version_of(b"one"))

    def test_survives_reopening(self, tmp_path):
        FileStorage(tmp_path).put("a/b", b"1")
        assert FileStorage(str(tmp_path)).get("a/b") == b"1"

    def test_leaves_no_temporaries(self, tmp_path):
        storage = FileStorage(tmp_path)
        storage.put("a/b", b"1")
        with pytest.raises(ConflictError):
            storage.put("a/b", b"2")
        with pytest.raises(InputError):
            storage.put_arrays("a/c", {"x": np.zeros(1, dtype=complex)})
        assert [path.name for path in tmp_path.rglob("*")] == ["a", "b"]

    def test_sweeps_what_dead_writers_left(self, tmp_path):
        storage = FileStorage(tmp_path)
        storage.put("a/b", b"1")
        child = subprocess.Popen([sys.executable, "-c", ""])
        child.wait()
        dead = tmp_path / "a" / f".tmp-{child.pid}-1-b"
        alive = tmp_path / "a" / f".tmp-{os.getpid()}-1-b"
        dead.write_bytes(b"half")
        alive.write_bytes(b"half")
        again = FileStorage(tmp_path)
        assert not dead.exists()
        assert alive.exists()
        assert again.list("") == ["a/b"]

    def test_sweeps_one_folder_and_after_processes_not_yet_collected(self, tmp_path):
        storage = FileStorage(tmp_path)
        child = subprocess.Popen([sys.executable, "-c", ""])
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        left = [tmp_path / folder / f".tmp-{child.pid}-1-x" for folder in ("a", "b")]
        for path in left:
            path.parent.mkdir()
            path.write_bytes(b"half")
        storage.sweep("a")
        assert [path.exists() for path in left] == [False, True]
        child.wait()

    def test_arrays_are_mapped(self, tmp_path):
        storage = FileStorage(tmp_path)
        storage.put_arrays("a", {"x": np.zeros(1000)})
        found = storage.get_arrays("a")["x"]
        assert not found.flags.owndata
        storage.delete("a")
        assert found.sum() == 0  # a mapped file outlives its name

    def test_cut_short_file_is_refused(self, tmp_path):
        storage = FileStorage(tmp_path)
        storage.put_arrays("a", {"x": np.zeros(1000)})
        path = storage.path("a")
        for size in (4000, 20, 3, 0):
            path.write_bytes(path.read_bytes()[:size])
            with pytest.raises(StorageError, match=str(path)):
                storage.get_arrays("a")

    def test_unusable_root(self, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StorageError, match=r"cannot use .*file.* as a store"):
            FileStorage(tmp_path / "file" / "below")
        with pytest.raises(StorageError, match=r"cannot use .*file"):
            FileStorage(tmp_path / "file")

    def test_key_below_an_object(self, tmp_path):
        storage = FileStorage(tmp_path)
        storage.put("a", b"1")
        with pytest.raises(StorageError, match="cannot write"):
            storage.put("a/b", b"1")
        assert not storage.exists("a/b")
