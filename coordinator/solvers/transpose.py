"""A data set transposed: its columns as rows, in blocks of their own beside it.

Two phases of tasks, each reading or writing a block at a time: every row block is cut into column slabs, then the
pieces of a slab are joined. Each number is read twice, whatever the number of blocks. Keys are functions of the data
set, so that jobs on it share the copy, and deleting the data set deletes it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from coordinator.data.blocks import Block, RowBlocks
from coordinator.errors import KeyMissingError
from coordinator.phases import Phase
from coordinator.runtime import Runtime
from coordinator.storage import version_of
from coordinator.tasks import Arrays, Task, Work, kernel, put_once
from sketches import Uncoded


def derived(ctx: Runtime, data: RowBlocks, what: str, *choices: Any) -> str:
    """Folder for objects that are functions of the data set and of `choices`."""
    identity = [data.keys, data.rows, data.hashes, data.n_features, data.layout, data.dtype, *choices]
    return f"{ctx.derived or data.keys[0].rpartition('/')[0]}/{what}-{version_of(json.dumps(identity).encode())[:16]}"


def transpose_blocks(ctx: Runtime, data: RowBlocks, parts: int | None = None) -> RowBlocks:
    """The columns of `data` as rows, (d, n), in `parts` blocks (default: as many as `data` has); targets are zeros.

    Blocks keep layout and dtype. Those that exist already are not made again.
    """
    d = data.n_features
    count = min(parts or len(data.keys), d)
    edges = list(pairwise(np.linspace(0, d, count + 1).astype(int).tolist()))
    folder = derived(ctx, data, "transposed", count)
    keys = tuple(f"{folder}/block-{j:05d}" for j in range(count))
    shared = {"folder": folder, "edges": edges}
    cuts = [
        Task("transpose.cut", f"{folder}/cut-{r:05d}", (key,), d, params={**shared, "row_block": r})
        for r, key in enumerate(data.keys)
    ]
    ctx.run(Phase(f"transpose-cut#{folder}", cuts, Uncoded(len(cuts))))
    joins = [
        Task("transpose.join", key, params={"pieces": f"{folder}/pieces-{j:05d}", "rows": list(data.rows)})
        for j, key in enumerate(keys)
    ]
    ctx.run(Phase(f"transpose-join#{folder}", joins, Uncoded(count)))
    return replace(
        data,
        name=f"{data.name}-transposed",
        keys=keys,
        rows=tuple(stop - start for start, stop in edges),
        n_features=data.n_rows,
        hashes=(),
        classes=None,
        weighted=False,
        scale_key=None,
        features=None,
    )


@kernel("transpose.cut")
def cut(work: Work, *, folder: str, edges: list[list[int]], row_block: int) -> Arrays:
    """Store each column slab of one row block, transposed, unless the joined blocks are all there."""
    storage = work.worker.data
    missing = [j for j in range(len(edges)) if not storage.exists(f"{folder}/block-{j:05d}")]
    for _, block in work.blocks():
        X = block.X if isinstance(block.X, np.ndarray) or not missing else block.X.tocsc()
        for j in missing:
            part = X[:, edges[j][0] : edges[j][1]].T
            turned = Block(_plain(part), np.zeros(part.shape[0]))
            put_once(storage, f"{folder}/pieces-{j:05d}/{row_block:05d}", turned.arrays())
    return (np.array(len(missing)),)


@kernel("transpose.join")
def join(work: Work, *, pieces: str, rows: list[int]) -> Arrays:
    """Store the transposed block that the pieces make, and delete them."""
    storage, key = work.worker.data, work.task.output
    if not storage.exists(key):
        try:
            found = [
                Block.from_arrays(storage.get_arrays(f"{pieces}/{r:05d}"), n, pieces).X for r, n in enumerate(rows)
            ]
        except KeyMissingError:
            if storage.exists(key):  # another run of this task was faster, and has tidied up
                return (np.zeros(()),)
            raise
        whole = np.concatenate(found, axis=1) if isinstance(found[0], np.ndarray) else sparse.hstack(found, "csr")
        put_once(storage, key, Block(_plain(whole), np.zeros(whole.shape[0])).arrays())
    work.worker.discard(pieces)
    return (np.zeros(()),)


def _plain(X: NDArray[Any] | Any) -> NDArray[Any] | sparse.csr_matrix:
    """As blocks hold it: C-ordered, or CSR with 32-bit indices."""
    if isinstance(X, np.ndarray):
        return np.ascontiguousarray(X)
    out = X.tocsr()
    out.sort_indices()
    out.indices, out.indptr = out.indices.astype(np.int32), out.indptr.astype(np.int32)
    return out
