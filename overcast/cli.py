"""The command line: `overcast COMMAND ...`.

Exit codes
----------
0    it worked
1    something failed that is not the caller's doing
2    input, options or arguments that cannot be used; one line on stderr
3    the job was cancelled
4    the solve ended without converging; its result is stored all the same
130  interrupted from the keyboard
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from coordinator.errors import OvercastError
from overcast.commands import demo, deploying, importing, jobs, listing, results, solving, submitting
from overcast.commands.common import as_options, say

NOT_CONVERGED = 4


class _Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        say(f"{message} (see `{self.prog} --help`)")
        sys.exit(2)


class _Version(argparse.Action):
    """Prints the version; looking it up costs too much to do it always."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        import overcast

        sys.stdout.write(f"overcast {overcast.__version__}\n")
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(
        prog="overcast",
        description="Solve large convex problems with sketched second-order methods.",
        epilog="examples:\n"
        "  overcast demo\n"
        "  overcast solve train.libsvm --loss logistic --l2 1e-4\n"
        "  overcast solve train.libsvm --loss logistic --l2 1e-4 --stage local\n"
        "  overcast predict latest test.libsvm --output predictions.csv\n\n"
        "exit codes: 0 done; 1 failure; 2 unusable input; 3 cancelled; 4 not converged; 130 interrupted",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (demo, importing, solving, submitting, jobs, results, listing, deploying):
        module.add_commands(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    try:
        args = make_parser().parse_args(argv)
    except SystemExit as end:  # argparse ends the process; callers of this function want a number
        return int(end.code or 0)
    try:
        code = int(args.run(args))
        sys.stdout.flush()
    except OvercastError as error:
        say(as_options(str(error)))
        return error.exit_code
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:
        # the reader has gone: nothing to tell it, and nothing may be written at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if os.environ.get("OVERCAST_DEBUG"):
            raise
        say(f"internal error: {type(error).__name__}: {error} (OVERCAST_DEBUG=1 shows where)")
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
