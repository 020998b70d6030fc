"""`overcast deploy`, `hello` and `emulator`."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from coordinator.errors import InputError, JobError, OvercastError
from overcast.commands.common import Commands, add_json, command, print_facts, print_json, say, stage

if TYPE_CHECKING:
    from overcast.place import CloudPlace

_HELLO: Final = "hello"
_ROWS: Final = 400


def add_commands(commands: Commands) -> None:
    """Add the commands."""
    deploy = command(
        commands,
        "deploy",
        "build the package and deploy a stage to AWS with osls (Serverless Framework v3, continued)",
        """overcast deploy prod
        overcast deploy prod --region eu-central-1 --arch x86_64
        overcast deploy prod --param workerTimeout=300
        overcast deploy prod --remove""",
        _deploy,
        about='\nIt needs the repository, Node.js 20 (or the extra "deploy") and AWS credentials that may make roles.',
        place=False,
    )
    deploy.add_argument("name", metavar="STAGE", help="name of the stage, such as dev or prod")
    deploy.add_argument("--region", help="AWS region (default: as AWS's tools have it, else us-east-1)")
    deploy.add_argument("--arch", choices=("arm64", "x86_64"), default="arm64", help="processors (default: arm64)")
    deploy.add_argument(
        "--param", action="append", default=[], metavar="KEY=VALUE", help="a parameter of serverless.yml"
    )
    deploy.add_argument("--remove", action="store_true", help="remove the stage with all its data and jobs instead")
    add_json(deploy)
    hello = command(
        commands,
        "hello",
        "check a stage from end to end: versions, bucket, and a small job on its workers",
        """overcast hello --stage prod
        overcast hello --stage local --json""",
        _hello,
        about=" It costs less than a hundredth of a\ncent, and leaves a data set of 30 kB called hello.",
    )
    add_json(hello)
    emulator = command(
        commands,
        "emulator",
        "run AWS on this machine, without Docker or an account, with the stage `local` deployed",
        """overcast emulator up
        overcast emulator status
        overcast hello --stage local
        overcast emulator down""",
        _emulator,
        about='\nIt needs the repository and the extras "emulator" and "deploy". All that it holds ends with it.',
        place=False,
    )
    emulator.add_argument("action", choices=("up", "status", "env", "down"), help="env prints variables for a shell")
    emulator.add_argument("--foreground", action="store_true", help="up: stay, and end it with Ctrl-C")
    emulator.add_argument("--fast", action="store_true", help="up: make the stack at once instead of by osls")
    emulator.add_argument("--port", type=int, metavar="N", help="up: of the emulator (default: 4566; 0: any)")
    emulator.add_argument("--faults", metavar="FILE", help="up: a fault plan, as JSON")


def _deploy(args: argparse.Namespace) -> int:
    from overcast.place import LOCAL, aws, connect, need_repository

    need_repository("deploy")
    if args.name == LOCAL:
        raise InputError("the stage 'local' is the emulator's: start it with `overcast emulator up`")
    from infra.build import BuildError, build
    from infra.osls import DeployError, run

    region = args.region or aws("cloudformation", "us-east-1").meta.region_name
    os.environ.update(AWS_REGION=region, AWS_DEFAULT_REGION=region)
    where = ["--stage", args.name, "--region", region]
    where += [f"--param=arch={args.arch}", *(f"--param={item}" for item in args.param)]
    try:
        if args.remove:
            return _remove(args, where)
        say(f"building the package for {args.arch} ...")
        built = build(args.arch)
        say(f"deploying {built.path.name} to stage {args.name}; this takes a minute or two ...")
        run(["deploy", *where], {})
    except (BuildError, DeployError) as error:
        raise OvercastError(str(error)) from None
    client = connect(args.name)
    found = client.versions() | {"url": client.url}
    if args.json:
        print_json(found)
    else:
        print_facts(found)
        say(f"next: overcast hello --stage {args.name}")
    return 0


def _remove(args: argparse.Namespace, where: list[str]) -> int:
    """Empty the bucket, which CloudFormation would not delete, and remove the stack."""
    from infra.osls import run
    from overcast.place import connect

    storage = connect(args.name).storage
    gone = storage.delete("jobs") + storage.delete("data")
    run(["remove", *where], {})
    say(f"removed stage {args.name} and {gone:,} objects")
    return 0


def _hello(args: argparse.Namespace) -> int:
    place = stage(args)
    if place is None:
        raise InputError("say which stage to greet: --stage NAME")
    began = time.perf_counter()
    found: dict[str, Any] = dict(place.cloud.versions())
    found["url"], found["answered in"] = place.cloud.url, f"{time.perf_counter() - began:.3f} s"
    found |= _greet(place)
    if args.json:
        print_json(found)
    else:
        print_facts(found)
    return 0


def _greet(place: CloudPlace) -> dict[str, Any]:
    """Solve something small there; how it went. JobError when the solution is not what it must be."""
    import numpy as np

    if _HELLO not in place.cloud.data():
        rng = np.random.default_rng(0)
        X = rng.standard_normal((_ROWS, 8))
        place.cloud.import_data(X, _HELLO, target=X @ np.arange(8.0))
    began = time.perf_counter()
    job = place.cloud.submit(_HELLO, loss="squared", l2=1e-9, solver="newton", max_cost=0.01)
    result, status = job.result(timeout=300), job.status()
    error = float(np.abs(result.coef_ - np.arange(8.0)).max())
    if not result.converged or error > 1e-5:
        raise JobError(f"job {job.id} on stage {place.stage} gave a wrong solution, by {error:.1e}: see its logs")
    records = job.tasks()
    cold = sum(record.report.cold for record in records if record.report is not None)
    job.delete()
    return {
        "job": f"solved in {time.perf_counter() - began:.1f} s, {len(records)} tasks, {cold} cold starts",
        "spent": f"${status.spent:.6f}",
    }


def _emulator(args: argparse.Namespace) -> int:
    from overcast.place import need_repository

    need_repository("emulator")
    from infra.local import main

    if args.faults and not Path(args.faults).is_file():
        raise InputError(f"no file {args.faults!r}")
    words = [args.action]
    if args.action == "up":
        words += [] if args.foreground else ["--detach"]
        words += ["--fast"] if args.fast else []
        words += ["--port", str(args.port)] if args.port is not None else []
        words += ["--faults", args.faults] if args.faults else []
    return main(words)
