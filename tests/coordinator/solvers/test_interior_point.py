"""Linear programs against HiGHS."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import linprog

from coordinator import checkpoint
from coordinator.data.blocks import memory_blocks
from coordinator.errors import InputError
from coordinator.executors.local import LocalExecutor
from coordinator.linear_program import program_from_spec
from coordinator.problem import problem_from_spec
from coordinator.runtime import Runtime
from coordinator.solvers import SOLVERS, check_problem, make_solver
from coordinator.solvers.forms import LinearForm
from coordinator.solvers.interior_point import BarrierState, InteriorPoint
from coordinator.storage import MemoryStorage
from coordinator.tasks import Worker


def posed(A, b, c, rows_per_block=None):
    storage = MemoryStorage()
    if sparse.issparse(A):
        A = sparse.csr_matrix(A)
        A.indices, A.indptr = A.indices.astype(np.int32), A.indptr.astype(np.int32)
    data = memory_blocks(storage, "lp", A, np.asarray(b, dtype=float), rows_per_block=rows_per_block)
    return storage, program_from_spec({"kind": "linear-program", "c": list(c)}, data)


def run(A, b, c, *, workers=1, start=None, state=None, rows_per_block=None, **options):
    """All states of a run; from `state` on if one is given."""
    storage, program = posed(A, b, c, rows_per_block)
    solver, scratch = make_solver("interior-point", options), MemoryStorage()
    check_problem(solver, program)
    with LocalExecutor(Worker(storage, scratch), workers) as executor:
        ctx = Runtime(executor, scratch)
        with ctx.session():
            ctx.prefix = "000000"
            states = [solver.init(program, ctx, start) if state is None else state]
            while states[-1].reason is None:
                ctx.prefix = f"{states[-1].iteration + 1:06d}"
                states.append(solver.step(program, states[-1], ctx))
    assert [s.iteration for s in states] == list(range(states[0].iteration, states[0].iteration + len(states)))
    return states


def highs(A, b, c):
    return linprog(c, A_ub=A, b_ub=b, bounds=(None, None), method="highs")


def solved(A, b, c, **options):
    """The last state of a run that ends at the optimum, checked against HiGHS."""
    states = run(A, b, c, **options)
    end, best = states[-1], highs(A, b, c).fun
    tol = options.get("tol", 1e-8)
    assert end.reason == "converged"
    assert end.residual <= tol * (1 + abs(end.value))
    assert end.relative <= tol
    assert -tol * (1 + abs(best)) <= end.value - best <= 2 * tol * (1 + abs(best))
    assert np.all(A @ end.w <= b)
    assert end.value == pytest.approx(np.dot(c, end.w), rel=1e-12, abs=1e-12)
    return end


def bounded(m, n, seed=0, density=None):
    """A random program with an optimum, infeasible at zero."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n))
    if density is not None:
        A *= rng.random((m, n)) < density
    b = A @ rng.standard_normal(n) + rng.random(m)
    assert b.min() < 0
    return A, b, -A.T @ rng.random(m) / m


def assignment(workers=9, jobs=8):
    """Who does what at least cost, each job once, each worker once at most: its vertices are degenerate."""
    cost = np.random.default_rng(3).integers(1, 20, workers * jobs).astype(float)
    once = sparse.kron(sparse.eye(workers), np.ones((1, jobs)))
    done = sparse.kron(np.ones((1, workers)), sparse.eye(jobs))
    A = sparse.vstack([once, -done, -sparse.eye(workers * jobs)]).tocsr()
    return A, np.concatenate([np.ones(workers), -np.ones(jobs), np.zeros(workers * jobs)]), cost


@pytest.mark.parametrize(("m", "n"), [(40, 3), (300, 20), (3000, 30)])
@pytest.mark.parametrize("density", [None, 0.3])
def test_random_programs(m, n, density):
    A, b, c = bounded(m, n, density=density)
    end = solved(A if density is None else sparse.csr_matrix(A), b, c, rows_per_block=-(-m // 5), workers=2)
    assert end.iteration < 90
    assert end.chosen == {"strategy": "exact", "constraints": m, "variables": n + 1}


@pytest.mark.parametrize("hessian", ["exact", "sketch", "tiles"])
def test_every_hessian_leads_to_the_same_optimum(hessian):
    A, b, c = bounded(400, 12, seed=1)
    end = solved(A, b, c, hessian=hessian, rows_per_block=90)
    # the unique vertex
    assert np.allclose(end.w, highs(A, b, c).x, atol=1e-6)
    assert ("cg" in end.row) == (hessian != "exact")


def test_a_degenerate_vertex():
    A, b, c = assignment()
    for hessian in ("exact", "sketch"):
        end = solved(A, b, c, hessian=hessian)
        assert end.value == pytest.approx(round(end.value), abs=1e-5)


def test_an_ill_scaled_program():
    """Klee and Minty's cube: its costs and bounds range over five orders."""
    k = np.arange(8)
    A = np.tril(2.0 ** (np.subtract.outer(k, k) + 1), -1) + np.eye(8)
    A, b = np.vstack([A, -np.eye(8)]), np.concatenate([5.0 ** (k + 1), np.zeros(8)])
    assert solved(A, b, -(2.0 ** (7 - k))).value == pytest.approx(-(5.0**8), rel=1e-8)


def test_least_absolute_deviations():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 4))
    y = X @ np.ones(4) + rng.standard_cauchy(60)
    A = np.block([[X, -np.eye(60)], [-X, -np.eye(60)]])
    solved(A, np.concatenate([y, -y]), np.concatenate([np.zeros(4), np.ones(60)]))


def test_float32_rows_lose_nothing():
    A, b, c = bounded(200, 6, seed=2)
    end = solved(A.astype(np.float32), b, c)
    assert end.row["cg"] >= 1


def test_faces_without_end_and_costs_of_nothing():
    slab = np.array([[1.0, 0, 0], [-1.0, 0, 0]])
    end = solved(slab, np.ones(2), [1.0, 0, 0])
    assert end.w[0] == pytest.approx(-1)
    assert np.array_equal(end.w[1:], [0, 0])
    solved(slab, np.ones(2), np.zeros(3))
    solved(np.array([[1.0], [-1.0]]), [3.0, 5.0], [1.0])


def test_certificates_are_true_bounds(monkeypatch):
    found = []
    plain = LinearForm.certify

    def certify(form, *args):
        found.append((form.linear, plain(form, *args)))
        return found[-1][1]

    monkeypatch.setattr(LinearForm, "certify", certify)
    for seed in range(2):
        A, b, c = bounded(120, 6, seed)
        best = highs(A, b, c)
        for hessian in ("exact", "sketch"):
            found.clear()
            run(A, b, c, hessian=hessian)
            second = [proof for linear, proof in found if linear.size == 6]
            assert len(second) > 20
            for proof in second:
                lost = proof.value - best.fun
                assert -1e-9 < lost <= proof.gap + proof.lacking * np.abs(best.x).sum() + 1e-9
            assert sum(proof.gap < 1e-2 and proof.lacking < 1e-5 for proof in second) > 5
            # and those of the first phase bound the least violation of any x
            least = linprog(
                np.append(np.zeros(6), 1), A_ub=np.column_stack([A, -np.ones(120)]), b_ub=b, bounds=(None, None)
            )
            for linear, proof in found:
                if linear.size == 7:
                    slack = proof.lacking * np.abs(least.x).sum()
                    assert -1e-9 < proof.value - least.fun <= proof.gap + slack + 1e-9


@pytest.mark.parametrize("hessian", ["exact", "tiles"])
def test_infeasible(hessian):
    box = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    for lack, off in ((1.0, 0.0), (1e-4, 0.0), (1.0, 1e6)):
        b = np.array([1 + off, -1 - lack - off, 1, 1])
        end = run(box, b, [1.0, 1.0], hessian=hessian)[-1]
        assert end.reason.startswith("infeasible: every x violates a constraint by ")
        assert 0 < float(end.reason.split(" by ")[1].split()[0]) <= lack / 2
        assert end.row["phase"] == 1
        assert end.residual == np.inf
    rng = np.random.default_rng(0)
    A = rng.standard_normal((200, 8))
    assert highs(A, -rng.random(200), np.ones(8)).status == 2
    assert run(A, -rng.random(200), np.ones(8))[-1].reason.startswith("infeasible")


def test_no_interior():
    box = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    end = run(box, [1.0, -1, 1, 1], [1.0, 1.0])[-1]
    assert end.reason.startswith("no interior")
    assert end.row["violation"] < 1e-7


@pytest.mark.parametrize(
    ("A", "b", "c"),
    [
        ([[-1.0, 0], [0, -1], [1, -1]], [1.0, 1, 1], [-1.0, -1]),
        ([[1.0, 1]], [1.0], [1.0, 0]),
        # no ray lies inside the cone of rays
        ([[1.0, 0], [-1, 0], [0, -1]], [1.0, 1, 0], [-1.0, -1]),
        ([[1.0, 0], [-1, 0], [0, -1]], [1.0, 1, 0], [1.0, -1e-3]),
        ([[1.0, 0], [-1, 0]], [1.0, 1], [1.0, 1e-3]),
        # infeasible at zero
        ([[-1.0, 0], [0, 1]], [-5.0, -2], [-1.0, 1]),
    ],
)
def test_unbounded(A, b, c):
    A = np.array(A)
    assert highs(A, b, c).status == 3
    for scale in (1.0, 1e-6, 1e8):
        end = run(A, np.array(b) * scale, c)[-1]
        assert end.reason.startswith("unbounded")
        assert not end.first


@pytest.mark.parametrize("scale", [1e12, 1e6])
def test_large_optima_are_not_unbounded(scale):
    box = np.vstack([np.eye(2), -np.eye(2)])
    assert solved(box, np.full(4, scale), np.array([1.0, 2.0]) * 1e12 / scale).value == pytest.approx(-3e12)


def test_the_first_phase_is_for_infeasible_starts_only():
    A, b, c = bounded(200, 6)
    states = run(A, b, c)
    assert states[0].first
    assert states[0].residual0 > -b.min()
    first = [s for s in states if s.first]
    assert all(s.residual == np.inf for s in first)
    assert np.all(A @ first[-1].w - b <= -first[-1].x[-1])
    inside = next(s for s in states if not s.first)
    assert np.all(A @ inside.w < b)
    again = run(A, b, c, start=inside.w)
    assert not any(s.first for s in again)
    assert again[-1].reason == "converged"
    assert np.allclose(again[-1].w, states[-1].w, atol=1e-6)
    # the last solution starts a program whose bounds are a little wider
    assert len(run(A, b + 1e-6, c, start=states[-1].w)) < len(states)
    far = run(A, b, c, start=1e4 * np.ones(6))
    assert far[0].first
    assert far[-1].reason == "converged"


@pytest.mark.parametrize("hessian", ["exact", "sketch", "tiles"])
def test_iterates_do_not_depend_on_workers(hessian):
    A, b, c = bounded(80, 4)
    one, two = (run(A, b, c, workers=k, hessian=hessian, rows_per_block=40, tol=1e-4) for k in (1, 2))
    assert len(one) == len(two)
    assert all(np.array_equal(a.x, b.x) and a.residual == b.residual for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("hessian", ["exact", "tiles"])
def test_resumed_iterates_are_the_same_bits(hessian):
    A, b, c = bounded(80, 4)
    whole = run(A, b, c, hessian=hessian, rows_per_block=40, tol=1e-4)
    turn = next(s.iteration for s in whole if not s.first)
    for k in (0, turn - 1, turn, len(whole) - 3):
        state = checkpoint.from_arrays(BarrierState, checkpoint.to_arrays(whole[k]))
        rest = run(A, b, c, hessian=hessian, rows_per_block=40, state=state, tol=1e-4)
        assert len(rest) == len(whole) - k
        for old, new in zip(whole[k:], rest, strict=True):
            assert np.array_equal(old.x, new.x)
            assert np.array_equal(old.w, new.w)
            assert (old.tau, old.value, old.residual, old.row, old.passes) == (
                new.tau,
                new.value,
                new.residual,
                new.row,
                new.passes,
            )


def test_spare_sketches_may_come_late():
    A, b, c = bounded(80, 4)
    solved(A, b, c, hessian="tiles", spare=2, tol=1e-4, workers=2)


def test_ends_that_are_not_optima():
    A, b, c = bounded(160, 5)
    early = run(A, b, c, max_iter=3)[-1]
    assert early.reason.startswith("stopped after 3 iterations, before a feasible point was found")
    late = run(A, b, c, max_iter=30)[-1]
    assert late.reason.startswith("stopped after 30 iterations, at a gap of ")
    assert np.all(A @ late.w <= b)
    assert late.value - highs(A, b, c).fun <= late.residual + 1e-6
    fine = run(1e3 * A, 1e3 * b + 1e8, c, tol=1e-15)[-1]
    assert fine.reason.startswith("stopped at a gap of ")
    assert fine.iteration < 200


def test_what_it_cannot_take():
    _, program = posed(np.eye(3), np.ones(3), np.ones(3))
    for name in SOLVERS:
        if name != "interior-point":
            with pytest.raises(InputError, match=f"{name} does not solve linear programs: use solver 'interior-point'"):
                check_problem(make_solver(name, {}), program)
    for problem in ({"loss": "squared", "l2": 1.0}, {"loss": "squared", "l1": 0.1, "l2": 0.1}, {"loss": "huber"}):
        with pytest.raises(InputError, match="linear programs and the lasso"):
            check_problem(InteriorPoint(), problem_from_spec(problem, program.data))
    for options in ({"mu": 1.0}, {"rows": 0.5}, {"spare": -1}):
        with pytest.raises(InputError, match="mu must be > 1, rows >= 1 and spare >= 0"):
            check_problem(make_solver("interior-point", options), program)
    with pytest.raises(InputError, match="4 parameters, the problem 3"):
        run(np.eye(3), np.ones(3), np.ones(3), start=np.ones(4))
    with pytest.raises(InputError, match="hessian must be one of auto"):
        make_solver("interior-point", {"hessian": "none"})


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    units=st.tuples(st.integers(-3, 3), st.integers(-3, 3)),
    shape=st.sampled_from([(6, 2), (30, 4), (12, 6)]),
)
def test_ends_as_highs_does_in_any_units(seed, units, shape):
    """Random signs make programs of all three kinds: solvable, infeasible and unbounded."""
    rng = np.random.default_rng(seed)
    m, n = shape
    A = rng.integers(-3, 4, (m, n)).astype(float)
    b = rng.integers(-2, 9, m) + 0.25
    c = rng.integers(-3, 4, n).astype(float)
    scale, rows = 10.0 ** units[0], 10.0 ** units[1]
    best = highs(A, b, c)
    end = run(A * rows, b * rows * scale, c)[-1]
    most_room = highs(np.column_stack([A, np.ones(m)]), b, np.append(np.zeros(n), -1.0))
    if best.status == 0 and most_room.status == 0 and most_room.fun > -1e-9:  # feasible on a face only
        assert end.reason.startswith("no interior")
    elif best.status == 0:
        assert end.reason == "converged"
        assert abs(end.value - best.fun * scale) <= 2e-8 * (1 + abs(end.value))
    elif best.status == 3:
        assert end.reason.startswith("unbounded")
    else:
        # HiGHS may call a program infeasible that is "infeasible or unbounded"
        assert end.reason.startswith(("infeasible", "unbounded", "no interior"))
