"""What cannot be imported: one line that names the place and what to do, and nothing left in the store."""

import gzip
import io
import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse

from coordinator.data.importing import ImportOptions, import_data
from coordinator.errors import InputError
from coordinator.storage import FileStorage


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npz(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def sparse_npz() -> bytes:
    buffer = io.BytesIO()
    sparse.save_npz(buffer, sparse.eye(3, format="csr"))
    return buffer.getvalue()


GOOD_CSV = b"a,b,y\n1,2,3\n4,5,6\n"
FILES = {
    # name: (bytes, options, what the message says)
    "number.csv": (b"1,2,3\n4,x5,6\n", {}, r"number\.csv, line 2, column 2: the value 'x5' is not a number; .*one_hot"),
    "named.csv": (b"a,b,y\n1,2,3\n4,x,6\n", {}, r"line 3, column 2 \('b'\): the value 'x' .*one_hot=\('b',\)"),
    "ragged.csv": (b"1,2,3\n4,5\n", {}, r"line 2: 2 fields where 3 are expected"),
    "long.csv": (b"1,2,3\n4,5,6,7\n", {}, r"line 2: 4 fields where 3 are expected"),
    "nan.csv": (b"1,2,3\n4,NaN,6\n", {}, r"line 2, column 2: the value is 'NaN': fill it in.*skip"),
    "inf.csv": (b"1,2,3\n4,-inf,6\n", {}, r"line 2, column 2: the value is '-inf'"),
    "huge.csv": (b"1,2,3\n4,1e999,6\n", {}, r"line 2, column 2: the value is infinite or too large for a float64"),
    "single.csv": (b"1,2,3\n4,1e39,6\n", {"dtype": "float32"}, r"line 2, column 2: .*too large for float32"),
    "empty-field.csv": (b"1,2,3\n4,,6\n", {}, r"line 2, column 2: the value is missing"),
    "label.csv": (b"1,2,3\n4,5,\n", {}, r"line 2, column 3: the label is missing"),
    "mixed.csv": (b"1,2,3\n4,5,cat\n", {}, r"line 2, column 3: the label 'cat' is not a number, as the labels before"),
    "under.csv": (b"1,2,3\n4,1_0,6\n", {}, r"line 2, column 2: the value '1_0' is not a number"),
    "quote.csv": (b'1,2,3\n4,"5"x,6\n', {}, r"quote\.csv, line 2: bad quoting"),
    "open.csv": (b'1,2,3\n4,"5,6\n', {}, r"open\.csv, line \d: bad quoting"),
    "header.csv": (b"a,2,y\n1,2,3\n", {}, r"line 1, column 1: the value 'a' .*pass header=True"),
    "only-header.csv": (b"a,b,y\n", {}, r"no rows are left"),
    "blank.csv": (b"\n\n", {}, r"blank\.csv holds no rows"),
    "one.csv": (b"1\n2\n", {}, r"one\.csv, line 1: one column only: the separator here is ','"),
    "no-column.csv": (GOOD_CSV, {"label": "z"}, r"no column 'z' for the label; there are 3: a, b, y"),
    "no-index.csv": (GOOD_CSV, {"label": 7}, r"no column 7 for the label: there are 3"),
    "no-hot.csv": (GOOD_CSV, {"one_hot": ("q",)}, r"no column 'q' for one_hot"),
    "no-weight.csv": (GOOD_CSV, {"weight": "w"}, r"no column 'w' for weights"),
    "two-roles.csv": (GOOD_CSV, {"weight": "y"}, r"column 'y' is given two roles"),
    "twice.csv": (b"a,a,y\n1,2,3\n", {}, r"two columns are called 'a': rename one"),
    "no-features.csv": (b"a,y\n1,2\n", {"weight": "a"}, r"no column is left for features"),
    "negative.csv": (b"1,-2,3\n", {"weight": 1}, r"line 1, column 2: the weight -2 is negative"),
    "nan-weight.csv": (b"1,nan,3\n", {"weight": 1}, r"line 1, column 2: the weight is 'nan'"),
    "zero.csv": (b"1,0,3\n1,0,3\n", {"weight": 1}, r"all weights are zero"),
    "all-bad.csv": (b"1,2,3\n1,x,3\n", {"header": True, "on_bad_row": "skip"}, r"left .*all 1 were skipped.*line 2"),
    "many-labels.csv": (b"".join(b"1,c%d\n" % i for i in range(1200)), {}, r"text of over 1000 distinct values"),
    "base.csv": (GOOD_CSV, {"index_base": 0}, r"index_base are for libsvm text, not for csv"),
    "empty.csv": (b"", {}, r"empty\.csv is empty"),
    "cut.csv.gz": (gzip.compress(GOOD_CSV * 100)[:-20], {}, r"cut\.csv\.gz: damaged or cut-short \.gz data .*fetch"),
    "no-gzip.csv.gz": (GOOD_CSV, {}, r"damaged or cut-short \.gz data"),
    "no-bz2.csv.bz2": (GOOD_CSV, {}, r"damaged \.bz2 data"),
    "no-xz.csv.xz": (GOOD_CSV, {}, r"damaged or cut-short \.xz data"),
    "a.txt": (GOOD_CSV, {}, r"a\.txt: cannot tell the format from the name; say format= one of libsvm, csv"),
    "label.svm": (b"1 1:1\n2:3 4:5\n", {}, r"label\.svm, line 2: no label before '2:3'"),
    "bad-label.svm": (b"1 1:1\nx 1:1\n", {}, r"line 2, column 1: the label 'x' is not a finite number"),
    "multi.svm": (b"1,2 1:1\n", {}, r"line 1, column 1: the label '1,2' .*several labels"),
    "value.svm": (b"1 1:1 2:z\n", {}, r"line 1, column 7: the value 'z' is not a number"),
    "no-value.svm": (b"1 1:1 2: 3:1\n", {}, r"line 1, column 7: '2:' is not index:value"),
    "no-colon.svm": (b"1 1:1 2\n", {}, r"line 1, column 7: '2' is not index:value"),
    "colons.svm": (b"1 1:1:2\n", {}, r"line 1, column 3: '1:1:2' is not index:value"),
    "negative.svm": (b"1 -1:1\n", {}, r"line 1, column 3: the index '-1' is not a whole number from 1 up"),
    "fraction.svm": (b"1 1.5:1\n", {}, r"the index '1.5' is not a whole number"),
    "twice.svm": (b"1 1:1\n1 2:1 1:4 2:5\n", {}, r"line 2, column 11: index 2 occurs twice"),
    "beyond.svm": (b"1 1:1 9:1\n", {"n_features": 5}, r"line 1, column 7: index 9 is beyond n_features=5"),
    "overflow.svm": (b"1 3000000000:1\n", {}, r"index 3000000000 is beyond what 32-bit indices hold"),
    "long.svm": (b"1 99999999999999999999999:1\n", {}, r"index 9{23} is beyond what 32-bit"),
    "nan.svm": (b"1 1:nan\n", {}, r"line 1, column 3: the value is not a number \(NaN\)"),
    "comments.svm": (b"# nothing\n\n", {}, r"no rows are left"),
    "labels.svm": (b"1\n2\n", {}, r"no line has an index:value"),
    "hot.svm": (b"1 1:1\n", {"one_hot": (1,)}, r"one_hot=\(1,\) is for tables"),
    "binary.svm": (bytes(range(256)), {}, r"binary\.svm, line 1"),
    "pickle.npy": (npy(np.array([[1, "x"], [None, 2]], dtype=object)), {}, r"not a \.npy file of numbers.*pickles"),
    "text.npy": (npy(np.array([["a", "b"]])), {}, r"values of type <U1 cannot be used"),
    "complex.npy": (npy(np.ones((2, 2)) * 1j), {}, r"values of type complex128"),
    "vector.npy": (npy(np.ones(3)), {}, r"rows must be a 2-D array, not 1-D"),
    "cube.npy": (npy(np.ones((2, 2, 2))), {}, r"rows must be a 2-D array, not 3-D"),
    "nan.npy": (npy(np.array([[1, 2, 3], [4, np.nan, 6.0]])), {}, r"nan\.npy, row 1, column 1: the value is not"),
    "no-rows.npy": (npy(np.ones((0, 3))), {}, r"0 rows and 3 columns"),
    "garbage.npy": (b"garbage", {}, r"not a \.npy file"),
    "cut.npy": (npy(np.ones((50, 3)))[:-100], {}, r"cut\.npy: not a \.npy file"),
    "column.npy": (npy(np.ones((5, 3))), {"label": 8}, r"no column 8: columns of an array are 0 to 2"),
    "wrong.npz": (npz(A=np.ones((2, 2)), y=np.ones(2)), {}, r"wrong\.npz: no array 'X' for the rows; it holds A, y"),
    "no-y.npz": (npz(X=np.ones((2, 2))), {}, r"no array 'y' for the targets; it holds X"),
    "lengths.npz": (npz(X=np.ones((2, 2)), y=np.ones(3)), {}, r"2 rows but 3 targets"),
    "object.npz": (npz(X=np.array([[1, None]]), y=np.ones(1)), {}, r"not an \.npz file of numbers"),
    "sparse.npz": (sparse_npz(), {}, r"holds a sparse matrix and no targets"),
    "garbage.npz": (b"PK\x03\x04garbage", {}, r"not an \.npz file"),
    "garbage.parquet": (b"PAR1garbage", {}, r"not a readable Parquet file"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_file(tmp_path, name):
    data, options, message = FILES[name]
    path = tmp_path / name
    path.write_bytes(data)
    refused(tmp_path, path, options, message)


def refused(tmp_path, source, options, message, **arrays):
    storage = FileStorage(tmp_path / "store")
    with pytest.raises(InputError) as caught:
        import_data(storage, source, ImportOptions(**{"name": "t", **options}), **arrays)
    text = str(caught.value)
    assert "\n" not in text
    assert re.search(message, text), text
    assert storage.list("") == []
    assert not [path for path in storage.root.rglob("*") if path.is_file() and path.name != ".lock"]


X = np.arange(12.0).reshape(4, 3)
Y = np.arange(4.0)
BAD = X.copy()
BAD[2, 1] = np.inf


@pytest.mark.parametrize(
    ("source", "arrays", "options", "message"),
    [
        (X, {}, {}, r"no targets: pass target="),
        (X, {"target": Y[:3]}, {}, r"4 rows but 3 targets"),
        (X, {"target": Y.reshape(2, 2)}, {}, r"targets must be a 1-D array"),
        (X, {"target": Y * 1j}, {}, r"targets of type complex128"),
        (X, {"target": [1, 2, "x", 4]}, {"layout": "rows"}, r"unknown layout 'rows'"),
        (X, {"target": np.array([1, 2, "x", 4], dtype=object)}, {}, r"row 0: the target 1 is no text"),
        (X, {"target": np.array([1, {}, 3, 4], dtype=object)}, {}, r"all be numbers or all be text"),
        (X, {"target": [1, 2, np.nan, 4]}, {}, r"row 2: the target is missing or not finite"),
        (X, {"target": Y, "weight": -Y}, {}, r"row 1: the weight -1 is not a number from 0 up"),
        (X, {"target": Y, "weight": Y * np.nan}, {}, r"row 0: the weight nan"),
        (X, {"target": Y, "weight": Y * 0}, {}, r"all weights are zero"),
        (X, {"target": Y, "weight": Y[:2]}, {}, r"weights of shape \(2,\)"),
        (BAD, {"target": Y}, {}, r"array, row 2, column 1: the value is infinite"),
        (sparse.csr_matrix(BAD), {"target": Y}, {}, r"array, row 2, column 1: the value is infinite"),
        (
            sparse.csr_matrix(X * 1e300),
            {"target": Y},
            {"dtype": "float32"},
            r"row 0, column 1: .*too large for float32",
        ),
        (X * 1j, {"target": Y}, {}, r"type complex128"),
        (X.astype(str), {"target": Y}, {}, r"values of type <U"),
        (X.astype(object), {"target": Y}, {}, r"values of type object"),
        (X[0], {"target": Y}, {}, r"2-D array, not 1-D"),
        ([[1, 2], [3]], {"target": [1, 2]}, {}, r"the rows are no 2-D array"),
        ({"a": 1}, {}, {}, r"cannot import a builtins\.dict"),
        (None, {}, {}, r"cannot import a builtins\.NoneType"),
        (X, {"target": Y}, {"one_hot": ("a",)}, r"one_hot is for tables"),
        (X, {"target": Y}, {"format": "csv"}, r"format='csv' is for files"),
        (X, {"target": Y}, {"name": "a/b"}, r"bad data set name 'a/b'"),
        (X, {"target": Y}, {"name": ""}, r"bad data set name ''"),
        (X, {"target": Y}, {"name": ".."}, r"bad data set name '\.\.'"),
        (X, {"target": Y}, {"dtype": "int8"}, r"unknown dtype 'int8'"),
        (X, {"target": Y}, {"scale": "sdt"}, r"unknown scale 'sdt': did you mean 'std'"),
        (X, {"target": Y}, {"on_bad_row": "drop"}, r"unknown on_bad_row 'drop'"),
        (X, {"target": Y}, {"format": "arff"}, r"unknown format 'arff'"),
        (X, {"target": Y}, {"seed": -1}, r"seed is a number from 0 up"),
        (X, {"target": Y}, {"block_bytes": 0}, r"block_bytes is a number"),
        (X, {"target": Y}, {"one_hot": "abc"}, r"one_hot is a tuple of columns"),
        (X * [[1, 1, 1e-300]] + [[0, 0, 1]], {"target": Y}, {"scale": "std", "dtype": "float32"}, None),
        (pd.DataFrame(X), {}, {}, r"frame: no targets: pass target="),
        (pd.DataFrame({"a": ["x"], "y": [1]}), {}, {"label": "y"}, r"column 1 \('a'\) holds text: .*one_hot=\('a',\)"),
        (pd.DataFrame({"a": pd.to_datetime(["2020"]), "y": [1]}), {}, {"label": "y"}, r"\('a'\) is of type datetime64"),
        (pl.DataFrame({"a": [[1]], "y": [1]}), {}, {"label": "y"}, r"\('a'\) is of type List"),
        (pl.DataFrame({"a": [1, None], "y": [1, 2]}), {}, {"label": "y"}, r"frame, row 1, column 1 \('a'\): .*NaN"),
        (pd.DataFrame({"a": [1, 2], "y": [1, None]}), {}, {"label": "y"}, r"frame, row 1: the target is missing"),
        (pd.DataFrame({"a": [1, 2]}), {"target": [1, 2, 3]}, {}, r"2 rows but targets of shape \(3,\)"),
        (pd.DataFrame({"a": [1, 2]}), {"target": [1]}, {}, r"2 rows but targets of shape \(1,\)"),
    ],
)
def test_memory(tmp_path, source, arrays, options, message):
    if message is None:
        import_data(FileStorage(tmp_path), source, ImportOptions("t", **options), **arrays)
    else:
        refused(tmp_path, source, options, message, **arrays)


def test_sources_that_are_no_files(tmp_path):
    refused(tmp_path, tmp_path / "absent.csv", {}, r"cannot read .*absent\.csv: No such file")
    refused(tmp_path, tmp_path, {"format": "csv"}, r"is a directory: give a file")
    refused(tmp_path, [], {}, r"no files to import")
    (tmp_path / "a.csv").write_bytes(GOOD_CSV)
    (tmp_path / "a.svm").write_bytes(b"1 1:1\n")
    (tmp_path / "b.csv").write_bytes(b"1,2\n")
    (tmp_path / "c.csv").write_bytes(b"a,c,y\n1,2,3\n")
    a = tmp_path / "a.csv"
    refused(tmp_path, [a, tmp_path / "a.svm"], {}, r"a\.svm is libsvm and .*a\.csv is csv")
    refused(tmp_path, [a, tmp_path / "b.csv"], {}, r"b\.csv, line 1: 2 fields, but the files before have 3")
    refused(tmp_path, [a, tmp_path / "c.csv"], {}, r"c\.csv, line 1: other column names")
    refused(tmp_path, a, {}, r"target= and weight= go with", target=[1, 2])
    np.save(tmp_path / "a.npy", np.ones((3, 2)))
    np.save(tmp_path / "b.npy", np.ones((3, 3)))
    refused(tmp_path, [tmp_path / "a.npy", tmp_path / "b.npy"], {}, r"files differ: 2 columns here, 1 before")


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1")
    refused(tmp_path, path, {}, r"needs pyarrow: pip install 'overcast\[parquet\]'")
