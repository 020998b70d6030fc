"""`overcast solvers`."""

from __future__ import annotations

import argparse

from overcast.commands.common import Commands, add_json, command, console, print_json


def add_commands(commands: Commands) -> None:
    """Add the command."""
    parser = command(
        commands,
        "solvers",
        "list the solvers and their settings, and the losses",
        """overcast solvers
        overcast solvers lbfgs
        overcast solvers --json""",
        _solvers,
    )
    parser.add_argument("names", nargs="*", metavar="SOLVER", help="only these, with their settings")
    add_json(parser)


def _solvers(args: argparse.Namespace) -> int:
    from coordinator.errors import UnknownNameError
    from coordinator.losses import public_losses
    from coordinator.solvers import SOLVERS
    from coordinator.solvers.base import parameters

    for name in args.names:
        if name not in SOLVERS:
            raise UnknownNameError("solver", name, SOLVERS)
    chosen = {name: kind for name, kind in SOLVERS.items() if not args.names or name in args.names}
    if args.json:
        print_json(
            [{"name": name, "summary": kind.summary, "settings": parameters(kind)} for name, kind in chosen.items()]
        )
        return 0
    from rich.text import Text

    out = console()
    for name, kind in chosen.items():
        out.print(Text.assemble((name, "bold"), f"  {kind.summary}"))
        if args.names:
            for p in parameters(kind):
                choices = f" [{', '.join(p['choices'])}]" if "choices" in p else ""
                out.print(Text(f"    {p['name']} = {p['default']}  {p['help']}{choices}"))
    if not args.names:
        out.print(Text(f"\nlosses: {', '.join(public_losses())}\nsettings of a solver: overcast solvers NAME"))
    return 0
