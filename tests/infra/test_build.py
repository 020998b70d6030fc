"""The package: what is in it, the same bytes each time, and what is refused."""

from __future__ import annotations

import importlib.util
import marshal
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from infra import build, precompile
from infra.build import BuildError, Entry
from infra.elf import ElfError, glibc_needed, machine


def library(*versions: str, machine: int = 62) -> bytes:
    """An ELF shared library that needs these versions of libc's symbols, and is nothing else."""
    strings = b"\0libc.so.6\0"
    offsets = []
    for version in versions:
        offsets.append(len(strings))
        strings += version.encode() + b"\0"
    needs = struct.pack("<HHIII", 1, len(versions), 1, 16, 0)
    for i, offset in enumerate(offsets):
        needs += struct.pack("<IHHII", 0, 0, i + 2, offset, 16 if i + 1 < len(offsets) else 0)
    header = struct.pack("<4sBBBBQ", b"\x7fELF", 2, 1, 1, 0, 0)
    table = 64 + len(strings) + len(needs)
    header += struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 0)
    sections = bytes(64)
    sections += struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, 64, len(strings), 0, 0, 1, 0)
    sections += struct.pack("<IIQQQQIIQQ", 0, 0x6FFFFFFE, 0, 0, 64 + len(strings), len(needs), 1, 1, 4, 0)
    return header + strings + needs + sections


def test_the_newest_glibc_that_a_library_needs() -> None:
    assert glibc_needed(library("GLIBC_2.17", "GLIBC_2.2.5", "GLIBC_2.3")) == (2, 17)
    assert glibc_needed(library("GLIBC_2.9", "GLIBC_2.34")) == (2, 34)
    assert glibc_needed(library("GLIBCXX_3.4.30", "GCC_3.0")) == (0, 0)
    assert machine(library("GLIBC_2.17")) == "x86_64"
    assert machine(library("GLIBC_2.17", machine=183)) == "arm64"


def test_a_real_library_is_read() -> None:
    import numpy as np

    (core,) = Path(np.__file__).parent.glob("_core/_multiarray_umath*.so")
    major, minor = glibc_needed(core.read_bytes())
    assert (major, 10 < minor < 50) == (2, True)


@pytest.mark.parametrize("data", [b"\x7fELF", b"\x7fELF\x01\x01" + bytes(80), library("GLIBC_2.17")[:-70]])
def test_what_is_no_library_is_refused(data: bytes) -> None:
    with pytest.raises(ElfError):
        glibc_needed(data)


def test_a_library_that_is_too_new_is_refused_in_one_line() -> None:
    fine = Entry("fine.so", library("GLIBC_2.34"))
    build.check_libraries([fine, Entry("a.py", b"GLIBC_2.99")], "x86_64")
    with pytest.raises(BuildError) as error:
        build.check_libraries([fine, Entry("scipy/x.so", library("GLIBC_2.17", "GLIBC_2.99"))], "x86_64")
    assert str(error.value) == (
        "scipy/x.so needs glibc 2.99, Amazon Linux 2023 has 2.34: pin an older release of its package"
    )
    with pytest.raises(BuildError, match=r"fine.so is for x86_64, not arm64"):
        build.check_libraries([fine], "arm64")


def test_the_same_entries_give_the_same_bytes(tmp_path: Path) -> None:
    entries = [Entry("b.py", b"2"), Entry("a/x.so", library("GLIBC_2.17")), Entry("a/y.py", b"1")]
    first = build.write(entries, tmp_path / "one" / "p.zip")
    second = build.write(reversed(entries), tmp_path / "two" / "p.zip")
    assert first.digest == second.digest
    assert first.path.read_bytes() == second.path.read_bytes()
    with zipfile.ZipFile(first.path) as package:
        assert package.namelist() == ["a/x.so", "a/y.py", "b.py"]
        assert package.getinfo("a/x.so").external_attr >> 16 == 0o755
        assert package.getinfo("b.py").external_attr >> 16 == 0o644


def test_a_package_over_the_limits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = Entry("x", b"".join(i.to_bytes(8, "big") for i in range(1000)))
    monkeypatch.setattr(build, "UNZIPPED", 7999)
    with pytest.raises(BuildError, match="unpacked, Lambda takes"):
        build.write([noise], tmp_path / "p.zip")
    monkeypatch.setattr(build, "UNZIPPED", 8000)
    monkeypatch.setattr(build, "ZIPPED", 100)
    with pytest.raises(BuildError, match="zipped, Lambda takes"):
        build.write([noise], tmp_path / "p.zip")
    assert list(tmp_path.iterdir()) == []


def test_what_a_cold_start_imports_is_compiled_ahead() -> None:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert precompile.find_interpreter(version) == sys.executable
    assert precompile.find_interpreter("2.0") is None
    names = precompile.imported(build.ROOT)
    assert {"numpy/__init__.py", "scipy/linalg/__init__.py", "coordinator/errors.py"} <= names
    ((name, code),) = precompile.compiled(sys.executable, version, [("a/b.py", b"x = 41 + 1\n")])
    assert name == f"a/__pycache__/b.cpython-{version.replace('.', '')}.pyc"
    assert code[:4] == importlib.util.MAGIC_NUMBER
    assert int.from_bytes(code[4:8], "little") == 1  # by hash, and not looked at again
    scope: dict[str, int] = {}
    exec(marshal.loads(code[16:]), scope)
    assert scope["x"] == 42
    again = precompile.compiled(sys.executable, version, [("a/b.py", b"x = 41 + 1\n")])
    assert again == [(name, code)]


def test_the_local_package_holds_what_runs_and_no_more(deployment: Any) -> None:
    assert deployment.stack.stage == "local"
    with zipfile.ZipFile(build.ROOT / "dist" / "lambda-local.zip") as package:
        names = package.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {"coordinator", "sketches", "overcast", "lambda", "numpy", "scipy", "threadpoolctl.py"} <= tops
    assert not {"tests", "infra", "boto3", "moto", "sklearn", "bin"} & tops
    assert not [name for name in names if "/tests/" in name or name.endswith((".pyi", ".pyc", ".h"))]
    assert "lambda/__init__.py" not in names
    assert "coordinator/errors.py" in names
