"""A runtime on an executor whose attempts fail by a table: what tests of coded phases share."""

import numpy as np
import pytest

import coordinator.kernels  # noqa: F401  registers kernels
from coordinator.executors.local import LocalExecutor
from coordinator.phases import Outcome
from coordinator.runtime import Runtime
from coordinator.solvers.objective import Objective
from coordinator.storage import MemoryStorage
from coordinator.tasks import Worker


class FlakyExecutor(LocalExecutor):
    """Attempts fail by a table {phase kind: {task index: attempts that fail}}; failures come back at once."""

    def __init__(self, worker, workers=1, faults=None):
        super().__init__(worker, workers)
        self.faults = faults or {}
        self.lost = []

    def submit(self, launches):
        well = []
        for launch in launches:
            bad = self.faults.get(launch.phase.split("#")[0], {}).get(launch.index, 0)
            if launch.attempt <= bad:
                self.lost.append(Outcome(launch, error="killed", worker="flaky"))
            else:
                well.append(launch)
        super().submit(well)

    def poll(self, timeout):
        lost, self.lost = self.lost, []
        return lost or super().poll(timeout)


class Bench:
    """A runtime on an executor with faults, as a context."""

    def __init__(self, storage, problem, workers=1, faults=None, scratch=None):
        self.scratch = scratch if scratch is not None else MemoryStorage()
        self.executor = FlakyExecutor(Worker(storage, self.scratch), workers, faults)
        self.ctx = Runtime(self.executor, self.scratch)
        self.objective = Objective(problem, self.ctx)
        rng = np.random.default_rng(5)
        self.w = 0.5 * rng.standard_normal(problem.n_parameters)

    def __enter__(self):
        self.session = self.ctx.session()
        self.session.__enter__()
        self.point = self.objective.at(self.w)
        return self

    def __exit__(self, *error):
        self.session.__exit__(*error)
        self.executor.close()


@pytest.fixture(name="Bench")
def bench():
    return Bench
