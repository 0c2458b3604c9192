"""Texts as arrays of units, a block of texts at a time: a Chinese character is one unit, an English word is one.

Every measure of likeness counts in units, so that Chinese and Latin text are measured alike. All of it is array
arithmetic over the code points of a block; nothing is looked up in a vocabulary that would grow with the data.
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

MEASURED_CHARACTERS = 100_000  # of one text; the longest cell that import takes, so memory stays bounded
SCRIPTS = ("latin", "han", "kana", "hangul", "cyrillic", "arabic", "other")
"""Kinds of writing that are told apart; the number of one is its place here plus 1, 0 is for no letter."""

# Blocks of Unicode 16 (Blocks.txt) by script. What is written without spaces is a unit for every character.
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
DENSE_SHINGLE = 5  # characters: two or three Chinese words, a run that two texts rarely share by chance
WORD_SHINGLE = 3  # words, for the same reason
_GAP, _WORD, _ALONE = 0, 1, 2  # no letter; part of a word; a unit by itself
_LAST = 0x32400  # code points from here on are private, tags or unassigned
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: Fibonacci hashing (Knuth, TAOCP 3, 6.4)
_LONGEST_WORD = 64  # letters after which a word's places begin anew; only a hash's quality hangs on it


@dataclass(frozen=True, eq=False)
class Block:
    """The units of some texts, one after the other.

    Attributes:
        hashes: one for every unit.
        row: for every unit, which text it belongs to (from 0, rising).
        counts: units of each text.
        scripts: letters of each text by script, shape (texts, 1 + len(SCRIPTS)); column 0 counts what is no letter.
    """

    hashes: Hashes
    row: Ints
    counts: Ints
    scripts: Ints

    @property
    def dense(self) -> npt.NDArray[np.bool_]:
        """Which texts are mostly in a script without spaces (Chinese, Japanese)."""
        alone = self.scripts[:, 1 + SCRIPTS.index("han")] + self.scripts[:, 1 + SCRIPTS.index("kana")]
        dense: npt.NDArray[np.bool_] = 2 * alone > self.counts
        return dense


def normalize(text: str) -> str:
    """`text` for comparing: compatibility forms (NFKC) and letter case make no difference."""
    return unicodedata.normalize("NFKC", text).casefold()


def block(texts: Sequence[str]) -> Block:
    """The units of `texts`, which are `normalize` already; of each, the first 100,000 characters."""
    kinds, scripts = _tables()
    joined = "\0".join([*(text[:MEASURED_CHARACTERS].replace("\0", " ") for text in texts), ""])
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    row = np.cumsum(codes == 0) - (codes == 0)
    inside = np.minimum(codes, _LAST - 1)
    kind, script = kinds[inside], scripts[inside]
    before = np.concatenate(([_GAP], kind[:-1]))
    starts = np.flatnonzero((kind == _ALONE) | ((kind == _WORD) & (before != _WORD)))
    width = 1 + len(SCRIPTS)
    by_script = np.bincount(row * width + script, minlength=len(texts) * width).reshape(len(texts), width)
    if not len(starts):
        none = np.zeros(0, dtype=np.int64)
        return Block(none.astype(np.uint64), none, np.zeros(len(texts), dtype=np.int64), by_script)
    of_unit = row[starts]
    return Block(_unit_hashes(codes, kind, starts), of_unit, np.bincount(of_unit, minlength=len(texts)), by_script)


def ngrams(units: Block, n: int) -> tuple[Hashes, Ints]:
    """Hashes of all runs of `n` units within one text, and which text each belongs to."""
    if len(units.hashes) < n:
        return units.hashes[:0], units.row[:0]
    end = len(units.hashes) - n + 1
    rolled = _rolled(units.hashes, n)[:end]
    whole = units.row[:end] == units.row[n - 1 :]
    return mixed(rolled[whole]), units.row[:end][whole]


def shingles(units: Block) -> tuple[npt.NDArray[np.uint32], Ints]:
    """What near-duplicates are told by: 5 characters of a script without spaces, or 3 words; one begins at each unit.

    The end of a text counts as filled up with blanks, so that a text shorter than a shingle has some too.

    Returns:
        Hashes (32 bits, ready to be permuted) and which text each belongs to.
    """
    widest = max(DENSE_SHINGLE, WORD_SHINGLE)
    padded = np.zeros(len(units.hashes) + widest * len(units.counts), dtype=np.uint64)
    place = np.arange(len(units.hashes)) + widest * units.row
    padded[place] = units.hashes
    dense = _rolled(padded, DENSE_SHINGLE)[place]
    words = _rolled(padded, WORD_SHINGLE)[place]
    chosen = mixed(np.where(units.dense[units.row], dense, words))
    return (chosen >> np.uint64(32)).astype(np.uint32), units.row


def distinct_share(hashes: Hashes, row: Ints, texts: int) -> npt.NDArray[np.float64]:
    """For each text, how many of its hashes differ, as a share (0 to 1); NaN for a text without any."""
    total = np.bincount(row, minlength=texts)
    order = np.lexsort((hashes, row))
    ordered, of_row = hashes[order], row[order]
    new = np.ones(len(ordered), dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]) | (of_row[1:] != of_row[:-1])
    distinct = np.bincount(of_row[new], minlength=texts)
    with np.errstate(invalid="ignore"):
        share: npt.NDArray[np.float64] = distinct / np.where(total, total, np.nan)
    return share


def mixed(hashes: Hashes) -> Hashes:
    """Hashes whose every bit hangs on all bits of the input (the finaliser of MurmurHash3, public domain)."""
    hashes = hashes ^ (hashes >> np.uint64(33))
    hashes = hashes * np.uint64(0xFF51AFD7ED558CCD)
    hashes = hashes ^ (hashes >> np.uint64(33))
    hashes = hashes * np.uint64(0xC4CEB9FE1A85EC53)
    return hashes ^ (hashes >> np.uint64(33))


def _unit_hashes(codes: npt.NDArray[np.uint32], kind: npt.NDArray[np.uint8], starts: Ints) -> Hashes:
    """A polynomial over the letters of each unit, mixed."""
    place = np.zeros(len(codes), dtype=np.int64)
    place[starts[0] :] = np.arange(starts[0], len(codes)) - np.repeat(starts, np.diff(starts, append=len(codes)))
    values = np.where(kind == _GAP, 0, codes).astype(np.uint64) * _powers()[place % _LONGEST_WORD]
    return mixed(np.add.reduceat(values, starts))


def _rolled(hashes: Hashes, n: int) -> Hashes:
    """For every place, one number of the `n` hashes that begin there; beyond the end there are zeros."""
    rolled = hashes.copy()
    for ahead in range(1, n):
        rolled *= _SPREAD
        rolled[: len(hashes) - ahead] += hashes[ahead:]
    return rolled


@cache
def _powers() -> Hashes:
    return np.cumprod(np.full(_LONGEST_WORD, _SPREAD), dtype=np.uint64)


@cache
def _tables() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """For every code point: does it stand in a word, alone or in neither; and its script."""
    letters = np.fromiter((_is_letter(chr(code)) for code in range(_LAST)), dtype=bool, count=_LAST)
    kinds = np.where(letters, _WORD, _GAP).astype(np.uint8)
    scripts = np.zeros(_LAST, dtype=np.uint8)
    alphabetic = letters & ~np.fromiter((chr(code).isnumeric() for code in range(_LAST)), dtype=bool, count=_LAST)
    scripts[alphabetic] = 1 + SCRIPTS.index("other")
    for script, first, last, alone in _SCRIPT_RANGES:
        here = np.zeros(_LAST, dtype=bool)
        here[first : last + 1] = True
        if alone:
            kinds[here & letters] = _ALONE
        scripts[here & (alphabetic | ((script == "han") & letters))] = 1 + SCRIPTS.index(script)
    return kinds, scripts


def _is_letter(char: str) -> bool:
    """Letters, digits, and the marks that stand on letters."""
    return char.isalnum() or unicodedata.category(char).startswith("M")
