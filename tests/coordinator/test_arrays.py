import json

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coordinator import arrays as codec
from coordinator.errors import InputError, StorageError

DTYPES = [np.float64, np.float32, np.int64, np.int32, np.uint8]
NAMES = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=8)
ARRAYS = st.dictionaries(
    NAMES,
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
    ),
    max_size=5,
)
SAMPLE = {
    "X": np.arange(12.0).reshape(3, 4),
    "indices": np.arange(5, dtype=np.int32),
    "one": np.array(7, dtype=np.int64),
    "none": np.empty((0, 3), dtype=np.float32),
}


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert a[name].shape == b[name].shape
        assert a[name].tobytes() == b[name].tobytes()


@settings(deadline=None)
@given(ARRAYS, st.dictionaries(NAMES, NAMES, max_size=3))
def test_round_trip(arrays, notes):
    data = codec.encode(arrays, notes)
    same(codec.decode(data), arrays)
    assert codec.metadata(data) == notes


@pytest.mark.parametrize(
    "array", [np.asfortranarray(SAMPLE["X"]), SAMPLE["X"][::2, ::-1], SAMPLE["X"].T, SAMPLE["X"].astype(">f8")]
)
def test_any_memory_order(array):
    found = codec.decode(codec.encode({"a": array}))["a"]
    assert found.flags.c_contiguous
    assert np.array_equal(found, array)


def test_file_and_bytes_agree(tmp_path):
    path = tmp_path / "a"
    with path.open("wb") as file:
        codec.write(file, SAMPLE)
    assert path.read_bytes() == codec.encode(SAMPLE)
    same(codec.load(path), SAMPLE)


def test_mapped_arrays_are_aligned_views(tmp_path):
    path = tmp_path / "a"
    arrays = {f"a{i}": np.arange(i, dtype=np.float32) for i in range(1, 40)}
    with path.open("wb") as file:
        codec.write(file, arrays)
    for array in codec.load(path).values():
        assert not array.flags.writeable
        assert not array.flags.owndata
        assert array.ctypes.data % codec.ALIGN == 0
    # the pages are the file's own
    mapped = codec.load(path)["a39"]
    with path.open("r+b") as file:
        file.seek(-codec.ALIGN, 2)
        at = path.read_bytes().rfind(np.float32(38).tobytes())
        file.seek(at)
        file.write(np.float32(99).tobytes())
    assert mapped[38] == 99


def test_decoding_bytes_copies_nothing():
    data = codec.encode({"a": np.zeros(1000)})
    found = codec.decode(data)["a"]
    start = np.frombuffer(data, dtype=np.uint8).ctypes.data
    assert start <= found.ctypes.data < start + len(data)


@settings(deadline=None)
@given(ARRAYS, st.dictionaries(NAMES, NAMES, max_size=2))
def test_safetensors_reads_ours(arrays, notes):
    found = safetensors.numpy.load(codec.encode(arrays, notes))
    same({name: array for name, array in found.items() if not name.startswith("__pad_")}, arrays)


@settings(deadline=None)
@given(ARRAYS, st.dictionaries(NAMES, NAMES, max_size=2))
def test_ours_reads_safetensors(arrays, notes):
    # its order of arrays and its alignment are its own; of an empty note map with no arrays it makes invalid JSON
    plain = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    data = safetensors.numpy.save(plain, notes or None)
    same(codec.decode(data), arrays)
    assert codec.metadata(data) == notes


@pytest.mark.parametrize("dtype", ["bool", "uint64", "complex128", "<U3", "object", "float16"])
def test_other_types_are_refused(dtype):
    with pytest.raises(InputError, match=r"array 'a' has dtype .*, which is not stored: use float32/64"):
        codec.encode({"a": np.zeros(3).astype(dtype)})


def refusal(data):
    """What is said of bytes that are refused, None where they are read. Any other exception passes."""
    try:
        codec.metadata(data, "here")
        for array in codec.decode(data, "here").values():
            array.sum()
    except StorageError as error:
        return str(error)
    return None


def reads_or_refuses(data):
    said = refusal(data)
    assert said is None or (said.startswith("here: ") and "\n" not in said)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_read_or_refuse(data):
    reads_or_refuses(data)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_bytes_read_or_refuse(data):
    good = bytearray(codec.encode(SAMPLE))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    reads_or_refuses(bytes(good))


@pytest.mark.parametrize("size", range(0, len(codec.encode(SAMPLE)), 7))
def test_truncated_bytes_are_refused(size, tmp_path):
    whole = codec.encode(SAMPLE)
    last = 8 + int.from_bytes(whole[:8], "little") + 12 * 8 + 32 + 20 + 44 + 8
    if size < last:
        with pytest.raises(StorageError):
            codec.decode(whole[:size])
        (tmp_path / "a").write_bytes(whole[:size])
        with pytest.raises(StorageError):
            codec.load(tmp_path / "a")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10**20) | st.floats() | st.sampled_from(["F64", "I32", "U8", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "a"]), inner, max_size=4)
    ),
    max_leaves=12,
)


def with_header(entries):
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + bytes(64)


@settings(max_examples=500, deadline=None)
@given(JSON)
def test_any_json_header_reads_or_refuses(entries):
    reads_or_refuses(with_header(entries))


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F64", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F64", "shape": [-1], "data_offsets": [0, 8]},
        {"dtype": "F64", "shape": [1], "data_offsets": [-8, 0]},
        {"dtype": "F64", "shape": [1], "data_offsets": [8, 0]},
        {"dtype": "F64", "shape": [9], "data_offsets": [0, 72]},
        {"dtype": "F64", "shape": [2**62, 4], "data_offsets": [0, 0]},
        {"dtype": "F64", "shape": [1.5], "data_offsets": [0, 8]},
        {"dtype": "F64", "shape": [1], "data_offsets": [0, 8, 16]},
        {"dtype": "F64", "shape": [0, 2**70], "data_offsets": [0, 0]},
        {"dtype": "F64", "shape": [0] * 100, "data_offsets": [0, 0]},
        {"dtype": "F64", "shape": [float("inf")], "data_offsets": [0, 8]},
        {"dtype": ["F64"], "shape": [1], "data_offsets": [0, 8]},
        {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]},
        {"shape": [1], "data_offsets": [0, 8]},
        [],
        7,
    ],
)
def test_malformed_entries_are_refused(entry):
    with pytest.raises(StorageError):
        codec.decode(with_header({"a": entry}))


def test_deep_header_is_refused():
    text = b"[" * 100_000
    data = len(text).to_bytes(8, "little") + text
    with pytest.raises(StorageError):
        codec.decode(data)


def test_header_that_claims_to_be_huge_is_refused():
    with pytest.raises(StorageError, match="no array header"):
        codec.decode((2**63).to_bytes(8, "little") + b"{}")
