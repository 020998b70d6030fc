import json
import tracemalloc

import numpy as np
import pytest
from scipy import sparse

import sketches.operators
from sketches import (
    SJLT,
    SKETCHES,
    CountSketch,
    Gaussian,
    LessUniform,
    OverSketch,
    RowSampling,
    sketch_from_spec,
    stream,
    to_spec,
)

ALL = [
    CountSketch(12),
    SJLT(12, 3),
    Gaussian(12),
    LessUniform(12, 5),
    RowSampling(12),
    OverSketch(block=4, n=3, extra=1),
]
SPARSE = [sketch for sketch in ALL if hasattr(sketch, "apply_sparse")]
every = pytest.mark.parametrize("sketch", ALL, ids=lambda s: type(s).__name__)
every_sparse = pytest.mark.parametrize("sketch", SPARSE, ids=lambda s: type(s).__name__)


def assert_mean(draws, expected, errors=5.0):
    """The mean of independent draws lies within ``errors`` standard errors of what is expected, entry by entry."""
    draws = np.asarray(draws)
    deviation = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    assert np.all(np.abs(draws.mean(axis=0) - expected) <= errors * deviation + 1e-12)


@every
def test_expected_square_is_the_identity(sketch):
    n = 9
    draws = [sketch.apply(np.eye(n), stream(1, t)) for t in range(2000)]
    assert draws[0].shape == (sketch.size, n)
    assert_mean([S.T @ S for S in draws], np.eye(n))


@every
def test_scale_weights_the_rows(sketch):
    rows = stream(2).standard_normal((30, 4))
    scale = stream(3).random(30)
    weighted = sketch.apply(rows, stream(4), scale)
    assert np.allclose(weighted, sketch.apply(scale[:, None] * rows, stream(4)), rtol=0, atol=1e-12)


@every
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("container", [sparse.csr_array, sparse.csr_matrix])
def test_dense_and_csr_rows_agree(sketch, dtype, container):
    rows = stream(5).standard_normal((50, 7)) * (stream(6).random((50, 7)) < 0.4)
    rows, scale = rows.astype(dtype), stream(7).random(50)
    dense = sketch.apply(rows, stream(8), scale)
    csr = sketch.apply(container(rows), stream(8), scale)
    for result in (dense, csr):
        assert result.dtype == dtype
        assert result.shape == (sketch.size, 7)
        assert type(result) is np.ndarray
        assert result.flags.c_contiguous
    assert np.allclose(dense, csr, rtol=0, atol=1e-5 if dtype == np.float32 else 1e-13)


@every
def test_a_draw_is_named_by_its_stream(sketch):
    rows = stream(9).standard_normal((40, 3))
    first = sketch.apply(rows, stream(0, 2))
    other = sketch.apply(rows, stream(0, 3))
    assert np.array_equal(first, sketch.apply(rows, stream(0, 2)))
    assert not np.array_equal(first, other)


@every
def test_no_rows_sketch_to_zeros(sketch):
    for rows in (np.zeros((0, 3)), sparse.csr_array((0, 3))):
        assert np.array_equal(sketch.apply(rows, stream(0)), np.zeros((sketch.size, 3)))


@every
def test_an_array_in_any_layout_or_on_disk(sketch, tmp_path):
    rows = stream(10).standard_normal((20, 3))
    disk = np.memmap(tmp_path / "rows", dtype=np.float64, mode="w+", shape=(20, 3))
    disk[:] = rows
    expected = sketch.apply(rows, stream(1))
    assert np.allclose(sketch.apply(np.asfortranarray(rows), stream(1)), expected, rtol=0, atol=1e-13)
    from_disk = sketch.apply(disk, stream(1))
    assert type(from_disk) is np.ndarray
    assert np.allclose(from_disk, expected, rtol=0, atol=1e-13)


@every_sparse
def test_sparse_output_is_the_dense_one(sketch):
    rows = sparse.random_array((60, 200), density=0.02, format="csr", rng=stream(11))
    result = sketch.apply_sparse(rows, stream(12))
    assert result.format == "csr"
    assert np.allclose(result.toarray(), sketch.apply(rows, stream(12)), rtol=0, atol=1e-13)


@every
def test_csr_rows_with_repeated_unsorted_indices(sketch):
    """A CSR matrix may hold an entry in several parts, and its columns in any order."""
    rows = sparse.csr_array((np.array([1.0, 2.0, 4.0, 8.0]), np.array([2, 0, 2, 1]), np.array([0, 3, 4])), shape=(2, 3))
    expected = sketch.apply(np.array([[2.0, 0.0, 5.0], [0.0, 8.0, 0.0]]), stream(22))
    assert np.allclose(sketch.apply(rows, stream(22)), expected, rtol=0, atol=1e-13)


@every_sparse
def test_indices_are_32_bit(sketch):
    S = sketch.matrix(100, stream(13), dtype=np.float32)
    assert S.indices.dtype == S.indptr.dtype == np.int32
    assert S.dtype == np.float32


@every
def test_a_huge_dense_sketch_is_refused(sketch):
    rows = sparse.csr_array((10, 2**28))
    with pytest.raises(ValueError, match="apply_sparse"):
        sketch.apply(rows, stream(0))


def test_gaussian_does_not_depend_on_its_chunks(monkeypatch):
    rows = stream(14).standard_normal((100, 3))
    whole = Gaussian(5).apply(rows, stream(15))
    monkeypatch.setattr(sketches.operators, "_GAUSSIAN_CHUNK", 7 * 5 * 8)
    assert np.allclose(Gaussian(5).apply(rows, stream(15)), whole, rtol=0, atol=1e-13)


def test_gaussian_holds_a_bounded_part_of_its_matrix():
    rows = np.ones((50_000, 2), dtype=np.float32)  # all of S would be 80 MB
    tracemalloc.start()
    Gaussian(400).apply(rows, stream(16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6


def test_hashes_fall_in_groups():
    S = SJLT(12, 3).matrix(50, stream(17)).toarray()
    for group in np.split(S, 3):
        assert np.array_equal(np.count_nonzero(group, axis=0), np.ones(50))
    assert np.allclose(np.abs(S[S != 0]), 3**-0.5)


def test_row_sampling_returns_rows():
    rows = np.arange(1.0, 21.0)[:, None]
    drawn = RowSampling(5).apply(rows, stream(18)) / 2.0  # sqrt(20 / 5)
    assert np.isin(drawn, rows).all()


@pytest.mark.parametrize(
    "sketch",
    [CountSketch(60), SJLT(60, 4), OverSketch(20, 3), OverSketch(6, 10), Gaussian(60), LessUniform(60, 10)],
    ids=repr,
)
def test_approximate_matrix_product_error(sketch):
    """E|A'S'SB - A'B|_F^2 <= (2/m)|A|^2|B|^2; on unaligned A, B its constant is 1, whatever the number of blocks.

    400 draws give the mean to about 2 %; the tolerance is 10 %.
    """
    A, B = stream(19).standard_normal((300, 8)), stream(20).standard_normal((300, 6))
    both = np.hstack([A, B])
    errors = []
    for t in range(400):
        sketched = sketch.apply(both, stream(21, t))
        errors.append(np.linalg.norm(sketched[:, :8].T @ sketched[:, 8:] - A.T @ B) ** 2)
    constant = np.mean(errors) * 60 / (np.linalg.norm(A) * np.linalg.norm(B)) ** 2
    assert constant <= 2.0
    assert constant == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CountSketch(0), "size must be an integer >= 1"),
        (lambda: CountSketch(2.0), "size must be an integer >= 1"),
        (lambda: Gaussian(True), "size must be an integer >= 1"),
        (lambda: SJLT(10, 4), "use size 8 or 12"),
        (lambda: SJLT(3, 4), "use size 4"),
        (lambda: SJLT(4, 0), "hashes must be"),
        (lambda: LessUniform(4, 0), "nonzeros must be"),
        (lambda: RowSampling(-1), "size must be"),
    ],
)
def test_bad_constructions_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@every
def test_bad_rows_are_refused(sketch):
    rng = stream(0)
    for rows, scale, message in [
        (np.ones(3), None, "two axes"),
        (np.ones((3, 2), dtype=int), None, "float32 or float64"),
        (sparse.csc_array(np.ones((3, 2))), None, "CSR"),
        ([[1.0]], None, "CSR"),
        (np.ones((3, 2)), np.ones(2), r"shape \(3,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            sketch.apply(rows, rng, scale)


def test_sparse_output_needs_sparse_rows():
    with pytest.raises(ValueError, match="use apply"):
        CountSketch(2).apply_sparse(np.ones((3, 2)), stream(0))


@every
def test_specs_travel_as_json(sketch):
    spec = json.loads(json.dumps(to_spec(sketch)))
    assert sketch_from_spec(spec) == sketch
    assert SKETCHES[spec["kind"]] is type(sketch)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "unknown sketch kind None"),
        ({"kind": "srht", "size": 3}, "unknown sketch kind 'srht'"),
        ({"kind": ["sjlt"]}, "unknown sketch kind"),
        ({"kind": "sjlt", "size": 4, "hash": 2}, "no field 'hash'; its fields: size, hashes"),
        ({"kind": "sjlt", "size": 4}, "needs the field 'hashes'"),
        ({"kind": "sjlt", "size": "4", "hashes": 2}, "size must be an integer"),
    ],
)
def test_bad_specs_are_refused_in_one_line(spec, message):
    with pytest.raises(ValueError, match=message) as refusal:
        sketch_from_spec(spec)
    assert "\n" not in str(refusal.value)


def test_an_unregistered_sketch_has_no_spec():
    with pytest.raises(ValueError, match="not a registered sketch"):
        to_spec(object())
