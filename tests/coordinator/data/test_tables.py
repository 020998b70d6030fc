"""CSV, TSV, Parquet and data frames."""

import gzip
import lzma

import numpy as np
import pandas as pd
import polars as pl
import pytest

from coordinator.data import files
from coordinator.errors import InputError


def table(n=300, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "a": rng.standard_normal(n),
            "b": rng.integers(-5, 5, n),
            "colour": rng.choice(["red", "green", "blue"], n),
            "w": rng.uniform(0, 2, n),
            "y": rng.choice(["no", "yes"], n),
        }
    )


def encoded(df):
    """The features as they should be stored: categories sorted, in their column's place."""
    hot = pd.get_dummies(df["colour"]).astype(float)
    return np.column_stack([df["a"], df["b"], hot["blue"], hot["green"], hot["red"]]), (df["y"] == "yes").to_numpy()


WAYS = {
    "csv": lambda df, path: df.to_csv(path / "t.csv", index=False) or path / "t.csv",
    "quoted": lambda df, path: df.to_csv(path / "t.csv", index=False, quoting=1) or path / "t.csv",
    "crlf": lambda df, path: df.to_csv(path / "t.csv", index=False, lineterminator="\r\n") or path / "t.csv",
    "gz": lambda df, path: df.to_csv(path / "t.csv.gz", index=False) or path / "t.csv.gz",
    "tsv": lambda df, path: df.to_csv(path / "t.tsv", index=False, sep="\t") or path / "t.tsv",
    "parquet": lambda df, path: df.to_parquet(path / "t.parquet") or path / "t.parquet",
    "dictionary": lambda df, path: df.astype({"colour": "category"}).to_parquet(path / "t.pq") or path / "t.pq",
    "pandas": lambda df, path: df,
    "category": lambda df, path: df.astype({"colour": "category", "y": "category", "b": "Int64"}),
    "polars": lambda df, path: pl.DataFrame({name: df[name].to_list() for name in df}),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_the_same_table(tmp_path, load, sort_rows, way):
    df = table()
    stored = load(WAYS[way](df, tmp_path), label="y", weight="w", one_hot=("colour",), block_bytes=3000)
    X, y = encoded(df)
    assert stored.data.features == ("a", "b", "colour=blue", "colour=green", "colour=red")
    assert stored.data.classes == ("no", "yes")
    assert np.array_equal(stored.rows, sort_rows(X, y, df["w"]))


@pytest.mark.parametrize("layout", ["dense", "csr"])
def test_layouts_hold_the_same(load, layout):
    df = table()
    a = load(df, label="y", weight="w", one_hot=("colour",), layout=layout, scale="std")
    b = load(df, label="y", weight="w", one_hot=("colour",), scale="std")
    assert a.data.layout == layout
    assert np.allclose(a.X, b.X, rtol=1e-15)


def test_numbers_only_equals_pandas(tmp_path, load, sort_rows):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((400, 7)) * 10.0 ** rng.integers(-12, 12, 7)
    path = tmp_path / "a.csv"
    pd.DataFrame(X).to_csv(path, index=False, header=False)
    assert np.array_equal(load(path).rows, sort_rows(X[:, :-1], X[:, -1]))
    assert np.array_equal(load(path, label=0).rows, sort_rows(X[:, 1:], X[:, 0]))
    assert np.array_equal(load(path, label=-2).rows, sort_rows(np.delete(X, 5, 1), X[:, 5]))
    assert load(path).data.features is None


@pytest.mark.parametrize(
    ("text", "features", "X"),
    [
        ("a,b,y\n1,2,3\n", ("a", "b"), [[1, 2]]),
        ("\ufeffa,b,y\n1,2,3\n", ("a", "b"), [[1, 2]]),
        ("1,2,3\n4,5,6", None, [[1, 2], [4, 5]]),
        ("0,1,2\n4,5,6", ("0", "1"), [[4, 5]]),
        ("\n\n1, 2 ,3\n\n 4,5\t,6 \n\n", None, [[1, 2], [4, 5]]),
        (' 1,"2",3\n"4","5","6"\n', None, [[1, 2], [4, 5]]),
        ('"a, ""x""\ny",b,y\n1,2,3\n', ('a, "x" y', "b"), [[1, 2]]),
    ],
)
def test_dialects(tmp_path, load, text, features, X):
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    stored = load(path, seed=None)
    assert stored.data.features == features
    assert stored.X.tolist() == X


def test_header_as_told(tmp_path, load):
    path = tmp_path / "a.csv"
    path.write_text("1,2\n3,4\n")
    assert load(path, header=True).data.features == ("1",)
    assert load(path, header=False).data.n_rows == 2


def test_lines_are_counted_through_quotes(tmp_path, load):
    path = tmp_path / "a.csv"
    path.write_text('a,t,y\n1,"x\ny\nz",3\n1,"u",oops\n')
    with pytest.raises(InputError, match=r"a\.csv, line 5, column 3 \('y'\): the label 'oops' is not a number"):
        load(path, one_hot=("t",))


@pytest.mark.parametrize("size", [1, 50, 333])
def test_pieces_of_any_size_read_the_same(tmp_path, load, monkeypatch, size):
    df = table(100)
    df.loc[::7, "colour"] = 'dark, "very"\nred'
    path = tmp_path / "a.csv"
    df.to_csv(path, index=False)
    options = {"label": "y", "one_hot": ("colour",)}
    whole = load(path, **options)
    monkeypatch.setattr(files, "PIECE", size)
    stored = load(path, **options)
    assert np.array_equal(stored.X, whole.X)
    assert np.array_equal(stored.y, whole.y)


def test_skips_bad_rows(tmp_path, load):
    path = tmp_path / "a.csv"
    path.write_text("a,c,y\n1,u,p\n2,v\n3,,q\nx,w,q\n4,u,\n5,u,q\n,z,q\nnan,u,r\n")
    stored = load(path, on_bad_row="skip", one_hot=("c",), seed=None, layout="dense")
    assert stored.X.tolist() == [[1, 1], [5, 1]]
    assert stored.data.classes == ("p", "q")
    assert stored.data.features == ("a", "c=u")
    assert stored.report.skipped == 6
    assert len(stored.report.reasons) == 5


def test_frame_skips_missing(load):
    df = pd.DataFrame({"a": [1.0, None, 3.0, 4.0], "c": ["u", "v", None, "w"], "y": ["p", "q", "q", None]})
    stored = load(df, label="y", one_hot=("c",), on_bad_row="skip", layout="dense")
    assert stored.X.tolist() == [[1, 1]]
    assert stored.data.features == ("a", "c=u")
    with pytest.raises(InputError, match=r"frame, row 1, column 1 \('a'\): the value is not a number \(NaN\)"):
        load(df, label="y", one_hot=("c",))


def test_frames_keep_single_precision(tmp_path, load):
    df = pd.DataFrame({"a": np.float32([0.1, 0.2]), "y": np.float32([1, 2])})
    assert load(df, label="y").data.dtype == "float32"
    assert load(df, label="y", dtype="float64").data.dtype == "float64"
    assert load(pl.DataFrame(df.to_dict("series")), label="y").data.dtype == "float32"
    df.to_parquet(tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet").data.dtype == "float32"


def test_target_beside_the_frame(load):
    df = table(50)
    stored = load(df[["a", "b"]], target=df["y"], weight=df["w"], seed=None)
    assert stored.X.tolist() == df[["a", "b"]].to_numpy().tolist()
    assert stored.data.classes == ("no", "yes")
    assert stored.weight.tolist() == df["w"].tolist()


def test_without_targets(tmp_path, load):
    path = tmp_path / "a.csv"
    path.write_text("1,2\n3,4\n")
    stored = load(path, labelled=False, seed=None)
    assert stored.X.tolist() == [[1, 2], [3, 4]]
    assert stored.y.tolist() == [0, 0]
    assert stored.data.classes is None


def test_numeric_categories_and_files_in_parts(tmp_path, load):
    for i, text in enumerate(["a,c,y\n1,10,0\n2,9,1\n", "a,c,y\n3,10,1\n"]):
        (tmp_path / f"{i}.csv").write_text(text)
    stored = load([tmp_path / "0.csv", tmp_path / "1.csv"], one_hot=(1,), seed=None, layout="dense")
    assert stored.data.features == ("a", "c=10", "c=9")
    assert stored.X.tolist() == [[1, 1, 0], [2, 0, 1], [3, 1, 0]]


def test_many_categories(tmp_path, load):
    rng = np.random.default_rng(0)
    df = pd.DataFrame(
        {"c": rng.integers(0, 500, 2000).astype(str), "d": rng.integers(0, 3, 2000).astype(str), "y": 1.0}
    )
    df.to_csv(tmp_path / "a.csv", index=False)
    stored = load(tmp_path / "a.csv", one_hot=("d", "c"))
    assert stored.data.layout == "csr"
    assert stored.data.n_features == df["c"].nunique() + 3
    assert stored.data.features[-1] == "d=2"
    assert (stored.X.sum(axis=1) == 2).all()
    assert stored.X[:, -3:].sum(axis=0).tolist() == df["d"].value_counts().sort_index().tolist()


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("libsvm_regression/abalone.csv.xz", {"label": 0}, (4177, 8)),
        ("libsvm_regression/mpg_scale.csv.xz", {"label": 0}, (392, 7)),
        ("regression/cal_housing.data.xz", {"format": "csv"}, (20_640, 8)),
        ("uci_datasets/bike.csv.gz", {}, (17_379, 17)),
        ("uci_datasets/protein.csv.gz", {}, (45_730, 9)),
        ("large/higgs7k.train.xz", {"format": "tsv", "label": 0}, (7000, 28)),
    ],
)
def test_real(real, load, sort_rows, name, options, shape):
    path = real(name)
    opener = {".xz": lzma.open, ".gz": gzip.open}[path.suffix]
    with opener(path) as file:
        df = pd.read_csv(file, header=None, sep="\t" if options.get("format") == "tsv" else ",").to_numpy()
    stored = load(path, **options)
    label = options.get("label", df.shape[1] - 1)
    assert stored.X.shape == shape
    assert np.array_equal(stored.rows, sort_rows(np.delete(df, label, 1), df[:, label]))


@pytest.mark.e2e
def test_kddcup(real, load):
    path = real("large/kddcup.data_10_percent.gz")
    stored = load(path, format="csv", one_hot=(1, 2, 3), scale="maxabs", dtype="float32")
    df = pd.read_csv(path, header=None)
    assert stored.data.n_features == 118
    assert stored.data.n_rows == len(df)
    assert stored.data.classes == tuple(sorted(df[41].unique()))
    assert len(stored.data.keys) >= 16
    assert np.array_equal(np.bincount(stored.y.astype(int)), df[41].value_counts().sort_index().to_numpy())
    numbers = df.drop(columns=[1, 2, 3, 41]).to_numpy(dtype=float)
    tcp = stored.data.features.index("x1=tcp")
    assert stored.X[:, tcp].sum() == (df[1] == "tcp").sum()
    at = [stored.data.features.index(f"x{j}") for j in range(41) if j not in {1, 2, 3}]
    assert np.allclose(stored.X[:, at].sum(axis=0) * stored.scale[at], numbers.sum(axis=0), rtol=1e-3)
