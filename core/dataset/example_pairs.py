"""A handful of examples: pairs of a prompt and its answer, the samples that ship, and the check before training. Pure.

`core.dataset.importers.pasted_text` reads pairs from pasted text and files; `core.training.examples` trains on them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from core import i18n
from core.dataset.presets import DATA
from core.message import msg

FEWEST, MOST = 5, 200
"""Examples that this form trains on. Of fewer a model learns the examples by heart; more take more than minutes."""
LONGEST_CELL = 2_000
"""Characters of a prompt or an answer: about 500 tokens of English, 1,300 of Chinese."""
_NAMED_ROWS = 5  # row numbers that a sentence names
_QUOTED = 30  # characters of a prompt that a sentence quotes


class ExamplePair(NamedTuple):
    """One example: what is asked and the answer to learn."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class ExampleSample:
    """Worked examples that ship with the studio (`data/samples/examples/*.json`), in one language.

    Attributes:
        id: also the suffix of the model trained on it.
        name: for people; names: by language.
        prompt: one more prompt, which is not among the pairs, to try the tuned model on.
    """

    id: str
    names: Mapping[str, str]
    icon: str
    prompt: str
    pairs: tuple[ExamplePair, ...]


@dataclass(frozen=True, slots=True)
class ExampleFinding:
    """One thing to know before training; `blocking`: training waits until it is fixed."""

    sentence: str
    blocking: bool = False


@dataclass(frozen=True, slots=True)
class CheckedExamples:
    """What a form of pairs becomes.

    Attributes:
        pairs: those to train on: complete, without repeats, spaces around them removed.
        findings: what stands in the way first, then what will be done.
        too_many: there are more than `MOST`: the data-set page is made for them.
    """

    pairs: tuple[ExamplePair, ...]
    findings: tuple[ExampleFinding, ...]
    too_many: bool = False

    @property
    def ready(self) -> bool:
        """Whether training can start."""
        return not any(finding.blocking for finding in self.findings)


def samples(language: str) -> tuple[ExampleSample, ...]:
    """The worked samples in a language (`en`, `zh_CN`)."""
    return tuple(
        ExampleSample(
            id=item["id"],
            names=item["name"],
            icon=item["icon"],
            prompt=item[language]["prompt"],
            pairs=tuple(ExamplePair(pair["prompt"], pair["answer"]) for pair in item[language]["pairs"]),
        )
        for item in _files()
    )


def sample_of(sample_id: str | None, pairs: Sequence[ExamplePair], language: str) -> ExampleSample | None:
    """The sample that these pairs began with, in the language that they are in; None: they began otherwise."""
    known = set(pairs)
    for spoken in sorted(i18n.LANGUAGES, key=lambda each: each != language):
        for sample in samples(spoken):
            if sample.id == sample_id and known.intersection(sample.pairs):
                return sample
    return None


@lru_cache(maxsize=1)
def _files() -> tuple[dict[str, Any], ...]:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in (DATA / "samples" / "examples").glob("*.json")]
    return tuple(sorted(found, key=lambda item: item["order"]))


def check(pairs: Sequence[ExamplePair], rows: Sequence[int] | None = None) -> CheckedExamples:
    """Look at the pairs before training.

    Args:
        pairs: as typed; a row without prompt and answer is a blank line of the form and is not mentioned.
        rows: the number by which the form shows each pair; None: counted from 1.
    """
    numbers = range(1, len(pairs) + 1) if rows is None else rows
    typed = [
        (number, ExamplePair(pair.prompt.strip(), pair.answer.strip()))
        for number, pair in zip(numbers, pairs, strict=True)
        if pair.prompt.strip() or pair.answer.strip()
    ]
    complete = [(number, pair) for number, pair in typed if pair.prompt and pair.answer]
    usable = tuple(dict.fromkeys(pair for _number, pair in complete))
    return CheckedExamples(
        usable,
        (
            *_amount(len(usable), len(typed)),
            *_too_long(typed),
            *_contradictions(complete),
            *_incomplete(typed),
            *_repeated(complete),
            *_same_answers(usable),
        ),
        too_many=len(usable) > MOST,
    )


def _amount(count: int, typed: int) -> list[ExampleFinding]:
    """Too few or too many; `typed`: rows with a text on either side."""
    if typed == 0:
        return [
            ExampleFinding(
                msg("There are no examples yet. Type, paste or upload at least 5, or start with a sample."), True
            )
        ]
    if count == 0:
        return [
            ExampleFinding(
                msg("No row has both a prompt and an answer. Fill in the missing side of at least 5 rows."), True
            )
        ]
    if count < FEWEST:
        missing = FEWEST - count
        return [
            ExampleFinding(
                msg(
                    "Too few examples: {count} of at least {value}. From so few a model repeats the examples instead "
                    "of learning the task. Add {missing} more; 12 is a good start.",
                    count=count,
                    value=FEWEST,
                    missing=missing,
                ),
                True,
            )
        ]
    if count > MOST:
        return [
            ExampleFinding(
                msg(
                    "Too many examples for this form: {count}, and it takes up to {value}. Load the file on the Data "
                    "set page: there you can check its quality, split it and choose the settings.",
                    count=f"{count:,}",
                    value=MOST,
                ),
                True,
            )
        ]
    return []


def _too_long(typed: Sequence[tuple[int, ExamplePair]]) -> list[ExampleFinding]:
    found = [(number, max(map(len, pair))) for number, pair in typed if max(map(len, pair)) > LONGEST_CELL]
    if not found:
        return []
    number, length = found[0]
    if len(found) == 1:
        sentence = msg(
            "Row {number} has a text of {length} characters; up to {value} fit here. Shorten it.",
            number=number,
            length=f"{length:,}",
            value=f"{LONGEST_CELL:,}",
        )
    else:
        numbers = _named([number for number, _length in found])
        sentence = msg(
            "Rows {numbers} have texts of more than {value} characters. Shorten them.",
            numbers=numbers,
            value=f"{LONGEST_CELL:,}",
        )
    return [ExampleFinding(sentence, True)]


def _contradictions(complete: Sequence[tuple[int, ExamplePair]]) -> list[ExampleFinding]:
    """The same prompt with different answers, one finding a prompt."""
    by_prompt: dict[str, list[tuple[int, str]]] = {}
    for number, pair in complete:
        by_prompt.setdefault(pair.prompt, []).append((number, pair.answer))
    found = []
    for prompt, answers in by_prompt.items():
        if len({answer for _number, answer in answers}) > 1:
            numbers = _named([number for number, _answer in answers])
            quoted = _quoted(prompt)
            found.append(
                ExampleFinding(
                    msg(
                        "Rows {numbers} have the same prompt, “{quoted}”, with different answers. Keep one of them: "
                        "a model can't learn both.",
                        numbers=numbers,
                        quoted=quoted,
                    ),
                    True,
                )
            )
    return found[:_NAMED_ROWS]


def _incomplete(typed: Sequence[tuple[int, ExamplePair]]) -> list[ExampleFinding]:
    found = []
    if unanswered := [number for number, pair in typed if not pair.answer]:
        numbers = _named(unanswered)
        one, several = (
            msg("No answer in row {numbers}: left out of training.", numbers=numbers),
            msg("No answer in rows {numbers}: left out.", numbers=numbers),
        )
        found.append(ExampleFinding(one if len(unanswered) == 1 else several))
    if unasked := [number for number, pair in typed if not pair.prompt]:
        numbers = _named(unasked)
        one, several = (
            msg("No prompt in row {numbers}: left out of training.", numbers=numbers),
            msg("No prompt in rows {numbers}: left out.", numbers=numbers),
        )
        found.append(ExampleFinding(one if len(unasked) == 1 else several))
    return found


def _repeated(complete: Sequence[tuple[int, ExamplePair]]) -> list[ExampleFinding]:
    seen, again = set[ExamplePair](), list[int]()
    for number, pair in complete:
        if pair in seen:
            again.append(number)
        seen.add(pair)
    if not again:
        return []
    numbers = _named(again)
    if len(again) == 1:
        return [ExampleFinding(msg("Row {numbers} repeats an earlier row: it counts once.", numbers=numbers))]
    return [ExampleFinding(msg("Rows {numbers} repeat earlier rows: each counts once.", numbers=numbers))]


def _same_answers(usable: Sequence[ExamplePair]) -> list[ExampleFinding]:
    if len(usable) < FEWEST or len({pair.answer for pair in usable}) > 1:
        return []
    return [
        ExampleFinding(
            msg(
                "All answers are the same: the model will give this answer to every prompt. "
                "Add examples with other answers."
            )
        )
    ]


def _named(numbers: Sequence[int]) -> str:
    """Row numbers as a list, the first few of many."""
    shown = ", ".join(f"{number:,}" for number in numbers[:_NAMED_ROWS])
    return shown if len(numbers) <= _NAMED_ROWS else shown + " …"


def _quoted(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _QUOTED else f"{words[:_QUOTED]}…"
