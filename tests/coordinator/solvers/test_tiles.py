from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

import coordinator.kernels  # noqa: F401  registers kernels
from coordinator.data.blocks import memory_blocks
from coordinator.errors import InputError, PhaseError
from coordinator.problem import problem_from_spec
from coordinator.solvers.tiles import tiled_sketch
from coordinator.storage import FileStorage, MemoryStorage
from coordinator.tasks import Task, Worker
from sketches import CountSketch, stream

SIZES = {"block": 24, "n": 4, "extra": 0}


def make(loss="logistic", layout="dense", dtype=np.float64, n=90, d=7, intercept=True, weight=True, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)).astype(dtype)
    if layout == "csr":
        X = sparse.csr_matrix(np.where(rng.random((n, d)) < 0.4, X, 0).astype(dtype))
        X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
    classes = {"logistic": (-1.0, 1.0), "softmax": (0.0, 1.0, 2.0)}.get(loss)
    y = rng.choice(classes, n) if classes else rng.standard_normal(n)
    storage = MemoryStorage()
    s = rng.random(n) + 0.5 if weight else None
    data = memory_blocks(storage, "toy", X, y, s, classes, rows_per_block=33)
    return storage, problem_from_spec({"loss": loss, "intercept": intercept}, data)


def draw(bench, seed=1, path=(3,), **sizes):
    [H] = tiled_sketch(bench.objective, bench.point, **{**SIZES, **sizes}, seed=seed, path=path)
    return H


def relative(A, B):
    return np.linalg.norm(A - B) / np.linalg.norm(B)


@pytest.mark.parametrize("slabs", [1, 3, None])
@pytest.mark.parametrize("layout", ["dense", "csr"])
def test_equals_the_sketches_of_the_whole_matrix(Bench, layout, slabs):
    storage, problem = make(layout=layout)
    with Bench(storage, problem) as bench:
        H = draw(bench, slabs=slabs, block=3 if slabs is None else 24)
        size = 3 if slabs is None else 24
        blocks = [storage.get_arrays(key) for key in problem.data.keys]
        if layout == "dense":
            X = np.concatenate([b["X"] for b in blocks])
        else:
            shape = problem.data.n_features
            X = np.concatenate(
                [
                    sparse.csr_matrix((b["data"], b["indices"], b["indptr"]), (b["y"].size, shape)).toarray()
                    for b in blocks
                ]
            )
        X = np.column_stack([X, np.ones(len(X))])
        s = np.concatenate([b["weight"] for b in blocks])
        h = problem.loss.hessian(X @ bench.w, s)
        expected = np.zeros_like(H)
        for k in range(4):
            S = sparse.hstack(
                [CountSketch(size).matrix(n, stream(1, 3, k, r, 0)) for r, n in enumerate(problem.data.rows)]
            )
            A = S @ (np.sqrt(s * h)[:, None] * X)
            expected += A.T @ A / (4 * s.sum())
        assert relative(H, expected) < 1e-13
        assert bench.objective.passes == 2


@pytest.mark.parametrize("loss", ["logistic", "softmax"])
@pytest.mark.parametrize("layout", ["dense", "csr"])
def test_is_unbiased(Bench, loss, layout):
    storage, problem = make(loss, layout)
    with Bench(storage, problem) as bench:
        [exact] = bench.objective.gram(bench.point)
        draws = np.array([draw(bench, seed) for seed in range(60)])
    error = draws.mean(axis=0) - exact
    spread = draws.std(axis=0) / np.sqrt(len(draws))
    assert np.abs(error / np.maximum(spread, 1e-12)).max() < 5
    assert relative(draws.mean(axis=0), exact) < 0.1


def test_float32_rows_and_no_intercept(Bench):
    storage, problem = make(dtype=np.float32, intercept=False, weight=False)
    with Bench(storage, problem) as bench:
        narrow = draw(bench)
    storage, problem = make(intercept=False, weight=False)
    with Bench(storage, problem) as bench:
        assert 0 < relative(narrow, draw(bench)) < 1e-6


def test_the_same_bits_for_any_number_of_workers_and_any_store(Bench, tmp_path):
    storage, problem = make(n=300, d=20)
    found = []
    for workers, scratch in [(1, None), (2, None), (3, None), (2, FileStorage(tmp_path))]:
        with Bench(storage, problem, workers, scratch=scratch) as bench:
            found.append(draw(bench, slabs=4))
            assert [key for key in bench.scratch.list("step") if "/tiles" in key] == []
    assert all(np.array_equal(H, found[0]) for H in found)


def test_lost_sketches_are_dropped_whole_and_leave_no_bias(Bench):
    storage, problem = make()
    faults = {"tiles-sketch": {2: 9}, "tiles-product": {0: 1, 7: 9}}  # 2 slabs, 3 products for each sketch
    with Bench(storage, problem, faults=faults) as bench:
        [exact] = bench.objective.gram(bench.point)
        draws = np.array([draw(bench, seed, extra=2, slabs=2) for seed in range(60)])
        arrivals = dict(bench.ctx.arrivals)
    assert all(np.linalg.eigvalsh(H)[0] > 0 for H in draws)
    assert relative(draws.mean(axis=0), exact) < 0.1
    sketched = [used for name, used in arrivals.items() if name.startswith("tiles-sketch#")]
    products = [used for name, used in arrivals.items() if name.startswith("tiles-product#")]
    assert len(sketched) == len(products) == 60
    assert all(2 not in used for used in sketched)
    assert all(7 not in used for used in products)


def test_a_recorded_run_is_repeated_bit_for_bit(Bench):
    storage, problem = make()
    with Bench(storage, problem, 2, faults={"tiles-sketch": {2: 9}}) as bench:
        first, arrivals = draw(bench, extra=2, slabs=2), dict(bench.ctx.arrivals)
    with Bench(storage, problem, 1) as bench:
        assert not np.array_equal(draw(bench, extra=2, slabs=2), first)
    with Bench(storage, problem, 1) as bench:
        bench.ctx.replay = arrivals
        assert np.array_equal(draw(bench, extra=2, slabs=2), first)


def test_retries_are_harmless(Bench):
    storage, problem = make()
    with Bench(storage, problem) as bench:
        expected = draw(bench)
    faults = {"tiles-curvature": {1: 2}, "tiles-sketch": {0: 1, 3: 2}, "tiles-product": {1: 2}}
    with Bench(storage, problem, faults=faults) as bench:
        assert np.array_equal(draw(bench), expected)


def test_a_task_that_runs_twice_keeps_its_first_result(Bench):
    storage, problem = make()
    with Bench(storage, problem) as bench:
        worker = Worker(storage, bench.scratch)
        params = {"problem": problem.task_params() | {"double": False}}
        keys = problem.data.keys[:1]
        task = Task("tiles.curvature", "step/h", keys, problem.data.n_features, {"w": bench.point.key}, params)
        assert worker.run(task)[0].shape == worker.run(replace(task))[0].shape == ()
        assert bench.scratch.get_arrays("step/h")["array"].shape == (33,)


def test_too_few_sketches_end_the_phase(Bench):
    storage, problem = make()
    with (
        Bench(storage, problem, faults={"tiles-sketch": {0: 9, 5: 9}}) as bench,
        pytest.raises(PhaseError, match=r"lost 2 of 10 tasks: killed"),
    ):
        draw(bench, slabs=2, extra=1)


@pytest.mark.parametrize("sizes", [{"n": 3}, {"block": 0}, {"extra": -1}])
def test_refuses_sizes_out_of_range(Bench, sizes):
    storage, problem = make()
    with Bench(storage, problem) as bench, pytest.raises(InputError, match="tiled sketch"):
        draw(bench, **sizes)
