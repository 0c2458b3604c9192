"""Preparation of training data (S3): look at the pairs, mark where prompts and completions end, write JSONL. Pure.

Follows what OpenAI's tool of 2023 did (`openai tools fine_tunes.prepare_data`, openai-python 0.27, `validators.py`):
count, common separator, common ending, leading white space, duplicates, over-long pairs; ` ->` and a stop are added.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from core.errors import BadTrainingFile

Example = tuple[str, str]

SEPARATOR = " ->"
# In the order of 2023's tool, without its first choice, a line end, which stories are full of; the first that no
# completion contains is taken.
STOPS = (".", " END", "***", "+++", "&&&", "$$$", "@@@", "%%%", " [END]", "\n\n###", "<|end|>")
SEPARATORS = (SEPARATOR, "\n\n###\n\n", "\n\n===\n\n", "\n\n---\n\n", " =>", "\n\n>>>\n\n")
LONGEST_PAIR = 10_000  # characters, the limit of 2023's tool
_MOST_ROWS = 20  # row numbers that a finding names


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found or done. `str()` is a sentence; `rows` are the first rows it is about, from 1."""

    kind: str
    count: int
    sentence: str
    rows: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True, slots=True)
class Findings:
    """What the pairs are like.

    Attributes:
        pairs: how many there are.
        separator: what all prompts end with, or ""; ending: what all completions end with, or "".
        leading_space: whether all completions begin with white space.
        empty, duplicates, too_long: indices (from 0) of pairs that preparation leaves out, each in one list only;
            of equal pairs the first stays.
        longest: characters of the longest pair.
    """

    pairs: int
    separator: str
    ending: str
    leading_space: bool
    empty: tuple[int, ...]
    duplicates: tuple[int, ...]
    too_long: tuple[int, ...]
    longest: int

    @property
    def left_out(self) -> frozenset[int]:
        """Indices of all pairs that preparation leaves out."""
        return frozenset((*self.empty, *self.duplicates, *self.too_long))


@dataclass(frozen=True, slots=True)
class Prepared:
    """A training file.

    Attributes:
        lines: its lines, JSON without line end.
        separator: what stands at the end of every prompt; None in a chat file.
        stop: what stands at the end of every completion, to be given as `stop` when the model is used; None in a
            chat file.
        report: what was found and done.
    """

    lines: tuple[str, ...]
    separator: str | None
    stop: str | None
    report: tuple[Finding, ...]


def analyse(examples: Sequence[Example]) -> Findings:
    """Look at the pairs; change nothing."""
    seen: set[Example] = set()
    empty, duplicates, too_long = [], [], []
    for index, (prompt, completion) in enumerate(examples):
        if not completion.strip():
            empty.append(index)
        elif (prompt, completion) in seen:
            duplicates.append(index)
        elif len(prompt) + len(completion) > LONGEST_PAIR:
            too_long.append(index)
        seen.add((prompt, completion))
    prompts, completions = [p for p, _ in examples], [c for _, c in examples]
    return Findings(
        pairs=len(examples),
        separator=_common_end(prompts),
        ending=_common_end(completions),
        leading_space=bool(completions) and all(c[:1].isspace() for c in completions),
        empty=tuple(empty),
        duplicates=tuple(duplicates),
        too_long=tuple(too_long),
        longest=max((len(p) + len(c) for p, c in examples), default=0),
    )


def propose_stop(completions: Sequence[str]) -> str:
    """The first usual stop that no completion contains.

    Raises:
        BadTrainingFile: every usual one occurs; one must be given.
    """
    return _first_free(STOPS, completions, "stop")


def propose_separator(prompts: Sequence[str]) -> str:
    """The first usual separator that no prompt contains.

    Raises:
        BadTrainingFile: every usual one occurs; one must be given.
    """
    return _first_free(SEPARATORS, prompts, "separator")


def prepare(
    examples: Sequence[Example],
    *,
    separator: str | None = None,
    stop: str | None = None,
    leading_space: bool = True,
) -> Prepared:
    """A file of `{"prompt", "completion"}` lines, as 2023's tool wrote it. Marks that are there are not added again.

    Args:
        examples: (prompt, completion) pairs.
        separator: ends every prompt; None: the one they end with already, else ` ->`, else another usual one that no
            prompt contains.
        stop: ends every completion; None: the one they end with already, else `.`, else another usual one that no
            completion contains (R7).
        leading_space: begin every completion with a space, as tokenizers of that time wanted it.

    Raises:
        BadTrainingFile: no pair can be used, or the given separator or stop occurs inside the texts.
    """
    findings = analyse(examples)
    kept = _kept(examples, findings)
    prompts, completions = [p for p, _ in kept], [c for _, c in kept]
    if separator is None:
        separator = _there(SEPARATORS, prompts) or propose_separator(prompts)
    if stop is None:
        stop = _there(STOPS, completions) or propose_stop(completions)
    if inside := _inside(separator, prompts):
        raise BadTrainingFile(
            f"The separator {separator!r} occurs inside {inside:,} prompts.",
            f"Take one that no prompt contains, for example {propose_separator(prompts)!r}.",
        )
    if inside := _inside(stop, completions):
        raise BadTrainingFile(
            f"The stop {stop!r} occurs inside {inside:,} completions: the model would learn to end there.",
            f"Take one that no completion contains, for example {propose_stop(completions)!r}.",
        )
    added_separator = "" if _ended(separator, prompts) else separator
    added_stop = "" if _ended(stop, completions) else stop
    lines = []
    for prompt, completion in kept:
        begun = completion if not leading_space or completion.startswith(" ") else f" {completion}"
        lines.append(_line({"prompt": prompt + added_separator, "completion": begun + added_stop}))
    report = (*_report(findings), *_done(added_separator, added_stop, leading_space))
    return Prepared(tuple(lines), separator, stop, report)


def prepare_chat(examples: Sequence[Example], *, system: str = "") -> Prepared:
    """A file of `{"messages"}` lines: the system text (if any), the prompt as the user, the completion as the answer.

    Raises:
        BadTrainingFile: no pair can be used.
    """
    findings = analyse(examples)
    first = [{"role": "system", "content": system}] if system else []
    lines = [
        _line({"messages": [*first, {"role": "user", "content": p}, {"role": "assistant", "content": c.strip()}]})
        for p, c in _kept(examples, findings)
    ]
    return Prepared(tuple(lines), None, None, _report(findings))


def _kept(examples: Sequence[Example], findings: Findings) -> list[Example]:
    kept = [example for index, example in enumerate(examples) if index not in findings.left_out]
    if not kept:
        raise BadTrainingFile(
            "There is no example to train on.", "Generate rows, or choose a data set with finished rows."
        )
    return kept


def _report(findings: Findings) -> tuple[Finding, ...]:
    """Plain sentences, the good news too: a silent check looks like none."""
    found = [Finding("pairs", findings.pairs, f"There are {findings.pairs:,} pairs of prompt and completion.")]
    for kind, rows, one, many in (
        ("empty", findings.empty, "1 pair has no completion; it is left out.", "pairs have no completion"),
        ("duplicates", findings.duplicates, "1 pair is there twice; one of them is left out.", "pairs are repeated"),
        (
            "too_long",
            findings.too_long,
            f"1 pair has more than {LONGEST_PAIR:,} characters; it is left out.",
            f"pairs have more than {LONGEST_PAIR:,} characters",
        ),
    ):
        if rows:
            sentence = one if len(rows) == 1 else f"{len(rows):,} {many}; they are left out."
            found.append(Finding(kind, len(rows), sentence, tuple(r + 1 for r in rows[:_MOST_ROWS])))
    if findings.separator:
        found.append(Finding("separator", findings.pairs, f"All prompts end with {findings.separator!r}."))
    if findings.ending:
        found.append(Finding("ending", findings.pairs, f"All completions end with {findings.ending!r}."))
    return tuple(found)


def _done(separator: str, stop: str, leading_space: bool) -> tuple[Finding, ...]:
    done = []
    if separator:
        done.append(Finding("add_separator", 0, f"{separator!r} is added to every prompt: here the answer begins."))
    if leading_space:
        done.append(Finding("add_space", 0, "Every completion begins with a space."))
    if stop:
        done.append(Finding("add_stop", 0, f"{stop!r} is added to every completion; no completion contains it."))
    return tuple(done)


def _common_end(texts: Sequence[str]) -> str:
    """What all texts end with; "" for a single one, where it would be the whole text."""
    turned = [text[::-1] for text in set(texts)]
    if len(turned) < 2:
        return ""
    first, last = min(turned), max(turned)  # the two that differ earliest
    same = next((i for i, char in enumerate(first) if last[i : i + 1] != char), len(first))
    return first[:same][::-1]


def _ended(mark: str, texts: Sequence[str]) -> bool:
    return all(text.endswith(mark) for text in texts)


def _inside(mark: str, texts: Sequence[str]) -> int:
    """How many texts contain `mark`; where all end with it, before that end."""
    ended = _ended(mark, texts)
    return sum(mark in (text.removesuffix(mark) if ended else text) for text in texts) if mark else 0


def _there(usual: Sequence[str], texts: Sequence[str]) -> str | None:
    """The usual mark that all texts end with already, and none has inside."""
    return next((mark for mark in usual if _ended(mark, texts) and not _inside(mark, texts)), None)


def _first_free(candidates: Sequence[str], texts: Sequence[str], called: str) -> str:
    for candidate in candidates:
        if not any(candidate in text for text in texts):
            return candidate
    raise BadTrainingFile(f"Every usual {called} occurs in the texts.", "Give one of your own that does not.")


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
