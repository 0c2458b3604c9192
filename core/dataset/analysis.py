"""What training pairs are like (S3): counted in one pass, with nothing of them held but a number for each. Pure.

Looks for what OpenAI's tool of 2023 looked for (`openai tools fine_tunes.prepare_data`, openai-python 0.27,
`validators.py`): count, common separator, common ending, leading white space, duplicates, over-long pairs.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from core.errors import BadTrainingFile
from core.message import msg

Example = tuple[str, str]

SEPARATOR = " ->"
# In the order of 2023's tool, without its first choice, a line end, which stories are full of; the first that no
# completion contains is taken.
STOPS = (".", " END", "***", "+++", "&&&", "$$$", "@@@", "%%%", " [END]", "\n\n###", "<|end|>")
SEPARATORS = (SEPARATOR, "\n\n###\n\n", "\n\n===\n\n", "\n\n---\n\n", " =>", "\n\n>>>\n\n")
LONGEST_PAIR = 10_000  # characters, the limit of 2023's tool
_DIGEST_BYTES = 8  # two different pairs among ten million look alike once in 370,000 files


@dataclass(frozen=True, slots=True)
class Occurrence:
    """Where a mark stands: how many texts end with it, contain it anywhere, contain it before such an end."""

    at_end: int = 0
    anywhere: int = 0
    before_end: int = 0


@dataclass(frozen=True, slots=True)
class Findings:
    """What the pairs are like.

    Attributes:
        pairs: how many there are; usable: how many of them have a completion and are not too long (repeated ones
            count).
        separator: what all usable prompts end with, or ""; ending: what all usable completions end with, or "".
        leading_space: whether all usable completions begin with white space.
        empty, duplicates, too_long: indices (from 0) of pairs that preparation leaves out, each in one list only;
            of equal pairs the first stays.
        longest: characters of the longest pair.
        in_prompts, in_completions: where the usual marks (and those asked for) stand.
        repeated: digests of the pairs that are there more than once.
    """

    pairs: int
    usable: int
    separator: str
    ending: str
    leading_space: bool
    empty: tuple[int, ...]
    duplicates: tuple[int, ...]
    too_long: tuple[int, ...]
    longest: int
    in_prompts: Mapping[str, Occurrence]
    in_completions: Mapping[str, Occurrence]
    repeated: frozenset[int]

    @property
    def left_out(self) -> frozenset[int]:
        """Indices of all pairs that preparation leaves out."""
        return frozenset((*self.empty, *self.duplicates, *self.too_long))

    @property
    def kept(self) -> int:
        """How many pairs preparation keeps."""
        return self.usable - len(self.duplicates)


def analyse(examples: Iterable[Example], separator: str | None = None, stop: str | None = None) -> Findings:
    """Look at the pairs, once; change nothing. `separator`, `stop`: marks to look for beside the usual ones.

    Takes 8 bytes of memory for each pair, however long it is.
    """
    prompts = _Texts(tuple(dict.fromkeys((*SEPARATORS, *filter(None, [separator])))))
    completions = _Texts(tuple(dict.fromkeys((*STOPS, *filter(None, [stop])))))
    digests, places = array("Q"), array("Q")
    empty, too_long = [], []
    pairs = longest = leading = 0
    for pairs, (prompt, completion) in enumerate(examples, 1):
        length = len(prompt) + len(completion)
        longest = max(longest, length)
        if not completion.strip():
            empty.append(pairs - 1)
        elif length > LONGEST_PAIR:
            too_long.append(pairs - 1)
        else:
            digests.append(digest(prompt, completion))
            places.append(pairs - 1)
            leading += completion[:1].isspace()
            prompts.add(prompt)
            completions.add(completion)
    duplicates, repeated = _repeats(digests, places)
    return Findings(
        pairs=pairs,
        usable=len(digests),
        separator=prompts.common_end,
        ending=completions.common_end,
        leading_space=bool(digests) and leading == len(digests),
        empty=tuple(empty),
        duplicates=duplicates,
        too_long=tuple(too_long),
        longest=longest,
        in_prompts=prompts.occurrences(),
        in_completions=completions.occurrences(),
        repeated=repeated,
    )


def usable(prompt: str, completion: str) -> bool:
    """Whether preparation keeps such a pair (the first of its kind)."""
    return bool(completion.strip()) and len(prompt) + len(completion) <= LONGEST_PAIR


def digest(prompt: str, completion: str) -> int:
    """A number that is the same for the same pair, of 64 bits."""
    text = f"{len(prompt)}:{prompt}{completion}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=_DIGEST_BYTES).digest(), "big")


def existing_mark(usual: Sequence[str], found: Mapping[str, Occurrence], texts: int) -> str | None:
    """The usual mark that all texts end with already, and none has inside."""
    ended = (mark for mark in usual if texts and found[mark].at_end == texts)
    return next((mark for mark in ended if not found[mark].before_end), None)


def first_free(usual: Sequence[str], found: Mapping[str, Occurrence], called: str) -> str:
    """The first usual mark that no text contains.

    Raises:
        BadTrainingFile: every usual one occurs; one must be given.
    """
    for mark in usual:
        if not found[mark].anywhere:
            return mark
    raise BadTrainingFile(
        msg("Every common {called} occurs in the texts.", called=called), msg("Enter one that does not.")
    )


def occurrences(marks: Sequence[str], texts: Iterable[str]) -> Mapping[str, Occurrence]:
    """Where each mark stands in the texts."""
    seen = _Texts(marks)
    for text in texts:
        seen.add(text)
    return seen.occurrences()


@dataclass(slots=True)
class _Texts:
    """What is true of all texts so far."""

    marks: Sequence[str]
    first: str | None = None
    differ: bool = False
    shared: str = ""
    counts: dict[str, list[int]] = field(default_factory=dict)

    def add(self, text: str) -> None:
        if self.first is None:
            self.first = self.shared = text
        elif not self.differ and text != self.first:
            self.differ = True
        if self.shared and not text.endswith(self.shared):
            self.shared = _same_end(self.shared, text)
        for mark in self.marks:
            if mark in text:
                at_end = text.endswith(mark)
                counts = self.counts.setdefault(mark, [0, 0, 0])
                counts[0] += at_end
                counts[1] += 1
                counts[2] += not at_end or mark in text[: -len(mark)]

    @property
    def common_end(self) -> str:
        """What all texts end with; "" while they are all the same, where it would be the whole text."""
        return self.shared if self.differ else ""

    def occurrences(self) -> dict[str, Occurrence]:
        return {mark: Occurrence(*self.counts.get(mark, ())) for mark in self.marks}


def _same_end(one: str, other: str) -> str:
    length = next((i for i in range(min(len(one), len(other))) if one[-1 - i] != other[-1 - i]), None)
    length = min(len(one), len(other)) if length is None else length
    return one[len(one) - length :]


def _repeats(digests: array[int], places: array[int]) -> tuple[tuple[int, ...], frozenset[int]]:
    """Places of pairs that were there before, and the digests of those pairs."""
    if not digests:
        return (), frozenset()
    numbers = np.frombuffer(digests, dtype=np.uint64)
    order = np.argsort(numbers, kind="stable")
    again = numbers[order][1:] == numbers[order][:-1]
    later = np.frombuffer(places, dtype=np.uint64)[order[1:][again]]
    return tuple(sorted(later.tolist())), frozenset(numbers[order[1:][again]].tolist())
