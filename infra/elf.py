"""Which glibc a shared library needs: the versions of symbols in its ELF version-needs section.

A library built against a newer glibc than the runtime's fails to load there, and only there. The format:
https://refspecs.linuxfoundation.org/LSB_5.0.0/LSB-Core-generic/LSB-Core-generic/symversion.html
"""

from __future__ import annotations

import re
import struct
from typing import Final

_VERNEED: Final = 0x6FFFFFFE  # section type SHT_GNU_verneed
_GLIBC = re.compile(rb"GLIBC_(\d+)\.(\d+)(?:\.\d+)?")
_MACHINES: Final = {62: "x86_64", 183: "arm64"}


class ElfError(ValueError):
    """Not an ELF file that can be read."""


def is_elf(data: bytes) -> bool:
    """Whether it begins as ELF files do."""
    return data[:4] == b"\x7fELF"


def machine(data: bytes) -> str:
    """x86_64, arm64, or the number of another machine."""
    number = _unpack("<H", data, 18)[0]
    return _MACHINES.get(number, str(number))


def glibc_needed(data: bytes) -> tuple[int, int]:
    """The newest glibc (major, minor) that a 64-bit little-endian library asks for; (0, 0) if it asks for none."""
    if not is_elf(data) or data[4:6] != b"\x02\x01":
        raise ElfError("not a 64-bit little-endian ELF file")
    (table,) = _unpack("<Q", data, 40)
    size, count = _unpack("<HH", data, 58)
    sections = [_unpack("<IIQQQQIIQQ", data, table + i * size) for i in range(count)]
    newest = (0, 0)
    for _, kind, _, _, offset, _, link, entries, _, _ in sections:
        if kind == _VERNEED:
            strings = sections[link][4]
            for name in _needs(data, offset, entries, strings):
                if found := _GLIBC.fullmatch(name):
                    newest = max(newest, (int(found[1]), int(found[2])))
    return newest


def _needs(data: bytes, offset: int, entries: int, strings: int) -> list[bytes]:
    """Names of the versions needed: a chain of files, each with a chain of versions."""
    names = []
    for _ in range(entries):
        _, versions, _, aux, following = _unpack("<HHIII", data, offset)
        at = offset + aux
        for _ in range(versions):
            _, _, _, name, after = _unpack("<IHHII", data, at)
            begin = strings + name
            names.append(data[begin : data.index(b"\0", begin)])
            at += after
        offset += following
    return names


def _unpack(form: str, data: bytes, offset: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(form, data, offset)
    except struct.error:
        raise ElfError("the ELF file is cut short") from None
