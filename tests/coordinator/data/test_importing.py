"""Arrays, order, scale, memory, and what is left in the store when something goes wrong."""

import threading
import tracemalloc
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import chisquare

from coordinator.data.blocks import list_data, manifest_key, open_data
from coordinator.data.importing import ImportOptions, Progress, import_data
from coordinator.data.intake import Piece
from coordinator.data.shuffle import Rows
from coordinator.errors import InputError, StorageError
from coordinator.storage import FileStorage, MemoryStorage

rng = np.random.default_rng(0)
X = rng.standard_normal((500, 6))
Y = rng.standard_normal(500)
W = rng.uniform(0, 1, 500)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "form", ["c", "fortran", "integers", "half", "csr", "csc", "coo", "csr_array", "npy", "npy-label", "npz", "spz"]
)
def test_arrays(tmp_path, load, sort_rows, form, dtype):
    A = np.round(X * 10) * (rng.uniform(size=X.shape) < 0.5)
    A = A.astype(dtype)
    options, arrays = {}, {"target": Y, "weight": W}
    source = A
    if form == "fortran":
        source = np.asfortranarray(A)
    elif form in {"integers", "half"}:
        source = A.astype(np.int16 if form == "integers" else np.float16)
        dtype = "float64" if form == "integers" else "float32"
    elif form in {"csr", "csc", "coo", "csr_array"}:
        source = getattr(sparse, "csr_array" if form == "csr_array" else f"{form}_matrix")(A)
    elif form == "npy":
        np.save(tmp_path / "a.npy", A)
        source = tmp_path / "a.npy"
    elif form == "npy-label":
        np.save(tmp_path / "a.npy", A)
        np.save(tmp_path / "b.npy", Y)
        source, options, arrays = tmp_path / "a.npy", {"label": str(tmp_path / "b.npy")}, {"weight": W}
    elif form == "npz":
        np.savez(tmp_path / "a.npz", X=A, t=Y, w=W)
        source, options, arrays = tmp_path / "a.npz", {"label": "t", "weight": "w"}, {}
    elif form == "spz":
        sparse.save_npz(tmp_path / "a.npz", sparse.csr_matrix(A))
        source = tmp_path / "a.npz"
    stored = load(source, block_bytes=2000, **arrays, **options)
    assert stored.data.layout == ("csr" if form in {"csr", "csc", "coo", "csr_array", "spz"} else "dense")
    assert stored.data.dtype == dtype
    assert stored.data.weighted
    assert len(stored.data.keys) > 3
    assert np.array_equal(stored.rows, sort_rows(A, Y, W))


def test_columns_of_an_array(tmp_path, load, sort_rows):
    np.save(tmp_path / "a.npy", np.abs(X))
    stored = load(tmp_path / "a.npy", weight=1)
    assert np.array_equal(stored.rows, sort_rows(np.abs(X[:, [0, 2, 3, 4]]), np.abs(X[:, 5]), np.abs(X[:, 1])))
    assert np.array_equal(load(X, label=0).rows, sort_rows(X[:, 1:], X[:, 0]))


def test_text_targets(load):
    words = np.where(Y > 0, "up", "down")
    for target in (words, words.astype(object), words.tolist(), words.astype("S")):
        stored = load(X, target=target, seed=None)
        assert stored.data.classes == ("down", "up")
        assert np.array_equal(stored.y, Y > 0)


def test_one_class_is_no_error(load):
    assert load(X, target=np.ones(500)).data.classes == (1.0,)


def test_duplicate_entries_of_sparse_rows_are_summed(load):
    A = sparse.csr_matrix((np.array([1.0, 2, 3]), np.array([1, 1, 0]), np.array([0, 3])), shape=(1, 2))
    assert load(A, target=[1]).X.tolist() == [[3, 3]]
    assert A.nnz == 3  # the caller's matrix is as it was


def test_skips_bad_rows(load):
    A = X.copy()
    A[3, 2] = np.nan
    t = Y.copy()
    t[5] = np.inf
    for source in (A, sparse.csr_matrix(A)):
        stored = load(source, target=t, on_bad_row="skip", seed=None)
        assert stored.report.skipped == 2
        assert stored.report.reasons[0].startswith("array, row 3, column 2")
        assert np.array_equal(stored.y, np.delete(Y, [3, 5]))


def test_the_store_holds_copies(storage, read):
    A, t = X.copy(), Y.copy()
    report = import_data(storage, A, ImportOptions("t", seed=None), target=t)
    A[:] = t[:] = 0
    stored = read(storage, report)
    assert np.array_equal(stored.X, X)
    assert np.array_equal(stored.y, Y)


class TestOrder:
    def test_same_seed_same_order_whatever_the_pieces(self, tmp_path, load):
        a = load(X, target=Y)
        assert not np.array_equal(a.y, Y)
        for options in ({"block_bytes": 500}, {"layout": "csr"}, {"block_bytes": 5000, "scale": "std"}):
            assert np.array_equal(load(X, target=Y, **options).y, a.y)
        assert not np.array_equal(load(X, target=Y, seed=1).y, a.y)
        assert a.data.shuffle_seed == 0

    def test_none_keeps_the_order(self, load):
        stored = load(X, target=Y, seed=None, block_bytes=700)
        assert np.array_equal(stored.X, X)
        assert stored.data.shuffle_seed is None

    @pytest.mark.parametrize("memory", [0, 4000, 1 << 30])
    def test_spilled_or_held(self, tmp_path, memory):
        def order(seed, memory, run_bytes, rows):
            store = Rows(seed, tmp_path, run_bytes, memory)
            for i in range(0, 1000, 50):
                numbers = np.arange(i, i + 50, dtype=np.float64)
                store.add(Piece(numbers[:, None] * np.ones(3), numbers, weight=numbers))
            pieces = [piece.take(np.arange(piece.n_rows)) for piece in store.ordered(rows)]
            assert [p.n_rows for p in pieces[:-1]] == [rows] * (len(pieces) - 1)
            spilled = len(list(tmp_path.iterdir()))
            assert (spilled > 0) == (store.nbytes > memory)
            store.close()
            assert not list(tmp_path.iterdir())
            return np.concatenate([p.y for p in pieces])

        expected = order(3, 1 << 30, 1 << 30, 1000)
        assert sorted(expected.tolist()) == list(range(1000))
        for run_bytes, rows in ((1, 7), (3000, 64), (9000, 333)):
            assert np.array_equal(order(3, memory, run_bytes, rows), expected)
            assert np.array_equal(order(None, memory, run_bytes, rows), np.arange(1000))

    def test_every_order_is_as_likely(self, tmp_path):
        counts = Counter()
        for seed in range(2400):
            store = Rows(seed, tmp_path, 1)
            store.add(Piece(np.zeros((2, 0)), np.array([0.0, 1.0])))
            store.add(Piece(np.zeros((2, 0)), np.array([2.0, 3.0])))
            counts[tuple(np.concatenate([p.y for p in store.ordered(3)]).astype(int).tolist())] += 1
        assert set(counts) == set(permutations(range(4)))
        assert chisquare(list(counts.values())).pvalue > 1e-3


class TestScale:
    @pytest.mark.parametrize("layout", ["dense", "csr"])
    @pytest.mark.parametrize("kind", ["std", "maxabs"])
    def test_exact(self, load, sort_rows, layout, kind):
        A = (
            (X + np.array([0, 1, 1e6, -3, 0, 0]))
            * [1, 1e-8, 1, 1e12, 1, 1]
            * (rng.uniform(size=X.shape) < [1, 1, 1, 1, 0.2, 0.9])
        )
        source = A if layout == "dense" else sparse.csr_matrix(A)
        stored = load(source, target=Y, scale=kind, seed=None, block_bytes=3000)
        expected = A.std(axis=0) if kind == "std" else np.abs(A).max(axis=0)
        assert stored.data.layout == layout
        assert np.allclose(stored.scale, expected, rtol=1e-10, atol=0)
        assert np.allclose(stored.X * stored.scale, A, rtol=1e-15, atol=0)

    @pytest.mark.parametrize("kind", ["std", "maxabs"])
    def test_constant_columns_are_kept(self, load, kind):
        A = np.column_stack([np.full(500, 0.1), np.zeros(500), X[:, 0]])
        for source in (A, sparse.csr_matrix(A)):
            scale = load(source, target=Y, scale=kind).scale
            assert scale[:2].tolist() == ([1, 1] if kind == "std" else [0.1, 1])

    def test_single_precision(self, load):
        A = X.astype(np.float32)
        stored = load(A, target=Y, scale="std", seed=None)
        assert stored.X.dtype == np.float32
        assert np.array_equal(stored.X, (A / A.astype(np.float64).std(axis=0)).astype(np.float32))

    def test_none(self, load):
        assert load(X, target=Y).data.scale_key is None


class TestStore:
    def test_taken_name(self, storage):
        import_data(storage, X, ImportOptions("t"), target=Y)
        before = storage.list("data")
        with pytest.raises(InputError, match=r"there is a data set 't' already: .*replace=True"):
            import_data(storage, X, ImportOptions("t"), target=Y)
        assert storage.list("data") == before

    def test_replace(self, storage, read):
        old = import_data(storage, X, ImportOptions("t", scale="std"), target=Y)
        new = import_data(storage, X[:10], ImportOptions("t", replace=True), target=Y[:10])
        assert read(storage, new).X.shape == (10, 6)
        assert not any(storage.exists(key) for key in (*old.data.keys, old.data.scale_key))
        assert len(storage.list("data")) == 2
        assert list_data(storage) == ["t"]

    def test_failed_replacement_keeps_the_old(self, storage, read):
        old = import_data(storage, X, ImportOptions("t"), target=Y)
        before = storage.list("data")
        with pytest.raises(InputError):
            import_data(storage, X, ImportOptions("t", replace=True), target=Y * np.nan)
        assert storage.list("data") == before
        assert np.array_equal(np.sort(read(storage, old).y), np.sort(Y))

    @pytest.mark.parametrize("error", [StorageError("disk full"), KeyboardInterrupt()])
    @pytest.mark.parametrize("fail_at", [0, 3])
    @pytest.mark.parametrize("replace", [False, True])
    def test_nothing_is_left_of_a_failed_import(self, tmp_path, monkeypatch, error, fail_at, replace):
        storage = FileStorage(tmp_path)
        if replace:
            import_data(storage, X[:5], ImportOptions("t"), target=Y[:5])
        before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
        put = storage.put_arrays

        def failing(key, arrays):
            if key.endswith(f"{fail_at:05d}"):
                raise error
            put(key, arrays)

        monkeypatch.setattr(storage, "put_arrays", failing)
        with pytest.raises(type(error)):
            import_data(storage, X, ImportOptions("t", block_bytes=2000, replace=replace), target=Y)
        after = sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock")
        assert after == [path for path in before if path.name != ".lock"]

    def test_interrupt_while_rows_are_spilled(self, tmp_path, monkeypatch):
        from coordinator.data import importing, shuffle

        monkeypatch.setattr(shuffle.Rows.__init__, "__defaults__", (0,))
        seen = []

        def stop(progress: Progress):
            seen.extend(tmp_path.rglob(".tmp*"))
            if progress.rows > 300_000:
                raise KeyboardInterrupt

        A = np.zeros((400_000, 4))
        options = ImportOptions("t", block_bytes=1 << 20)
        with pytest.raises(KeyboardInterrupt):
            importing.import_data(FileStorage(tmp_path), A, options, target=A[:, 0], progress=stop)
        assert seen
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]

    def test_two_imports_of_one_name(self, storage):
        results = []
        barrier = threading.Barrier(2)

        def run(progress: Progress):
            if progress.stage == "write" and progress.done == 1:
                barrier.wait(10)

        def one():
            try:
                results.append(import_data(storage, X, ImportOptions("t"), target=Y, progress=run))
            except InputError as error:
                results.append(error)

        threads = [threading.Thread(target=one) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        failed = [result for result in results if isinstance(result, InputError)]
        assert len(failed) == 1
        assert "imported by another process meanwhile" in str(failed[0])
        data = open_data(storage, "t")
        assert storage.list("data") == sorted([*data.keys, manifest_key("t")])


def test_progress(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("".join(f"{i},{i}\n" for i in range(200_000)))
    seen = []
    report = import_data(MemoryStorage(), [path, path], ImportOptions("t"), progress=seen.append)
    reads = [p for p in seen if p.stage == "read"]
    size = 2 * path.stat().st_size
    assert {p.total for p in reads} == {size}
    assert [p.done for p in reads] == sorted(p.done for p in reads)
    assert reads[-1].done == size
    assert len(reads) > 3
    assert seen[-1] == Progress("write", len(report.data.keys), len(report.data.keys), 400_000)
    assert report.seconds > 0


def test_blocks_of_a_size(load):
    A = np.random.default_rng(0).standard_normal((150_000, 40))
    data = load(A, target=A[:, 0]).data
    assert 16 <= len(data.keys) <= 25
    assert max(data.rows) - min(data.rows[:-1]) == 0
    assert load(A, target=A[:, 0], block_bytes=1 << 20).data.nbytes / (1 << 20) <= 46


@pytest.mark.e2e
def test_memory_is_bounded(tmp_path, monkeypatch):
    from coordinator.data import shuffle

    monkeypatch.setattr(shuffle.Rows.__init__, "__defaults__", (8 << 20,))
    path = tmp_path / "a.csv"
    line = ",".join(f"{x:.3f}" for x in X[:50].ravel()) + "\n"
    peaks = []
    for n in (5_000, 40_000):
        with path.open("w") as file:
            for _ in range(n):
                file.write(line)
        tracemalloc.start()
        import_data(FileStorage(tmp_path / f"s{n}"), path, ImportOptions("t", block_bytes=1 << 20))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert n * 300 * 8 > 90 << 20
    assert peaks[1] < 48 << 20
    assert peaks[1] < 1.3 * peaks[0]
