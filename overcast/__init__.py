"""Overcast: second-order optimization from sketches and erasure codes, in one process or on workers.

    import overcast
    client = overcast.Client()
    result = client.solve((X, y), loss="logistic", l2=1e-4)

This is the documented import. Names are loaded on first use, so that `import overcast` itself costs nothing. The
estimators (LogisticRegression, Ridge, ...) need scikit-learn, the extra "sklearn".
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from coordinator.errors import (
        CancelledError,
        InputError,
        JobError,
        JobMissingError,
        OvercastError,
        PhaseError,
        StorageError,
        UnknownNameError,
    )
    from coordinator.jobs import Status
    from coordinator.losses import Loss, register_loss
    from coordinator.results import Result
    from overcast.client import Client
    from overcast.cloud import CloudClient, CloudJob
    from overcast.estimators import (
        ElasticNet,
        HuberRegressor,
        Lasso,
        LinearSVC,
        LogisticRegression,
        PoissonRegressor,
        Ridge,
    )
    from overcast.handle import JobHandle

_FROM: Final = {
    "Client": "overcast.client",
    "CloudClient": "overcast.cloud",
    "CloudJob": "overcast.cloud",
    "JobHandle": "overcast.handle",
    "Result": "coordinator.results",
    "Status": "coordinator.jobs",
    "Loss": "coordinator.losses",
    "register_loss": "coordinator.losses",
    "CancelledError": "coordinator.errors",
    "InputError": "coordinator.errors",
    "JobError": "coordinator.errors",
    "JobMissingError": "coordinator.errors",
    "OvercastError": "coordinator.errors",
    "PhaseError": "coordinator.errors",
    "StorageError": "coordinator.errors",
    "UnknownNameError": "coordinator.errors",
    "LogisticRegression": "overcast.estimators",
    "LinearSVC": "overcast.estimators",
    "Ridge": "overcast.estimators",
    "Lasso": "overcast.estimators",
    "ElasticNet": "overcast.estimators",
    "HuberRegressor": "overcast.estimators",
    "PoissonRegressor": "overcast.estimators",
}

__all__ = [
    "CancelledError",
    "Client",
    "CloudClient",
    "CloudJob",
    "ElasticNet",
    "HuberRegressor",
    "InputError",
    "JobError",
    "JobHandle",
    "JobMissingError",
    "Lasso",
    "LinearSVC",
    "LogisticRegression",
    "Loss",
    "OvercastError",
    "PhaseError",
    "PoissonRegressor",
    "Result",
    "Ridge",
    "Status",
    "StorageError",
    "UnknownNameError",
    "register_loss",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("overcast")
    if name in _FROM:
        return getattr(import_module(_FROM[name]), name)
    raise AttributeError(f"module 'overcast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
