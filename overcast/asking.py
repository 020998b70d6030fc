"""What is asked of a client: the arguments that its methods share, in one place, and the job that they describe."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

import numpy as np

from coordinator.errors import InputError
from coordinator.linear_program import KIND, cost_vector
from coordinator.losses import Loss

if TYPE_CHECKING:
    from overcast.cloud import CloudJob
    from overcast.handle import JobHandle

SOLVER: Final = "oversketched-newton"
PROGRAMS: Final = "interior-point"

C = TypeVar("C")
R = TypeVar("R")
P = ParamSpec("P")


def ask(
    data: Any,
    *,
    loss: str | Mapping[str, Any] | Loss | None = None,
    c: Any = None,
    l2: float = 0.0,
    l1: float = 0.0,
    intercept: bool = True,
    class_weight: Any = None,
    solver: str | None = None,
    workers: int | None = None,
    start: str | JobHandle | CloudJob | None = None,
    id: str | None = None,  # noqa: A002  the word users know
    policy: str = "wait",
    executor: str = "local",
    **settings: Any,
) -> dict[str, Any]:
    """Fields of a `JobSpec`, as JSON but for the data; arguments as for `overcast.Client.submit`.

    Raises InputError where they do not go together; names and values are checked with the spec.
    """
    if c is None:
        problem = _problem(loss, l2, l1, intercept, class_weight)
    elif loss is None and not l2 and not l1 and class_weight is None:
        problem = {"kind": KIND, "c": cost_vector(c).tolist()}
    else:
        raise InputError("a linear program has its cost c only: give no loss, l1, l2 or class_weight with it")
    start = getattr(start, "id", start)
    if not isinstance(start, str | None):
        raise InputError(f"start must be a job or the id of one, not {start!r}")
    return {
        "data": data,
        "problem": problem,
        "solver": solver or (SOLVER if c is None else PROGRAMS),
        "settings": {key: plain(value) for key, value in settings.items()},
        "workers": plain(workers),
        "start": start,
        "id": id,
        "policy": policy,
        "executor": executor,
    }


def takes(of: Callable[P, Any]) -> Callable[[Callable[Concatenate[C, ...], R]], Callable[Concatenate[C, P], R]]:
    """Give a method whose `**options` are the arguments of `of` a signature that says so, to editors and to help()."""

    def signed(method: Callable[Concatenate[C, ...], R]) -> Callable[Concatenate[C, P], R]:
        own = inspect.signature(method)
        this, *mine = own.parameters.values()
        *shared, rest = inspect.signature(of).parameters.values()
        more = [one for one in mine if one.kind is one.KEYWORD_ONLY]
        shown: Any = method
        shown.__signature__ = own.replace(parameters=[this, *shared, *more, rest])
        return shown

    return signed


def plain(value: Any) -> Any:
    """A NumPy scalar as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _problem(loss: Any, l2: Any, l1: Any, intercept: Any, class_weight: Any) -> dict[str, Any]:
    if loss is None:
        raise InputError("say what to minimise: a loss, such as loss='logistic', or the cost c of a linear program")
    if isinstance(class_weight, Mapping):
        class_weight = {str(key): plain(value) for key, value in class_weight.items()}
    elif class_weight is not None and not isinstance(class_weight, str):
        class_weight = [plain(value) for value in class_weight]
    return {
        "loss": loss.spec() if isinstance(loss, Loss) else dict(loss) if isinstance(loss, Mapping) else loss,
        "l2": plain(l2),
        "l1": plain(l1),
        "intercept": plain(intercept),
        "class_weight": class_weight,
    }
