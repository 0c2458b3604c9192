"""Texts as arrays of units, in blocks: a Chinese character is one unit, a word in a spaced script is one unit.

Similarity is measured in units, so that Chinese and Latin texts are treated alike. Everything is array arithmetic on
the code points of a block; there is no vocabulary that would grow with the data.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

MAX_CHARACTERS = 100_000  # per text; the longest cell that import accepts, so memory is bounded
SCRIPTS = ("latin", "han", "kana", "hangul", "cyrillic", "arabic", "other")
"""Scripts that are distinguished. A script's number is its position here plus 1; 0 means no letter."""

# Blocks of Unicode 16 (Blocks.txt) by script. In scripts without spaces every character is a unit.
_SCRIPT_RANGES: tuple[tuple[str, int, int, bool], ...] = (
    ("latin", 0x41, 0x24F, False),
    ("latin", 0x1E00, 0x1EFF, False),
    ("cyrillic", 0x400, 0x52F, False),
    ("arabic", 0x600, 0x6FF, False),
    ("arabic", 0x750, 0x77F, False),
    ("other", 0xE00, 0xEFF, True),  # Thai, Lao
    ("other", 0x1000, 0x109F, True),  # Burmese
    ("other", 0x1780, 0x17FF, True),  # Khmer
    ("hangul", 0x1100, 0x11FF, False),
    ("kana", 0x3040, 0x30FF, True),
    ("hangul", 0x3130, 0x318F, False),
    ("kana", 0x31F0, 0x31FF, True),
    ("han", 0x3005, 0x3007, True),
    ("han", 0x3400, 0x4DBF, True),
    ("han", 0x4E00, 0x9FFF, True),
    ("hangul", 0xAC00, 0xD7AF, False),
    ("han", 0xF900, 0xFAFF, True),
    ("han", 0x20000, 0x323AF, True),
)
DENSE_SHINGLE = 5  # characters: two or three Chinese words, which two texts rarely share by chance
WORD_SHINGLE = 3  # words, for the same reason
_GAP, _WORD, _SINGLE = 0, 1, 2  # no letter; part of a word; a unit of its own
_CODE_POINTS = 0x32400  # code points from here on are private, tags or unassigned
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: Fibonacci hashing (Knuth, TAOCP 3, 6.4)
_WORD_PERIOD = 64  # letters after which positions in a word repeat; affects only the quality of the hash


@dataclass(frozen=True, eq=False)
class Block:
    """The units of several texts, concatenated.

    Attributes:
        hashes: one per unit.
        row: index of each unit's text, ascending from 0.
        counts: number of units per text.
        scripts: letters per text and script, shape (texts, 1 + len(SCRIPTS)); column 0 counts non-letters.
    """

    hashes: Hashes
    row: Ints
    counts: Ints
    scripts: Ints

    @property
    def dense(self) -> npt.NDArray[np.bool_]:
        """True for texts that are mostly in a script without spaces (Chinese, Japanese)."""
        single = self.scripts[:, 1 + SCRIPTS.index("han")] + self.scripts[:, 1 + SCRIPTS.index("kana")]
        dense: npt.NDArray[np.bool_] = 2 * single > self.counts
        return dense


def normalize(text: str) -> str:
    """`text` for comparison: compatibility forms (NFKC) are unified, letter case is ignored."""
    return unicodedata.normalize("NFKC", text).casefold()


def block(texts: Sequence[str]) -> Block:
    """The units of `texts`, which must be normalized (`normalize`); of each, the first 100,000 characters."""
    kinds, scripts = _tables()
    joined = "\0".join([*(text[:MAX_CHARACTERS].replace("\0", " ") for text in texts), ""])
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    row = np.cumsum(codes == 0) - (codes == 0)
    known = np.minimum(codes, _CODE_POINTS - 1)
    kind, script = kinds[known], scripts[known]
    before = np.concatenate(([_GAP], kind[:-1]))
    starts = np.flatnonzero((kind == _SINGLE) | ((kind == _WORD) & (before != _WORD)))
    width = 1 + len(SCRIPTS)
    by_script = np.bincount(row * width + script, minlength=len(texts) * width).reshape(len(texts), width)
    if not len(starts):
        empty = np.zeros(0, dtype=np.int64)
        return Block(empty.astype(np.uint64), empty, np.zeros(len(texts), dtype=np.int64), by_script)
    unit_row = row[starts]
    return Block(_unit_hashes(codes, kind, starts), unit_row, np.bincount(unit_row, minlength=len(texts)), by_script)


def ngrams(units: Block, n: int) -> tuple[Hashes, Ints]:
    """Hashes of all runs of `n` units within one text, and the index of each run's text."""
    if len(units.hashes) < n:
        return units.hashes[:0], units.row[:0]
    end = len(units.hashes) - n + 1
    hashes = _rolling_hash(units.hashes, n)[:end]
    same_text = units.row[:end] == units.row[n - 1 :]
    return mix_bits(hashes[same_text]), units.row[:end][same_text]


def shingles(units: Block) -> tuple[npt.NDArray[np.uint32], Ints]:
    """Shingles for finding near duplicates: 5 characters of a script without spaces, or 3 words, starting at each unit.

    Texts are padded at the end, so that a text shorter than a shingle has shingles too.

    Returns:
        Hashes (32 bits, ready for the permutations) and the index of each shingle's text.
    """
    padding = max(DENSE_SHINGLE, WORD_SHINGLE)
    padded = np.zeros(len(units.hashes) + padding * len(units.counts), dtype=np.uint64)
    position = np.arange(len(units.hashes)) + padding * units.row
    padded[position] = units.hashes
    dense = _rolling_hash(padded, DENSE_SHINGLE)[position]
    words = _rolling_hash(padded, WORD_SHINGLE)[position]
    hashes = mix_bits(np.where(units.dense[units.row], dense, words))
    return (hashes >> np.uint64(32)).astype(np.uint32), units.row


def distinct_share(hashes: Hashes, row: Ints, texts: int) -> npt.NDArray[np.float64]:
    """The share (0 to 1) of distinct hashes for each text; NaN for a text without any."""
    total = np.bincount(row, minlength=texts)
    order = np.lexsort((hashes, row))
    ordered, of_row = hashes[order], row[order]
    new = np.ones(len(ordered), dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]) | (of_row[1:] != of_row[:-1])
    distinct = np.bincount(of_row[new], minlength=texts)
    with np.errstate(invalid="ignore"):
        share: npt.NDArray[np.float64] = distinct / np.where(total, total, np.nan)
    return share


def mix_bits(hashes: Hashes) -> Hashes:
    """Hashes in which every bit depends on all input bits (the finalizer of MurmurHash3, public domain)."""
    hashes = hashes ^ (hashes >> np.uint64(33))
    hashes = hashes * np.uint64(0xFF51AFD7ED558CCD)
    hashes = hashes ^ (hashes >> np.uint64(33))
    hashes = hashes * np.uint64(0xC4CEB9FE1A85EC53)
    return hashes ^ (hashes >> np.uint64(33))


def _unit_hashes(codes: npt.NDArray[np.uint32], kind: npt.NDArray[np.uint8], starts: Ints) -> Hashes:
    """A polynomial over the letters of each unit, with mixed bits."""
    position = np.zeros(len(codes), dtype=np.int64)
    position[starts[0] :] = np.arange(starts[0], len(codes)) - np.repeat(starts, np.diff(starts, append=len(codes)))
    values = np.where(kind == _GAP, 0, codes).astype(np.uint64) * _powers()[position % _WORD_PERIOD]
    return mix_bits(np.add.reduceat(values, starts))


def _rolling_hash(hashes: Hashes, n: int) -> Hashes:
    """For every position, one hash of the `n` hashes starting there, padded with zeros at the end."""
    result = hashes.copy()
    for offset in range(1, n):
        result *= _MULTIPLIER
        result[: len(hashes) - offset] += hashes[offset:]
    return result


@cache
def _powers() -> Hashes:
    return np.cumprod(np.full(_WORD_PERIOD, _MULTIPLIER), dtype=np.uint64)


@cache
def _tables() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """For every code point: its kind (word, single or neither) and its script."""
    letters = np.fromiter((_is_letter(chr(code)) for code in range(_CODE_POINTS)), dtype=bool, count=_CODE_POINTS)
    kinds = np.where(letters, _WORD, _GAP).astype(np.uint8)
    scripts = np.zeros(_CODE_POINTS, dtype=np.uint8)
    alphabetic = letters & ~np.fromiter(
        (chr(code).isnumeric() for code in range(_CODE_POINTS)), dtype=bool, count=_CODE_POINTS
    )
    scripts[alphabetic] = 1 + SCRIPTS.index("other")
    for script, first, last, single in _SCRIPT_RANGES:
        in_range = np.zeros(_CODE_POINTS, dtype=bool)
        in_range[first : last + 1] = True
        if single:
            kinds[in_range & letters] = _SINGLE
        scripts[in_range & (alphabetic | ((script == "han") & letters))] = 1 + SCRIPTS.index(script)
    return kinds, scripts


def _is_letter(char: str) -> bool:
    """Letters, digits, and combining marks."""
    return char.isalnum() or unicodedata.category(char).startswith("M")
