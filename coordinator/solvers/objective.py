"""The objective as solvers see it: values, gradients and curvature of a problem, each one or two phases of tasks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from coordinator.errors import InputError
from coordinator.phases import Phase
from coordinator.problem import Problem
from coordinator.runtime import Runtime
from coordinator.tasks import Arrays, Task, total
from sketches.codes import Code, Replication, Uncoded

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

GRAM_TASKS: Final = 8
GRAM_MEMORY: Final = 512 << 20  # bytes of Grams that may be in flight


@dataclass(frozen=True)
class Point:
    """A parameter vector and what is known of it: `key` names it to workers, `gradient` is of the smooth part."""

    w: Vector
    key: str
    value: float  # with all penalties
    gradient: Vector
    double: bool


@dataclass
class Objective:
    """f(w) of `coordinator.problem` on a runtime.

    `copies` > 1 runs each gradient task that many times and takes the first of each (replication).
    """

    problem: Problem
    ctx: Runtime
    copies: int = 1
    passes: float = 0.0  # times the data were read
    evaluator: Callable[[Vector, bool], Point] | None = None  # another way to values and gradients, such as a code's
    _phases: int = 0
    _weight: float = 0.0
    ridge: Vector = field(init=False)
    lasso: Vector = field(init=False)

    def __post_init__(self) -> None:
        self.ridge = self.problem.ridge()
        self.lasso = self.problem.lasso()

    @property
    def weight(self) -> float:
        """Total weight of the rows; InputError when it is zero."""
        if not self._weight:
            if self.problem.data.weighted or self.problem.class_weight is not None:
                self._weight = float(total(self.run("weigh", "glm.weigh", {}, double=False))[0])
            else:
                self._weight = float(self.problem.data.n_rows)
            if not self._weight > 0:
                raise InputError(f"all rows of data {self.problem.data.name!r} weigh 0: nothing to fit")
        return self._weight

    def at(self, w: Vector, double: bool = False) -> Point:
        """Value and gradient at `w`: one pass, or as many as `evaluator` takes."""
        if self.evaluator is not None:
            return self.evaluator(w, double)
        key = self.ctx.put(w)
        value, gradient = total(self.run("gradient", "glm.evaluate", {"w": key}, double=double, copies=self.copies))
        self.passes += 1
        return self.point(w, key, float(value), gradient, double)

    def point(self, w: Vector, key: str, loss: float, gradient: Vector, double: bool) -> Point:
        """A point from the sums over rows."""
        value = loss / self.weight + 0.5 * float(w @ (self.ridge * w)) + float(self.lasso @ np.abs(w))
        return Point(w, key, value, gradient / self.weight + self.ridge * w, double)

    def restore(self, w: Vector, value: float, gradient: Vector, double: bool) -> Point:
        """A point of a checkpoint: nothing is computed."""
        return Point(w, self.ctx.put(w), value, gradient, double)

    def search(self, start: Point, end: Point, steps: Sequence[float]) -> tuple[Vector, Vector]:
        """Values and slopes at start + step (end - start), (n_steps,) each, in one phase."""
        inputs = {"w": start.key, "w1": end.key}
        results = self.run("line-search", "glm.search", inputs, double=end.double, steps=list(steps))
        loss, slope = total(results)
        w, p, t = start.w, end.w - start.w, np.asarray(steps)
        Rp = self.ridge * p
        a, b, c = float(w @ (self.ridge * w)), float(w @ Rp), float(p @ Rp)
        values = loss / self.weight + 0.5 * a + t * b + 0.5 * t * t * c
        if self.problem.penalty.l1:
            values += [float(self.lasso @ np.abs(w + step * p)) for step in steps]
        return values, slope / self.weight + b + t * c

    def gradients(self, start: Point, end: Point, steps: Sequence[float]) -> Matrix:
        """Gradients of the smooth part at start + step (end - start), (n_steps, n_parameters): one pass."""
        inputs = {"w": start.key, "w1": end.key}
        results = self.run("gradients", "glm.gradients", inputs, double=end.double, steps=list(steps))
        self.passes += 1
        at = start.w[None, :] + np.asarray(steps)[:, None] * (end.w - start.w)[None, :]
        return total(results)[0] / self.weight + at * self.ridge

    def product(self, at: Point, v: Vector, exact: bool = False) -> Vector:
        """Hessian of the smooth part times `v`: one pass."""
        inputs = {"w": at.key, "v": self.ctx.put(v)}
        (hv,) = total(self.run("hessian-product", "glm.product", inputs, double=at.double, exact=exact))
        self.passes += 1
        return hv / self.weight + self.ridge * v

    def diagonal(self, at: Point) -> Vector:
        """Diagonal of the Hessian without the penalty: one pass."""
        (d,) = total(self.run("hessian-diagonal", "glm.diagonal", {"w": at.key}, double=at.double))
        self.passes += 1
        return d / self.weight

    def gram(self, at: Point, what: str = "full") -> list[Matrix]:
        """Exact Hessian without the penalty: one matrix ("full"), or one per class ("class")."""
        results = self._grouped("hessian", "glm.gram", at, what)
        self.passes += 1
        return [self._order(G, what) / self.weight for G in total(results)]

    def gram_columns(self, at: Point, columns: NDArray[np.int64], what: str = "full", every: int = 1) -> list[Matrix]:
        """`gram` restricted to the features `columns` and the intercept; from each `every`-th row of the blocks."""
        inputs = {"w": at.key, "columns": self.ctx.put(columns)}
        blocks = self._blocks_of(self.groups(what, len(columns) + int(self.problem.intercept)))
        params = [{"what": what, "every": every}] * len(blocks)
        results = self.phase("hessian", "glm.gram_columns", blocks, inputs, double=at.double, params=params)
        self.passes += 1 / every
        return [self._order(G, what) / self.weight for G in total(results)]

    def sketch(
        self, at: Point, laws: Sequence[dict[str, Any]], seed: int, path: Sequence[int], what: str = "full"
    ) -> list[Matrix]:
        """Sketched Hessian without the penalty; `laws` has one sketch per block, drawn from stream(seed, *path, i)."""
        paths = [[*path, i] for i in range(len(laws))]
        results = self._grouped("sketch", "glm.sketch", at, what, laws=list(laws), paths=paths, seed=seed)
        self.passes += 1
        return [self._order(G, what) / self.weight for G in total(results)]

    def groups(self, what: str, n_rows_of_w: int | None = None) -> list[range]:
        """Blocks by task for results as large as a Gram: few, but a function of the problem alone."""
        K = self.problem.n_outputs
        p = n_rows_of_w or self.problem.n_rows_of_w
        size = 8 * p * p * (K * K if what == "full" else K)
        count = max(2, min(GRAM_TASKS, GRAM_MEMORY // max(size, 1)))
        n = len(self.problem.data.keys)
        edges = np.linspace(0, n, min(count, n) + 1).astype(int)
        return [range(a, b) for a, b in itertools.pairwise(edges.tolist())]

    def label(self, name: str) -> str:
        """A fresh phase name, the same one when the step is run again."""
        self._phases += 1
        return f"{name}#{self._phases}"

    def run(
        self,
        name: str,
        kernel: str,
        inputs: dict[str, str],
        *,
        double: bool,
        copies: int = 1,
        **params: Any,
    ) -> list[Arrays]:
        """One phase with a task for every block; the results in block order."""
        blocks = [(key,) for key in self.problem.data.keys]
        return self.phase(name, kernel, blocks, inputs, double=double, copies=copies, params=[params] * len(blocks))

    def phase(
        self,
        name: str,
        kernel: str,
        blocks: Sequence[tuple[str, ...]],
        inputs: dict[str, str],
        *,
        double: bool,
        params: Sequence[dict[str, Any]],
        copies: int = 1,
        code: Code | None = None,
    ) -> list[Arrays]:
        """One phase with a task for every group of blocks; the results in order, all of them unless `code` says so."""
        label = self.label(name)
        problem = self.problem.task_params() | {"double": double}
        n_features = self.problem.data.n_features
        tasks = [
            Task(
                kernel,
                f"{self.ctx.prefix}/{name}-{self._phases:05d}/{copy}-{i:05d}",
                keys,
                n_features,
                inputs,
                {"problem": problem, **extra},
            )
            for copy in range(copies)
            for i, (keys, extra) in enumerate(zip(blocks, params, strict=True))
        ]
        if code is None:
            code = Uncoded(len(blocks)) if copies == 1 else Replication(len(blocks), copies)
        [results] = self.ctx.run(Phase(label, tasks, code))
        return results

    def _grouped(
        self,
        name: str,
        kernel: str,
        at: Point,
        what: str,
        laws: list[dict[str, Any]] | None = None,
        paths: list[list[int]] | None = None,
        seed: int = 0,
    ) -> list[Arrays]:
        groups = self.groups(what)
        params: list[dict[str, Any]] = []
        for group in groups:
            extra: dict[str, Any] = {"what": what}
            if laws is not None and paths is not None:
                extra |= {"sketches": [laws[i] for i in group], "paths": [paths[i] for i in group], "seed": seed}
            params.append(extra)
        return self.phase(name, kernel, self._blocks_of(groups), {"w": at.key}, double=at.double, params=params)

    def _blocks_of(self, groups: Sequence[range]) -> list[tuple[str, ...]]:
        return [tuple(self.problem.data.keys[i] for i in group) for group in groups]

    def _order(self, G: Matrix, what: str) -> Matrix:
        """Class-major columns, as kernels give them, to the C order of (p, K), as parameters are flattened."""
        K = self.problem.n_outputs
        if what != "full" or K == 1:
            return G
        p = G.shape[0] // K
        return G.reshape(K, p, K, p).transpose(1, 0, 3, 2).reshape(K * p, K * p)
