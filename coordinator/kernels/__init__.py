"""Kernels of a generalized linear problem on row blocks: what workers compute for every solver.

All sums are weighted, s_i = sample weight x class weight, and not yet divided by the total weight. A block's rows are
read once per call: products with X and with X' are taken chunk by chunk while the chunk is in cache. Importing this
package registers the kernels that tasks name.
"""

from coordinator.kernels.calls import call
from coordinator.kernels.classes import class_rows
from coordinator.kernels.grams import gram, roots
from coordinator.kernels.products import weigh
from coordinator.kernels.rows import (
    CHUNK_BYTES,
    CHUNK_ROWS,
    Array,
    Problem,
    Rows,
    Rowwise,
    add,
    as_double,
    chunks,
    each,
    join,
    left,
    memo_bytes,
    split,
    through,
)

__all__ = [
    "CHUNK_BYTES",
    "CHUNK_ROWS",
    "Array",
    "Problem",
    "Rows",
    "Rowwise",
    "add",
    "as_double",
    "call",
    "chunks",
    "class_rows",
    "each",
    "gram",
    "join",
    "left",
    "memo_bytes",
    "roots",
    "split",
    "through",
    "weigh",
]
