"""What the documents and examples say is true: their code runs, their commands parse, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import overcast
from coordinator.losses import LOSSES
from coordinator.solvers import SOLVERS
from overcast.cli import make_parser

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
EXAMPLES = {
    "flights.py": ("accuracy on held-out flights", "20000"),
    "own_loss.py": ("expectile 0.95",),
    "lasso_path.py": ("l1 ",),
}


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def run(folder: Path, *words: str) -> str:
    command = [sys.executable, "-W", "error", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


PYTHON = [(path, code) for path in DOCUMENTS for code in blocks(path, "python")]


@pytest.mark.e2e
@pytest.mark.parametrize(("path", "code"), PYTHON, ids=[f"{path.name}-{i}" for i, (path, _) in enumerate(PYTHON)])
def test_python_blocks_run(tmp_path, path, code):
    script = tmp_path / "block.py"
    script.write_text(code)
    assert run(tmp_path, str(script)).strip()


def test_the_client_takes_ten_lines():
    code = blocks(ROOT / "README.md", "python")[0]
    client = code[code.index("client =") :]
    assert len(client.strip().splitlines()) <= 10


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_parse(path):
    text = path.read_text()
    lines = [line for block in blocks(path, "sh") for line in block.splitlines()]
    lines += re.findall(r"`(overcast [a-z][^`]*)`", text)
    for line in lines:
        words = shlex.split(line, comments=True)
        if words and words[0] == "overcast":
            make_parser().parse_args(words[1:])
    assert lines or path.name not in {"README.md", "data.md", "solvers.md"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(path):
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        if not link.startswith("http"):
            assert (path.parent / link).exists(), link


def test_scripts_named_are_there():
    for path in DOCUMENTS:
        for name in re.findall(
            r"\b(?:benchmarks|examples|coordinator|overcast|sketches)/[\w/]+\.py\b", path.read_text()
        ):
            assert (ROOT / name).exists(), (path.name, name)


def test_solvers_and_losses_are_all_described():
    text = (ROOT / "docs/solvers.md").read_text()
    losses = [name for name, loss in LOSSES.items() if loss.__module__ == "coordinator.losses"]
    for name in (*SOLVERS, *losses):
        assert f"`{name}`" in text, name


@pytest.mark.e2e
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(tmp_path, name):
    says, *words = EXAMPLES[name]
    if name == "flights.py":
        pytest.importorskip("pandas")
    assert says in run(tmp_path, str(ROOT / "examples" / name), *words)


def test_all_examples_are_run():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


def test_public_names_have_docstrings():
    for name in overcast.__all__:
        thing = getattr(overcast, name)
        assert (thing.__doc__ or "").strip(), name
        assert not thing.__doc__.startswith(f"{name}("), f"{name}: its dataclass wrote this"
        if isinstance(thing, type):
            for part, value in vars(thing).items():
                if callable(value) and not part.startswith("_") and value.__module__ == thing.__module__:
                    inherited = any(getattr(getattr(base, part, None), "__doc__", None) for base in thing.__mro__)
                    assert inherited, f"{name}.{part}"


def test_the_wheel_holds_the_packages_whose_layers_are_checked():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    shipped = tool["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert shipped == tool["importlinter"]["root_packages"] == ["overcast", "coordinator", "sketches"]
