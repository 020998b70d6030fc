import json
import threading
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import coordinator.kernels  # noqa: F401  registers kernels
from coordinator.data.blocks import memory_blocks
from coordinator.errors import InputError, StorageError, UnknownNameError
from coordinator.problem import problem_from_spec
from coordinator.storage import MemoryStorage
from coordinator.tasks import KERNELS, Memo, Task, Work, Worker, kernel, put_once, total

KEY = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
TASK = Task("glm.weigh", "out/0", ("data/a", "data/b"), 3, {"w": "in/1"}, {"problem": {"loss": "squared"}, "x": 0.1})


@given(
    st.sampled_from(sorted(KERNELS)),
    KEY,
    st.lists(KEY),
    st.integers(0, 1 << 40),
    st.dictionaries(KEY, KEY),
    st.dictionaries(KEY, JSON.filter(lambda v: "NaN" not in json.dumps(v))),
)
def test_round_trip(name, output, blocks, n_features, inputs, params):
    task = Task(name, output, tuple(blocks), n_features, inputs, params)
    assert Task.from_json(task.to_json()) == task
    assert Task.from_json(task.to_json().encode()) == task


@given(st.binary(max_size=40) | st.text(max_size=40) | JSON.map(json.dumps))
def test_refuses_junk(text):
    with pytest.raises(InputError):
        Task.from_json(text)


@given(st.sampled_from(sorted(asdict(TASK))), JSON)
def test_refuses_fields_of_another_type(name, value):
    raw = json.loads(TASK.to_json())
    kinds = {"kernel": str, "output": str, "blocks": list, "n_features": int, "inputs": dict, "params": dict}
    well = type(value) is kinds[name] and name != "kernel"
    if well and name in {"blocks", "inputs"}:
        well = all(isinstance(v, str) for v in (value.values() if name == "inputs" else value))
    raw[name] = value
    if well:
        assert getattr(Task.from_json(json.dumps(raw)), name) == (tuple(value) if name == "blocks" else value) or (
            "NaN" in json.dumps(value)
        )
    else:
        with pytest.raises(InputError) as caught:
            Task.from_json(json.dumps(raw))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"kernel":"glm.weigh"}', "null", "9" * 9999, b"\xff"])
def test_refuses_hostile_text(text):
    with pytest.raises(InputError, match="not a task"):
        Task.from_json(text)


def test_refuses_unknown_fields_and_kernels():
    raw = json.loads(TASK.to_json())
    with pytest.raises(InputError, match="not a task"):
        Task.from_json(json.dumps(raw | {"code": "print()"}))
    with pytest.raises(UnknownNameError, match=r"unknown kernel 'glm.wiegh': did you mean 'glm.weigh'\?"):
        Task.from_json(json.dumps(raw | {"kernel": "glm.wiegh"}))


def test_a_kernel_name_belongs_to_one_module():
    def other(work):
        return ()

    with pytest.raises(ValueError, match="two kernels are named"):
        kernel("glm.weigh")(other)
    assert KERNELS["glm.weigh"] is not other


# -- the memo -----------------------------------------------------------------------------------------------------


def test_memo_drops_the_least_recently_used():
    memo = Memo(300)
    for name in "abc":
        memo.put(name, value=(np.zeros(100, dtype=np.uint8),))
    assert memo.get("a") is not None  # now b is the oldest
    memo.put("d", value=(np.zeros(1, dtype=np.uint8),))
    assert memo.get("b") is None
    assert all(memo.get(name) is not None for name in "acd")


def test_memo_refuses_what_is_larger_than_itself():
    memo = Memo(100)
    memo.put("a", value=(np.zeros(60, dtype=np.uint8),))
    memo.put("b", value=(np.zeros(60, dtype=np.uint8), np.zeros(60, dtype=np.uint8)))
    assert memo.get("a") is not None
    assert memo.get("b") is None
    memo.put("c", value=(np.zeros(100, dtype=np.uint8),))
    assert memo.get("a") is None
    assert memo.get("c") is not None


def test_memo_counts_a_replaced_value_once():
    memo = Memo(100)
    for _ in range(50):
        memo.put("a", value=(np.zeros(60, dtype=np.uint8),))
    memo.put("b", value=(np.zeros(40, dtype=np.uint8),))
    assert memo.get("a") is not None
    assert memo.get("b") is not None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 120)), max_size=60))
def test_memo_never_holds_more_than_its_limit(operations):
    memo, size = Memo(100), {}
    for key, nbytes in operations:
        if nbytes == 120:
            memo.get(str(key))
            continue
        memo.put(str(key), value=(np.zeros(nbytes, dtype=np.uint8),))
        if nbytes <= 100:
            size[key] = nbytes
        held = [memo.get(str(k)) for k in range(10)]
        assert sum(v[0].nbytes for v in held if v is not None) <= 100
        assert nbytes > 100 or held[key] is not None
        assert all(v is None or v[0].nbytes == size[k] for k, v in enumerate(held))


def test_memo_in_eight_threads():
    memo, wrong = Memo(1000), []

    def work(seed):
        rng = np.random.default_rng(seed)
        try:
            for key in rng.integers(0, 30, 1500).tolist():
                found = memo.get("block", str(key))
                if found is None:
                    memo.put("block", str(key), value=(np.full(100, key, dtype=np.uint8),))
                elif not np.all(found[0] == key):
                    wrong.append(key)
        except Exception as error:  # noqa: BLE001  told to the test
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    held = [memo.get("block", str(k)) for k in range(30)]
    assert sum(v is not None for v in held) == 10


# -- the worker ---------------------------------------------------------------------------------------------------


def make(loss, layout, dtype):
    rng = np.random.default_rng(3)
    X = rng.standard_normal((300, 9)).astype(dtype)
    if layout == "csr":
        X = sparse.csr_matrix(np.where(rng.random(X.shape) < 0.4, X, 0).astype(dtype))
        X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
    classes = {"logistic": (-1.0, 1.0), "softmax": (0.0, 1.0, 2.0)}[loss]
    storage = MemoryStorage()
    data = memory_blocks(storage, "toy", X, rng.choice(classes, 300), rng.random(300), classes, 110)
    return storage, problem_from_spec({"loss": loss}, data)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("loss", ["logistic", "softmax"])
@pytest.mark.parametrize(("layout", "dtype"), [("dense", "float32"), ("dense", "float64"), ("csr", "float32")])
def test_results_do_not_depend_on_the_memo(loss, layout, dtype, double):
    storage, problem = make(loss, layout, dtype)
    rng = np.random.default_rng(4)
    scratch = MemoryStorage()
    for name in ("w", "w1", "v"):
        scratch.put_arrays(f"in/{name}", {"array": rng.standard_normal(problem.n_parameters)})
    common = {"problem": problem.task_params() | {"double": double}}
    laws = {"sketches": [{"kind": "sjlt", "size": 20, "hashes": 2}] * 3, "paths": [[1, i] for i in range(3)]}
    calls = [
        ("glm.evaluate", {}),
        ("glm.product", {"exact": False}),
        ("glm.product", {"exact": True}),
        ("glm.search", {"steps": [0.5, 1.0]}),
        ("glm.gradients", {"steps": [0.5, 1.0]}),
        ("glm.sketch", {"what": "full", "seed": 1, **laws}),
        ("glm.gram", {"what": "full"}),
        ("glm.diagonal", {}),
    ]
    inputs = {name: f"in/{name}" for name in ("w", "w1", "v")}
    tasks = [
        Task(name, f"out/{i}", problem.data.keys, 9, inputs, common | params) for i, (name, params) in enumerate(calls)
    ]
    kept = Worker(storage, scratch)
    warm = [[kept.run(task) for task in tasks] for _ in range(2)][1]
    for limit in (0, 300 * 8):
        forgetful = Worker(storage, scratch, memo_bytes=limit)
        for task, expected in zip(tasks, warm, strict=True):
            found = forgetful.run(task)
            assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True)), task.kernel


def test_an_overflowing_objective_is_a_value():
    storage = MemoryStorage()
    data = memory_blocks(storage, "toy", np.ones((4, 1)), np.ones(4))
    problem = problem_from_spec({"loss": "poisson", "intercept": False}, data)
    storage.put_arrays("w", {"array": np.array([1e4])})
    params = {"problem": problem.task_params() | {"double": False}}
    value, _ = Worker(storage).run(Task("glm.evaluate", "out", data.keys, 1, {"w": "w"}, params))
    assert float(value) == np.inf


def test_the_worker_reads_a_block_once():
    storage, problem = make("logistic", "dense", "float64")
    worker = Worker(storage)
    key = problem.data.keys[0]
    block = worker.block(key, 9)
    assert worker.block(key, 9) is block
    with pytest.raises(StorageError):
        worker.block("data/toy/none", 9)


def test_kept_results_are_put_once():
    storage = MemoryStorage()
    work = Work(Worker(storage), Task("glm.weigh", "out/0"))
    assert not work.kept()
    work.keep(np.zeros(2))
    work.keep(np.ones(2))
    assert work.kept()
    assert np.array_equal(storage.get_arrays("out/0")["array"], np.zeros(2))
    put_once(storage, "out/0", {"array": np.ones(2)})
    assert np.array_equal(storage.get_arrays("out/0")["array"], np.zeros(2))


def test_total_adds_in_order_and_changes_nothing():
    parts = [(np.array(0.1),), (np.array(1e16),), (np.array(-1e16),)]
    (sums,) = total(parts)
    assert float(sums) == (0.1 + 1e16) - 1e16
    assert float(parts[0][0]) == 0.1
    with pytest.raises(ValueError, match="zip"):
        total([(np.zeros(1),), ()])
