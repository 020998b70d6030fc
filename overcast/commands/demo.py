"""`overcast demo`."""

from __future__ import annotations

import argparse

from overcast.commands.common import Commands, add_json, command


def add_commands(commands: Commands) -> None:
    """Add the command."""
    parser = command(
        commands,
        "demo",
        "predict late flights: import, solve, predict and report on 327,346 flights from New York",
        """overcast demo
        overcast demo --wide
        overcast demo --rows 20000
        overcast demo --rows 20000 --stage local""",
        _demo,
        about=' Needs the extra "demo".',
    )
    parser.add_argument("--wide", action="store_true", help="28,465 columns instead of 192: crosses and tail numbers")
    parser.add_argument("--rows", type=int, metavar="N", help="only N flights, chosen at random")
    parser.add_argument("--l2", type=float, default=None, metavar="X", help="penalty (default: 1e-4)")
    parser.add_argument("--tol", type=float, default=1e-6, metavar="X", help="relative gradient to reach")
    parser.add_argument("--solver", metavar="NAME", help="see `overcast solvers`")
    parser.add_argument("--output", metavar="FILE.html", help="the report (default: overcast-demo.html)")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    add_json(parser)


def _demo(args: argparse.Namespace) -> int:
    from overcast.demo import run_demo

    return run_demo(args)
