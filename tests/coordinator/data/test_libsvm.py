import bz2
import gzip
import lzma

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

from coordinator.data import files
from coordinator.data.blocks import Block
from coordinator.data.importing import ImportOptions, import_data
from coordinator.errors import InputError
from coordinator.storage import FileStorage


def matrix(seed=0, n=500, d=40, density=0.2):
    rng = np.random.default_rng(seed)
    X = sparse.random(n, d, density=density, format="csr", random_state=rng, data_rvs=rng.standard_normal)
    return X, rng.standard_normal(n)


@pytest.mark.parametrize("seed", [0, None])
@pytest.mark.parametrize("block_bytes", [2000, 1 << 20])
def test_equals_scikit_learn(tmp_path, load, sort_rows, seed, block_bytes):
    X, y = matrix()
    path = tmp_path / "a.libsvm"
    dump_svmlight_file(X, y, str(path), zero_based=False)
    stored = load(path, seed=seed, block_bytes=block_bytes, n_features=40)
    Xs, ys = load_svmlight_file(str(path), n_features=40)
    assert stored.data.layout == "csr"
    assert (len(stored.data.keys) > 10) == (block_bytes == 2000)
    assert np.array_equal(stored.rows, sort_rows(Xs, ys))
    if seed is None:
        assert np.array_equal(stored.X, Xs.toarray())
        assert np.array_equal(stored.y, ys)


@pytest.mark.parametrize(("suffix", "opener"), [(".gz", gzip.open), (".bz2", bz2.open), (".xz", lzma.open)])
def test_compressed(tmp_path, load, suffix, opener):
    path = tmp_path / f"a.svm{suffix}"
    with opener(path, "wb") as file:
        file.write(b"1 1:2 3:4\n-1 2:5\n")
    stored = load(path, seed=None)
    assert stored.X.tolist() == [[2, 0, 4], [0, 5, 0]]


def test_every_dialect(tmp_path, load):
    text = (
        b"# a comment line\n"
        b"+1 1:0.5 3:-2e-1 # tail 7:7\r\n"
        b"\r\n"
        b"-1   qid:3  2:.25\t\t4:+1.E2  \n"
        b"   \n"
        b"2.5 4:1 1:3\n"  # not in increasing order
        b"0\n"  # no features
        b"1 2:0 3:7"  # a stored zero, no newline at the end
    )
    path = tmp_path / "a.libsvm"
    path.write_bytes(text)
    stored = load(path, seed=None, layout="csr")
    assert stored.y.tolist() == [1, -1, 2.5, 0, 1]
    assert stored.X.tolist() == [[0.5, 0, -0.2, 0], [0, 0.25, 0, 100], [3, 0, 0, 1], [0, 0, 0, 0], [0, 0, 7, 0]]
    assert stored.data.nnz == 7
    assert stored.data.classes == (-1.0, 0.0, 1.0, 2.5)


def test_dense_where_most_is_not_zero(tmp_path, load):
    path = tmp_path / "a.libsvm"
    path.write_text("1 1:1 2:2\n0 1:3 2:4\n")
    assert load(path).data.layout == "dense"
    assert load(path, layout="csr").data.layout == "csr"
    assert load(path, n_features=50).data.layout == "csr"


def test_index_base_zero(tmp_path, load):
    path = tmp_path / "a.libsvm"
    path.write_text("1 0:1 2:2\n")
    assert load(path, index_base=0).X.tolist() == [[1, 0, 2]]
    with pytest.raises(InputError, match=r"a\.libsvm, line 1, column 3: index 0, .*index_base=0"):
        load(path)


def test_pieces_of_any_size_read_the_same(tmp_path, load, monkeypatch):
    X, y = matrix(3)
    path = tmp_path / "a.libsvm"
    dump_svmlight_file(X, y, str(path), zero_based=False)
    whole = load(path, scale="std")
    for size in (1, 37, 1000):
        monkeypatch.setattr(files, "PIECE", size)
        stored = load(path, scale="std")
        assert np.array_equal(stored.y, whole.y)
        assert np.allclose(stored.X, whole.X, rtol=1e-12, atol=0)


def test_several_files(tmp_path, load):
    for i in range(3):
        (tmp_path / f"{i}.libsvm").write_text(f"{i} {i + 1}:1\n")
    stored = load([tmp_path / f"{i}.libsvm" for i in range(3)], seed=None, layout="dense")
    assert stored.X.tolist() == np.eye(3).tolist()
    assert stored.data.source == "0.libsvm, ..."


def test_skips_bad_rows(tmp_path, load):
    path = tmp_path / "a.libsvm"
    path.write_text("1 1:1\nx 1:1\n1 1:nan\n1 2:1 2:3\n2 1\n1:1\n3 2:5\n")
    stored = load(path, on_bad_row="skip", seed=None, layout="dense")
    assert stored.X.tolist() == [[1, 0], [0, 5]]
    assert stored.y.tolist() == [1, 3]
    assert stored.report.skipped == 5
    assert {reason.split("line ")[1][0] for reason in stored.report.reasons} == {"2", "3", "4", "5", "6"}


def test_float32(tmp_path, load):
    path = tmp_path / "a.libsvm"
    path.write_text("1 1:0.1\n")
    assert load(path, dtype="float32").X[0, 0] == np.float32(0.1)
    path.write_text("1 1:0.1\n1 1:3.5e38\n")
    with pytest.raises(InputError, match=r"line 2, column 3: the value is 3.5e\+38, too large for float32"):
        load(path, dtype="float32")


def test_a9a(real, load, sort_rows):
    path = real("libsvm/a9a.xz")
    stored = load(path, format="libsvm", n_features=123)
    with lzma.open(path) as file:
        X, y = load_svmlight_file(file, n_features=123)
    assert stored.data.n_rows == 32_561
    assert stored.data.classes == (-1.0, 1.0)
    assert np.array_equal(stored.rows, sort_rows(X, y))


@pytest.mark.e2e
def test_news20(real, tmp_path):
    path = real("libsvm/news20.bz2")
    storage = FileStorage(tmp_path)
    data = import_data(storage, path, ImportOptions("n", format="libsvm")).data
    with bz2.open(path) as file:
        X, y = load_svmlight_file(file)
    assert (data.n_rows, data.n_features) == X.shape == (15_935, 62_061)
    assert data.nnz == np.count_nonzero(X.data)
    assert data.classes == tuple(np.unique(y).tolist())
    blocks = [Block.from_arrays(storage.get_arrays(key), data.n_features) for key in data.keys]
    found, labels = sparse.vstack([block.X for block in blocks]).tocsr(), np.concatenate([block.y for block in blocks])
    probe = np.random.default_rng(0).standard_normal(X.shape[1])  # tells rows apart by one number each
    assert np.allclose(np.sort(found @ probe + 1000 * labels), np.sort(X @ probe + 1000 * y), rtol=1e-12)
