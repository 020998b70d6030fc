"""The control plane and the worker's half of the contract: problems, data, storage, tasks, solvers, jobs."""
