"""The coded gradient: two rounds of matrix-vector products that decode from whichever workers answered.

Gupta, Kadhe, Courtade, Mahoney and Ramchandran, "OverSketched Newton" (arXiv 1903.08857), section 2.1 and algorithm 1,
with the product code of Baharav et al. (ISIT 2018; `sketches.ProductCode`). Round one multiplies coded row blocks by
the parameters, z = Xw; the coordinator takes the loss and its derivative row by row, b = loss'(z); round two multiplies
coded blocks of columns by b. A gradient by row blocks in one round is not linear in the block, so parities cannot help
it; replicate it instead (`Objective.copies`).

Deviations: products and parities are float64 whatever the dtype of the data, because float32 parities decode to 1e-7
only; blocks need not fill the grid of the code; blocks that are data, not parities, are used where they lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coordinator.data.blocks import Block, RowBlocks
from coordinator.errors import InputError
from coordinator.kernels import CHUNK_BYTES, CHUNK_ROWS, Problem, Rowwise, as_double, chunks, join, split
from coordinator.phases import Phase
from coordinator.runtime import Runtime
from coordinator.solvers.transpose import derived, transpose_blocks
from coordinator.tasks import Arrays, Task, Work, kernel, put_once
from sketches import ProductCode, Uncoded

if TYPE_CHECKING:
    from coordinator.solvers.objective import Objective, Point

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class CodedBlocks:
    """Blocks and their parities: `keys` in the order of the code's tasks, all padded to `height` rows in products."""

    code: ProductCode
    keys: tuple[str, ...]
    rows: tuple[int, ...]
    n_features: int

    @property
    def height(self) -> int:
        return max(self.rows)


@dataclass(frozen=True, eq=False)
class CodedData:
    """What the coordinator of a coded gradient holds: two coded copies by key, encoded targets and row weights (n,)."""

    rows: CodedBlocks
    columns: CodedBlocks
    y: NDArray[Any]
    weight: Vector | None


def encode(objective: Objective, prefix: str | None = None) -> CodedData:
    """Code the data of the objective: parities of its row blocks, its transpose, and the parities of that.

    About 2 / sqrt(blocks) of the data in float64 for each set of parities, and one copy of the data. Objects that exist
    are not made again, so that a resumed job calls this anew at little cost.

    Parameters
    ----------
    prefix : where parities are stored; by default beside the data, for all jobs on it.

    Raises InputError for sparse data.
    """
    data, ctx = objective.problem.data, objective.ctx
    if data.layout != "dense":
        raise InputError("coded gradients need dense rows, parities of sparse ones fill up: use gradient='replicated'")
    y, weight = read_targets(objective)
    rows = _with_parities(objective, data, prefix or derived(ctx, data, "coded"))
    turned = transpose_blocks(ctx, data)
    columns = _with_parities(objective, turned, f"{prefix or derived(ctx, data, 'coded')}/columns")
    return CodedData(rows, columns, y, weight)


def read_targets(objective: Objective) -> tuple[NDArray[Any], Vector | None]:
    """All encoded targets (n,), and the rows' weights (n,) if they are weighted."""
    keys = [(key,) for key in objective.problem.data.keys]
    parts = objective.phase("targets", "coded.targets", keys, {}, double=True, params=[{}] * len(keys))
    weight = np.concatenate([part[1] for part in parts]) if len(parts[0]) > 1 else None
    return np.concatenate([part[0] for part in parts]), weight


def _with_parities(objective: Objective, data: RowBlocks, folder: str) -> CodedBlocks:
    code = ProductCode.for_blocks(len(data.keys))
    keys = list(data.keys) + [f"{folder}/parity-{i:05d}" for i in range(code.n_blocks, code.n_tasks)]
    params = {"height": max(data.rows)}
    parities = [
        Task("coded.parity", keys[i], tuple(keys[j] for j in code.parity_members(i)), data.n_features, params=params)
        for i in range(code.n_blocks, code.n_tasks - 1)
    ]
    objective.ctx.run(Phase(objective.label("coded-parity"), parities, Uncoded(len(parities))))
    # the corner is the sum of the column parities: so no task reads more than a line of the grid
    above = tuple(keys[code.n_blocks : code.n_blocks + code.cols])
    corner = [Task("coded.parity", keys[-1], above, data.n_features, params=params)]
    objective.ctx.run(Phase(objective.label("coded-parity"), corner, Uncoded(1)))
    return CodedBlocks(code, tuple(keys), data.rows, data.n_features)


def coded_product(ctx: Runtime, label: str, coded: CodedBlocks, v: Vector) -> Vector:
    """Rows times `v` (n_features,) or (n_features, K), in float64, from any decodable set of workers.

    Raises PhaseError when the answers that came do not decode.
    """
    inputs, params = {"v": ctx.put(v)}, {"height": coded.height}
    tasks = [
        Task(
            "coded.product", f"{ctx.prefix}/{label.replace('#', '-')}/{i:05d}", (key,), coded.n_features, inputs, params
        )
        for i, key in enumerate(coded.keys)
    ]
    [parts] = ctx.run(Phase(label, tasks, coded.code))
    return np.concatenate([part[:n] for (part,), n in zip(parts, coded.rows, strict=True)])


def coded_gradient(objective: Objective, coded: CodedData, w: Vector) -> tuple[float, Vector]:
    """Sum of losses and its gradient (p K,) at `w`, as the sums that `glm.evaluate` gives."""
    problem = objective.problem
    coefficients, bias = split(w, problem.n_rows_of_w, problem.intercept)
    z = coded_product(objective.ctx, objective.label("coded-rows"), coded.rows, coefficients) + bias
    with np.errstate(over="ignore", invalid="ignore"):  # an overflowing objective is inf: a value, not an error
        value, b = problem.loss.both(z, coded.y)
        if coded.weight is not None:
            value = value * coded.weight
            b = b * (coded.weight if b.ndim == 1 else coded.weight[:, None])
        loss = float(value.sum())
    gradient = coded_product(objective.ctx, objective.label("coded-columns"), coded.columns, b)
    objective.passes += 2
    return loss, join(gradient, b.sum(axis=0) if problem.intercept else None)


def coded_point(objective: Objective, coded: CodedData, w: Vector, double: bool = False) -> Point:
    """`Objective.at` by the coded gradient: two passes, in float64 whatever `double` says of later products."""
    loss, gradient = coded_gradient(objective, coded, w)
    return objective.point(w, objective.ctx.put(w), loss, gradient, double)


@kernel("coded.targets")
def targets(work: Work, *, problem: Problem) -> Arrays:
    """Encoded targets (n,) of one block, and its rows' weights (n,) where they are weighted."""
    [(key, block)] = work.blocks()
    rowwise = Rowwise(work, key, block, problem)
    return (rowwise.y,) if rowwise.weight is None else (rowwise.y, rowwise.weight)


@kernel("coded.parity")
def parity(work: Work, *, height: int) -> Arrays:
    """Store the sum of the task's blocks, padded with zero rows to (height, d), in float64."""
    if not work.worker.data.exists(work.task.output):
        total = np.zeros((height, work.task.n_features))
        for _, block in work.blocks():
            total[: block.n_rows] += block.X
        put_once(work.worker.data, work.task.output, Block(total, np.zeros(height)).arrays())
    return (np.zeros(()),)


@kernel("coded.product")
def product(work: Work, *, height: int) -> Arrays:
    """One block times input `v`, padded with zero rows to (height,) or (height, K), in float64."""
    v = work.input("v")
    [(_, block)] = work.blocks()
    out = np.zeros((height, *v.shape[1:]))
    for start, stop, part in chunks(block.X, CHUNK_BYTES, CHUNK_ROWS):
        out[start:stop] = as_double(part) @ v
    return (out,)
