import itertools
from math import comb

import numpy as np
import pytest

from sketches import ProductCode


def generator(code):
    """Rows: tasks; columns: data blocks. Task i returns the sum of the blocks that its row marks."""
    G = np.zeros((code.n_tasks, code.n_blocks))
    for task in range(code.n_tasks):
        G[task, list(code.parity_members(task))] = 1.0
    return G


def forest(code, done):
    """Whether the missing tasks are a forest of the graph (grid rows, grid columns): its cycle rank is zero."""
    edges = [code.cell(task) for task in range(code.n_tasks) if task not in done]
    incidence = np.zeros((len(edges), code.rows + code.cols + 2))
    for e, (row, col) in enumerate(edges):
        incidence[e, row], incidence[e, code.rows + 1 + col] = 1.0, -1.0
    return not edges or np.linalg.matrix_rank(incidence) == len(edges)


def peels(code, done):
    """Whether removing, again and again, the single missing cell of a line empties the grid."""
    missing = np.zeros((code.rows + 1, code.cols + 1), dtype=bool)
    for task in range(code.n_tasks):
        missing[code.cell(task)] = task not in done
    while missing.any():
        single = missing & ((missing.sum(axis=0) == 1)[None, :] | (missing.sum(axis=1) == 1)[:, None])
        if not single.any():
            return False
        missing &= ~single
    return True


@pytest.mark.parametrize("code", [ProductCode(2, 2), ProductCode(2, 3), ProductCode(2, 3, empty=1)], ids=repr)
def test_every_erasure_pattern(code):
    """The stop test, the peeling decoder, the forest and linear algebra agree on all 2^n patterns."""
    masks = np.array(list(itertools.product([False, True], repeat=code.n_tasks)))
    ranks = np.linalg.matrix_rank(generator(code)[None] * masks[:, :, None])
    for mask, rank in zip(masks, ranks, strict=True):
        done = set(np.flatnonzero(mask).tolist())
        decodable = code.decodable(done)
        assert decodable == (rank == code.n_blocks)
        assert decodable == peels(code, done)
        assert decodable == forest(code, done)


@pytest.mark.parametrize("code", [ProductCode(2, 2), ProductCode(2, 3), ProductCode(2, 3, empty=1)], ids=repr)
def test_decodes_every_decodable_pattern(code):
    rng = np.random.default_rng(0)
    blocks = [(rng.standard_normal(2),) for _ in range(code.n_blocks)]
    encoded = code.encode(blocks)
    for lost in itertools.chain.from_iterable(itertools.combinations(range(code.n_tasks), r) for r in range(6)):
        arrived = {task: encoded[task] for task in range(code.n_tasks) if task not in lost}
        if code.decodable(arrived.keys()):
            for (decoded,), (block,) in zip(code.decode(arrived), blocks, strict=True):
                assert np.allclose(decoded, block, rtol=0, atol=1e-13)


def test_random_patterns_on_a_large_grid():
    code, rng = ProductCode(10, 10), np.random.default_rng(1)
    outcomes = set()
    for _ in range(3000):
        lost = rng.random(code.n_tasks) < rng.choice([0.02, 0.05, 0.1])
        done = set(np.flatnonzero(~lost).tolist())
        assert code.decodable(done) == peels(code, done)
        outcomes.add(code.decodable(done))
    assert outcomes == {True, False}


def test_random_decodes_against_linear_algebra_on_a_large_grid():
    code, rng = ProductCode(10, 10), np.random.default_rng(2)
    G = generator(code)
    for _ in range(60):
        lost = rng.random(code.n_tasks) < 0.1
        done = set(np.flatnonzero(~lost).tolist())
        assert code.decodable(done) == (np.linalg.matrix_rank(G[~lost]) == code.n_blocks)


@pytest.mark.parametrize("code", [ProductCode(3, 4), ProductCode(5, 2), ProductCode(1, 3)], ids=repr)
def test_small_erasure_sets(code):
    """Any three erasures decode; the undecodable four are the rectangles of the grid."""
    everything = set(range(code.n_tasks))
    for r in range(4):
        assert all(code.decodable(everything - set(lost)) for lost in itertools.combinations(everything, r))
    failures = sum(not code.decodable(everything - set(lost)) for lost in itertools.combinations(everything, 4))
    assert failures == comb(code.rows + 1, 2) * comb(code.cols + 1, 2)


def test_most_erasures_that_decode():
    code = ProductCode(4, 6)
    lost = {task for task in range(code.n_tasks) if 0 in code.cell(task)}
    assert len(lost) == code.rows + code.cols + 1
    assert code.decodable(set(range(code.n_tasks)) - lost)


def test_layout():
    code = ProductCode(10, 6)
    assert code.n_tasks == 77
    assert code.cell(13) == (2, 1)
    assert code.parity_members(13) == (13,)
    assert code.cell(60 + 4) == (10, 4)
    assert code.parity_members(60 + 4) == tuple(range(4, 60, 6))
    assert code.cell(66 + 9) == (9, 6)
    assert code.parity_members(66 + 9) == tuple(range(54, 60))
    assert code.cell(76) == (10, 6)
    assert code.parity_members(76) == tuple(range(60))


def test_empty_cells_have_no_task():
    code = ProductCode(3, 3, empty=2)
    assert (code.n_blocks, code.n_tasks) == (7, 14)
    cells = [code.cell(task) for task in range(code.n_tasks)]
    assert len(set(cells)) == 14
    assert {(2, 1), (2, 2)}.isdisjoint(cells)
    assert code.parity_members(8) == (1, 4)
    assert code.parity_members(12) == (6,)


@pytest.mark.parametrize("n_blocks", [*range(1, 40), 60, 100])
def test_for_blocks_has_the_fewest_parities(n_blocks):
    code = ProductCode.for_blocks(n_blocks)
    assert code.n_blocks == n_blocks
    assert code.rows + code.cols == min(p + -(-n_blocks // p) for p in range(1, n_blocks + 1))


def matvec_errors(parity_dtype):
    """Return the largest relative error of recovered products A_i x, parities rounded to a type, over 50 patterns."""
    code, rng = ProductCode(6, 6), np.random.default_rng(3)
    blocks = [(rng.standard_normal((20, 30)),) for _ in range(code.n_blocks)]
    x = rng.standard_normal(30)
    exact = [A @ x for (A,) in blocks]
    encoded = [A.astype(parity_dtype) if task >= 36 else A for task, (A,) in enumerate(code.encode(blocks))]
    worst, patterns = 0.0, 0
    while patterns < 50:
        lost = set(rng.choice(code.n_tasks, size=8, replace=False).tolist())
        arrived = {task: (encoded[task] @ x,) for task in range(code.n_tasks) if task not in lost}
        if code.decodable(arrived.keys()):
            patterns += 1
            decoded = code.decode(arrived)
            worst = max(worst, *(np.abs(v - e).max() / np.abs(e).max() for (v,), e in zip(decoded, exact, strict=True)))
    return worst


def test_parities_in_float64_and_why():
    """Decoding with float64 parities loses nothing; float32 ones would cost nine digits."""
    assert matvec_errors(np.float64) < 1e-12
    assert 1e-8 < matvec_errors(np.float32) < 1e-4


def test_encoded_types():
    code = ProductCode(2, 2)
    blocks = [(np.ones(3, dtype=np.float32), np.ones((2, 2), dtype=np.float32))] * 4
    encoded = code.encode(blocks)
    assert [a.dtype for a in encoded[0]] == [np.float32, np.float32]
    assert all(a.dtype == np.float64 for task in range(4, 9) for a in encoded[task])
    decoded = code.decode({task: encoded[task] for task in range(9) if task != 2})
    assert all(a.dtype == np.float64 for arrays in decoded for a in arrays)


def test_encoding_leaves_the_blocks_alone():
    blocks = [(np.full(2, float(i)),) for i in range(4)]
    code = ProductCode(2, 2)
    code.decode({task: arrays for task, arrays in enumerate(code.encode(blocks)) if task != 3})
    assert all(np.array_equal(a, np.full(2, float(i))) for i, (a,) in enumerate(blocks))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ProductCode(0, 2), "rows must be"),
        (lambda: ProductCode(2, 0), "cols must be"),
        (lambda: ProductCode(2, 2, -1), "empty must be"),
        (lambda: ProductCode(2, 2, 2), "drop a line"),
        (lambda: ProductCode(1, 2, 1), "drop a line"),
        (lambda: ProductCode.for_blocks(0), "at least one block"),
        (lambda: ProductCode(2, 2).cell(9), "got 9"),
        (lambda: ProductCode(2, 2).parity_members(-1), "got -1"),
        (lambda: ProductCode(2, 2).encode([(np.ones(2),)] * 3), "encodes 4 blocks, got 3"),
        (lambda: ProductCode(1, 2).encode([(np.ones(2),), (np.ones(3),)]), "equal shapes"),
        (lambda: ProductCode(1, 1).decode({0: (np.ones(2),), 1: (np.ones(3),)}), "equal shapes"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
