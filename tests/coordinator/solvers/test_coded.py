import numpy as np
import pytest
from scipy import sparse

from coordinator.data.blocks import Block, memory_blocks
from coordinator.errors import InputError, PhaseError
from coordinator.problem import problem_from_spec
from coordinator.runtime import Runtime
from coordinator.solvers.coded import coded_gradient, coded_point, encode
from coordinator.solvers.transpose import transpose_blocks
from coordinator.storage import FileStorage, MemoryStorage
from coordinator.tasks import total


def make(loss="logistic", dtype=np.float64, n=95, d=11, intercept=True, weight=True, storage=None, l2=0.1):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d)).astype(dtype)
    classes = {"logistic": (-1.0, 1.0), "softmax": (0.0, 1.0, 2.0)}.get(loss)
    y = rng.choice(classes, n) if classes else rng.standard_normal(n)
    storage = MemoryStorage() if storage is None else storage
    s = rng.random(n) + 0.5 if weight else None
    data = memory_blocks(storage, "toy", X, y, s, classes, rows_per_block=10)
    return storage, problem_from_spec({"loss": loss, "intercept": intercept, "l2": l2}, data)


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("loss", ["logistic", "squared", "softmax"])
def test_equals_the_plain_point(Bench, loss, intercept):
    storage, problem = make(loss, intercept=intercept)
    with Bench(storage, problem) as bench:
        coded = encode(bench.objective)
        assert (len(coded.rows.keys), len(coded.columns.keys)) == (10 + 8, 10 + 8)  # 3 x 4 grids with 2 empty cells
        found = coded_point(bench.objective, coded, bench.w)
        assert abs(found.value / bench.point.value - 1) < 1e-12
        assert relative(found.gradient, bench.point.gradient) < 1e-12
        assert found.w is bench.w
        assert bench.scratch.get_arrays(found.key)["array"] is not None


def test_float32_rows_are_multiplied_in_float64(Bench):
    storage, problem = make(dtype=np.float32)
    with Bench(storage, problem) as bench:
        found = coded_point(bench.objective, encode(bench.objective), bench.w)
        double = bench.objective.at(bench.w, double=True)
        assert relative(found.gradient, double.gradient) < 1e-12
        assert relative(found.gradient, bench.point.gradient) > 1e-9


@pytest.mark.parametrize("seed", range(12))
def test_any_three_lost_tasks_decode_to_the_same(Bench, seed):
    storage, problem = make(weight=seed % 2 == 0)
    rng = np.random.default_rng(seed)
    lost = [dict.fromkeys(rng.choice(18, 3, replace=False).tolist(), 9) for _ in range(2)]
    faults = {"coded-rows": lost[0], "coded-columns": lost[1]}
    with Bench(storage, problem, faults=faults) as bench:
        coded = encode(bench.objective)
        loss, gradient = coded_gradient(bench.objective, coded, bench.w)
        value, plain = total(bench.objective.run("gradient", "glm.evaluate", {"w": bench.point.key}, double=True))
        assert abs(loss / float(value) - 1) < 1e-10
        assert relative(gradient, plain) < 1e-10
        assert bench.objective.passes == 3
        assert all(not set(used) & {*lost[0], *lost[1]} or len(used) <= 15 for used in bench.ctx.arrivals.values())


def test_a_square_of_lost_tasks_is_retried_else_the_phase_ends(Bench):
    storage, problem = make()
    square = (0, 1, 4, 5)  # two rows and two columns of the grid
    for attempts, ends in ((2, False), (9, True)):
        with Bench(storage, problem, faults={"coded-rows": dict.fromkeys(square, attempts)}) as bench:
            coded = encode(bench.objective)
            if ends:
                with pytest.raises(PhaseError, match="lost 4 of 18 tasks: killed"):
                    coded_point(bench.objective, coded, bench.w)
            else:
                found = coded_point(bench.objective, coded, bench.w)
                assert relative(found.gradient, bench.point.gradient) < 1e-12


def test_spare_results_do_not_change_a_replayed_run(Bench):
    storage, problem = make()
    with Bench(storage, problem, 2, faults={"coded-rows": {3: 9}}) as bench:
        first = coded_point(bench.objective, encode(bench.objective), bench.w)
        arrivals = dict(bench.ctx.arrivals)
    with Bench(storage, problem, 1) as bench:
        bench.ctx.replay = arrivals
        again = coded_point(bench.objective, encode(bench.objective), bench.w)
        assert np.array_equal(first.gradient, again.gradient)
        assert first.value == again.value


def test_codes_once_and_under_the_prefix(Bench, tmp_path):
    storage, problem = make(storage=FileStorage(tmp_path))
    with Bench(storage, problem) as bench:
        first = encode(bench.objective, "jobs/j/coded")
        stamp = {key: storage.path(key).stat().st_mtime_ns for key in storage.list("")}
        assert [k.split("/")[0] for k in first.rows.keys] == ["data"] * 10 + ["jobs"] * 8
        assert not any("pieces" in key for key in stamp)
        again = encode(bench.objective, "jobs/j/coded")
        assert {key: storage.path(key).stat().st_mtime_ns for key in storage.list("")} == stamp
        assert again.rows == first.rows
        assert again.columns == first.columns
        assert relative(coded_point(bench.objective, again, bench.w).gradient, bench.point.gradient) < 1e-12


def test_parities_are_sums_in_float64(Bench):
    storage, problem = make(dtype=np.float32)
    with Bench(storage, problem, faults={"coded-parity": {0: 2}}) as bench:
        coded = encode(bench.objective)
    blocks = [storage.get_arrays(key)["X"] for key in coded.rows.keys]
    padded = [np.pad(X.astype(np.float64), ((0, 10 - len(X)), (0, 0))) for X in blocks]
    for i in range(10, 18):
        assert blocks[i].dtype == np.float64
        assert np.allclose(blocks[i], sum(padded[j] for j in coded.rows.code.parity_members(i)), rtol=0, atol=1e-14)


def test_one_block_only(Bench):
    storage, problem = make(n=9, d=2)
    with Bench(storage, problem, faults={"coded-rows": {0: 9}, "coded-columns": {0: 9}}) as bench:
        found = coded_point(bench.objective, encode(bench.objective), bench.w)
        assert relative(found.gradient, bench.point.gradient) < 1e-12


def test_refuses_sparse_rows(Bench):
    storage = MemoryStorage()
    X = sparse.random(30, 5, 0.3, format="csr", rng=1)
    X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
    data = memory_blocks(storage, "thin", X, np.zeros(30))
    problem = problem_from_spec({"loss": "squared"}, data)
    with Bench(storage, problem) as bench, pytest.raises(InputError, match="replicated"):
        encode(bench.objective)


@pytest.mark.parametrize("parts", [None, 1, 3, 99])
@pytest.mark.parametrize("layout", ["dense", "csr"])
def test_transposed_blocks(Bench, layout, parts, tmp_path):
    rng = np.random.default_rng(3)
    X = np.where(rng.random((40, 7)) < 0.4, rng.standard_normal((40, 7)), 0).astype(np.float32)
    Y = X if layout == "dense" else sparse.csr_matrix(X)
    storage = FileStorage(tmp_path)
    data = memory_blocks(storage, "toy", Y, np.zeros(40), rows_per_block=9)
    problem = problem_from_spec({"loss": "squared"}, data)
    with Bench(storage, problem, 2, faults={"transpose-cut": {1: 2}, "transpose-join": {0: 1}}) as bench:
        turned = transpose_blocks(bench.ctx, data, parts)
        again = transpose_blocks(Runtime(bench.executor, bench.scratch), data, parts)
    assert turned == again
    assert (turned.n_rows, turned.n_features, len(turned.keys)) == (7, 40, {None: 5, 99: 7}.get(parts, parts))
    blocks = [Block.from_arrays(storage.get_arrays(key), 40).X for key in turned.keys]
    whole = np.concatenate([B if layout == "dense" else B.toarray() for B in blocks])
    assert whole.dtype == np.float32
    assert np.array_equal(whole, X.T)
    assert not [key for key in storage.list("data") if "pieces" in key]
