"""`overcast solve`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from coordinator.errors import InputError, JobMissingError
from overcast.commands.common import (
    Commands,
    add_import_options,
    add_json,
    again,
    command,
    import_options,
    pairs,
    print_facts,
    print_json,
    say,
    stage,
)

if TYPE_CHECKING:
    from overcast.cloud import CloudJob
    from overcast.handle import JobHandle
    from overcast.place import CloudPlace, Job, Place

# what may stand beside --resume
_GO_ON: Final = ("command", "data", "default_of", "detach", "json", "quiet", "resume", "run", "stage", "store")


def add_commands(commands: Commands) -> None:
    """Add the command."""
    parser = command(
        commands,
        "solve",
        "solve a problem on a data set or file, with live progress",
        """overcast solve a9a --loss logistic --l2 1e-4
        overcast solve train.csv.gz --label price --loss squared --l2 1e-3 --scale std
        overcast solve a9a --loss logistic --solver lbfgs --set memory=20 --tol 1e-8
        overcast solve constraints.csv --cost cost.csv
        overcast solve a9a --loss logistic --l2 1e-4 --stage prod --max-cost 0.50
        overcast solve --resume""",
        _solve,
        about=" A file is imported first, under its name. Exit code 4: ended without converging.\nThe rows of a linear "
        "program's data are those of A, their targets b; bounds on x are rows too.",
    )
    add_problem_options(parser)
    parser.add_argument(
        "--resume", nargs="?", const="", metavar="JOB", help="go on with a job (default: the newest interrupted one)"
    )
    parser.add_argument("--detach", action="store_true", help="run in the background; print the job's id")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    add_json(parser)
    add_import_options(parser, "when DATA is a file")
    parser.set_defaults(default_of=parser.get_default)


def add_problem_options(parser: argparse.ArgumentParser) -> None:
    """What to solve, and how."""
    parser.add_argument("data", nargs="?", metavar="DATA", help="a data set of the store, or a file")
    parser.add_argument("--loss", metavar="NAME", help="logistic, softmax, squared, poisson, huber, squared-hinge")
    parser.add_argument(
        "--loss-option", action="append", default=[], metavar="KEY=VALUE", help="option of the loss, such as delta=2"
    )
    parser.add_argument(
        "--cost", metavar="FILE", help="linear program min c'x, Ax <= b instead of a loss: c as .npy or numbers in text"
    )
    parser.add_argument("--l2", type=float, default=0.0, metavar="X", help="penalty X/2 |w|^2 (default: 0)")
    parser.add_argument("--l1", type=float, default=0.0, metavar="X", help="penalty X |w|_1 (default: 0)")
    parser.add_argument("--no-intercept", action="store_true", help="fit no intercept")
    parser.add_argument("--class-weight", metavar="W", help="balanced, or class=weight,class=weight")
    parser.add_argument(
        "--solver", metavar="NAME", help="see `overcast solvers` (default: oversketched-newton, or interior-point)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="a setting of the solver"
    )
    parser.add_argument("--tol", type=float, metavar="X", help="stop at this relative gradient, or gap")
    parser.add_argument("--max-iter", type=int, metavar="N", help="most iterations")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the solver's random streams")
    parser.add_argument("--workers", type=int, metavar="N", help="threads, or on a stage calls at once (default: all)")
    parser.add_argument("--start", metavar="JOB", help="start from the solution of this job")
    parser.add_argument("--id", help="id of the new job (default: made of the time)")
    parser.add_argument(
        "--executor", default="local", metavar="E", help="what runs the tasks: local or lithops (default: local)"
    )
    parser.add_argument("--policy", default="wait", metavar="P", help="stragglers: wait or speculate (default: wait)")
    parser.add_argument("--max-cost", type=float, metavar="X", help="on a stage: stop at X dollars, keeping the best")
    parser.add_argument("--deadline", type=float, metavar="S", help="on a stage: the same after S seconds")


def _solve(args: argparse.Namespace) -> int:
    if (place := stage(args)) is not None:
        job = _resumed_there(place, args) if args.resume is not None else submitted(place, args)
        return name_of(job, args) if args.detach else follow(job, args)
    handle = _resumed(args) if args.resume is not None else created(args)
    if args.detach:
        handle.launch()
        return name_of(handle, args)
    return run_here(handle, args)


def name_of(handle: Job, args: argparse.Namespace) -> int:
    """Print the id of a job that runs in the background."""
    if args.json:
        print_json({"job": handle.id})
    else:
        print(handle.id)
    return 0


def follow(handle: Job, args: argparse.Namespace, timeout: float | None = None) -> int:
    """Show the progress of a job that runs elsewhere, and its result; the exit code."""
    from coordinator.mapping import is_map
    from coordinator.solvers import make_solver
    from overcast.progress import SolveProgress
    from overcast.summary import measure

    spec = handle.spec
    try:
        if is_map(spec):
            handle.wait(timeout)
            return show_map(handle, args)
        title = f"job {handle.id}: {spec.solver} on {spec.data}"
        tol = getattr(make_solver(spec.solver, spec.settings), "tol", None)
        with SolveProgress(title, tol, quiet=args.quiet, measure=measure(spec.solver)) as progress:
            for row in handle.stream(timeout):
                progress(row)
    except TimeoutError as error:
        say(f"{error}; it goes on")
        return 1
    except KeyboardInterrupt:
        say(f"job {handle.id} goes on; to stop it: {again(args, 'jobs', 'cancel', handle.id)}")
        return 130
    return show_end(handle, handle.result(), args)


def run_here(handle: JobHandle, args: argparse.Namespace) -> int:
    """Run a job in the foreground, show its progress and its result; the exit code."""
    from coordinator.driver import run_job, run_map_job
    from coordinator.mapping import is_map
    from coordinator.solvers import make_solver
    from overcast.progress import SolveProgress
    from overcast.summary import measure

    spec = handle.spec
    if is_map(spec):
        run_map_job(handle.storage, handle.id)
        return show_map(handle, args)
    tol = getattr(make_solver(spec.solver, spec.settings), "tol", None)
    title = f"job {handle.id}: {spec.solver} on {spec.data}"
    try:
        with SolveProgress(title, tol, quiet=args.quiet, measure=measure(spec.solver)) as progress:
            for row in handle.events():
                progress.rows.append(row)
            result = run_job(handle.storage, handle.id, progress)
    except KeyboardInterrupt:
        say(f"interrupted; go on with: {again(args, 'solve', '--resume', handle.id)}")
        return 130
    return show_end(handle, result, args)


def show_map(handle: Job, args: argparse.Namespace) -> int:
    """Print how a job that mapped a function ended; the exit code."""
    status = handle.status()
    if args.json:
        print_json({"job": handle.id, "state": status.state, "message": status.message})
    else:
        print_facts({"job": handle.id, "state": status.state, "message": status.message})
    return {"done": 0, "cancelled": 3}.get(status.state, 1)


def show_end(handle: Job, result: Any, args: argparse.Namespace) -> int:
    """Print a result; the exit code that it means."""
    from overcast.summary import facts, paid, spending, words

    spec, bill = handle.spec, spending(handle.storage, handle.id)
    if args.json:
        print_json(facts(result, spec) | bill)
    else:
        print_facts(words(result, spec) | paid(bill))
    return end_code(handle, result)


def end_code(handle: Job, result: Any) -> int:
    """The exit code that an end means, with a line on stderr for all but the good one."""
    if handle.status().state == "cancelled":
        say(f"job {handle.id} was cancelled; its best iterate so far is kept")
        return 3
    if not result.converged:
        say(f"job {handle.id} did not converge: {result.reason}")
        return 4
    return 0


def _check_resume(args: argparse.Namespace) -> None:
    if args.data is not None:
        raise InputError("--resume takes a job, and DATA starts a new one: give one of them")
    if given := [name for name, value in vars(args).items() if name not in _GO_ON and value != args.default_of(name)]:
        words = ", ".join("--set" if name == "settings" else f"--{name.replace('_', '-')}" for name in given)
        raise InputError(f"--resume goes on with a job as it was asked for: leave out {words}")


def _resumed_there(place: CloudPlace, args: argparse.Namespace) -> Job:
    """A job of a stage that goes on."""
    _check_resume(args)
    waiting = [seen.id for seen in place.jobs() if seen.status.state in {"interrupted", "queued"}]
    if not args.resume and not waiting:
        raise JobMissingError("no interrupted or queued job on this stage")
    return place.job(args.resume or waiting[-1]).resume()


def _resumed(args: argparse.Namespace) -> JobHandle:
    from coordinator.jobs import JobStore
    from overcast import store as stores
    from overcast.handle import JobHandle

    _check_resume(args)
    storage = stores.existing_store(args.store)
    handle = JobHandle(storage, stores.find_job(JobStore(storage), args.resume or None, ("interrupted", "queued")))
    handle.reopen()
    return handle


def _cost(path: Path) -> Any:
    """The numbers of a .npy file, or of a text between commas, spaces and line ends."""
    import numpy as np

    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        return [float(word) for word in path.read_text(encoding="utf-8").replace(",", " ").split()]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"{path}: not a vector of numbers ({error})") from None


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """What to solve and how, as arguments of a client's methods; InputError for what is missing."""
    from coordinator.solvers import make_solver
    from overcast.asking import PROGRAMS, SOLVER

    if args.data is None:
        raise InputError("no data: name a data set or a file, or say --resume")
    if args.loss is None and args.cost is None:
        raise InputError("no --loss: say what to minimise, such as --loss logistic, or a linear program by --cost FILE")
    settings = pairs(args.settings, "--set")
    for name in ("tol", "max_iter", "seed"):
        if getattr(args, name) is not None:
            settings[name] = getattr(args, name)
    solver = args.solver or (SOLVER if args.cost is None else PROGRAMS)
    make_solver(solver, settings)  # here, where a setting cannot be taken for an argument of the same name
    weight = args.class_weight
    if weight is not None and weight != "balanced":
        weight = pairs(weight.split(","), "--class-weight")
    options = pairs(args.loss_option, "--loss-option")
    if "name" in options:
        raise InputError("name is no option of a loss: say --loss NAME")
    return {
        "loss": {"name": args.loss, **options} if options else args.loss,
        "c": None if args.cost is None else _cost(Path(args.cost)),
        "l2": args.l2,
        "l1": args.l1,
        "intercept": not args.no_intercept,
        "class_weight": weight,
        "solver": solver,
        "workers": args.workers,
        "policy": args.policy,
        "executor": args.executor,
        **settings,
    }


def created(args: argparse.Namespace) -> JobHandle:
    """A new job in the store, not yet run."""
    wanted = asked(args)
    if args.max_cost is not None or args.deadline is not None:
        raise InputError("--max-cost and --deadline go with a stage: say --stage NAME")
    from overcast import store as stores
    from overcast.client import Client
    from overcast.progress import import_progress

    client = Client(args.store or stores.default_store())
    with import_progress(quiet=args.quiet) as progress:
        return client.prepare(
            args.data,
            **wanted,
            start=args.start,
            id=args.id,
            import_options=import_options(args),
            progress=progress,
        )


def submitted(place: CloudPlace, args: argparse.Namespace) -> CloudJob:
    """A new job of a stage; it runs."""
    wanted = asked(args)
    return place.cloud.submit(
        data_there(place, args),
        **wanted,
        start=None if args.start is None else place.job(args.start).id,
        id=args.id,
        max_cost=args.max_cost,
        deadline=args.deadline,
    )


def data_there(place: Place, args: argparse.Namespace) -> str:
    """The data set, imported to the place if it is a file that is not there."""
    from overcast import store as stores
    from overcast.progress import import_progress

    with import_progress(quiet=args.quiet) as progress:
        return stores.find_data(place.storage, args.data, import_options(args), progress).name
