"""The registry of solvers: one file each, one line here. The CLI, the client and the docs pick them up from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from coordinator.errors import InputError, UnknownNameError
from coordinator.linear_program import LinearProgram
from coordinator.solvers.averaged import AveragedNewton
from coordinator.solvers.averaging import DeterminantalAveraging, SurrogateAveraging, UniformAveraging
from coordinator.solvers.base import Solver, check_settings
from coordinator.solvers.dingo import Dingo
from coordinator.solvers.exact import Newton
from coordinator.solvers.first_order import GradientDescent, Nesterov
from coordinator.solvers.giant import Giant
from coordinator.solvers.interior_point import InteriorPoint
from coordinator.solvers.lbfgs import Lbfgs
from coordinator.solvers.local_newton import LocalNewton
from coordinator.solvers.newton import OverSketchedNewton
from coordinator.solvers.prox import ProximalNewton
from coordinator.solvers.sgd import Sgd

SOLVERS: Final[dict[str, type[Any]]] = {
    solver.name: solver
    for solver in (
        OverSketchedNewton,
        Newton,
        AveragedNewton,
        DeterminantalAveraging,
        SurrogateAveraging,
        UniformAveraging,
        Giant,
        LocalNewton,
        Dingo,
        Lbfgs,
        ProximalNewton,
        Nesterov,
        GradientDescent,
        Sgd,
        InteriorPoint,
    )
}


def check_problem(solver: Solver, problem: Any) -> None:
    """InputError when the solver cannot take the problem."""
    if isinstance(problem, LinearProgram) and not isinstance(solver, InteriorPoint):
        raise InputError(f"{solver.name} does not solve linear programs: use solver {InteriorPoint.name!r}")
    solver.check(problem)


def make_solver(name: str, settings: Mapping[str, Any]) -> Solver:
    """A configured solver; InputError for names and settings that are not known or not sound."""
    if name not in SOLVERS:
        raise UnknownNameError("solver", name, SOLVERS)
    kind = SOLVERS[name]
    known = [f.name for f in fields(kind)]
    for key in settings:
        if key not in known:
            raise UnknownNameError(f"setting of solver {name!r}", key, known)
    solver: Solver = kind(**settings)
    check_settings(solver)
    return solver
