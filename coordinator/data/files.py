"""Files as pieces of whole lines, decompressed on the way."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, cast

from coordinator.data.intake import Intake
from coordinator.errors import InputError

PIECE: Final = 1 << 20  # bytes of text parsed at once: what fits the processor's caches with its intermediate arrays
MAX_LINE: Final = 1 << 28
_OPEN: Final[dict[str, Callable[[IO[bytes]], Any]]] = {
    ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
_FORMATS: Final = {
    ".libsvm": "libsvm",
    ".svm": "libsvm",
    ".svmlight": "libsvm",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".npy": "npy",
    ".npz": "npz",
    ".parquet": "parquet",
    ".pq": "parquet",
}
FORMATS: Final = tuple(dict.fromkeys(_FORMATS.values()))


def format_of(path: Path) -> str:
    """The format that a file's suffix names; InputError when it names none."""
    suffixes = [suffix for suffix in path.suffixes if suffix not in _OPEN]
    found = _FORMATS.get(suffixes[-1].lower()) if suffixes else None
    if found is None:
        raise InputError(f"{path}: cannot tell the format from the name; say format= one of {', '.join(FORMATS)}")
    return found


def check_file(path: Path) -> int:
    """Size of a readable, non-empty file; InputError otherwise."""
    try:
        if path.is_dir():
            raise InputError(f"{path} is a directory: give a file, or a list of files")
        with path.open("rb"):
            size = path.stat().st_size
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    if size == 0:
        raise InputError(f"{path} is empty")
    return size


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: damaged or cut-short {path.suffix} data ({error}): fetch the file again") from None
    except OSError as error:
        # bz2 says OSError without a number; a disk that fails has one
        what = f"cannot read {path}" if error.errno else f"{path}: damaged {path.suffix} data"
        raise InputError(f"{what} ({error.strerror or error})") from None


def lines(path: Path, intake: Intake, end: Callable[[bytes], int]) -> Iterator[tuple[int, bytes]]:
    """Pieces of whole lines, each with the number of its first line (from 1); every piece ends in a newline.

    Parameters
    ----------
    path : plain or .gz, .bz2, .xz.
    intake : is told of progress, in bytes of the file.
    end : length of the whole lines at the head of some bytes, 0 if there is none.

    Raises
    ------
    InputError
        For a file that cannot be read or decompressed or is no UTF-8 text, and for lines over 256 MB.
    """
    number = 1
    rest = b""
    first = True
    with _reading(path), path.open("rb") as raw:
        opener = _OPEN.get(path.suffix)
        file = cast("IO[bytes]", raw if opener is None else opener(raw))
        size = PIECE
        while True:
            read = file.read(size)
            text = rest + read
            if first:
                text, first = text.removeprefix(b"\xef\xbb\xbf"), False
            if not read:
                break
            stop = end(text)
            rest = text[stop:]
            if stop:
                size = PIECE
                yield number, _text(text[:stop], path, number)
                number += text.count(b"\n", 0, stop)
                intake.advance(raw.tell())
            else:
                size = min(2 * size, MAX_LINE)  # a long line: read on, in steps that keep the copying linear
                if len(text) > MAX_LINE:
                    raise InputError(f"{path}, line {number}: a line of over {MAX_LINE >> 20} MB; is this text data?")
        if rest:
            yield number, _text(rest + b"\n", path, number)
    intake.advance(path.stat().st_size)


def _text(text: bytes, path: Path, number: int) -> bytes:
    """`text` with Unix's line ends. What is no UTF-8 is refused: replaced characters would make one class of two."""
    at = text.find(b"\0")
    if at < 0 and not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError as error:
            at = error.start
    if at >= 0:
        line = number + text.count(b"\n", 0, at)
        raise InputError(f"{path}, line {line}: byte 0x{text[at]:02x} is no UTF-8 text: convert the file to UTF-8")
    return text.replace(b"\r\n", b"\n") if b"\r" in text else text


def last_line(text: bytes) -> int:
    """Length of the whole lines at the head of `text`."""
    return text.rfind(b"\n") + 1


def text_of(path: Path, intake: Intake) -> Iterator[tuple[int, bytes]]:
    """`lines` of a file without quoting."""
    return lines(path, intake, last_line)


def line_of(text: bytes, row: int) -> bytes:
    """Line `row` (from 0) of `text`."""
    return text.split(b"\n", row + 1)[row]


def without(text: bytes, rows: set[int]) -> bytes:
    """`text` with these lines (from 0) made blank, so that the others keep their numbers."""
    return b"\n".join(b"" if i in rows else line for i, line in enumerate(text.split(b"\n")))
