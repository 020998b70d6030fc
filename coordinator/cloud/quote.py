"""A quote: what a job will take, in tasks, bytes, memory, seconds and dollars, before anything is spent.

Figures per phase follow from the shape of the data and nominal rates; how often a solver runs each phase is what it
typically takes to 1e-6 on a well-posed problem, so that a total is right within a factor of about three. A phase that
fits into no worker is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Final

from coordinator.cloud.cache import AHEAD
from coordinator.cloud.deployment import cloud_profile
from coordinator.cloud.prices import prices
from coordinator.errors import InputError
from coordinator.executors.aws import LIMIT
from coordinator.jobs import JobSpec
from coordinator.linear_program import LinearProgram
from coordinator.problem import Problem
from coordinator.solvers import costs
from coordinator.solvers.objective import GRAM_TASKS

BASE: Final = 160  # MB of Python and libraries
TRIP: Final = 0.06  # seconds of a warm call beside its computing
# gradients (or products) and Hessians in a run, by solver or by strategy of oversketched-newton
_RUNS: Final[dict[str, tuple[float, float]]] = {
    "metric": (40, 1.5),
    "averaged": (12, 8),
    "pcg": (40, 4),
    "exact": (10, 7),
    "sketch": (14, 10),
    "newton": (10, 7),
    "giant": (60, 0),
    "lbfgs": (80, 0),
    "proximal-newton": (14, 9),
    "nesterov": (300, 0),
    "gradient-descent": (600, 0),
    "sgd": (60, 0),
    "interior-point": (30, 25),
}
_OTHER: Final = (30.0, 8.0)


@dataclass(frozen=True)
class PhaseQuote:
    """One kind of phase over a whole run.

    Attributes
    ----------
    runs, tasks : how often it runs, and tasks in all.
    bytes : of data that its tasks read, were nothing kept between them.
    memory : MB that a worker needs; `function` is the first that has them, by its place in the deployment.
    seconds, dollars : of the whole run.
    """

    name: str
    runs: float
    tasks: int
    bytes: int
    memory: int
    function: int
    seconds: float
    dollars: float


@dataclass(frozen=True)
class ColdQuote:
    """Cold starts: of how many workers, the seconds by which they hold the job up, and their dollars."""

    starts: int
    seconds: float
    dollars: float


@dataclass(frozen=True)
class Quote:
    """What a job will take; `dollars` are those of its phases, of cold starts and of its driver."""

    phases: tuple[PhaseQuote, ...]
    cold: ColdQuote
    workers: int
    seconds: float
    driver_dollars: float
    dollars: float
    prices_of: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def make_quote(
    spec: JobSpec, problem: Problem | LinearProgram, sizes: Sequence[int], driver_memory: int = 3008
) -> Quote:
    """The quote of a checked job on workers of `sizes` MB. InputError for a phase that fits into none."""
    data = problem.data
    blocks = len(data.keys)
    workers = min(spec.workers or LIMIT, blocks)
    profile = cloud_profile(workers)
    rows = max(data.rows)
    block = data.nbytes * rows / max(data.n_rows, 1) / 1e6
    p, K = _columns(problem), problem.n_outputs
    gradients, hessians = _runs(spec, problem)
    vectors = 8e-6 * (4 * rows * K + 6 * p * K)
    matrix = 8e-6 * (p * K if _full(problem) else p) ** 2
    read = data.nbytes / profile.stream if data.layout == "dense" else data.nnz / profile.nonzeros
    whole = data.n_rows * (p * (K if _full(problem) else 1)) ** 2 / profile.syrk32
    phases = [_phase("gradient", gradients, blocks, data.nbytes, block + vectors, read, workers, sizes)]
    if hessians:
        # a task of a Hessian reads several blocks, a few of them ahead
        held = block * min(1 + AHEAD, ceil(blocks / GRAM_TASKS)) + vectors + 3 * matrix
        tasks = min(GRAM_TASKS, blocks)
        slower = workers / min(tasks, workers)
        phases.append(_phase("hessian", hessians, tasks, data.nbytes, held, whole * slower, tasks, sizes))
        if (needs := BASE + 5 * matrix) > driver_memory:
            raise InputError(
                f"the driver would need {needs:.0f} MB for matrices of {p} columns and has {driver_memory}: "
                "use a solver without a Hessian, such as lbfgs, or deploy a larger driver"
            )
    cold = _cold(phases, (min(workers, blocks), min(workers, GRAM_TASKS, blocks)), sizes)
    factor = hessians * (p * (K if _full(problem) else 1)) ** 3 / profile.solve64
    # the driver starts first, then they do
    seconds = prices().start + cold.seconds + sum(phase.seconds for phase in phases) + factor
    driver = prices().call(driver_memory, seconds, 0, int(8 * (gradients + hessians)))
    dollars = sum(phase.dollars for phase in phases) + cold.dollars + driver
    if spec.max_cost is not None and dollars > 3 * spec.max_cost:
        raise InputError(f"the job will cost about ${dollars:.4f}, and max_cost is ${spec.max_cost:g}: raise it")
    return Quote(tuple(phases), cold, workers, seconds, driver, dollars, prices().date)


def _phase(
    name: str,
    runs: float,
    tasks: int,
    nbytes: int,
    megabytes: float,
    seconds: float,
    workers: int,
    sizes: Sequence[int],
) -> PhaseQuote:
    """`megabytes` are a task's beside the base, `seconds` those of one run with `workers` at once."""
    memory = ceil(BASE + megabytes / 0.45)  # blocks may take that share of the rest
    fits = [i for i, size in enumerate(sizes) if size >= memory]
    if not fits:
        raise InputError(
            f"phase {name!r} needs {memory} MB a worker, and the largest worker has {max(sizes)}: "
            "import the data with a smaller block_bytes, or deploy larger workers"
        )
    rounds = ceil(tasks / workers)
    each = seconds * workers / tasks  # of computing, a task
    once = seconds + rounds * TRIP
    dollars = runs * tasks * prices().call(sizes[fits[0]], each + TRIP / 2, reads=1)
    return PhaseQuote(name, runs, ceil(runs * tasks), ceil(runs * nbytes), memory, fits[0], runs * once, dollars)


def _cold(phases: Sequence[PhaseQuote], at_once: Sequence[int], sizes: Sequence[int]) -> ColdQuote:
    """Of each size of worker as many start, side by side, as the phases on it have tasks at once."""
    count: dict[int, int] = {}
    for phase, tasks in zip(phases, at_once, strict=False):
        count[phase.function] = max(tasks, count.get(phase.function, 0))
    dollars = sum(prices().starts(sizes[function], n) for function, n in count.items())
    return ColdQuote(sum(count.values()), prices().start * len(count), dollars)


def _columns(problem: Problem | LinearProgram) -> int:
    return problem.n_rows_of_w if isinstance(problem, Problem) else problem.data.n_features


def _full(problem: Problem | LinearProgram) -> bool:
    return isinstance(problem, Problem) and costs.Costs(problem, cloud_profile()).what == "full"


def _runs(spec: JobSpec, problem: Problem | LinearProgram) -> tuple[float, float]:
    name = spec.solver
    if name == "oversketched-newton" and isinstance(problem, Problem):
        name = str(spec.settings.get("strategy", "auto"))
        if name == "auto":
            name = costs.make_plan(problem, cloud_profile(spec.workers), float(spec.settings.get("tol", 1e-6))).strategy
    gradients, hessians = _RUNS.get(name, _OTHER)
    most = float(spec.settings.get("max_iter", 10**9))
    return min(gradients, 2 * most + 2), min(hessians, most)
