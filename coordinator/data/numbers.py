"""Decimal numbers in text, many at once: exact values from array operations on bytes, with no loop over numbers.

A buffer is cut at every byte that is not a digit. Between two cuts lies a run of digits, read eight at a time inside a
64-bit word; sign, point and exponent are the cuts themselves, checked against

    [+-] digits [. digits] [e [+-] digits]        with at least one digit before or after the point.

A mantissa m below 2^53 times or over 10^k, k <= 22, is one rounding of two exact doubles and so the nearest double.
Up to 18 digits and k <= 27 the same holds in 80-bit floats, except where their rounding falls half-way between doubles;
those numbers, and longer ones, go through `float`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

PAD: Final = 32  # bytes before the text, so that a word that ends inside it can start before it
_U: Final = np.uint64
_KEEP: Final = np.array([0] + [(2**64 - 1) ^ (2 ** (8 * (8 - n)) - 1) for n in range(1, 9)], dtype=_U)
_TEN: Final = 10.0 ** np.arange(23)
_INT_TEN: Final = 10 ** np.arange(19, dtype=np.int64)
_EXTENDED: Final = np.finfo(np.longdouble).nmant == 63 and np.dtype(np.longdouble).itemsize == 16
_LONG_TEN: Final = np.concatenate([[np.longdouble(1)], np.cumprod(np.full(27, np.longdouble(10)))])


@dataclass(frozen=True)
class Cuts:
    """A text cut at every non-digit byte.

    Attributes
    ----------
    buffer : the padded bytes.
    at : position of each cut in `buffer`; the first `PAD` are the padding's.
    char : the byte there.
    digits : length of the digit run before it.
    value : that run as an integer (of its last 18 digits).
    """

    buffer: NDArray[np.uint8]
    at: Ints
    char: NDArray[np.uint8]
    digits: Ints
    value: Ints

    def fields(self, separators: bytes) -> tuple[Ints, Ints]:
        """First and last cut of each field; the last one is the separator that ends it."""
        table = np.zeros(256, dtype=bool)
        table[list(separators)] = True
        last = np.flatnonzero(table[self.char[PAD:]]) + PAD
        first = np.empty_like(last)
        if last.size:
            first[0] = PAD
            first[1:] = last[:-1] + 1
        return first, last

    def empty(self, first: Ints, last: Ints) -> Bools:
        """Which fields hold no byte."""
        return (first == last) & (self.digits[last] == 0)

    def text(self, first: int, last: int) -> bytes:
        """The bytes of one field."""
        return self.buffer[self.at[first - 1] + 1 : self.at[last]].tobytes()

    def integers(self, first: Ints, last: Ints) -> tuple[Ints, Bools]:
        """Fields that are digits only, and which of them are (18 digits at most)."""
        digits = self.digits[last]
        return self.value[last], (first == last) & (digits > 0) & (digits <= 18)

    def floats(self, first: Ints, last: Ints) -> tuple[Floats, Bools]:
        """Fields as the nearest doubles, and which of them are finite decimal numbers."""
        plain = first == last
        if bool(plain.all()):
            digits, mantissa = self.digits[last], self.value[last]
            good = digits > 0
            out = mantissa.astype(np.float64)
            if int(digits.max(initial=0)) > 15:
                self._exactly(out, good & (digits > 15), mantissa, digits, np.zeros_like(mantissa), first, last)
            return out, good & np.isfinite(out)
        return self._general(first, last)

    def _general(self, first: Ints, last: Ints) -> tuple[Floats, Bools]:
        at = first.copy()
        char = self.char[at]
        negative = char == 45
        signed = (negative | (char == 43)) & (self.digits[at] == 0)
        at += signed
        char = self.char[at]
        mantissa, digits = self.value[at], self.digits[at]
        point = char == 46
        at += point
        at = np.minimum(at, last)
        scale = self.digits[at] * point
        # a run of more than 18 digits is read again as text below, so its power of ten only has to exist
        mantissa = mantissa * _INT_TEN[np.minimum(scale, 18)] + self.value[at] * point
        digits = digits + scale
        exponent = -scale
        power = ((self.char[at] | 32) == 101) & (at < last)
        good = (digits > 0) & (at + power <= last)
        if bool(power.any()):
            at = np.minimum(at + power, last)
            char = self.char[at]
            down = char == 45
            sign = power & (down | (char == 43)) & (self.digits[at] == 0)
            at = np.minimum(at + sign, last)
            good &= ~power | (self.digits[at] > 0)
            size = np.where(power, np.minimum(self.value[at], 9999), 0)
            size[power & (self.digits[at] > 18)] = 9999
            exponent += np.where(sign & down, -size, size)
        good &= at == last
        near = np.abs(exponent)
        simple = (digits <= 18) & (mantissa <= 1 << 53) & (near <= 22)
        ten = _TEN[np.minimum(near, 22)]
        out = mantissa.astype(np.float64)
        up = exponent > 0
        out = np.where(up, out * ten, out / ten) if bool(up.any()) else out / ten
        self._exactly(out, good & ~simple, mantissa, digits, exponent, first, last)
        np.negative(out, where=signed & negative, out=out)
        return out, good & np.isfinite(out)

    def _exactly(
        self, out: Floats, where: Bools, mantissa: Ints, digits: Ints, exponent: Ints, first: Ints, last: Ints
    ) -> None:
        """Magnitudes that one operation on doubles does not give, in place."""
        todo = np.flatnonzero(where)
        if _EXTENDED and todo.size:
            near = np.abs(exponent[todo])
            fits = (digits[todo] <= 18) & (near <= 27)
            some = todo[fits]
            ten = _LONG_TEN[near[fits]]
            wide = mantissa[some].astype(np.longdouble)
            wide = np.where(exponent[some] > 0, wide * ten, wide / ten)
            low = np.ascontiguousarray(wide).view(_U)[::2] & _U(0x7FF)
            out[some] = wide.astype(np.float64)
            todo = np.concatenate([todo[~fits], some[low == _U(0x400)]])
        for i in todo.tolist():
            out[i] = abs(float(self.text(int(first[i]), int(last[i]))))


def cut(text: bytes) -> Cuts:
    """Cut `text` (which ends in a separator) at every byte that is not a digit."""
    size = len(text)
    padded = np.full(PAD + size + (-size % 8), 32, dtype=np.uint8)
    padded[PAD : PAD + size] = np.frombuffer(text, dtype=np.uint8)
    at = np.flatnonzero((padded[: PAD + size] - np.uint8(48)) > 9)
    digits = np.zeros_like(at)
    digits[1:] = at[1:] - at[:-1] - 1
    value = _word(padded, at, np.minimum(digits, 8))
    most = int(digits.max(initial=0))
    for offset in (8, 16):
        if most > offset:
            some = np.flatnonzero(digits > offset)
            piece = _word(padded, at[some] - offset, np.minimum(digits[some] - offset, min(8, 18 - offset)))
            value[some] += piece * _U(10**offset)
    return Cuts(padded, at, padded[at], digits, value.view(np.int64))


def _word(padded: NDArray[np.uint8], end: Ints, digits: Ints) -> NDArray[Any]:
    """The `digits` <= 8 digits before each position `end`, as integers."""
    words = padded.view("<u8")
    start = np.maximum(end - 8, 0)
    shift = (start & 7).astype(_U) << _U(3)
    index = start >> 3
    word = words[index] >> shift
    # shifting twice: a shift by 64 is undefined
    word |= (words[np.minimum(index + 1, words.size - 1)] << _U(1)) << (_U(63) - shift)
    word &= _KEEP[digits]
    word &= _U(0x0F0F0F0F0F0F0F0F)
    word *= _U(2561)
    word >>= _U(8)
    word &= _U(0x00FF00FF00FF00FF)
    word *= _U(6553601)
    word >>= _U(16)
    word &= _U(0x0000FFFF0000FFFF)
    word *= _U(42949672960001)
    word >>= _U(32)
    return word
