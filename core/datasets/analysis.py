"""Analysis of training pairs in a single pass, keeping only a hash per pair, and its findings as sentences. Pure.

Checks the same things as OpenAI's 2023 tool (`openai tools fine_tunes.prepare_data`, openai-python 0.27,
`validators.py`): count, common separator, common ending, duplicates, over-long pairs.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from core.errors import BadTrainingFile
from core.message import msg

Example = tuple[str, str]

SEPARATOR = " ->"
# In the 2023 tool's order, without its first choice (a line break, which stories contain). The first one that no
# completion contains is used.
STOPS = (".", " END", "***", "+++", "&&&", "$$$", "@@@", "%%%", " [END]", "\n\n###", "<|end|>")
SEPARATORS = (SEPARATOR, "\n\n###\n\n", "\n\n===\n\n", "\n\n---\n\n", " =>", "\n\n>>>\n\n")
MAX_PAIR_CHARACTERS = 10_000  # characters, the limit of the 2023 tool
_DIGEST_BYTES = 8  # bytes; the probability of a collision among ten million pairs is 1 in 370,000

_MAX_ROWS = 20  # maximum number of row numbers per finding


@dataclass(frozen=True, slots=True)
class Occurrence:
    """How many texts end with a mark, contain it anywhere, and contain it before that end."""

    at_end: int = 0
    anywhere: int = 0
    before_end: int = 0


@dataclass(frozen=True, slots=True)
class Findings:
    """The result of the analysis.

    Attributes:
        pairs: number of pairs.
        usable: number of pairs with a completion that are not too long (including duplicates).
        separator: what all usable prompts end with, or "".
        ending: what all usable completions end with, or "".
        empty, duplicates, too_long: indices (from 0) of the pairs left out, each in only one list; the first of several
            equal pairs is kept.
        longest: length of the longest pair in characters.
        in_prompts, in_completions: occurrences of the common marks (and of the requested ones).
        repeated: hashes of the pairs that occur more than once.
    """

    pairs: int
    usable: int
    separator: str
    ending: str
    empty: tuple[int, ...]
    duplicates: tuple[int, ...]
    too_long: tuple[int, ...]
    longest: int
    in_prompts: Mapping[str, Occurrence]
    in_completions: Mapping[str, Occurrence]
    repeated: frozenset[int]

    @property
    def left_out(self) -> frozenset[int]:
        """Indices of all pairs that are left out."""
        return frozenset((*self.empty, *self.duplicates, *self.too_long))

    @property
    def kept(self) -> int:
        """Number of pairs that are kept."""
        return self.usable - len(self.duplicates)


def analyse(examples: Iterable[Example], separator: str | None = None, stop: str | None = None) -> Findings:
    """Analyse the pairs in one pass, without changing them. `separator`, `stop`: marks to look for besides the common
    ones.

    Takes 8 bytes of memory per pair.
    """
    prompts = _TextStatistics(tuple(dict.fromkeys((*SEPARATORS, *filter(None, [separator])))))
    completions = _TextStatistics(tuple(dict.fromkeys((*STOPS, *filter(None, [stop])))))
    digests, indices = array("Q"), array("Q")
    empty, too_long = [], []
    pairs = longest = 0
    for pairs, (prompt, completion) in enumerate(examples, 1):
        length = len(prompt) + len(completion)
        longest = max(longest, length)
        if not completion.strip():
            empty.append(pairs - 1)
        elif length > MAX_PAIR_CHARACTERS:
            too_long.append(pairs - 1)
        else:
            digests.append(digest(prompt, completion))
            indices.append(pairs - 1)
            prompts.add(prompt)
            completions.add(completion)
    duplicates, repeated = _find_duplicates(digests, indices)
    return Findings(
        pairs=pairs,
        usable=len(digests),
        separator=prompts.common_end,
        ending=completions.common_end,
        empty=tuple(empty),
        duplicates=duplicates,
        too_long=tuple(too_long),
        longest=longest,
        in_prompts=prompts.occurrences(),
        in_completions=completions.occurrences(),
        repeated=repeated,
    )


def usable(prompt: str, completion: str) -> bool:
    """True if preparation keeps such a pair (its first occurrence)."""
    return bool(completion.strip()) and len(prompt) + len(completion) <= MAX_PAIR_CHARACTERS


def digest(prompt: str, completion: str) -> int:
    """A 64-bit hash of a pair."""
    text = f"{len(prompt)}:{prompt}{completion}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=_DIGEST_BYTES).digest(), "big")


def existing_mark(common: Sequence[str], occurrences: Mapping[str, Occurrence], texts: int) -> str | None:
    """The common mark that all texts already end with and that occurs nowhere else in them."""
    at_all_ends = (mark for mark in common if texts and occurrences[mark].at_end == texts)
    return next((mark for mark in at_all_ends if not occurrences[mark].before_end), None)


def first_unused(common: Sequence[str], occurrences: Mapping[str, Occurrence], kind: str) -> str:
    """The first common mark that no text contains.

    Raises:
        BadTrainingFile: every common mark occurs in the texts, so one must be given.
    """
    for mark in common:
        if not occurrences[mark].anywhere:
            return mark
    raise BadTrainingFile(msg("Every common {kind} occurs in the texts.", kind=kind), msg("Enter one that does not."))


@dataclass(slots=True)
class _TextStatistics:
    """Properties of all texts added so far."""

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
            self.shared = _common_suffix(self.shared, text)
        for mark in self.marks:
            if mark in text:
                at_end = text.endswith(mark)
                counts = self.counts.setdefault(mark, [0, 0, 0])
                counts[0] += at_end
                counts[1] += 1
                counts[2] += not at_end or mark in text[: -len(mark)]

    @property
    def common_end(self) -> str:
        """What all texts end with; "" if all texts are identical, because it would be the whole text."""
        return self.shared if self.differ else ""

    def occurrences(self) -> dict[str, Occurrence]:
        return {mark: Occurrence(*self.counts.get(mark, ())) for mark in self.marks}


def _common_suffix(a: str, b: str) -> str:
    length = next((i for i in range(min(len(a), len(b))) if a[-1 - i] != b[-1 - i]), None)
    length = min(len(a), len(b)) if length is None else length
    return a[len(a) - length :]


def _find_duplicates(digests: array[int], indices: array[int]) -> tuple[tuple[int, ...], frozenset[int]]:
    """Indices of repeated pairs, and the hashes of those pairs."""
    if not digests:
        return (), frozenset()
    hashes = np.frombuffer(digests, dtype=np.uint64)
    order = np.argsort(hashes, kind="stable")
    repeated = hashes[order][1:] == hashes[order][:-1]
    duplicates = np.frombuffer(indices, dtype=np.uint64)[order[1:][repeated]]
    return tuple(sorted(duplicates.tolist())), frozenset(hashes[order[1:][repeated]].tolist())


@dataclass(frozen=True, slots=True)
class PreparationFinding:
    """A finding or a change. `str()` is a sentence; `why` explains it, or is "".

    `rows` are the first affected rows, from 1.
    """

    kind: str
    count: int
    sentence: str
    rows: tuple[int, ...] = ()
    why: str = ""

    def __str__(self) -> str:
        return self.sentence


def describe_findings(findings: Findings) -> tuple[PreparationFinding, ...]:
    """Findings as sentences, including good news, so that users see what was checked."""
    sentence = msg("The data has {pairs} prompt-completion pairs.", pairs=f"{findings.pairs:,}")
    if findings.pairs == 1:
        sentence = msg("The data has 1 prompt-completion pair.")
    sentences = [PreparationFinding("pairs", findings.pairs, sentence)]
    sentences += _pairs_left_out(findings)
    if findings.separator:
        sentences.append(
            PreparationFinding(
                "separator",
                findings.usable,
                msg("All prompts end with {separator}.", separator=repr(findings.separator)),
            )
        )
    if findings.ending:
        sentences.append(
            PreparationFinding(
                "ending", findings.usable, msg("All completions end with {ending}.", ending=repr(findings.ending))
            )
        )
    return tuple(sentences)


def _pairs_left_out(findings: Findings) -> Iterator[PreparationFinding]:
    for kind, rows, one, several, why in (
        (
            "empty",
            findings.empty,
            msg("1 pair has no completion; it is left out."),
            msg("{empty} pairs have no completion; they are left out.", empty=f"{len(findings.empty):,}"),
            msg("A model trained on empty answers gives empty answers."),
        ),
        (
            "duplicates",
            findings.duplicates,
            msg("1 pair is a duplicate; it is left out."),
            msg("{duplicates} pairs are repeated; they are left out.", duplicates=f"{len(findings.duplicates):,}"),
            msg("Duplicates are paid for twice, and the model memorises them."),
        ),
        (
            "too_long",
            findings.too_long,
            msg("1 pair has more than {value} characters; it is left out.", value=f"{MAX_PAIR_CHARACTERS:,}"),
            msg(
                "{too_long} pairs have more than {value} characters; they are left out.",
                too_long=f"{len(findings.too_long):,}",
                value=f"{MAX_PAIR_CHARACTERS:,}",
            ),
            msg("A pair that is too long would be cut off and lose its stop."),
        ),
    ):
        if rows:
            text = one if len(rows) == 1 else several
            yield PreparationFinding(kind, len(rows), text, tuple(r + 1 for r in rows[:_MAX_ROWS]), why)


def describe_changes(findings: Findings, separator: str, stop: str) -> tuple[PreparationFinding, ...]:
    """The changes to prompts and completions; "" means no mark."""
    sentences = []
    if separator:
        why = msg("It marks the end of the prompt. No prompt contains it.")
        if separator in SEPARATORS[1:] and findings.in_prompts[SEPARATOR].anywhere:
            why = msg(
                "It marks the end of the prompt. {value} can't be used: prompts contain it.", value=repr(SEPARATOR)
            )
        sentences.append(
            PreparationFinding(
                "add_separator",
                0,
                msg("{separator} is added to every prompt to mark where the answer begins.", separator=repr(separator)),
                why=why,
            )
        )
    why = msg("Most tokenizers put a word and the space before it into one token.")
    sentences.append(PreparationFinding("add_space", 0, msg("Every completion begins with a space."), why=why))
    if stop:
        why = msg("The model learns to stop there; use it as the stop when you call the model.")
        if stop in STOPS[1:] and (count := findings.in_completions[STOPS[0]].anywhere):
            why = msg(
                "The model learns to stop there. {value} can't be used: {count} completions contain it.",
                value=repr(STOPS[0]),
                count=f"{count:,}",
            )
        sentence = msg("{stop} is added to every completion; no completion contains it.", stop=repr(stop))
        sentences.append(PreparationFinding("add_stop", 0, sentence, why=why))
    return tuple(sentences)


def describe_conversations() -> tuple[PreparationFinding, ...]:
    """How conversations are written."""
    return (
        PreparationFinding(
            "conversations",
            0,
            msg("Conversations are written whole: every message with its weight, and the tools."),
            why=msg("The model is trained on every answer whose weight is not 0."),
        ),
    )


def describe_chat(system: str) -> tuple[PreparationFinding, ...]:
    """How a chat file marks turns without separator and stop."""
    why = msg("Chat models use roles to mark where an answer begins and ends, so no separator or stop is added.")
    turns = PreparationFinding(
        "roles", 0, msg("The prompt is the user's turn, the completion the assistant's."), why=why
    )
    if not system:
        return (turns,)
    system_finding = PreparationFinding(
        "system",
        0,
        msg("Every conversation begins with the system text."),
        why=msg("Use the same one when you call the model."),
    )
    return (turns, system_finding)
